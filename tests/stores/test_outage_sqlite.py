"""A SQLite file that is full, or locked by somebody: calls are denied or counted alone, and nothing is lost for it."""

from __future__ import annotations

import asyncio
import inspect
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from safe_llm import SQLiteQuotaStore, StoreUnavailableError
from safe_llm.testing import FakeOpenAI, RecordingSink

pytestmark = pytest.mark.anyio

ASK: dict[str, Any] = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]}
LIMITS = ["1_000 requests/day", "1_000 concurrent"]


async def done(result: Any) -> Any:
    return await result if inspect.isawaitable(result) else result


async def until(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < give_up
        await asyncio.sleep(0.02)


class World:
    """A client that counts in a file."""

    def __init__(self, kind: Any, server: FakeOpenAI, file: Path, on_store_error: str) -> None:
        self.file, self.server, self.sink = file, server, RecordingSink()
        self.store = SQLiteQuotaStore(file, timeout=0.05)
        policy = {"limits": LIMITS, "alert_at_percent": [], "on_store_error": on_store_error, "plans": {"default": {}}}
        options = {"policy": policy, "quota_store": self.store, "sinks": [self.sink]}
        self.client = kind(base_url=server.base_url, api_key="k", **options)

    async def call(self, user: str = "u1") -> None:
        await done(self.client.chat.completions.create(**ASK, user_id=user))

    @contextmanager
    def full(self) -> Iterator[None]:
        """The file cannot grow any more, as on a disk that is full."""
        with self.store._file as db:
            (size,) = db.execute("PRAGMA page_count").fetchone()
            db.execute(f"PRAGMA max_page_count = {size}")
        yield
        with self.store._file as db:
            db.execute("PRAGMA max_page_count = 1000000")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Somebody writes, and does not come to an end."""
        with closing(sqlite3.connect(self.file, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            yield
            other.execute("ROLLBACK")

    async def assert_made_up_for(self) -> None:
        """Each outage has ended, what was counted is what was recorded, and nothing is held."""
        await until(lambda: len(self.sink.alerts) % 2 == 0 and not self.client._guard._link.owes)
        requests, in_flight = await done(self.client.guard.usage())
        passed = [record for record in self.sink.records if record.outcome != "denied"]
        assert (requests.used, requests.held) == (len(passed), 0)
        assert in_flight.held == 0
        assert self.server.count == len(passed)


@pytest.fixture(params=["deny", "allow"])
async def world(request: pytest.FixtureRequest, kind: Any, server: FakeOpenAI, tmp_path: Path) -> AsyncIterator[World]:
    made = World(kind, server, tmp_path / "quotas.db", request.param)
    yield made
    await done(made.client.close())
    made.store.close()


async def test_a_file_that_is_locked_is_not_waited_for_by_every_call(world: World) -> None:
    await world.call()
    with world.locked():
        for _ in range(5):
            try:
                await world.call()
            except StoreUnavailableError:
                continue
            assert world.sink.last.degraded
    await world.assert_made_up_for()
    await world.call()
    await world.assert_made_up_for()


async def test_a_full_disk_loses_nothing(world: World) -> None:
    """What fits no more is denied, or counted alone; what was reserved before is settled when there is room."""
    with world.full():
        for number in range(2_000):
            try:
                await world.call(f"user {number}")
            except StoreUnavailableError:
                break
            if world.sink.last.degraded or world.sink.alerts:
                break
        assert world.sink.alerts, "the disk never was full"
    await world.assert_made_up_for()
    await world.call()
    await world.assert_made_up_for()

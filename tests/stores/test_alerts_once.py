"""An alert is raised once over everybody who shares a store: threads, tasks and processes that cross a line at once."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

import safe_llm
from benchmarks.servers import with_options
from safe_llm import SafeOpenAI
from safe_llm.testing import FakeClock, FakeOpenAI, RecordingSink

AT_ONCE = 50
BEFORE = 199
LIMIT = "250 requests/day"
"""80 % of it is 200: each of the fifty that come after 199 settles beyond the line."""

CALL: dict[str, Any] = {
    "model": "gpt-4o-mini",
    "messages": [{"role": "user", "content": "Hello"}],
    "max_completion_tokens": 5,
    "user_id": "u1",
}
POLICY: dict[str, Any] = {"plans": {"default": {"limits": [LIMIT]}}, "alert_at_percent": [80]}


@pytest.fixture(params=["memory", "sqlite", "redis"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "memory":
        return "memory://"
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'quota.db'}"
    return with_options(request.getfixturevalue("patient_redis_url"), namespace=uuid4().hex)


@pytest.mark.anyio
async def test_fifty_that_cross_80_percent_at_once_raise_one_alert(
    server: FakeOpenAI, kind: Any, store_url: str
) -> None:
    sink, clock = RecordingSink(), FakeClock()
    client = kind(
        base_url=server.base_url, api_key="test", policy=POLICY, quota_store=store_url, sinks=[sink], clock=clock
    )
    for calls in (BEFORE, AT_ONCE):
        assert sink.alerts == []
        if kind is SafeOpenAI:
            with ThreadPoolExecutor(AT_ONCE) as pool:
                list(pool.map(lambda _: client.chat.completions.create(**CALL), range(calls)))
        else:
            await asyncio.gather(*[client.chat.completions.create(**CALL) for _ in range(calls)])
    (alert,) = sink.alerts
    assert (alert.kind, alert.limit, alert.percent, alert.scope) == ("limit_threshold", LIMIT, 80, {"user": "u1"})

    clock.advance(86_400)
    for _ in range(2):
        if kind is SafeOpenAI:
            client.chat.completions.create(**CALL)
        else:
            await client.chat.completions.create(**CALL)
    assert len(sink.alerts) == 1, "a new day has its own line, and nobody has reached it yet"
    if kind is SafeOpenAI:
        client.close()
    else:
        await client.close()


# Processes ------------------------------------------------------------------------------------------------------------

PROCESSES = 4
HOUR = 3_600


def crossing(url: str, base_url: str, wait: Callable[[], object]) -> list[str]:
    """What one of several processes is told, where together they cross the line."""
    sink = RecordingSink()
    with SafeOpenAI(
        base_url=base_url, api_key="test", policy=POLICY, quota_store=url, sinks=[sink], clock=FakeClock()
    ) as client:
        wait()
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(lambda _: client.chat.completions.create(**CALL), range(60)))
    return [alert.kind for alert in sink.alerts]


def hurrying(url: str, base_url: str, wait: Callable[[], object]) -> list[str]:
    """What one of several processes is told, where a user is far beyond the usual in all of them."""
    sink, clock = RecordingSink(), FakeClock()
    policy = {**POLICY, "alert_at_percent": []}
    with SafeOpenAI(
        base_url=base_url, api_key="test", policy=policy, quota_store=url, sinks=[sink], clock=clock
    ) as client:
        for _ in range(3):
            client.chat.completions.create(**CALL)
            clock.advance(HOUR)
        wait()
        for _ in range(20):
            client.chat.completions.create(**CALL)
    return [alert.kind for alert in sink.alerts]


@pytest.mark.parametrize(("work", "kind_of_alert"), [(crossing, "limit_threshold"), (hurrying, "anomaly")])
def test_four_processes_on_redis_raise_one_alert(
    server: FakeOpenAI, patient_redis_url: str, work: Any, kind_of_alert: str
) -> None:
    url = with_options(patient_redis_url, namespace=uuid4().hex)
    command = [sys.executable, __file__, work.__name__, url, server.base_url]
    options: dict[str, Any] = {
        "stdin": subprocess.PIPE,
        "stdout": subprocess.PIPE,
        "text": True,
        "env": {**os.environ, "PYTHONPATH": str(Path(safe_llm.__file__).parents[1])},
    }
    children = [subprocess.Popen(command, **options) for _ in range(PROCESSES)]
    try:
        for child in children:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
        for child in children:
            assert child.stdin is not None
            child.stdin.write("go\n")
            child.stdin.flush()
        told = [json.loads(child.communicate(timeout=60)[0]) for child in children]
    finally:
        for child in children:
            child.kill()
            child.wait(timeout=10)
    assert [alert for of_one in told for alert in of_one] == [kind_of_alert]


def as_child() -> None:
    def wait() -> None:
        print("ready", flush=True)
        sys.stdin.readline()

    _, name, url, base_url = sys.argv
    print(json.dumps({"crossing": crossing, "hurrying": hurrying}[name](url, base_url, wait)), flush=True)


if __name__ == "__main__":
    as_child()

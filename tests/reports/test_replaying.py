"""A replay under the policy that was in force comes to every recorded decision again: calls are real, over HTTP."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAIError

import safe_llm
from safe_llm import JSONLinesSink, Policy, SafeOpenAI, UsageRecord
from safe_llm.reports.reading import read
from safe_llm.reports.recorded import InOrder, recorded
from safe_llm.reports.replaying import Replay, Verdict
from safe_llm.stores import MemoryQuotaStore
from safe_llm.testing import FakeClock, FakeOpenAI, RecordingSink, Reply

POLICY: dict[str, Any] = {
    "limits": ["60 requests/minute", "$1/day"],
    "default_plan": "free",
    "plans": {
        "free": {
            "features": ["chat", "search"],
            "models": ["gpt-4o-mini", "text-embedding-3-small"],
            "limits": ["5 requests/minute", "20 requests/day", "6_000 tokens/day", "2 concurrent"],
        },
        "pro": {"limits": ["$0.03/day", "12 requests/minute per user, feature", "3 concurrent per session"]},
        "team": {"limits": ["40 requests/hour", "4_000 output_tokens/day", "3 requests/day per user, prompt"]},
    },
    "features": {
        "chat": {"limits": ["30 requests/minute", "8 requests/minute per user"]},
        "docs": {"limits": ["$0.05/day", "5 requests/day per tag:team"]},
    },
    "input": {"max_message_chars": 500},
    "time": {"deadline_seconds": 5},
}
PLANS = {"ann": "pro", "ben": "pro", "cleo": "team", "dan": "team"}
"""The plans of some; eve, fay and gil have none of their own."""


def replayed(policy: Any, records: Iterable[UsageRecord]) -> list[Verdict]:
    return list(Replay(Policy.of(policy)).run(calls_of(json.loads(record.model_dump_json()) for record in records)))


def calls_of(rows: Iterable[dict[str, Any]]) -> InOrder:
    calls = InOrder()
    for number, row in enumerate(rows):
        call = recorded(row, number)
        assert call is not None
        calls.add(call)
    return calls


def assert_reproduced(policy: Any, records: Sequence[UsageRecord]) -> None:
    verdicts = replayed(policy, records)
    assert sorted(verdict.call.id for verdict in verdicts) == sorted(record.record_id for record in records)
    others = [
        (verdict.call.user, verdict.call.denial, verdict.denial)
        for verdict in verdicts
        if verdict.denial != verdict.call.denial
    ]
    assert others == []


def a_call(chance: random.Random) -> dict[str, Any]:
    """Any call: of any user, feature, model and size, some of them not allowed, some malformed or too long."""
    text = " ".join(chance.choice(["tell", "me", "more", "about", "it"]) for _ in range(chance.randint(1, 40)))
    call: dict[str, Any] = {
        "model": chance.choice(["gpt-4o-mini", "gpt-4o-mini", "gpt-4o"]),
        "messages": [
            {"role": "user", "content": chance.choice(["Hello", text, text, "x" * 600, ""][: chance.choice([2, 3, 5])])}
        ],
        "user_id": chance.choice(["ann", "ben", "cleo", "dan", "eve", "fay", "gil"]),
        "feature": chance.choice([None, "chat", "chat", "docs", "search"]),
        "session_id": chance.choice([None, "s1", "s2"]),
        "tags": chance.choice([{}, {"team": "red"}, {"team": "blue", "env": "test"}]),
        "max_completion_tokens": chance.choice([20, 200, 900]),
        "stream": chance.random() < 0.4,
    }
    if chance.random() < 0.02:
        call["messages"] = []
    if chance.random() < 0.1:
        call["n"] = 2
    return {name: value for name, value in call.items() if value is not None}


def an_answer(chance: random.Random, slow: float) -> Reply:
    kind = chance.random()
    if kind < 0.05:
        return Reply(status=500)
    if kind < 0.10:
        return Reply(status=429)
    if kind < 0.15:
        return Reply(chunks=20, cut=chance.randint(0, 10))
    if kind < 0.20:
        return Reply(chunks=10, usage=None)
    return Reply(chunks=chance.randint(1, 60), delay=chance.random() * slow)


class App:
    """An application under the policy: a client of one kind, with everything that may become of a call."""

    def __init__(self, kind: Any, server: FakeOpenAI | str, sinks: Sequence[Any], **options: Any) -> None:
        given = {"policy": POLICY, "plan_for": PLANS, "max_retries": 0, "api_key": "test"}
        base_url = server if isinstance(server, str) else server.base_url
        self.client = kind(base_url=base_url, sinks=sinks, **{**given, **options})
        self.is_sync = kind is SafeOpenAI

    def call(self, chance: random.Random, **arguments: Any) -> None:
        """One call; a stream is read, to its end or not."""
        leaves = chance.random() < 0.2
        with suppress(OpenAIError):
            answer = self.client.chat.completions.create(**{**a_call(chance), **arguments})
            for number, _ in enumerate(answer if arguments.get("stream", hasattr(answer, "response")) else ()):
                if leaves and number > 3:
                    break

    async def acall(self, chance: random.Random, **arguments: Any) -> None:
        leaves, number = chance.random() < 0.2, 0
        with suppress(OpenAIError):
            answer = await self.client.chat.completions.create(**{**a_call(chance), **arguments})
            if hasattr(answer, "response"):
                async for _ in answer:
                    number += 1
                    if leaves and number > 3:
                        break

    async def one(self, seed: int, **arguments: Any) -> None:
        chance = random.Random(seed)
        await self.acall(chance, **arguments) if not self.is_sync else self.call(chance, **arguments)

    async def at_once(self, seeds: Sequence[int], workers: int, **arguments: Any) -> None:
        if self.is_sync:
            with ThreadPoolExecutor(workers) as pool:
                list(pool.map(lambda seed: self.call(random.Random(seed), **arguments), seeds))
            return
        gate = asyncio.Semaphore(workers)

        async def one(seed: int) -> None:
            async with gate:
                await self.acall(random.Random(seed), **arguments)

        await asyncio.gather(*[one(seed) for seed in seeds])

    async def close(self) -> None:
        if self.is_sync:
            self.client.close()
        else:
            await self.client.close()


def denials(records: Iterable[UsageRecord]) -> Counter[str]:
    return Counter(record.denial.code for record in records if record.denial)


@pytest.mark.anyio
async def test_one_after_the_other_on_a_clock_that_is_moved(server: FakeOpenAI, kind: Any, sink: RecordingSink) -> None:
    clock, chance = FakeClock(), random.Random(1)
    app = App(kind, server, [sink], clock=clock)
    server.respond(lambda _: an_answer(chance, 0))
    for seed in range(300):
        await app.one(seed)
        clock.advance(chance.choice([0, 0, 0.5, 3, 20, 400]))
    await app.close()
    assert len(sink.records) == 300
    assert set(denials(sink.records)) >= {
        "rate_limit_exceeded",
        "feature_not_allowed",
        "model_not_allowed",
        "message_too_long",
    }
    assert_reproduced(POLICY, sink.records)


@pytest.mark.anyio
async def test_one_after_the_other_on_a_clock_that_stands_still(
    server: FakeOpenAI, kind: Any, sink: RecordingSink
) -> None:
    app = App(kind, server, [sink], clock=FakeClock())
    chance = random.Random(2)
    server.respond(lambda _: an_answer(chance, 0))
    for seed in range(200):
        await app.one(seed)
    await app.close()
    assert denials(sink.records)["rate_limit_exceeded"] > 20
    assert_reproduced(POLICY, sink.records)


@pytest.mark.anyio
@pytest.mark.parametrize("seed", range(3))
async def test_many_at_once_on_the_real_clock(server: FakeOpenAI, kind: Any, sink: RecordingSink, seed: int) -> None:
    app = App(kind, server, [sink])
    chance = random.Random(seed)
    server.respond(lambda _: an_answer(chance, 0.05))
    await app.at_once(range(1_000 * seed, 1_000 * seed + 400), 40)
    await app.close()
    assert len(sink.records) == 400
    assert denials(sink.records)["rate_limit_exceeded"] > 50
    assert_reproduced(POLICY, sink.records)


@pytest.mark.anyio
async def test_many_at_once_on_a_clock_that_stands_still(server: FakeOpenAI, kind: Any, sink: RecordingSink) -> None:
    """Every record then has the same times: the decisions alone tell what came first."""
    app = App(kind, server, [sink], clock=FakeClock())
    chance = random.Random(4)
    server.respond(lambda _: an_answer(chance, 0.02))
    await app.at_once(range(300), 30)
    await app.close()
    assert_reproduced(POLICY, sink.records)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("limit", "fit"),
    [("$0.0003/day", None), ("7 requests/minute", 7), ("700 tokens/day", None), ("7 concurrent", None)],
)
async def test_fifty_at_once_against_one_small_limit(
    server: FakeOpenAI, kind: Any, sink: RecordingSink, limit: str, fit: int | None
) -> None:
    policy = {"plans": {"default": {"limits": [limit]}}}
    app = App(kind, server, [sink], policy=policy, plan_for=None)
    server.always(Reply(chunks=5, delay=0.01))
    call = {"model": "gpt-4o-mini", "user_id": "u1", "max_completion_tokens": 60, "n": 1, "stream": False}
    call["messages"] = [{"role": "user", "content": "Hello"}]
    await app.at_once(range(100), 50, **call)
    await app.close()
    denied = sum(record.outcome == "denied" for record in sink.records)
    assert 0 < denied < 100
    assert fit is None or denied == 100 - fit
    assert_reproduced(policy, sink.records)


@pytest.mark.anyio
async def test_clients_that_share_a_store(server: FakeOpenAI, kind: Any, sink: RecordingSink) -> None:
    store = MemoryQuotaStore()
    apps = [App(kind, server, [sink], quota_store=store) for _ in range(3)]
    chance = random.Random(5)
    server.respond(lambda _: an_answer(chance, 0.05))
    await asyncio.gather(*[app.at_once(range(n * 100, n * 100 + 100), 15) for n, app in enumerate(apps)])
    for app in apps:
        await app.close()
    assert_reproduced(POLICY, sink.records)


@pytest.mark.anyio
async def test_in_shadow_mode(server: FakeOpenAI, kind: Any, sink: RecordingSink) -> None:
    policy = {**POLICY, "mode": "shadow"}
    app = App(kind, server, [sink], policy=policy)
    chance = random.Random(6)
    server.respond(lambda _: an_answer(chance, 0.02))
    await app.at_once(range(200), 20)
    await app.close()
    assert denials(sink.records)["rate_limit_exceeded"] > 20
    assert not any(record.outcome == "denied" for record in sink.records)
    assert_reproduced(policy, sink.records)


@pytest.mark.anyio
@pytest.mark.parametrize("on_budget", ["shrink", "downgrade"])
async def test_calls_that_were_made_smaller_to_fit(
    server: FakeOpenAI, kind: Any, sink: RecordingSink, on_budget: str
) -> None:
    policy = {
        "plans": {"default": {"limits": ["$0.01/day", "30 requests/day"]}},
        "output": {"on_budget": on_budget, "min_tokens": 16, "downgrade": {"gpt-4o": "gpt-4o-mini"}},
    }
    app = App(kind, server, [sink], policy=policy, plan_for=None)
    server.always(Reply(chunks=40, delay=0.005))
    await app.at_once(range(120), 12, model="gpt-4o", user_id="u1", max_completion_tokens=900, n=1)
    await app.close()
    smaller = [r for r in sink.records if r.outcome != "denied" and (r.max_tokens != 900 or r.model != "gpt-4o")]
    assert smaller
    assert_reproduced(policy, sink.records)


@pytest.mark.anyio
async def test_an_unpriced_model_under_a_limit_in_money(server: FakeOpenAI, kind: Any, sink: RecordingSink) -> None:
    app = App(kind, server, [sink])
    for seed in range(10):
        await app.one(seed, model="our-own", user_id="ann")
    await app.close()
    assert denials(sink.records)["unpriced_model"] > 0
    assert_reproduced(POLICY, sink.records)


@pytest.mark.anyio
async def test_through_a_file(server: FakeOpenAI, kind: Any, tmp_path: Path) -> None:
    path = tmp_path / "usage.jsonl"
    app = App(kind, server, [JSONLinesSink(path)])
    chance = random.Random(7)
    server.respond(lambda _: an_answer(chance, 0.02))
    await app.at_once(range(200), 20)
    await app.close()
    verdicts = list(Replay(Policy(**POLICY)).run(calls_of(read([path]))))
    assert len(verdicts) == 200
    assert [verdict for verdict in verdicts if verdict.denial != verdict.call.denial] == []


def test_processes_that_share_a_store_and_a_file(server: FakeOpenAI, tmp_path: Path) -> None:
    """Their records are put in one order by time alone."""
    chance, path = random.Random(8), tmp_path / "usage.jsonl"
    server.respond(lambda _: an_answer(chance, 0.02))
    environment = {**os.environ, "PYTHONPATH": str(Path(safe_llm.__file__).parents[1])}
    store = f"sqlite:///{tmp_path / 'quota.db'}"
    children = [
        subprocess.Popen([sys.executable, __file__, server.base_url, store, path, str(number)], env=environment)
        for number in range(3)
    ]
    try:
        assert [child.wait(timeout=90) for child in children] == [0, 0, 0]
    finally:
        for child in children:
            child.kill()
            child.wait(timeout=10)
    verdicts = list(Replay(Policy(**POLICY)).run(calls_of(read([path]))))
    assert len(verdicts) == 3 * 80
    assert sum(verdict.denial is not None for verdict in verdicts) > 50
    assert [verdict for verdict in verdicts if verdict.denial != verdict.call.denial] == []


def as_child(base_url: str, store: str, path: str, number: str) -> None:
    """One of the processes."""

    async def run() -> None:
        app = App(SafeOpenAI, base_url, [JSONLinesSink(path)], quota_store=store)
        await app.at_once(range(int(number) * 80, int(number) * 80 + 80), 8)
        await app.close()

    asyncio.run(run())


def test_a_record_that_cannot_have_come_about_differs() -> None:
    """Else the test above could not fail: a recorded denial does not make itself true."""
    policy = Policy(plans={"default": {"limits": ["5 requests/day"]}})
    rows = []
    for number in range(8):
        denied = number in (2, 7)
        denial = {"code": "rate_limit_exceeded", "limit": "5 requests/day", "scope": {"user": "u1"}}
        rows.append(
            UsageRecord(
                record_id=str(number),
                timestamp=f"2027-01-15T08:00:{number * 5:02}Z",
                user_id="u1",
                plan="default",
                endpoint="chat.completions",
                model="gpt-4o-mini",
                outcome="denied" if denied else "ok",
                denial=denial if denied else None,
                reserved_ms=0.1,
                latency_ms=200,
                cost_reserved_usd="0.001",
                policy_version=policy.version,
            )
        )
    found = [verdict.call.id for verdict in replayed(policy, rows) if verdict.denial != verdict.call.denial]
    assert found == ["2", "5", "6"]


if __name__ == "__main__":
    as_child(*sys.argv[1:])

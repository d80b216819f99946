"""An application's own checks: beside the built-in ones, in time, and in the hands of the policy where they fail."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from safe_llm import (
    AsyncSafeOpenAI,
    Content,
    Finding,
    InjectionDetectedError,
    InputRejectedError,
    MemoryQuotaStore,
    SafeOpenAI,
    _inspecting,
    identify,
)
from safe_llm.identity import current
from safe_llm.testing import FakeOpenAI, RecordingSink

pytestmark = pytest.mark.anyio

ASK: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]}
SHORT = 0.05
"""Seconds that a slow check may take."""


class Asks:
    """A check made of a function."""

    name = "own"

    def __init__(self, inspect: Callable[[Content], Any], **attributes: Any) -> None:
        self.inspect = inspect
        self.__dict__.update(attributes)


def always(*findings: Finding) -> Callable[[Content], Any]:
    return lambda content: findings


class Slow:
    """A blocking check that waits until it is let go."""

    name = "slow"
    timeout = SHORT

    def __init__(self) -> None:
        self.gate = threading.Event()

    def inspect(self, content: Content) -> Iterable[Finding]:
        self.gate.wait(20)
        return ()


class SlowAsync:
    name = "slow"
    timeout = SHORT

    def __init__(self) -> None:
        self.cancelled = False

    async def inspect(self, content: Content) -> Iterable[Finding]:
        try:
            await asyncio.sleep(20)
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        return ()


@pytest.fixture
def slow() -> Iterator[Slow]:
    check = Slow()
    yield check
    check.gate.set()


async def ask(
    kind: Any, server: FakeOpenAI, sink: RecordingSink, *checks: Any, quota_store: Any = None, **policy: Any
) -> Any:
    options = {"base_url": server.base_url, "api_key": "k", "max_retries": 0}
    client = kind(**options, sinks=[sink], checks=checks, quota_store=quota_store, policy=policy)
    try:
        answer = client.chat.completions.create(**ASK)
        return answer if kind is SafeOpenAI else await answer
    finally:
        closed = client.close()
        if kind is not SafeOpenAI:
            await closed


async def test_its_findings_stand_beside_the_built_in_ones(kind: Any, server: FakeOpenAI, sink: RecordingSink) -> None:
    flag = Finding("pii", "low", "messages[0]")
    await ask(kind, server, sink, Asks(always(flag)))
    assert sink.last.findings == (flag,)


async def test_what_it_denies_is_not_sent(kind: Any, server: FakeOpenAI, sink: RecordingSink) -> None:
    for rule, error in (("pii", InputRejectedError), ("my_injection_model", InjectionDetectedError)):
        with pytest.raises(error):
            await ask(
                kind,
                server,
                sink,
                Asks(lambda content, rule=rule: [Finding(rule, "high", "messages[0]", action="deny")]),
            )
    assert not server.requests


async def test_it_sees_who_asks_and_where_each_part_stands(kind: Any, server: FakeOpenAI, sink: RecordingSink) -> None:
    seen: list[Content] = []
    await ask(kind, server, sink, Asks(lambda content: seen.append(content) or ()))
    (content,) = seen
    assert [(part.role, part.text, part.trusted, part.where) for part in content.parts] == [
        ("user", "Hello", False, "messages[0]")
    ]


@pytest.mark.parametrize("kind", [SafeOpenAI, AsyncSafeOpenAI])
async def test_a_blocking_check_that_overruns_its_time_denies(
    kind: Any, server: FakeOpenAI, sink: RecordingSink, slow: Slow
) -> None:
    began = time.monotonic()
    with pytest.raises(InputRejectedError, match="TimeoutError") as caught:
        await ask(kind, server, sink, slow)
    assert time.monotonic() - began < 10
    assert caught.value.code == "check_failed"
    assert not server.requests


async def test_a_coroutine_that_overruns_its_time_denies_and_is_cancelled(
    server: FakeOpenAI, sink: RecordingSink
) -> None:
    check = SlowAsync()
    with pytest.raises(InputRejectedError):
        await ask(AsyncSafeOpenAI, server, sink, check)
    assert check.cancelled
    assert not server.requests


async def test_where_the_policy_allows_it_an_overrun_passes_on_the_record(
    kind: Any, server: FakeOpenAI, sink: RecordingSink, slow: Slow
) -> None:
    await ask(kind, server, sink, slow, checks={"on_error": "allow"})
    assert [(finding.rule, finding.action) for finding in sink.last.findings] == [("slow_failed", "flag")]
    assert sink.last.outcome == "ok"


async def test_a_check_that_only_flags_is_only_noted_when_it_fails(
    kind: Any, server: FakeOpenAI, sink: RecordingSink
) -> None:
    """Its failure counts as a finding of its own action."""

    def broken(content: Content) -> Any:
        raise RuntimeError("secret")

    await ask(kind, server, sink, Asks(broken, action="flag"))
    assert [finding.rule for finding in sink.last.findings] == ["own_failed"]
    with pytest.raises(InputRejectedError) as caught:
        await ask(kind, server, sink, Asks(broken))
    assert "secret" not in str(caught.value)


async def test_a_generator_is_run_in_its_time_too(
    kind: Any, server: FakeOpenAI, sink: RecordingSink, slow: Slow
) -> None:
    def slowly(content: Content) -> Iterator[Finding]:
        slow.gate.wait(20)
        yield Finding("late", "low", "x")

    with pytest.raises(InputRejectedError):
        await ask(kind, server, sink, Asks(slowly, timeout=SHORT))


async def test_it_takes_no_longer_than_the_call_s_deadline(
    kind: Any, server: FakeOpenAI, sink: RecordingSink, slow: Slow
) -> None:
    slow.timeout = 60
    began = time.monotonic()
    with pytest.raises(InputRejectedError):
        await ask(kind, server, sink, slow, time={"deadline_seconds": 0.2})
    assert time.monotonic() - began < 10


async def test_a_blocking_check_does_not_hold_up_the_event_loop(server: FakeOpenAI, sink: RecordingSink) -> None:
    threads: list[threading.Thread] = []
    await ask(AsyncSafeOpenAI, server, sink, Asks(lambda content: threads.append(threading.current_thread()) or ()))
    assert threads[0] is not threading.main_thread()


async def test_it_runs_in_the_caller_s_context(kind: Any, server: FakeOpenAI, sink: RecordingSink) -> None:
    users: list[str | None] = []
    with identify(user_id="u1"):
        await ask(kind, server, sink, Asks(lambda content: users.append(current().user_id) or ()))
    assert users == ["u1"]


async def test_checks_that_never_end_are_not_started_without_end(
    server: FakeOpenAI, sink: RecordingSink, slow: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_inspecting, "_MOST_OVERDUE", 3)
    for _ in range(3):
        with pytest.raises(InputRejectedError):
            await ask(SafeOpenAI, server, sink, slow)
    before = threading.active_count()
    with pytest.raises(InputRejectedError):
        await ask(SafeOpenAI, server, sink, slow)
    assert threading.active_count() <= before
    slow.gate.set()
    for thread in threading.enumerate():
        if thread.name == "safe_llm check slow":
            thread.join(10)
    assert _inspecting._overdue.count == 0
    await ask(SafeOpenAI, server, sink, slow)


async def test_no_check_is_asked_after_money_was_reserved(kind: Any, server: FakeOpenAI, sink: RecordingSink) -> None:
    store, seen = MemoryQuotaStore(), []

    class Watching(MemoryQuotaStore):
        def reserve(self, *arguments: Any) -> Any:
            seen.append("reserve")
            return store.reserve(*arguments)

    def watched(content: Content) -> Any:
        seen.append("check")
        return ()

    await ask(kind, server, sink, Asks(watched), quota_store=Watching(), plans={"default": {"limits": ["$1/day"]}})
    assert seen[0] == "check"
    assert seen.count("check") == 1
    assert "reserve" in seen

"""What ``safe-llm demo`` shows, step by step: the policy in force, the calls, and what must become of them."""

from __future__ import annotations

import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ..errors import BudgetExceededError, DeadlineExceededError, InputRejectedError, RateLimitExceededError
from ..testing import Reply, Request
from ..types import UsageRecord
from .stage import Call, Stage, Step, WrongOutcomeError, dollars, expect

POLICY: dict[str, Any] = {
    # The plan "default", which is alice's, bob's, carol's and dave's, and all sizes are the library's own defaults.
    "plans": {"trial": {"limits": ["$0.01/day"]}, "team": {"limits": ["$0.07/day"]}},
    "features": {"search": {"time": {"deadline_seconds": 1}}},
    # The list price. It is written down so that the burst fits seven times, whatever a newer price table says.
    "prices": {"gpt-4o": {"input": "2.50", "output": "10.00"}},
}
PLANS = {"erin": "trial", "frank": "team"}


def _call(user_id: str, text: str = "Say hello in one sentence.", **arguments: Any) -> Call:
    call = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": text}], "user_id": user_id}
    return {**call, **arguments}


CALL = _call("alice")
STREAM = _call("alice", stream=True)
PAST = [{"role": role, "content": f"Part {part}."} for part in range(30) for role in ("user", "assistant")]
HISTORY = _call(
    "bob",
    messages=[{"role": "system", "content": "Be brief."}, *PAST, {"role": "user", "content": "Say hello."}],
)
GREEDY = _call("bob", max_completion_tokens=100_000)
LONG = _call("carol", "x" * 5_000)
OFTEN = _call("dave", max_completion_tokens=16)
CHEAP = _call("erin", model="gpt-4o", max_completion_tokens=16)
DEAR = _call("erin", model="gpt-4o")
SLOW = _call("carol", stream=True, feature="search")
BURST = _call("frank", model="gpt-4o", max_completion_tokens=900)


def call(stage: Stage) -> tuple[str, str]:
    return "allowed", f"alice asks gpt-4o-mini; {_spent(stage.ask(CALL))}"


def stream(stage: Stage) -> tuple[str, str]:
    record = stage.ask(STREAM)
    expect((record.stream, record.usage_source), (True, "provider"), "a stream, and where its usage is known from")
    return "allowed", f"alice reads the words as they come; {_spent(record)}"


def history(stage: Stage) -> tuple[str, str]:
    record = stage.ask(HISTORY)
    given = len(HISTORY["messages"])
    expect(record.trimmed_messages, 42, "messages left out")
    return "allowed", f"{given} messages given, {given - 42} sent: the last 10 turns; {dollars(record.cost_usd)}"


def cap(stage: Stage) -> tuple[str, str]:
    record = stage.ask(GREEDY)
    expect(record.max_tokens, 4_000, "the output cap")
    return "allowed", f"bob asks for up to 100,000 tokens, lowered to 4,000; {dollars(record.cost_usd)}"


def length(stage: Stage) -> tuple[str, str]:
    denial = stage.refused(LONG, InputRejectedError)
    expect(denial.code, "message_too_long", "the reason")
    return "denied", "carol sends 5,000 characters, 4,000 are allowed; not sent, costs $0"


def rate(stage: Stage) -> tuple[str, str]:
    for _ in range(10):
        stage.ask(OFTEN)
    denial = stage.refused(OFTEN, RateLimitExceededError)
    expect(denial.limit, "10 requests/minute", "the limit that refuses")
    wait = denial.retry_after or 0
    expect(0 < wait <= 61, True, f"a retry time of {wait} s is within a minute")
    return "denied", f'dave\'s 11th request of "{denial.limit}"; he may try again in {math.ceil(wait)} s'


def budget(stage: Stage) -> tuple[str, str]:
    stage.ask(CHEAP)
    denial = stage.refused(DEAR, BudgetExceededError)
    used, requested = dollars(denial.used), dollars(denial.requested)
    return "denied", f'erin has used {used} of "{denial.limit}"; a call of up to {requested} not sent'


def deadline(stage: Stage) -> tuple[str, str]:
    assert stage.server
    stage.server.script(Reply(chunks=30, drip=0.1))
    began = time.monotonic()
    try:
        stage.ask(SLOW)
    except DeadlineExceededError:
        took = time.monotonic() - began
    else:
        raise WrongOutcomeError("the answer was waited for, and should have been cut off")
    expect(0.9 < took < 2.5, True, f"{took:.1f} s are about the deadline")
    record = stage.sink.last
    expect((record.outcome, record.usage_source), ("timeout", "estimated"), "the call's outcome")
    cost = dollars(record.cost_usd)
    return "cut off", f"words drip for 3 s, cut after {took:.1f} s; charged at an estimate, {cost}"


def burst(stage: Stage) -> tuple[str, str]:
    """The stand-in holds its answers until every call is either there or denied, so that no call profits from another
    that has already been settled at less than it might have cost."""
    server, before = stage.server, stage.sent
    assert server
    decided = threading.Semaphore(0)

    def hold(_: Request) -> Reply:
        decided.release()
        return Reply(delay=math.inf)

    def one(_: int) -> bool:
        try:
            stage.client.chat.completions.create(**BURST)
        except BudgetExceededError:
            decided.release()
            return False
        return True

    server.respond(hold)
    with ThreadPoolExecutor(50) as pool:
        calls = pool.map(one, range(50))
        try:
            in_time = all(decided.acquire(timeout=5) for _ in range(50))
        finally:
            server.always(Reply())
            server.release()
        allowed = sum(calls)
    expect(in_time, True, "all 50 calls are decided about")
    expect((allowed, stage.sent - before), (7, 7), "calls allowed, and those that reached the provider")
    limit = POLICY["plans"]["team"]["limits"][0]
    return "7 of 50", f'50 at once on "{limit}": 7 allowed, 43 denied; 7 reached the provider'


def _spent(record: UsageRecord) -> str:
    return f"{record.input_tokens} tokens in, {record.output_tokens} out, {dollars(record.cost_usd)}"


STEPS = (
    Step("a call", call, sends=[CALL]),
    Step("a stream", stream, sends=[STREAM]),
    Step("a long history", history, sends=[HISTORY]),
    Step("a huge cap", cap, sends=[GREEDY]),
    Step("a huge message", length),
    Step("too many calls", rate, sends=[OFTEN] * 10),
    Step("a spent budget", budget, sends=[CHEAP]),
    Step("a slow provider", deadline, scripted=True),
    Step("a burst", burst, scripted=True),
)

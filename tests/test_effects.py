"""Driving a flow: each effect is done once, its result comes back, and errors go where the path can meet them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from safe_llm import effects
from safe_llm.effects import (
    Complete,
    Compute,
    Effect,
    Emit,
    FindPlan,
    Flow,
    Inspect,
    Peek,
    Reserve,
    Send,
    Settle,
    drive,
    drive_async,
)
from safe_llm.identity import Claim
from safe_llm.types import Charge, Reservation

Drive = Callable[..., Any]
"""`drive`, or its async twin in a loop of its own."""


def drive_in_a_loop(flow: Flow[Any], perform: Callable[[Effect], Any]) -> Any:
    async def asynchronously(effect: Effect) -> Any:
        await asyncio.sleep(0)
        return perform(effect)

    return asyncio.run(drive_async(flow, asynchronously))


both_kinds = pytest.mark.parametrize("run", [pytest.param(drive, id="sync"), pytest.param(drive_in_a_loop, id="async")])


def function() -> int:
    return 7


def perform(effect: Effect) -> Any:
    """Compute what can be computed; the rest is of no interest here."""
    return effect.function() if isinstance(effect, Compute) else None


CHARGE = Charge("key", 1, 1, "fixed", 0, 60)
ANY: Any = object()


@pytest.mark.parametrize(
    ("flow", "effect"),
    [
        (effects.find_plan(Claim("u1")), FindPlan(Claim("u1"))),
        (effects.inspect(ANY, ANY), Inspect(ANY, ANY)),
        (effects.compute(function), Compute(function)),
        (effects.reserve("id", [CHARGE], 60.0), Reserve("id", [CHARGE], 60.0)),
        (effects.peek([CHARGE]), Peek([CHARGE])),
        (effects.settle(Reservation("id", (CHARGE,), 60.0), [1]), Settle(Reservation("id", (CHARGE,), 60.0), [1])),
        (effects.send(ANY, {}), Send(ANY, {})),
        (effects.complete(ANY), Complete(ANY)),
    ],
)
def test_a_helper_yields_its_effect_and_returns_what_it_is_answered(flow: Flow[object], effect: Effect) -> None:
    seen: list[Effect] = []

    def answer(effect: Effect) -> str:
        seen.append(effect)
        return "the answer"

    assert drive(flow, answer) == "the answer"
    assert seen == [effect]
    assert type(seen[0]) is type(effect)


def test_handing_on_an_event_has_no_answer() -> None:
    seen: list[Effect] = []
    drive(effects.emit(ANY), seen.append)
    assert seen == [Emit(ANY)]


@both_kinds
def test_a_flow_runs_to_its_end_effect_by_effect(run: Drive) -> None:
    done: list[int] = []

    def flow() -> Flow[list[int]]:
        for number in range(3):
            done.append((yield from effects.compute(lambda number=number: number * 10)))  # type: ignore[misc]
        return done

    assert run(flow(), perform) == [0, 10, 20]


@both_kinds
def test_a_flow_without_effects_returns_at_once(run: Drive) -> None:
    def flow() -> Flow[str]:
        return "nothing to do"
        yield

    assert run(flow(), perform) == "nothing to do"


@both_kinds
@pytest.mark.parametrize("error", [ValueError("no"), asyncio.CancelledError(), KeyboardInterrupt()])
def test_an_error_of_an_effect_is_raised_where_the_flow_waits_for_it(run: Drive, error: BaseException) -> None:
    """So the path can clean up after a cancellation as well; afterwards it goes on."""
    met: list[BaseException] = []

    def flow() -> Flow[int]:
        try:
            yield from effects.find_plan(Claim())
        except BaseException as caught:
            met.append(caught)
        return (yield from effects.compute(function))

    def failing(effect: Effect) -> Any:
        if isinstance(effect, FindPlan):
            raise error
        return perform(effect)

    assert run(flow(), failing) == 7
    assert met == [error]


@both_kinds
def test_an_error_that_the_flow_does_not_meet_comes_out(run: Drive) -> None:
    ended: list[str] = []

    def flow() -> Flow[None]:
        try:
            yield from effects.compute(lambda: 1 // 0)
        finally:
            ended.append("cleaned up")

    with pytest.raises(ZeroDivisionError):
        run(flow(), perform)
    assert ended == ["cleaned up"]


@both_kinds
def test_an_error_of_the_flow_itself_comes_out(run: Drive) -> None:
    def flow() -> Flow[None]:
        yield from effects.compute(function)
        raise LookupError("of the flow")

    with pytest.raises(LookupError, match="of the flow"):
        run(flow(), perform)


def test_a_cancelled_task_lets_its_flow_clean_up() -> None:
    ended: list[str] = []

    def flow() -> Flow[None]:
        try:
            yield from effects.find_plan(Claim())
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    async def wait_forever(effect: Effect) -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        task = asyncio.create_task(drive_async(flow(), wait_forever))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert ended == ["cancelled"]

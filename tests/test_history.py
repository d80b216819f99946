"""Trimming a conversation: what must stay stays, what belongs together goes together, and nothing is measured twice."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safe_llm.history import Message, Trimmed, trim, turns

PINNED = ("system", "developer")


def user(text: str = "u") -> Message:
    return {"role": "user", "content": text}


def says(text: str = "a") -> Message:
    return {"role": "assistant", "content": text}


def calls(*ids: str) -> Message:
    made = [{"id": id, "type": "function", "function": {"name": "f", "arguments": "{}"}} for id in ids]
    return {"role": "assistant", "content": None, "tool_calls": made}


def result(id: str) -> Message:
    return {"role": "tool", "tool_call_id": id, "content": "r"}


def system(text: str = "s") -> Message:
    return {"role": "system", "content": text}


def one_each(message: Message, left: int) -> int:
    """Every message is one token."""
    return 1


class Measure:
    """Gives each message a size of its own, and knows how often it was asked."""

    def __init__(self, sizes: Sequence[int], messages: Sequence[Message]) -> None:
        self.sizes = {id(message): size for message, size in zip(messages, sizes, strict=True)}
        self.asked: list[int] = []

    def __call__(self, message: Message, left: int) -> int:
        self.asked.append(id(message))
        # Counting may stop as soon as the budget is passed.
        return min(self.sizes[id(message)], max(left, 0) + 1)

    def of(self, messages: Sequence[Message]) -> int:
        return sum(self.sizes[id(message)] for message in messages)


# Any conversation -----------------------------------------------------------------------------------------------------


@st.composite
def conversations(draw: st.DrawFn) -> list[Message]:
    """Valid histories: turns with calls and their results in any order, system messages anywhere between them."""
    messages: list[Message] = [system()] * draw(st.integers(0, 2))
    made = 0
    for _ in range(draw(st.integers(1, 8))):
        messages.append(user())
        for _ in range(draw(st.integers(0, 3))):
            if draw(st.booleans()):
                ids = [f"call {made + number}" for number in range(draw(st.integers(1, 3)))]
                made += len(ids)
                messages += [calls(*ids), *map(result, draw(st.permutations(ids)))]
            else:
                messages.append(says())
            if draw(st.integers(0, 9)) == 0:
                messages.append({"role": "developer", "content": "d"})
    return [dict(message) for message in messages]


@st.composite
def tangled(draw: st.DrawFn) -> list[Message]:
    """Histories in which results come late, turns after the calls that asked for them."""
    messages: list[Message] = []
    waiting: list[str] = []
    for number in range(draw(st.integers(1, 20))):
        kind = draw(st.sampled_from(["user", "call", "result"]))
        if kind == "call":
            messages.append(calls(f"call {number}"))
            waiting.append(f"call {number}")
        elif kind == "result" and waiting:
            messages.append(result(waiting.pop(draw(st.integers(0, len(waiting) - 1)))))
        else:
            messages.append(user())
    return messages


sizes = st.lists(st.integers(0, 20), min_size=80, max_size=80)
budgets = st.integers(-5, 300)
most_turns = st.integers(1, 10)


def same(left: Sequence[Message], right: Sequence[Message]) -> bool:
    """Whether these are the very same messages."""
    return list(map(id, left)) == list(map(id, right))


def of_last_turns(messages: Sequence[Message], count: int) -> list[Message]:
    """The messages of the last turns, and those that are pinned."""
    recent = {position for turn in turns(messages)[-count:] for position in turn}
    return [message for position, message in enumerate(messages) if message["role"] in PINNED or position in recent]


@given(conversations(), sizes, budgets, most_turns)
def test_whatever_is_kept_is_whole_in_order_and_within_the_budget(
    messages: list[Message], sizes: list[int], budget: int, max_turns: int
) -> None:
    measure = Measure(sizes[: len(messages)], messages)
    before = copy.deepcopy(messages)
    kept = trim(messages, max_turns=max_turns, budget=budget, measure=measure)

    assert messages == before, "the caller's list is changed"
    assert kept.messages is not messages
    assert len(measure.asked) == len(set(measure.asked)), "a message is measured twice"
    must = of_last_turns(messages, 1)
    assert kept.fits is (measure.of(must) <= budget)
    if not kept.fits:
        assert same(kept.messages, messages)
        assert kept.dropped == 0
        return

    positions = {id(message): position for position, message in enumerate(messages)}
    order = [positions[id(message)] for message in kept.messages]
    assert order == sorted(order), "the order is changed"
    assert set(map(id, must)) <= set(map(id, kept.messages)), "what must stay is gone"
    assert kept.dropped == len(messages) - len(kept.messages)
    assert kept.tokens == measure.of(kept.messages) <= budget
    assert len(turns(kept.messages)) <= max_turns

    # No more is dropped than need be: the next older turn would not have fitted.
    count = len(turns(kept.messages))
    assert same(kept.messages, of_last_turns(messages, count))
    if count < min(max_turns, len(turns(messages))):
        assert measure.of(of_last_turns(messages, count + 1)) > budget


def orphans(messages: Sequence[Message]) -> set[str]:
    """Calls without their result, and results without their call."""
    asked = {call["id"] for message in messages for call in message.get("tool_calls") or ()}
    answered = {message["tool_call_id"] for message in messages if message["role"] == "tool"}
    return asked ^ answered


@given(conversations(), budgets, most_turns)
def test_no_call_is_parted_from_its_result(messages: list[Message], budget: int, max_turns: int) -> None:
    assert not orphans(messages)
    assert not orphans(trim(messages, max_turns=max_turns, budget=budget, measure=one_each).messages)


@given(tangled(), budgets, most_turns)
def test_not_even_where_results_come_turns_later(messages: list[Message], budget: int, max_turns: int) -> None:
    kept = trim(messages, max_turns=max_turns, budget=budget, measure=one_each).messages
    assert orphans(kept) <= orphans(messages)


@given(conversations())
def test_every_message_is_in_one_turn_or_pinned(messages: list[Message]) -> None:
    found = [position for turn in turns(messages) for position in turn]
    assert found == [position for position, message in enumerate(messages) if message["role"] not in PINNED]


# Single cases ---------------------------------------------------------------------------------------------------------


def kept(messages: Sequence[Message], max_turns: int = 10, budget: int = 1_000) -> Trimmed:
    return trim(messages, max_turns=max_turns, budget=budget, measure=one_each)


def test_a_history_that_fits_is_kept_as_it_is() -> None:
    messages = [system(), user(), says(), user()]
    assert kept(messages) == Trimmed(messages, 0, 4, fits=True)


def test_the_oldest_turns_go_first() -> None:
    messages = [user("1"), says("1"), user("2"), says("2"), user("3")]
    assert kept(messages, max_turns=2).messages == messages[2:]
    assert kept(messages, budget=4).messages == messages[2:]
    assert kept(messages, budget=1).messages == messages[4:]


def test_system_messages_stay_where_they_stood() -> None:
    messages = [system("1"), user("1"), system("2"), user("2"), {"role": "developer", "content": "3"}, user("3")]
    assert kept(messages, max_turns=1).messages == [messages[0], messages[2], messages[4], messages[5]]


def test_a_budget_that_is_met_exactly_is_met() -> None:
    assert kept([system(), user()], budget=2).fits
    assert not kept([system(), user()], budget=1).fits
    assert not kept([system()], budget=0).fits


def test_a_turn_that_is_too_large_hides_the_older_ones_behind_it() -> None:
    """Left out alone, it would leave a conversation with a hole in it."""
    messages = [user("1"), user("2"), *[says("2")] * 10, user("3")]
    assert kept(messages, budget=5).messages == messages[-1:]


def test_a_conversation_need_not_begin_with_the_user() -> None:
    messages = [says(), user(), says()]
    assert turns(messages) == [[0], [1, 2]]
    assert kept(messages, max_turns=1).messages == messages[1:]


def test_a_conversation_of_system_messages_alone_has_no_turns() -> None:
    assert turns([system(), system()]) == []
    assert kept([system(), system()]) == Trimmed([system(), system()], 0, 2, fits=True)


def test_a_turn_that_a_call_and_its_result_span_is_one() -> None:
    messages = [user(), calls("a"), user(), result("a"), user()]
    assert turns(messages) == [[0, 1, 2, 3], [4]]
    assert kept(messages, max_turns=1).messages == messages[4:]


def test_a_result_that_nobody_asked_for_stays_in_its_turn() -> None:
    assert turns([user(), says(), user(), result("x")]) == [[0, 1], [2, 3]]
    assert turns([result("x"), user()]) == [[0], [1]]


def test_an_id_that_is_used_again_means_the_latest_call() -> None:
    assert turns([user(), calls("a"), result("a"), user(), calls("a"), result("a")]) == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("asked", ["no list", [None], [{}], [{"id": None}], {}, 7])
def test_malformed_calls_do_no_harm(asked: Any) -> None:
    messages: list[Message] = [user(), {"role": "assistant", "tool_calls": asked}, result("a"), user()]
    assert turns(messages) == [[0, 1, 2], [3]]


def test_counting_may_stop_at_what_is_left_of_the_budget() -> None:
    lefts: list[int] = []

    def measure(message: Message, left: int) -> int:
        lefts.append(left)
        return 3

    trim([system(), user(), says(), user()], max_turns=10, budget=10, measure=measure)
    assert lefts == [10, 7, 4, 1]


def test_a_long_history_is_looked_at_only_as_far_as_it_is_kept() -> None:
    asked: list[Message] = []

    def measure(message: Message, left: int) -> int:
        asked.append(message)
        return 1

    trim([user()] * 10_000, max_turns=3, budget=1_000, measure=measure)
    assert len(asked) == 3

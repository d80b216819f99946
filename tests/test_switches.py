"""Kill switches, driven over a real store: what they stop, and that everybody may turn them at once."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safe_llm.effects import Effect, Flow, Peek, Reserve, Settle, T, drive
from safe_llm.stores import MemoryQuotaStore
from safe_llm.switches import (
    DIMENSIONS,
    GATE,
    Switch,
    asked,
    history,
    log,
    matching,
    named,
    off_now,
    switch,
    switch_off,
    switch_on,
)
from safe_llm.testing import FakeClock
from safe_llm.types import Reservation, SwitchEvent

U1 = switch({"user": "u1"})
APP = switch({})
CALL = {"user": "u1", "feature": "chat", "model": "gpt-4o", "plan": "pro", "session": "s1"}


class Store:
    """A store, and flows driven over it."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.store = MemoryQuotaStore(clock=self.clock.time)
        self.calls = 0

    def perform(self, effect: Effect) -> Any:
        match effect:
            case Reserve(id, charges, ttl):
                return self.store.reserve(id, charges, ttl)
            case Settle(reservation, actual):
                return self.store.settle(reservation, actual)
            case Peek(charges):
                return self.store.peek(charges)
        raise AssertionError(f"a switch needs no {effect}")

    def run(self, flow: Flow[T]) -> T:
        return drive(flow, self.perform)

    def off(self, pairs: Switch) -> bool:
        return self.run(switch_off(pairs))

    def on(self, pairs: Switch) -> bool:
        return self.run(switch_on(pairs))

    def passes(self, **values: str) -> bool:
        """Whether a call with these values passes all its switches."""
        return self._fits(asked(matching(values)))

    def gate_is_free(self) -> bool:
        return self._fits([GATE])

    def _fits(self, charges: Any) -> bool:
        self.calls += 1
        return isinstance(self.store.reserve(f"call {self.calls}", charges, 60), Reservation)


@pytest.fixture
def store() -> Store:
    return Store()


# What a switch names --------------------------------------------------------------------------------------------------


def test_a_switch_names_its_dimensions_in_one_order_whatever_it_is_given() -> None:
    assert switch({"user": "u1", "feature": "chat", "plan": None, "session": "s1"}) == (
        ("feature", "chat"),
        ("user", "u1"),
    )


def test_a_switch_reads_well() -> None:
    assert named(APP) == "the whole application"
    assert named(switch({"user": "u1", "feature": "chat"})) == "feature 'chat' and user 'u1'"


def test_a_call_is_stopped_by_sixteen_switches_the_widest_first() -> None:
    found = matching(CALL)
    assert len(found) == len(set(found)) == 2 ** len(DIMENSIONS)
    assert found[0] == APP
    assert found[-1] == switch(CALL)
    assert [len(pairs) for pairs in found] == sorted(len(pairs) for pairs in found)


def test_a_call_without_a_dimension_is_not_stopped_by_a_switch_on_it() -> None:
    assert matching({"user": "u1", "feature": None}) == [APP, U1]


# Turning --------------------------------------------------------------------------------------------------------------


def test_a_switch_stops_what_matches_all_that_it_names(store: Store) -> None:
    store.off(switch({"user": "u1", "feature": "chat"}))
    assert not store.passes(user="u1", feature="chat", model="gpt-4o")
    assert store.passes(user="u1")
    assert store.passes(user="u1", feature="docs")
    assert store.passes(user="u2", feature="chat")


def test_the_switch_that_names_nothing_stops_everything(store: Store) -> None:
    store.off(APP)
    assert not store.passes()
    assert not store.passes(user="u1")


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_each_dimension_has_a_switch_of_its_own(store: Store, dimension: str) -> None:
    store.off(switch({dimension: "x"}))
    for other in DIMENSIONS:
        assert store.passes(**{other: "x"}) is (other != dimension)


def test_turning_says_whether_it_changed_anything(store: Store) -> None:
    assert not store.on(U1)
    assert store.off(U1)
    assert not store.off(U1)
    assert store.on(U1)
    assert not store.on(U1)
    assert store.passes(user="u1")


def test_the_gate_is_free_exactly_while_no_switch_is_off(store: Store) -> None:
    assert store.gate_is_free()
    store.off(U1)
    store.off(APP)
    store.on(U1)
    assert not store.gate_is_free()
    store.on(APP)
    assert store.gate_is_free()


def test_a_switch_stays_off_for_as_long_as_the_store_lasts(store: Store) -> None:
    store.off(U1)
    for years in (1, 10, 100):
        store.clock.advance(years * 366 * 86_400)
        assert not store.passes(user="u1")
        assert not store.gate_is_free()


def test_a_switch_can_be_turned_over_and_over_with_time_in_between(store: Store) -> None:
    for _ in range(20):
        assert store.off(U1)
        assert not store.passes(user="u1")
        store.clock.advance(86_400)
        assert store.on(U1)
        assert store.passes(user="u1")
        assert store.gate_is_free()


def test_no_name_can_pass_for_another(store: Store) -> None:
    store.off(switch({"feature": "a", "user": "b"}))
    assert store.passes(feature="a/user=1:b")
    assert store.passes(user="b/feature=1:a")
    assert not store.passes(feature="a", user="b")


@given(
    st.lists(
        st.tuples(st.booleans(), st.sampled_from([{}, {"user": "u1"}, {"model": "m"}, {"user": "u1", "model": "m"}])),
        max_size=30,
    )
)
@settings(deadline=None)
def test_switches_do_as_a_set_of_names_would(turns: list[tuple[bool, dict[str, str]]]) -> None:
    store = Store()
    off: set[Switch] = set()
    for turn_off, values in turns:
        pairs = switch(values)
        assert (store.off if turn_off else store.on)(pairs) is ((pairs not in off) if turn_off else (pairs in off))
        (off.add if turn_off else off.discard)(pairs)
        assert store.gate_is_free() is (not off)
        assert store.passes(user="u1", model="m") is (not off)
        assert store.passes(user="u2", model="m") is off.isdisjoint({APP, switch({"model": "m"})})


# Two at once ----------------------------------------------------------------------------------------------------------


def interleaved(store: Store, schedule: tuple[int, ...], flows: list[Flow[Any]]) -> list[Any]:
    """Run flows step by step in the order of the schedule, then each of them to its end."""
    results: dict[int, Any] = {}
    waiting = {number: next(flow) for number, flow in enumerate(flows)}
    for number in (*schedule, *(n for n in range(len(flows)) for _ in range(9))):
        if number in waiting:
            try:
                waiting[number] = flows[number].send(store.perform(waiting[number]))
            except StopIteration as stop:
                results[number] = stop.value
                del waiting[number]
    return [results[number] for number in range(len(flows))]


@pytest.mark.parametrize("schedule", list(product((0, 1), repeat=4)))
def test_two_that_switch_off_at_once_make_one_switch_that_one_turn_switches_on(schedule: tuple[int, ...]) -> None:
    store = Store()
    interleaved(store, schedule, [switch_off(U1), switch_off(U1)])
    assert not store.passes(user="u1")
    store.on(U1)
    assert store.passes(user="u1")
    assert store.gate_is_free()


@pytest.mark.parametrize("schedule", list(product((0, 1), repeat=5)))
def test_two_that_switch_on_at_once_leave_it_on_and_it_can_be_switched_off_again(schedule: tuple[int, ...]) -> None:
    store = Store()
    store.off(U1)
    assert sorted(interleaved(store, schedule, [switch_on(U1), switch_on(U1)])) == [False, True]
    assert store.passes(user="u1")
    assert store.off(U1)
    assert not store.passes(user="u1")


@pytest.mark.parametrize("schedule", list(product((0, 1), repeat=5)))
@pytest.mark.parametrize("starts_off", [True, False])
def test_one_on_and_one_off_at_once_leave_it_whole(schedule: tuple[int, ...], starts_off: bool) -> None:
    """Either may win; the switch and the gate agree, and it can be turned afterwards."""
    store = Store()
    if starts_off:
        store.off(U1)
    interleaved(store, schedule, [switch_off(U1), switch_on(U1)])
    assert store.passes(user="u1") is store.gate_is_free()
    store.off(U1)
    assert not store.passes(user="u1")
    store.on(U1)
    assert store.passes(user="u1")
    assert store.gate_is_free()


# Who, when and why ----------------------------------------------------------------------------------------------------


def event(number: int, action: Any = "off", **scope: str) -> SwitchEvent:
    at = datetime.fromtimestamp(1_800_000_000 + number, UTC)
    return SwitchEvent(action, scope, at, f"operator {number}", 'a "leaked" key / пример')


def test_the_log_tells_who_turned_what_when_and_why(store: Store) -> None:
    events = [event(1, user="u1"), event(2), event(3, "on", user="u1", feature="a/b=c")]
    for one in events:
        store.run(log(one))
    assert store.run(history(10)) == events
    assert store.run(history(2)) == events[1:]
    store.clock.advance(10 * 365 * 86_400)
    assert store.run(history(10)) == events


def test_an_empty_log_tells_nothing(store: Store) -> None:
    assert store.run(history(10)) == store.run(off_now(10)) == []


def test_of_what_is_off_the_latest_event_is_told(store: Store) -> None:
    for number, pairs in enumerate([APP, U1, APP]):
        store.off(pairs)
        store.run(log(event(number, **dict(pairs))))
    store.on(U1)
    store.run(log(event(3, "on", **dict(U1))))
    assert store.run(off_now(10)) == [event(2)]
    store.on(APP)  # by somebody whose entry got lost
    assert store.run(off_now(10)) == []


@pytest.mark.parametrize("schedule", list(product((0, 1), repeat=4)))
def test_two_who_write_at_once_both_have_their_entry(schedule: tuple[int, ...]) -> None:
    store = Store()
    interleaved(store, schedule, [log(event(1, user="u1")), log(event(2, user="u2"))])
    assert sorted(entry.by for entry in store.run(history(10))) == ["operator 1", "operator 2"]

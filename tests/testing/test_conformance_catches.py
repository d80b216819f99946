"""The conformance kit finds the mistakes that stores make. Each store here makes one."""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from json import dumps, loads
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import Phase, settings

from safe_llm.stores import Charge, KeyValueQuotaStore, MemoryQuotaStore, Refusal, Reservation, Tally
from safe_llm.testing import QuotaStoreConformance, SharedQuotaStoreConformance

pytest_plugins = ["pytester"]

Answer = Reservation | Refusal
Charges = Sequence[Charge]


# Admission -----------------------------------------------------------------------------------------------------------


class TakesBeforeItRefuses(MemoryQuotaStore):
    def _hold(self, reservation: Reservation) -> Any:
        _, charges, ends = reservation
        counters = [self._counter(charge) for charge in charges]
        for charge, counter in zip(charges, counters, strict=True):
            if sum(counter.tally(charge)) + charge.amount > charge.limit:
                return None
            counter.move(charge, ends, charge.amount, 0)
        return counters


class LooksBeforeItTakes(MemoryQuotaStore):
    """Two charges of one call that meet on a counter do not see each other."""

    def _hold(self, reservation: Reservation) -> Any:
        _, charges, ends = reservation
        counters = [self._counter(charge) for charge in charges]
        if any(sum(n.tally(c)) + c.amount > c.limit for c, n in zip(charges, counters, strict=True)):
            return None
        for charge, counter in zip(charges, counters, strict=True):
            counter.move(charge, ends, charge.amount, 0)
        return counters


class Altered(MemoryQuotaStore):
    """Reserves and looks at other charges than it was given."""

    def alter(self, charge: Charge) -> Charge:
        return charge

    def reserve(self, id: str, charges: Charges, ttl: float) -> Answer:
        answer = super().reserve(id, [self.alter(charge) for charge in charges], ttl)
        return answer._replace(charges=tuple(charges)) if isinstance(answer, Reservation) else answer

    def peek(self, charges: Charges) -> Sequence[Tally]:
        return super().peek([self.alter(charge) for charge in charges])


class AdmitsOneTooMany(Altered):
    def alter(self, charge: Charge) -> Charge:
        return charge._replace(limit=charge.limit + 1)


class AdmitsOneTooFew(Altered):
    def alter(self, charge: Charge) -> Charge:
        return charge._replace(limit=charge.limit - 1)


class CountsInDoubles(Altered):
    def alter(self, charge: Charge) -> Charge:
        return charge._replace(amount=float(charge.amount), limit=float(charge.limit))  # type: ignore[arg-type]


class NeverTurnsOver(Altered):
    def alter(self, charge: Charge) -> Charge:
        return charge._replace(start=0, end=2**42) if charge.kind == "fixed" else charge


class FoldsCase(Altered):
    def alter(self, charge: Charge) -> Charge:
        return charge._replace(key=charge.key.lower())


class PeeksByReserving(MemoryQuotaStore):
    def peek(self, charges: Charges) -> Sequence[Tally]:
        looked = super().peek(charges)
        self.reserve(uuid4().hex, [charge._replace(amount=1, limit=2**53) for charge in charges], 30)
        return looked


class RemembersRefusals(MemoryQuotaStore):
    def __init__(self) -> None:
        super().__init__()
        self.refused: dict[str, Refusal] = {}

    def reserve(self, id: str, charges: Charges, ttl: float) -> Answer:
        answer = self.refused.get(id) or super().reserve(id, charges, ttl)
        if isinstance(answer, Refusal):
            self.refused[id] = answer
        return answer


class WaitsAMomentTooShort(MemoryQuotaStore):
    off = -0.02

    def reserve(self, id: str, charges: Charges, ttl: float) -> Answer:
        answer = super().reserve(id, charges, ttl)
        if isinstance(answer, Refusal) and answer.retry_after is not None:
            return answer._replace(retry_after=max(0.0, answer.retry_after + self.off))
        return answer


class WaitsAMomentTooLong(WaitsAMomentTooShort):
    off = 0.02


# Settling ------------------------------------------------------------------------------------------------------------


class SettlesTwice(MemoryQuotaStore):
    def settle(self, reservation: Reservation, actual: Sequence[int]) -> bool:
        if not super().settle(reservation, actual) and reservation.id in self._settled:
            for charge, used in zip(reservation.charges, actual, strict=True):
                self._counter(charge).move(charge, 0, 0, used)
        return True


class SettlesAtWhatWasReserved(MemoryQuotaStore):
    def settle(self, reservation: Reservation, actual: Sequence[int]) -> bool:
        return super().settle(reservation, [charge.amount for charge in reservation.charges])


class ForgivesDebts(MemoryQuotaStore):
    def settle(self, reservation: Reservation, actual: Sequence[int]) -> bool:
        amounts = [min(n, charge.amount or n) for n, charge in zip(actual, reservation.charges, strict=False)]
        return super().settle(reservation, amounts if len(amounts) == len(actual) else actual)


class ForgetsWhatWasFree(MemoryQuotaStore):
    def settle(self, reservation: Reservation, actual: Sequence[int]) -> bool:
        return super().settle(reservation, [n and c.amount and n for n, c in zip(actual, reservation.charges)])  # noqa: B905


class RefundsIntoTheNewestWindow(MemoryQuotaStore):
    def __init__(self) -> None:
        super().__init__()
        self.newest: dict[str, Charge] = {}

    def reserve(self, id: str, charges: Charges, ttl: float) -> Answer:
        self.newest.update((charge.key, charge) for charge in charges if charge.kind == "fixed")
        return super().reserve(id, charges, ttl)

    def settle(self, reservation: Reservation, actual: Sequence[int]) -> bool:
        settled = super().settle(reservation, actual)
        for charge, used in zip(reservation.charges, actual, strict=True):
            newest = self.newest.get(charge.key, charge)
            if settled and newest.start > charge.start:
                self._counter(newest).move(newest, 0, 0, used - charge.amount)
        return settled


class ForgetsAnIdOnceSettled(MemoryQuotaStore):
    def settle(self, reservation: Reservation, actual: Sequence[int]) -> bool:
        settled = super().settle(reservation, actual)
        self._settled.pop(reservation.id, None)
        return settled


class BelievesWhoAsksAgain(MemoryQuotaStore):
    def reserve(self, id: str, charges: Charges, ttl: float) -> Answer:
        answer = super().reserve(id, charges, ttl)
        return answer._replace(charges=tuple(charges)) if isinstance(answer, Reservation) else answer


# Leases --------------------------------------------------------------------------------------------------------------


class KeepsPlacesForEver(MemoryQuotaStore):
    def _end_leases(self, now: float) -> None:
        pass


class GivesBackChargesWithTheLease(MemoryQuotaStore):
    def _end_leases(self, now: float) -> None:
        for id in [id for id, (reservation, _) in self._open.items() if reservation.expires <= now]:
            (_, charges, ends), counters = self._open.pop(id)
            for charge, counter in zip(charges, counters, strict=True):
                counter.move(charge, ends, -charge.amount, 0)


class LosesLateSettlements(MemoryQuotaStore):
    def settle(self, reservation: Reservation, actual: Sequence[int]) -> bool:
        self._end_leases(self.clock())
        return reservation.id not in self._ended and super().settle(reservation, actual)


class FreesAPlaceTwice(MemoryQuotaStore):
    """A late settlement frees the place that its lease has given back already."""

    def settle(self, reservation: Reservation, actual: Sequence[int]) -> bool:
        self._end_leases(self.clock())
        for charge in reservation.charges:
            if charge.kind == "held" and reservation.id in self._ended:
                self._counter(charge).move(charge, 0, -charge.amount, 0)
        return super().settle(reservation, actual)


# Threads, loops and processes ----------------------------------------------------------------------------------------


class Unlocked(KeyValueQuotaStore):
    def __init__(self) -> None:
        self.data: dict[str, str] = {}

    @contextmanager
    def transaction(self, keys: Collection[str]) -> Iterator[dict[str, Any]]:
        data = {key: loads(self.data[key]) for key in keys if key in self.data}
        yield data
        time.sleep(0.0005)
        self.data.update((key, dumps(value)) for key, value in data.items())


class KnowsOneLoop:
    def __init__(self) -> None:
        self.store, self.loop = MemoryQuotaStore(), asyncio.get_running_loop()

    async def reserve(self, id: str, charges: Charges, ttl: float) -> Answer:
        assert asyncio.get_running_loop() is self.loop, "is bound to a different event loop"
        return self.store.reserve(id, charges, ttl)

    async def settle(self, reservation: Reservation, actual: Sequence[int]) -> bool:
        return self.store.settle(reservation, actual)

    async def peek(self, charges: Charges) -> Sequence[Tally]:
        return self.store.peek(charges)

    async def close(self) -> None:
        self.store.close()


class BreaksInAFork(MemoryQuotaStore):
    def __init__(self) -> None:
        super().__init__()
        self.pid = os.getpid()

    def reserve(self, id: str, charges: Charges, ttl: float) -> Answer:
        assert os.getpid() == self.pid, "the connection has gone away"
        return super().reserve(id, charges, ttl)


class CountsAlone(MemoryQuotaStore):
    """Says that processes share it, and they do not."""

    def __init__(self, _: Path) -> None:
        super().__init__()


class Unguarded(KeyValueQuotaStore):
    """One file, always whole, but the last writer wins."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextmanager
    def transaction(self, keys: Collection[str]) -> Iterator[dict[str, Any]]:
        file = self.folder / "data"
        stored = loads(file.read_text()) if file.exists() else {}
        data = {key: stored.pop(key) for key in keys if key in stored}
        yield data
        time.sleep(0.0005)
        written = self.folder / uuid4().hex
        written.write_text(dumps({**stored, **data}))
        written.rename(file)


class WritesOneByOne(KeyValueQuotaStore):
    """A file for each key, under a lock, written one after the other: whoever dies meanwhile leaves half a call."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextmanager
    def transaction(self, keys: Collection[str]) -> Iterator[dict[str, Any]]:
        with open(self.folder / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            files = {key: self.folder / key.replace("/", ":") for key in keys}
            data = {key: loads(file.read_text()) for key, file in files.items() if file.exists()}
            yield data
            for key, file in files.items():
                if key in data:
                    written = self.folder / uuid4().hex
                    written.write_text(dumps(data[key]))
                    written.rename(file)
                    time.sleep(0.002)
                else:
                    file.unlink(missing_ok=True)


# What finds them -----------------------------------------------------------------------------------------------------

HISTORY = "test_any_history_is_answered_as_the_memory_store_answers_it"

MISTAKES: dict[Any, set[str]] = {
    TakesBeforeItRefuses: {"test_all_charges_are_taken_or_none", HISTORY},
    LooksBeforeItTakes: {"test_two_charges_of_one_call_on_one_key_add_up", HISTORY},
    AdmitsOneTooMany: {"test_an_amount_that_reaches_the_limit_fits_and_one_more_does_not", HISTORY},
    AdmitsOneTooFew: {"test_an_amount_that_reaches_the_limit_fits_and_one_more_does_not", HISTORY},
    CountsInDoubles: {"test_amounts_are_exact_up_to_two_to_the_53"},
    NeverTurnsOver: {"test_windows_of_one_counter_are_apart", HISTORY},
    FoldsCase: {"test_keys_are_opaque"},
    PeeksByReserving: {"test_peek_takes_nothing_and_answers_in_order", HISTORY},
    RemembersRefusals: {"test_a_refused_id_may_be_reserved_again"},
    WaitsAMomentTooShort: {
        "test_a_full_window_is_waited_for_to_its_end",
        "test_a_full_sliding_window_is_waited_for_until_its_slice_leaves",
        "test_a_place_is_waited_for_until_the_lease_ends_that_frees_it",
    },
    WaitsAMomentTooLong: {
        "test_a_full_window_is_waited_for_to_its_end",
        "test_a_full_sliding_window_is_waited_for_until_its_slice_leaves",
        "test_a_place_is_waited_for_until_the_lease_ends_that_frees_it",
    },
    SettlesTwice: {"test_settling_twice_changes_nothing_and_says_so", HISTORY},
    SettlesAtWhatWasReserved: {"test_settling_turns_held_into_used_at_the_actual_amount", HISTORY},
    ForgivesDebts: {"test_what_was_used_beyond_the_limit_blocks", HISTORY},
    ForgetsWhatWasFree: {"test_a_charge_of_zero_leaves_no_trace_and_may_be_settled_with_more", HISTORY},
    RefundsIntoTheNewestWindow: {"test_a_settlement_never_reaches_the_window_that_came_after"},
    ForgetsAnIdOnceSettled: {"test_the_same_id_gives_the_same_answer_and_takes_nothing", HISTORY},
    BelievesWhoAsksAgain: {"test_the_same_id_with_other_charges_gives_the_first_answer", HISTORY},
    KeepsPlacesForEver: {"test_a_lease_that_ends_frees_its_place_and_keeps_what_may_have_been_billed", HISTORY},
    GivesBackChargesWithTheLease: {"test_what_has_become_used_counts", HISTORY},
    LosesLateSettlements: {"test_a_settlement_after_the_lease_still_corrects", HISTORY},
    FreesAPlaceTwice: {"test_a_settlement_after_the_lease_still_corrects", HISTORY},
    Unlocked: {"test_threads_share_a_limit_to_the_last_unit"},
    KnowsOneLoop: {"test_a_store_serves_two_event_loops"},
    BreaksInAFork: {"test_a_store_made_before_a_fork_works_in_parent_and_children"},
}
"""Stores, and tests that must fail for them."""

SHARED: dict[Any, set[str]] = {
    CountsAlone: {"test_a_store_made_before_a_fork_shares_its_counts", "test_what_was_counted_outlives_its_process"},
    Unguarded: {"test_processes_share_a_limit_to_the_last_unit"},
    WritesOneByOne: {"test_a_process_killed_at_any_moment_leaves_whole_steps"},
}
"""The same of stores that several processes share."""


def broken(mistake: Any) -> type[QuotaStoreConformance]:
    """The proof of a store that makes a mistake."""

    class Broken(QuotaStoreConformance):
        async def make_store(self) -> Any:
            return mistake()

    return Broken


def broken_shared(mistake: Any) -> type[QuotaStoreConformance]:
    class Broken(SharedQuotaStoreConformance):
        @pytest.fixture(autouse=True)
        def at(self, tmp_path: Path) -> None:
            self.path = tmp_path

        def make_store(self) -> Any:
            return mistake(self.path)

        reopen = make_store

    return Broken


# Collected by the run within the test alone: their names do not begin with "Test".
for _mistake in MISTAKES:
    globals()[f"Broken{_mistake.__name__}"] = broken(_mistake)
for _mistake in SHARED:
    globals()[f"Broken{_mistake.__name__}"] = broken_shared(_mistake)


@pytest.fixture
def _plain_histories() -> Iterator[None]:
    """The same ones each time, and no search for the shortest that fails."""
    settings.register_profile("plain", phases=[Phase.generate], derandomize=True)
    before = settings.get_current_profile_name()
    settings.load_profile("plain")
    yield
    settings.load_profile(before)


@pytest.mark.usefixtures("_plain_histories")
@pytest.mark.parametrize("mistake", [*MISTAKES, *SHARED], ids=lambda mistake: mistake.__name__)
def test_a_mistake_is_found_by_the_tests_that_are_meant_to(mistake: Any, pytester: pytest.Pytester) -> None:
    meant = {**MISTAKES, **SHARED}[mistake]
    node = f"{__file__}::Broken{mistake.__name__}"
    options = ("-o", "python_classes=Broken", "-p", "no:cacheprovider", "-k", " or ".join(meant))
    _, skipped, failed = pytester.inline_run(*options, node).listoutcomes()
    assert not skipped
    assert {report.nodeid.split("::")[-1].partition("[")[0] for report in failed if report.when == "call"} == meant

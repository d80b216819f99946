"""Other processes: forks, crowds, and sudden deaths."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from multiprocessing import Pipe
from typing import Any

import pytest

from ...stores import QuotaStore, Reservation
from ._clock import Clock
from ._concurrency import used_up
from ._drive import PATIENCE, LoopThread, faced, in_child, made_of
from ._subject import Subject
from ._words import LARGEST, SHORT, TTL, charge, refused, taken, tallies, tally

Work = Callable[[Callable[[Any], None]], Any]
"""What a child does, given a function that tells its parent something before the end."""


class Child:
    """A forked process that does some work, and tells what it came to."""

    def __init__(self, work: Work) -> None:
        self._ear, mouth = Pipe(duplex=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # The threads that stay behind do so knowingly.
            self.pid = os.fork()
        if self.pid == 0:
            _live(work, mouth.send)
        mouth.close()

    def told(self) -> Any:
        """The next thing that the child tells."""
        assert self._ear.poll(PATIENCE), "the child is stuck"
        failure, told = self._ear.recv()
        assert failure is None, f"in the child: {failure}"
        return told

    def kill(self) -> None:
        """End it at once, wherever it is, as a machine that goes away does. It may have ended by itself."""
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = 0
            self._ear.close()


def _live(work: Work, send: Callable[[tuple[str | None, Any]], None]) -> None:
    """All that happens in the child."""
    sys.settrace(None)  # A thread that is gone may hold the lock of a coverage tool.
    try:
        send((None, work(lambda told: send((None, told)))))
    except BaseException:
        send((traceback.format_exc(), None))
    finally:
        os._exit(0)  # Nothing of what the parent does at its end is the child's to do.


class Processes(Subject):
    """Starts other processes."""

    @pytest.fixture
    def fork(self) -> Iterator[Callable[..., Child]]:
        """Starts children, and sees to their end."""
        if not hasattr(os, "fork"):
            pytest.skip("the system has no fork")
        children: list[Child] = []

        def fork(work: Work) -> Child:
            children.append(Child(work))
            return children[-1]

        yield fork
        for child in children:
            child.kill()


class Forks(Processes):
    """Any store lives through a fork."""

    def test_a_store_made_before_a_fork_works_in_parent_and_children(self, store: QuotaStore, fork: Any) -> None:
        """Three children and their parent use it at once. Either all count together, and exactly the limit is given, or
        each counts by itself."""
        charges = [charge(limit=30), charge("held", limit=30)]
        taken(store, charge(key="before"))
        children = [fork(lambda _: used_up(in_child(store), charges, 40)) for _ in range(3)]
        admitted = [used_up(store, charges, 40), *[child.told() for child in children]]
        assert sum(admitted) == 30 or admitted == [30] * 4
        assert tallies(store, [*charges, charge(key="before")]) == [(30, 0), (0, 0), (0, 1)]

    def test_a_child_knows_what_was_reserved_before_the_fork(self, store: QuotaStore, fork: Any) -> None:
        """It finds it again, and may settle it."""
        charges = [charge(amount=3), charge("held")]
        first = taken(store, *charges, id="id")

        def work(_: Any) -> list[Any]:
            mine = in_child(store)
            return [mine.reserve("id", charges, 1), mine.settle(first, [2, 0]), tallies(mine, charges)]

        assert fork(work).told() == [first, True, [(2, 0), (0, 0)]]
        store.settle(first, [2, 0])
        assert tallies(store, charges) == [(2, 0), (0, 0)]


class Sharing(Processes):
    """A store that other processes reach as well."""

    def reopen(self) -> Any:
        """Another store over the data of the last one that `make_store` made, as another process opens it. It is called
        in forked children, and may be a coroutine function."""
        raise NotImplementedError("return another store over the same data")

    @pytest.fixture
    def reopened(self, clock: Clock) -> Callable[[], QuotaStore]:
        """Opens a store in a child; its clock stands where the parent's stood at the fork."""

        def reopened() -> QuotaStore:
            store = faced(self.reopen(), LoopThread())
            if clock.injected:
                self.set_clock(made_of(store), clock.time)
            return store

        return reopened

    def test_processes_share_a_limit_to_the_last_unit(self, store: QuotaStore, reopened: Any, fork: Any) -> None:
        """Four processes ask for more than there is, and exactly the limit is given."""
        charges = [charge(limit=100), charge("sliding", limit=110)]
        children = [fork(lambda _: used_up(reopened(), charges, 40)) for _ in range(4)]
        assert sum(child.told() for child in children) == 100
        assert tallies(store, charges) == [(100, 0), (100, 0)]

    def test_a_store_made_before_a_fork_shares_its_counts(self, store: QuotaStore, fork: Any) -> None:
        """What the child takes, the parent sees, and settles."""
        taken(store, charge())
        theirs = fork(lambda _: taken(in_child(store), charge(amount=2))).told()
        assert tally(store, charge()) == (0, 3)
        assert store.settle(theirs, [1]) is True
        assert tally(store, charge()) == (1, 1)

    def test_the_same_id_from_two_processes_is_one_reservation(
        self, store: QuotaStore, reopened: Any, fork: Any
    ) -> None:
        """Reserved by one, found by another, settled by one of them."""
        charges = [charge(amount=2), charge("held")]
        first = taken(store, *charges, id="id")

        def work(_: Any) -> list[Any]:
            theirs = reopened()
            return [theirs.reserve("id", charges, 1), theirs.settle(first, [1, 0])]

        assert fork(work).told() == [first, True]
        assert store.settle(first, [2, 0]) is False
        assert tallies(store, charges) == [(1, 0), (0, 0)]

    def test_what_was_counted_outlives_its_process(self, store: QuotaStore, reopened: Any, fork: Any) -> None:
        """A process that ends, closing its store, leaves what it used and what it holds."""

        def work(_: Any) -> None:
            theirs = reopened()
            theirs.settle(taken(theirs, charge(amount=2)), [3])
            taken(theirs, charge())
            theirs.close()

        fork(work).told()
        assert tally(store, charge()) == (3, 1)

    def test_a_killed_process_gives_back_its_place_and_keeps_its_charge(
        self, store: QuotaStore, clock: Clock, reopened: Any, fork: Any
    ) -> None:
        """SIGKILL between reserve and settle: when the lease ends, and not before. A late settlement still corrects."""
        charges = [charge(amount=3), charge("sliding", amount=3), charge("held", limit=1)]
        ttl = SHORT if clock.injected else 3.0

        def work(tell: Callable[[Any], None]) -> None:
            tell(taken(reopened(), *charges, ttl=ttl))
            time.sleep(PATIENCE)

        child = fork(work)
        reservation = child.told()
        child.kill()
        assert isinstance(reservation, Reservation)
        assert tallies(store, charges) == [(0, 3), (0, 3), (0, 1)]
        refused(store, charge("held", limit=1))
        clock.wait_until(reservation.expires)
        taken(store, charge("held", limit=1))
        assert tallies(store, charges) == [(3, 0), (3, 0), (0, 1)]
        assert store.settle(reservation, [1, 4, 0]) is True
        assert tallies(store, charges) == [(1, 0), (4, 0), (0, 1)]

    def test_a_process_killed_at_any_moment_leaves_whole_steps(
        self, store: QuotaStore, clock: Clock, reopened: Any, fork: Any
    ) -> None:
        """All charges of each call or none, at most one call in flight, and a store that others go on with."""
        charges = [charge(key=key, limit=LARGEST) for key in "ab"] + [charge("held", limit=1)]

        def work(tell: Callable[[Any], None]) -> None:
            theirs = reopened()
            tell("ready")
            give_up = time.monotonic() + PATIENCE
            while time.monotonic() < give_up:
                used_up(theirs, charges, 1)

        for round in range(6):
            child = fork(work)
            child.told()
            time.sleep(random.uniform(0.0, 0.04))  # noqa: S311
            child.kill()
            a, b, calls = tallies(store, charges)
            assert a == b
            assert a.held == calls.held <= 1
            taken(store, charge(limit=LARGEST), id=f"after{round}")
            if calls.held and clock.injected:
                clock.wait_until(clock.time() + TTL)
                assert tallies(store, charges) == [(sum(a), 0), (sum(b), 0), (0, 0)]

"""One file under several processes: kills at any point, and forks in the midst of threads."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from threading import Event, Thread, get_ident
from uuid import uuid4

import pytest
from histories import Now, ends_well, forked

from safe_llm.stores import Charge, Reservation, SQLiteQuotaStore, Tally

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]

PROCESSES = 4
CAP = 700
NOW = int(time.time())
REQUESTS = Charge("requests", 1, CAP, "fixed", NOW - 86_400, NOW + 86_400)
TOKENS = Charge("tokens", 10, 10 * CAP, "sliding", NOW // 60 * 60 - 3_600, NOW // 60 * 60 + 60)
CALLS = Charge("calls", 1, PROCESSES, "held", NOW, NOW + 1)
CHARGES = [REQUESTS, TOKENS, CALLS]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "quotas.db"


class Tallied:
    """A file with one byte for each call that was admitted, from however many processes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()

    def add(self) -> None:
        with self.path.open("ab", buffering=0) as file:
            file.write(b".")

    @property
    def count(self) -> int:
        return self.path.stat().st_size


@pytest.fixture
def admitted(tmp_path: Path) -> Tallied:
    return Tallied(tmp_path / "admitted")


def intact(path: Path) -> bool:
    with closing(sqlite3.connect(path)) as db:
        return bool(db.execute("PRAGMA integrity_check").fetchone() == ("ok",))


def test_killed_processes_never_lead_over_the_cap(path: Path, admitted: Tallied) -> None:
    """Four at a time are killed wherever they stand; what is left is admitted to the last unit, and nothing is lost."""
    clock = Now(time.time())
    charges = [REQUESTS, TOKENS]

    def use() -> None:
        with closing(SQLiteQuotaStore(path)) as store:
            while isinstance(answer := store.reserve(uuid4().hex, charges, 30), Reservation):
                admitted.add()
                store.settle(answer, [1, 10])

    chosen, killed = random.Random(7), 0
    while admitted.count < CAP // 2:
        children, more = [forked(use) for _ in range(PROCESSES)], admitted.count + chosen.randint(0, 40)
        give_up = time.monotonic() + 10
        while admitted.count < more and time.monotonic() < give_up:
            pass
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        killed += PROCESSES
    assert ends_well(forked(use))
    assert intact(path)
    with closing(SQLiteQuotaStore(path, clock=clock)) as store:
        requests, tokens = store.peek(charges)
        assert sum(requests) == CAP
        assert sum(tokens) == 10 * CAP
        assert CAP - killed <= admitted.count <= CAP
        clock.time += 60
        assert store.peek(charges) == [Tally(CAP, 0), Tally(10 * CAP, 0)]


@pytest.fixture
def busy(path: Path) -> Iterator[SQLiteQuotaStore]:
    """A store that four threads keep using, each call settled; the test ends when they have stopped."""
    store, stop = SQLiteQuotaStore(path), Event()
    failed: list[BaseException] = []

    def use() -> None:
        number = 0
        try:
            while not stop.is_set():
                number += 1
                answer = store.reserve(f"{get_ident()}/{number}", [THREADS], 30)
                assert isinstance(answer, Reservation)
                assert store.settle(answer, [1])
        except BaseException as error:
            failed.append(error)

    threads = [Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    yield store
    stop.set()
    for thread in threads:
        thread.join(timeout=10)
    store.close()
    assert not failed


THREADS = Charge("threads", 1, 2**53, "fixed", NOW - 86_400, NOW + 86_400)


def test_a_store_survives_a_fork_on_both_sides(path: Path, busy: SQLiteQuotaStore) -> None:
    """A child forked in the midst of other threads counts on in the same file, and so does its parent."""

    def use() -> None:
        for _ in range(5):
            answer = busy.reserve(uuid4().hex, [REQUESTS], 30)
            assert isinstance(answer, Reservation)
            assert busy.settle(answer, [1]) is True

    for number in range(1, 11):
        before = busy.peek([THREADS])[0].used
        assert ends_well(forked(use))
        assert busy.peek([REQUESTS]) == [Tally(5 * number, 0)]
        assert busy.peek([THREADS])[0].used >= before
    assert intact(path)


def test_a_reservation_made_before_a_fork_is_settled_by_the_child(path: Path) -> None:
    """A parent that never used the store again has lost nothing either."""
    with closing(SQLiteQuotaStore(path)) as store:
        made = store.reserve("a", CHARGES, 30)
        assert isinstance(made, Reservation)
        assert store._file._connection is not None

        def use() -> None:
            assert store._file._connection is None, "SQLite's connections do not survive a fork"
            assert store.settle(made, [1, 10, 0]) is True

        assert ends_well(forked(use))
        assert store.settle(made, [1, 10, 0]) is False
        assert store.peek(CHARGES) == [Tally(1, 0), Tally(10, 0), Tally(0, 0)]

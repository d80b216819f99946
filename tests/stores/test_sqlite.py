"""The store in a file: the contract, its URL, what it says when the file is not right, and how large it grows."""

from __future__ import annotations

import asyncio
import inspect
import os
import shutil
import sqlite3
import stat
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from crowds import SharedStore
from histories import DAY, START, STEPS, Now, ends_well, forked, replay
from hypothesis import given, settings

from safe_llm import StoreUnavailableError
from safe_llm.errors import ConfigurationError
from safe_llm.stores import (
    Charge,
    MemoryQuotaStore,
    Reservation,
    SQLiteQuotaStore,
    Tally,
    open_async_store,
    open_store,
)
from safe_llm.testing import FakeOpenAI


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "quotas.db"


@pytest.fixture
def store(path: Path) -> Iterator[SQLiteQuotaStore]:
    with closing(SQLiteQuotaStore(path)) as store:
        yield store


class TestSQLiteQuotaStore(SharedStore):
    @pytest.fixture(autouse=True)
    def _place(self, path: Path) -> None:
        self.path = path

    def make_store(self) -> Any:
        return SQLiteQuotaStore(self.path)

    reopen = make_store


class TestAsyncSQLiteQuotaStore(TestSQLiteQuotaStore):
    def make_store(self) -> Any:
        return open_async_store(f"sqlite:///{self.path}")

    reopen = make_store


def charge(key: str = "key", amount: int = 1, limit: int = 1_000, *, day: int = int(START // DAY)) -> Charge:
    return Charge(key, amount, limit, "fixed", day * DAY, (day + 1) * DAY)


def reserve(store: SQLiteQuotaStore, id: str, *charges: Charge) -> Reservation:
    answer = store.reserve(id, charges, 30)
    assert isinstance(answer, Reservation)
    return answer


@pytest.mark.parametrize("swept", [False, True], ids=["", "swept at each step"])
@given(steps=STEPS)
@settings(max_examples=60, deadline=None)
def test_any_history_is_answered_as_the_memory_store_answers_it(swept: bool, steps: list[Any]) -> None:
    """Every answer, tally and wait is the same, whenever the sweep comes."""
    now = Now()
    with tempfile.TemporaryDirectory() as folder, closing(SQLiteQuotaStore(f"{folder}/q", clock=now)) as store:
        if swept:
            store._every = 1
        replay(steps, now, store, MemoryQuotaStore(clock=now))


def test_a_late_settlement_takes_no_count_below_zero(path: Path) -> None:
    """What it would give back has been swept away, and others count in its place again."""
    now = Now()
    second = int(now.time)
    minute = Charge("minute", 3, 9, "sliding", second - 60, second + 1)
    with closing(SQLiteQuotaStore(path, clock=now)) as store:
        store._every = 1
        late = reserve(store, "late", minute, charge("day", 3))
        now.time += 200
        reserve(store, "sweeps", minute._replace(start=second + 140, end=second + 201))
        assert store.peek([minute]) == [Tally(0, 3)], "only the newer call"
        reserve(store, "behind", minute._replace(amount=1))
        assert store.settle(late, [0, 1]) is True
        assert store.peek([minute, charge("day")]) == [Tally(0, 4), Tally(1, 0)]


@pytest.mark.parametrize("days_off", [-1_000, 1_000])
def test_a_wrong_clock_alone_wipes_nothing(path: Path, days_off: int) -> None:
    """The store's clock, or a client's, may be years off while others still count."""
    now, today = Now(), int(START // DAY)
    with closing(SQLiteQuotaStore(path, clock=now)) as store:
        store._every = 1
        store.settle(reserve(store, "a", charge()), [1])
        for number in range(3):
            reserve(store, f"client{number}", charge("other", day=today + days_off))
        assert store.peek([charge()]) == [Tally(1, 0)]
        now.time += days_off * DAY
        for number in range(3):
            reserve(store, f"store{number}", charge("another"))
        assert store.peek([charge()]) == [Tally(1, 0)]


# The file -------------------------------------------------------------------------------------------------------------


def test_what_was_counted_is_there_when_the_file_is_opened_again(path: Path) -> None:
    """Open reservations too."""
    with closing(SQLiteQuotaStore(path)) as store:
        store.settle(reserve(store, "a", charge(amount=3)), [2])
        late = reserve(store, "b", charge(amount=5))
    with closing(SQLiteQuotaStore(path)) as store:
        assert store.peek([charge()]) == [Tally(2, 5)]
        assert store.settle(late, [4]) is True
        assert store.peek([charge()]) == [Tally(6, 0)]


def test_stores_on_one_file_share_their_counters(path: Path) -> None:
    """Two clients of one process, each with the URL."""
    with closing(SQLiteQuotaStore(path)) as one, closing(open_store(f"sqlite:///{path}")) as other:
        assert other.settle(reserve(one, "a", charge(amount=3)), [2]) is True
        assert one.peek([charge()]) == other.peek([charge()]) == [Tally(2, 0)]


def test_a_late_settlement_opens_a_closed_store_again(store: SQLiteQuotaStore) -> None:
    """It is not lost because the application has begun to stop."""
    late = reserve(store, "a", charge(amount=3))
    store.close()
    assert store.settle(late, [2]) is True
    assert store.peek([charge()]) == [Tally(2, 0)]


def test_only_its_owner_reads_the_file(store: SQLiteQuotaStore, path: Path) -> None:
    """Keys name users, in the files beside it as well."""
    reserve(store, "a", charge())
    assert {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()} == {0o600}
    assert len(list(path.parent.iterdir())) == 3


def test_threads_that_open_one_new_file_at_once_all_can(path: Path) -> None:
    """One of them makes the tables, and the others wait for it."""
    start = Barrier(8)

    def use(number: int) -> None:
        start.wait()
        with closing(SQLiteQuotaStore(path)) as store:
            reserve(store, str(number), charge())

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(use, range(8)))
    with closing(SQLiteQuotaStore(path)) as store:
        assert store.peek([charge()]) == [Tally(8, 0)] or store.peek([charge()]) == [Tally(0, 8)]


# URLs -----------------------------------------------------------------------------------------------------------------


def test_three_slashes_are_a_path_from_here_and_four_one_from_the_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As other libraries read such URLs. A change of directory does not move the file."""
    monkeypatch.chdir(tmp_path)
    with closing(open_store("sqlite:///here.db")) as here, closing(open_store(f"SQLite:///{tmp_path}/here.db")) as same:
        monkeypatch.chdir("/")
        here.close()
        here.reserve("a", [charge()], 30)
        assert same.peek([charge()]) == here.peek([charge()]) != [Tally(0, 0)]


@pytest.mark.parametrize("rest", ["", "/", "quotas.db", "host/quotas.db", "user:hunter2@host/q", "/:memory:"])
def test_a_url_without_a_path_is_explained(rest: str) -> None:
    """It says how a path is written, and does not repeat what may be a password."""
    for open in (open_store, open_async_store):
        with pytest.raises(ConfigurationError, match=r"sqlite:////var/lib/quotas\.db from the root") as caught:
            open(f"sqlite://{rest}")
        assert "hunter2" not in str(caught.value)


# When the file is not right -------------------------------------------------------------------------------------------


def other_program(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE theirs (a)")


def newer_version(path: Path) -> None:
    SQLiteQuotaStore(path).close()
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 2")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda path: path.mkdir(), "unable to open.*Name a file in a directory that exists"),
        (lambda path: path.write_text("no database " * 100), "file is not a database.*Name another file"),
        (other_program, "belongs to another program.*Name another file"),
        (newer_version, "newer version of safe_llm.*Install that version"),
    ],
    ids=["a directory", "something else", "another program's", "a newer version's"],
)
def test_a_file_that_must_be_mended_is_a_configuration_error_that_names_it(
    path: Path, spoil: Callable[[Path], object], said: str
) -> None:
    """And it is left as it was."""
    spoil(path)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(ConfigurationError, match=said) as caught:
        SQLiteQuotaStore(path)
    assert str(path) in str(caught.value)
    assert before is None or path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_directory_that_does_not_exist_is_a_configuration_error(tmp_path: Path) -> None:
    """The operating system's own error is its cause."""
    with pytest.raises(ConfigurationError, match=r"'/.*/nowhere/q\.db' failed: No such file or directory") as caught:
        SQLiteQuotaStore(tmp_path / "nowhere" / "q.db")
    assert isinstance(caught.value.__cause__, FileNotFoundError)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_file_that_may_not_be_written_is_a_configuration_error(what: str) -> None:
    """Root may write everything, so it is tried as somebody else."""
    # Not in tmp_path, whose parents only this user may enter.
    folder = Path(tempfile.mkdtemp())
    path = folder / "quotas.db"
    SQLiteQuotaStore(path).close()
    path.chmod(0o444 if what == "file" else 0o666)
    folder.chmod(0o777 if what == "file" else 0o555)

    def use() -> None:
        if os.geteuid() == 0:
            os.setuid(65_534)  # nobody
        with pytest.raises(ConfigurationError, match=r"this process may write to") as caught:
            SQLiteQuotaStore(path)
        assert str(path) in str(caught.value)

    try:
        assert ends_well(forked(use))
    finally:
        folder.chmod(0o755)
        shutil.rmtree(folder)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """As by a backup, or by a shell that was left in a transaction."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        yield
        db.execute("ROLLBACK")


def test_a_locked_file_is_waited_for_and_named(path: Path) -> None:
    """Every method gives up after the time-out, with SQLite's own error as the cause, and works again afterwards."""
    with closing(SQLiteQuotaStore(path, timeout=0.05)) as store:
        made = reserve(store, "a", charge())
        with locked(path):
            for act in (
                lambda: store.reserve("b", [charge()], 30),
                lambda: store.settle(made, [1]),
                lambda: store.peek([charge()]),
                lambda: SQLiteQuotaStore(path, timeout=0.05),
            ):
                with pytest.raises(sqlite3.OperationalError, match="Another process keeps it locked") as caught:
                    act()
                assert str(path) in str(caught.value)
                assert isinstance(caught.value.__cause__, sqlite3.OperationalError)
        assert store.settle(made, [1]) is True


def test_a_thread_that_holds_the_store_is_waited_for_no_longer_than_that(path: Path) -> None:
    """Within a process it is the store's own lock."""
    with closing(SQLiteQuotaStore(path, timeout=0.05)) as store, ThreadPoolExecutor(1) as pool:
        with store._file, pytest.raises(sqlite3.OperationalError, match="other threads are waiting") as caught:
            pool.submit(store.peek, [charge()]).result(timeout=10)
        assert str(path) in str(caught.value)
        assert store.peek([charge()]) == [Tally(0, 0)]


def test_a_full_disk_is_named_and_nothing_is_counted(store: SQLiteQuotaStore, path: Path) -> None:
    """Once there is room again, counting goes on where it was."""
    with store._file as db:
        (pages,) = db.execute("PRAGMA page_count").fetchone()
    store._file._connection.execute(f"PRAGMA max_page_count = {pages}")
    charges = [charge(f"key{number}") for number in range(1_000)]
    with pytest.raises(sqlite3.OperationalError, match=r"disk is full.*Make room on its disk") as caught:
        reserve(store, "a", *charges)
    assert str(path) in str(caught.value)
    assert set(store.peek(charges)) == {Tally(0, 0)}
    store._file._connection.execute("PRAGMA max_page_count = 100000")
    reserve(store, "a", *charges)
    assert all(map(sum, store.peek(charges)))


def test_a_damaged_file_is_named(path: Path) -> None:
    """The damage may be met long after the file was opened."""
    with closing(SQLiteQuotaStore(path)) as store:
        for number in range(500):
            reserve(store, str(number), charge(f"key{number}"))
    damaged = bytearray(path.read_bytes())
    damaged[4096:] = b"\x55" * (len(damaged) - 4096)
    path.write_bytes(damaged)
    with closing(SQLiteQuotaStore(path)) as store:
        with pytest.raises(sqlite3.DatabaseError, match=r"malformed.*Move it away") as caught:
            store.reserve("a", [charge()], 30)
        assert str(path) in str(caught.value)


def test_an_error_that_is_not_of_sqlite_leaves_nothing_behind(store: SQLiteQuotaStore) -> None:
    """The transaction is taken back, and the next one begins."""
    with pytest.raises(OverflowError):
        store.reserve("a", [charge("first"), charge("second", amount=2**64, limit=2**65)], 30)
    assert store.peek([charge("first")]) == [Tally(0, 0)]
    reserve(store, "a", charge("first"))


def test_a_call_is_denied_while_the_file_is_locked(kind: Any, path: Path, server: FakeOpenAI) -> None:
    """Nothing is sent, and the cause names the file."""

    async def done(result: Any) -> Any:
        return await result if inspect.isawaitable(result) else result

    async def ask(client: Any) -> Any:
        said = [{"role": "user", "content": "Hello"}]
        return await done(client.chat.completions.create(model="gpt-4o-mini", messages=said, user_id="u1"))

    async def call() -> None:
        with closing(SQLiteQuotaStore(path, timeout=0.05)) as store:
            client = kind(base_url=server.base_url, api_key="test", quota_store=store)
            with locked(path), pytest.raises(StoreUnavailableError) as caught:
                await ask(client)
            assert str(path) in str(caught.value.__cause__)
            await done(client.close())

    asyncio.run(call())
    assert not server.requests


# How large it grows ---------------------------------------------------------------------------------------------------


def rows(path: Path) -> int:
    with closing(sqlite3.connect(path)) as db:
        return sum(
            db.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("counters", "open", "closed")
        )


def test_the_file_stays_bounded_over_many_users_and_windows(path: Path) -> None:
    """Users who never come again cost no more than those of a few days, in rows and in bytes."""
    now = Now()
    kept, sizes = [], []
    with closing(SQLiteQuotaStore(path, clock=now)) as store:
        for day in range(20_000, 20_060):
            for user in range(150):
                now.time = day * DAY + user
                second = int(now.time)
                answer = reserve(
                    store,
                    f"{day}/{user}",
                    charge(f"{user}/{day}/a", day=day),
                    Charge(f"{user}/{day}/b", 1, 9, "sliding", second - 60, second + 1),
                    Charge(f"{user}/{day}/c", 1, 9, "held", second, second + 1),
                )
                if user % 50:  # The others never settle.
                    store.settle(answer, [1, 1, 0])
            kept.append(rows(path))
            sizes.append(path.stat().st_size)
    assert max(kept[30:]) < 2 * max(kept[5:15])
    assert max(sizes[30:]) < 2 * max(sizes[5:15])


def test_processes_that_live_for_one_call_sweep_as_well(path: Path) -> None:
    """How far the sweep has come is in the file."""
    now = Now()
    for number in range(100):
        now.time += DAY
        with closing(SQLiteQuotaStore(path, clock=now)) as store:
            store._every = 4
            reserve(store, str(number), charge(str(number), day=int(now.time // DAY)))
    assert rows(path) < 60


def test_refusals_and_looks_leave_nothing(store: SQLiteQuotaStore, path: Path) -> None:
    """Keys that a denied caller makes up cost no room, and neither do those that are only asked about."""
    for number in range(100):
        store.reserve(str(number), [charge(f"made up {number}"), charge(limit=0)], 30)
        store.peek([charge(f"made up {number}")])
    assert rows(path) == 0

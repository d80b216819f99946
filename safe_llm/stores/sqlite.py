"""The quota store of one machine: a SQLite file that its processes share."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING
from zlib import crc32

from ..errors import ConfigurationError
from ..types import Charge, Refusal, Reservation, Tally
from .base import ClockedStore
from .keyvalue import GRACE, check_actual, check_charges, place_of, refuse

if TYPE_CHECKING:
    from sqlite3 import Connection

VERSION = 1
SCHEMA = (
    # One row for each window or slice: `name`, `begins` and `over` are its place. Calls in flight have one row.
    """CREATE TABLE counters (name TEXT, begins INTEGER, over INTEGER, used INTEGER NOT NULL, held INTEGER NOT NULL,
        PRIMARY KEY (name, begins, over)) WITHOUT ROWID""",
    # Reservations that are neither settled nor ended: no more than there are calls in flight, so they are looked
    # through, which is rare, rather than indexed, which every call would pay for.
    "CREATE TABLE open (id TEXT PRIMARY KEY, expires REAL NOT NULL, charges TEXT NOT NULL) WITHOUT ROWID",
    # Those that were open, settled or ended; the charges stay, for whoever reserves the id again. Such long rows are
    # written one behind the other, and only an index of the ids is written to all over.
    """CREATE TABLE closed (id TEXT PRIMARY KEY, expires REAL NOT NULL, forget REAL NOT NULL, settled INTEGER NOT NULL,
        charges TEXT NOT NULL)""",
    # How far the sweep of each table has come.
    "CREATE TABLE swept (name TEXT PRIMARY KEY, upto TEXT NOT NULL) WITHOUT ROWID",
    "INSERT INTO swept VALUES ('counters', ''), ('closed', '')",
)

_WINDOW = "SELECT used, held FROM counters WHERE name = ? AND begins = ? AND over = ?"
_SLICES = "SELECT over, used, held FROM counters WHERE name = ? AND begins >= ? ORDER BY begins"
_SUM = "SELECT COALESCE(SUM(used), 0), COALESCE(SUM(held), 0) FROM counters WHERE name = ? AND begins >= ?"
_MOVE = """INSERT INTO counters VALUES (?1, ?2, ?3, MAX(0, ?4), ?5)
    ON CONFLICT DO UPDATE SET used = MAX(0, used + ?4), held = held + ?5"""

_OPEN = "INSERT OR IGNORE INTO open SELECT ?1, ?2, ?3 WHERE NOT EXISTS (SELECT 1 FROM closed WHERE id = ?1)"
_RECALL = "SELECT expires, charges FROM open WHERE id = ?1 UNION ALL SELECT expires, charges FROM closed WHERE id = ?1"
_IN_FLIGHT = "SELECT expires, charges FROM open WHERE INSTR(charges, ?) ORDER BY expires"
_SETTLE = "INSERT INTO closed SELECT id, expires, MAX(expires, ?2) + ?3, 1, charges FROM open WHERE id = ?1"
_SETTLE_ENDED = "UPDATE closed SET forget = MAX(expires, ?2) + ?3, settled = 1 WHERE id = ?1 AND NOT settled"

_Place = tuple[str, int, int]


class SQLiteQuotaStore(ClockedStore):
    """Counts in a SQLite file: exact among all threads and processes of one machine, with nothing to install.

    It answers as a `KeyValueQuotaStore` does. A process may be killed at any point: what it had reserved becomes used
    when its lease ends. A power cut can lose the last two hundred calls or so, but not the file: SQLite syncs it every
    thousand pages (``synchronous=NORMAL``), not at every call, which would take a hundred times as long.
    The file belongs on a local disk, not on NFS, and beside it stand its ``-wal`` and ``-shm``. It stays as large as
    what has to be remembered at the busiest time: rows of what is over are swept away and their room is used again.

    Args:
        path: created with mode 0600 where it does not exist; an existing file keeps its mode.
        timeout: seconds that one step may wait for others to finish theirs. Then it raises.
        clock: UTC epoch seconds, for leases. By default the clock of the client that uses the store.

    Raises:
        ConfigurationError: the file cannot be opened, is not one of a quota store, or that of a newer version.
        sqlite3.Error: it is locked, full or broken; also from every method. The message names the file.
    """

    _every = 64
    """One reservation in so many sweeps, and looks at what twice as many can have left behind."""

    def __init__(
        self, path: str | os.PathLike[str], *, timeout: float = 5.0, clock: Callable[[], float] | None = None
    ) -> None:
        from ._sqlite_file import SQLiteFile  # loads sqlite3

        if clock is not None:
            self.clock = clock
        self._file = SQLiteFile(path, SCHEMA, VERSION, timeout)

    @classmethod
    def from_url(cls, url: str) -> SQLiteQuotaStore:
        """``sqlite:///quotas.db`` is a path from here, ``sqlite:////var/lib/quotas.db`` one from the root."""
        host, _, path = url.partition("://")[2].partition("/")
        if host or not path or path == ":memory:":
            raise ConfigurationError(
                "sqlite:// takes a path after three slashes: sqlite:///quotas.db in the working directory, "
                "sqlite:////var/lib/quotas.db from the root. To count in memory, use memory://."
            )
        return cls(path)

    def close(self) -> None:
        """Close the file. A call that comes later, a late settlement for example, opens it again."""
        self._file.close()

    def reserve(self, id: str, charges: Sequence[Charge], ttl: float) -> Reservation | Refusal:
        charges = tuple(charges)
        check_charges(charges)
        places = [_place(charge) for charge in charges]
        now = self.clock()
        lease = now + ttl
        written = json.dumps(charges)
        held = [(*place, 0, charge.amount) for charge, place in zip(charges, places, strict=True) if charge.amount]
        with self._file as db:
            if not _fits(charges, places, _tallies(db, charges, places)):
                known = _recall(db, id)
                if known is not None:
                    return known
                # Only here are the places of ended leases missed; other amounts count the same, held or used.
                _end_leases(db, now)
                tallies = _tallies(db, charges, places)
                refusal = refuse(charges, tallies, lambda charge: _leaving(db, charge), now)
                if refusal is not None:
                    return refusal
            if not db.execute(_OPEN, (id, lease, written)).rowcount:
                return _recall(db, id) or Reservation(id, charges, lease)
            db.executemany(_MOVE, held)
            if crc32(id.encode()) % self._every == 0:
                _sweep(db, places, now, 2 * self._every)
        return Reservation(id, charges, lease)

    def settle(self, reservation: Reservation, actual: Sequence[int]) -> bool:
        id, charges, _ = reservation
        check_actual(charges, actual)
        now = self.clock()
        with self._file as db:
            if db.execute(_SETTLE, (id, now, GRACE)).rowcount:
                db.execute("DELETE FROM open WHERE id = ?", (id,))
                db.executemany(_MOVE, _settled(charges, actual))
            elif db.execute(_SETTLE_ENDED, (id, now, GRACE)).rowcount:
                # The whole amounts were counted as used, and places in flight were given back.
                db.executemany(_MOVE, _corrected(charges, actual))
            else:
                return False
        return True

    def peek(self, charges: Sequence[Charge]) -> Sequence[Tally]:
        now = self.clock()
        with self._file as db:
            _end_leases(db, now)
            return _tallies(db, charges, [_place(charge) for charge in charges])


# Counters: each move is a place, what is added to its used, and to its held -------------------------------------------

_Move = tuple[str, int, int, int, int]


def _place(charge: Charge) -> _Place:
    """Where a charge counts, the name read backwards: names end with the user, and rows that share a beginning share a
    page. With many users, a call writes half as many pages."""
    name, begins, over = place_of(charge)
    return name[::-1], begins, over


def _settled(charges: Sequence[Charge], actual: Sequence[int]) -> list[_Move]:
    return [
        (*_place(charge), 0 if charge.kind == "held" else used, -charge.amount)
        for charge, used in zip(charges, actual, strict=True)
        if charge.amount or used
    ]


def _corrected(charges: Sequence[Charge], actual: Sequence[int]) -> list[_Move]:
    return [
        (*_place(charge), used - charge.amount, 0)
        for charge, used in zip(charges, actual, strict=True)
        if charge.kind != "held" and used != charge.amount
    ]


def _tallies(db: Connection, charges: Sequence[Charge], places: Sequence[_Place]) -> list[Tally]:
    tallies = []
    for charge, place in zip(charges, places, strict=True):
        if charge.kind == "sliding":
            row = db.execute(_SUM, (place[0], charge.start)).fetchone()
        else:
            row = db.execute(_WINDOW, place).fetchone()
        tallies.append(Tally(*row) if row else Tally(0, 0))
    return tallies


def _fits(charges: Sequence[Charge], places: Sequence[_Place], tallies: Sequence[Tally]) -> bool:
    """Whether all charges certainly fit. Where two may meet on one counter, `refuse` knows more."""
    return len({name for name, _, _ in places}) == len(places) and all(
        used + held + charge.amount <= charge.limit for charge, (used, held) in zip(charges, tallies, strict=True)
    )


def _leaving(db: Connection, charge: Charge) -> list[tuple[float, int]]:
    """Which amounts leave the charge's tally when."""
    name, begins, over = _place(charge)
    if charge.kind == "sliding":
        return [(over, used + held) for over, used, held in db.execute(_SLICES, (name, charge.start))]
    if charge.kind == "fixed":
        return [(over, sum(row)) for row in db.execute(_WINDOW, (name, begins, over))]
    rows = db.execute(_IN_FLIGHT, (json.dumps(charge.key),))
    return [
        (expires, held.amount)
        for expires, written in rows
        for held in _read(written)
        if held.kind == "held" and held.key == charge.key
    ]


# Reservations ---------------------------------------------------------------------------------------------------------


def _read(written: str) -> tuple[Charge, ...]:
    return tuple(Charge(*charge) for charge in json.loads(written))


def _recall(db: Connection, id: str) -> Reservation | None:
    """What was answered to this id before."""
    for expires, written in db.execute(_RECALL, (id,)).fetchall():
        return Reservation(id, _read(written), expires)
    return None


def _end_leases(db: Connection, now: float) -> None:
    """Settle leases that have ended: what is in flight is given back, other amounts become used."""
    for id, expires, written in db.execute("SELECT * FROM open WHERE expires <= ?", (now,)).fetchall():
        charges = _read(written)
        db.executemany(_MOVE, _settled(charges, [charge.amount for charge in charges]))
        # It is remembered for as long as a late settlement still makes a difference.
        over = max((_place(charge)[2] for charge in charges if charge.amount), default=0)
        db.execute("INSERT INTO closed VALUES (?, ?, ?, 0, ?)", (id, expires, max(expires, over) + GRACE, written))
        db.execute("DELETE FROM open WHERE id = ?", (id,))


# Sweeping -------------------------------------------------------------------------------------------------------------

_SWEEP_COUNTERS = (
    "SELECT name FROM counters WHERE name > ? ORDER BY name LIMIT 1 OFFSET ?",
    "DELETE FROM counters WHERE name > ? AND name <= ? AND held = 0 AND (used = 0 OR over <= ?)",
)
_SWEEP_CLOSED = (
    "SELECT id FROM closed WHERE id > ? ORDER BY id LIMIT 1 OFFSET ?",
    "DELETE FROM closed WHERE id > ? AND id <= ? AND forget <= ?",
)
_LAST = "\U0010ffff"
"""Sorts behind every name and id."""


def _sweep(db: Connection, places: Sequence[_Place], now: float, calls: int) -> None:
    """Delete what makes no difference any more, among the next rows: as many as `calls` such calls can have made.

    The store's clock and the client's must agree that a window is over: neither alone, if wrong, can wipe counters that
    are in use. What the client's clock says at least, the windows of its call tell; calls in flight have none.
    """
    _end_leases(db, now)
    began = max((begins for _, begins, _ in places), default=0)
    _sweep_on(db, "counters", _SWEEP_COUNTERS, calls * len(places), min(now, began) - GRACE)
    _sweep_on(db, "closed", _SWEEP_CLOSED, calls, now)


def _sweep_on(db: Connection, table: str, statements: tuple[str, str], rows: int, over: float) -> None:
    find, delete = statements
    (after,) = db.execute("SELECT upto FROM swept WHERE name = ?", (table,)).fetchone()
    (upto,) = db.execute(find, (after, rows)).fetchone() or (_LAST,)
    db.execute(delete, (after, upto, over))
    db.execute("UPDATE swept SET upto = ? WHERE name = ?", ("" if upto == _LAST else upto, table))

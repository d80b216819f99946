"""A SQLite file that threads and processes write to by turns, with errors that name it."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from random import random
from threading import Lock
from typing import Any, NoReturn
from weakref import WeakSet

from ..errors import ConfigurationError

_APPLICATION = 0x5AFE_0011
"""SQLite's application_id of our files: what else is a SQLite file is left alone."""

# One statement, so that a file is seen before it is made or after.
_WHOSE = "SELECT a.*, v.*, (SELECT COUNT(*) FROM sqlite_master) FROM pragma_application_id a, pragma_user_version v"


class SQLiteFile:
    """One file, its connection and its lock: ``with file as connection`` is one transaction that may write.

    The connection is opened when it is first needed, and again after `close` or a fork. There is one for all threads:
    SQLite has one writer at a time anyway, and the pages that it keeps in memory are kept once.

    Args:
        path: a relative one is resolved now, so a later ``chdir`` does not move it.
        schema: statements that make the tables of a new file.
        version: of that schema. A file of a newer one is refused.
        timeout: seconds to wait for other threads and processes before giving up.

    Raises:
        ConfigurationError: on opening, where the path or the file must be mended.
        sqlite3.Error: whatever else fails, then and later: the class that SQLite's own error has.
    """

    def __init__(self, path: str | os.PathLike[str], schema: Sequence[str], version: int, timeout: float) -> None:
        self._path = os.path.abspath(path)
        self._schema = schema
        self._version = version
        self._timeout = timeout
        self._lock = Lock()
        self._connection: sqlite3.Connection | None = None
        with _FORKING:
            _FILES.add(self)
        with self:
            pass  # What is wrong with the path is said now, not at the first call.

    def __enter__(self) -> sqlite3.Connection:
        if not self._lock.acquire(timeout=self._timeout):
            raise sqlite3.OperationalError(self._said("other threads are waiting for it too", sqlite3.SQLITE_BUSY))
        try:
            if self._connection is None:
                self._connection = self._open()
            self._patiently(self._connection.execute, "BEGIN IMMEDIATE")
            return self._connection
        except sqlite3.Error as exc:
            self._lock.release()
            self._explain(exc)
        except BaseException:
            self._lock.release()
            raise

    def __exit__(self, kind: object, exc: BaseException | None, trace: object) -> None:
        connection = self._connection
        assert connection is not None
        try:
            try:
                if exc is None:
                    connection.execute("COMMIT")
            finally:
                if connection.in_transaction:  # SQLite rolls back by itself after some errors, not after all.
                    connection.execute("ROLLBACK")
        except sqlite3.Error as failed:
            exc = failed
        finally:
            self._lock.release()
        if isinstance(exc, sqlite3.Error):
            self._explain(exc)

    def close(self) -> None:
        """Close the connection. The last one of all processes takes the side files away."""
        with self._lock:
            self._disconnect()

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    # Opening ----------------------------------------------------------------------------------------------------------

    def _open(self) -> sqlite3.Connection:
        self._create()
        try:
            connection = sqlite3.connect(self._path, timeout=0, isolation_level=None, check_same_thread=False)
            try:
                self._patiently(self._prepare, connection)
            except BaseException:
                connection.close()
                raise
        except sqlite3.Error as exc:
            if _code(exc) in _MENDABLE:
                raise ConfigurationError(self._said(str(exc), _code(exc))) from exc
            raise
        return connection

    def _create(self) -> None:
        """Make an empty file that only its owner reads: keys name users."""
        # Closing a file drops all locks that this process has on it, those of SQLite too. So an existing one is not
        # opened here, and nobody else in this process opens a new one before it is closed.
        try:
            with _CREATING:
                os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        except FileExistsError:
            pass
        except OSError as exc:
            raise ConfigurationError(self._said(exc.strerror or type(exc).__name__, sqlite3.SQLITE_CANTOPEN)) from exc

    def _prepare(self, connection: sqlite3.Connection) -> None:
        application, version, tables = connection.execute(_WHOSE).fetchone()
        if application != _APPLICATION and (application or version or tables):
            raise ConfigurationError(self._said("it belongs to another program", sqlite3.SQLITE_NOTADB))
        if version > self._version:
            raise ConfigurationError(
                f"The quota store {self._path!r} was written by a newer version of safe_llm (its format is {version}, "
                f"known are those up to {self._version}). Install that version, or name another file."
            )
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise ConfigurationError(
                f"The quota store {self._path!r} cannot be shared: its file system does not support SQLite's "
                "write-ahead log. Name a file on a local disk."
            )
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("BEGIN IMMEDIATE")
        if connection.execute("PRAGMA user_version").fetchone() == (0,):  # Nobody else has been here meanwhile.
            for statement in self._schema:
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {_APPLICATION}")
        # Written each time: a file that can only be read would be noticed no sooner than here.
        connection.execute(f"PRAGMA user_version = {self._version}")
        connection.execute("COMMIT")

    # Waiting and failing ----------------------------------------------------------------------------------------------

    def _patiently(self, action: Callable[..., Any], *args: object) -> None:
        """Act, again and again while another process writes."""
        give_up = None
        while True:
            try:
                action(*args)
            except sqlite3.OperationalError as exc:
                now = time.monotonic()
                give_up = give_up or now + self._timeout
                if _code(exc) != sqlite3.SQLITE_BUSY or now >= give_up:
                    raise
                # SQLite's own waiting grows to a tenth of a second while newcomers overtake: the unluckiest waits five
                # times as long. A lock file whose queue the kernel keeps is no fairer than this, and has no time-out.
                time.sleep(random() * _PAUSE)  # noqa: S311  # spreads those that wait
            else:
                return

    def _explain(self, exc: sqlite3.Error) -> NoReturn:
        raise type(exc)(self._said(str(exc), _code(exc))) from exc

    def _said(self, what: str, code: int) -> str:
        return f"The quota store {self._path!r} failed: {what}. {_ADVICE.get(code, 'Look at the file and its disk.')}"


_PAUSE = 0.0005
"""Seconds between two looks at a locked file, at most."""


def _code(exc: sqlite3.Error) -> int:
    """SQLite's primary result code, 0 where the error did not come from SQLite."""
    return getattr(exc, "sqlite_errorcode", 0) & 0xFF


_ELSEWHERE = "Name a file in a directory that exists and that this process may write to, as it may to the file."
_ADVICE = {
    sqlite3.SQLITE_BUSY: "Another process keeps it locked: a backup or a shell with an open transaction, for example.",
    sqlite3.SQLITE_FULL: "Make room on its disk; nothing was counted.",
    sqlite3.SQLITE_CANTOPEN: _ELSEWHERE,
    sqlite3.SQLITE_PERM: _ELSEWHERE,
    sqlite3.SQLITE_READONLY: _ELSEWHERE,
    sqlite3.SQLITE_NOTADB: "Name another file; a new one is created where there is none.",
    sqlite3.SQLITE_CORRUPT: "Move it away while no process uses it; a new one begins at nothing.",
}
_MENDABLE = _ADVICE.keys() - {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_FULL}


# Forks ---------------------------------------------------------------------------------------------------------------
#
# SQLite cannot be carried over a fork: parent and child would believe that they hold one another's locks. So every
# connection is closed before, between two transactions, and each side opens one of its own when it next needs it.

_FILES: WeakSet[SQLiteFile] = WeakSet()
_FORKING = Lock()
_CREATING = Lock()  # Taken only under the lock of a file that a fork waits for.
_waiting: list[SQLiteFile] = []


def _before_fork() -> None:
    _FORKING.acquire()
    for file in list(_FILES):
        file._lock.acquire()
        _waiting.append(file)
        file._disconnect()


def _after_fork() -> None:
    while _waiting:
        _waiting.pop()._lock.release()
    _FORKING.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)

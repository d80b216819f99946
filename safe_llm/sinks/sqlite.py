"""Events as rows of a SQLite file."""

from __future__ import annotations

import os
from contextlib import suppress
from threading import Lock
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from ..errors import ConfigurationError
from ..types import Alert, Event, UsageRecord, nano

if TYPE_CHECKING:
    import sqlite3
    from decimal import Decimal

APPLICATION = 0x5AFE_0012
"""SQLite's application_id of our files: what else is a SQLite file is left alone."""

VERSION = 1

_COLUMNS = (
    *("record_id", "user_id", "feature", "session_id", "plan", "endpoint", "model", "response_model", "outcome"),
    *("error", "attempts", "input_tokens", "cached_input_tokens", "output_tokens", "reasoning_tokens", "total_tokens"),
    *("usage_source", "latency_ms", "first_token_ms", "policy_version"),
)
"""Of a record, as they stand in it."""

_SCHEMA = f"""
CREATE TABLE records (
    time REAL NOT NULL,                 -- UTC epoch seconds: datetime(time, 'unixepoch')
    {", ".join(_COLUMNS)},
    denial_code, denial_limit,
    cost_nano_usd INTEGER,              -- NULL where no price is known
    cost_reserved_nano_usd INTEGER,
    json TEXT NOT NULL                  -- the whole record: json_extract(json, '$.tags.team')
);
CREATE INDEX records_by_time ON records (time);
CREATE INDEX records_by_user ON records (user_id);
CREATE TABLE alerts (time REAL NOT NULL, kind, "limit", percent INTEGER, message, json TEXT NOT NULL);
PRAGMA application_id = {APPLICATION};
PRAGMA user_version = {VERSION};
"""
_WIDTH = 1 + len(_COLUMNS) + 5
_ADD_RECORD = f"INSERT INTO records VALUES ({', '.join('?' * _WIDTH)})"  # noqa: S608
_ADD_ALERT = "INSERT INTO alerts VALUES (?, ?, ?, ?, ?, ?)"


class SQLiteSink:
    """Adds each event to a SQLite file: a `UsageRecord` to the table ``records``, an `Alert` to ``alerts``.

    ``json`` holds the event's ``model_dump_json()``; what one asks for most stands beside it in columns, money as a
    whole number of nano-USD::

        SELECT user_id, SUM(cost_nano_usd) / 1e9 FROM records
        WHERE time > unixepoch() - 86400 GROUP BY user_id ORDER BY 2 DESC;

    Several clients, threads and processes may write to one file, on a local disk (SQLite's write-ahead log). Events
    that wait are added in one transaction: all of them are there, or none is and all count as failed.

    Args:
        path: created with mode 0600 where it does not exist. A relative path is resolved now, so a later ``chdir`` does
            not move it.
        timeout: seconds to wait for other processes that write.

    Raises:
        ConfigurationError: the file cannot be opened, or belongs to something else.
    """

    def __init__(self, path: str | os.PathLike[str], *, timeout: float = 10.0) -> None:
        self._path = os.path.abspath(path)
        self._timeout = timeout
        self._lock = Lock()
        self._connection: sqlite3.Connection | None = None
        with _FORKING:
            _SINKS.add(self)
        with self._lock:
            self._connection = connect(self._path, timeout)

    def emit(self, event: Event) -> None:
        self.emit_batch([event])

    def emit_batch(self, events: list[Event]) -> None:
        """All of them, or none, in one transaction."""
        records = [_record_row(event) for event in events if isinstance(event, UsageRecord)]
        alerts = [_alert_row(event) for event in events if isinstance(event, Alert)]
        with self._lock:
            if self._connection is None:
                self._connection = connect(self._path, self._timeout)
            with transaction(self._connection):
                self._connection.executemany(_ADD_RECORD, records)
                self._connection.executemany(_ADD_ALERT, alerts)

    def close(self) -> None:
        """Close the file, until the next event. The last one of all processes takes the side files away."""
        with self._lock:
            self._disconnect()

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class transaction:  # noqa: N801  # reads as a verb
    """``with transaction(connection):`` writes all that is written in it, or nothing."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        # Waits here, and no longer once it has begun: two that read before they write would wait for each other.
        self._connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self._connection.execute("COMMIT")
        finally:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")


def connect(path: str, timeout: float, *, create: bool = True) -> sqlite3.Connection:
    """A connection to a file of ours that writes.

    Raises:
        ConfigurationError: the file cannot be opened, or belongs to something else.
    """
    import tenacity

    try:
        import sqlite3
    except ImportError as error:
        raise ConfigurationError("SQLiteSink needs Python's sqlite3, which this Python was built without.") from error
    try:
        if create:
            # Made for its owner alone. An existing file is not opened: closing it would drop the locks of SQLite.
            with suppress(FileExistsError):
                os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        connection = sqlite3.connect(path, timeout=timeout, isolation_level=None, check_same_thread=False)
        try:
            # Turning to the write-ahead log does not wait for others that do the same; everything else does.
            tenacity.Retrying(
                retry=tenacity.retry_if_exception(_is_busy),
                wait=tenacity.wait_random(0, 0.05),
                stop=tenacity.stop_after_delay(timeout),
                reraise=True,
            )(_prepare, connection)
        except BaseException:
            connection.close()
            raise
    except (OSError, sqlite3.Error) as error:
        raise ConfigurationError(
            f"The records in {path!r} cannot be written: {error}. Name a file in a directory that exists and that this "
            "process may write to; a new one is made where there is none."
        ) from error
    return connection


def _is_busy(error: BaseException) -> bool:
    return getattr(error, "sqlite_errorname", "").startswith("SQLITE_BUSY")


def _prepare(connection: sqlite3.Connection) -> None:
    is_made = _is_made(connection)  # before anything is changed in what may be somebody else's
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    if not is_made:
        with transaction(connection):
            if not _is_made(connection):  # nobody else has been here meanwhile
                for statement in _SCHEMA.split(";\n"):
                    connection.execute(statement)


def _is_made(connection: sqlite3.Connection) -> bool:
    """Whether the file has our tables; else it is empty."""
    application, version, tables = connection.execute(
        "SELECT a.*, v.*, (SELECT COUNT(*) FROM sqlite_master) FROM pragma_application_id a, pragma_user_version v"
    ).fetchone()
    if application == APPLICATION and version != VERSION:
        raise ConfigurationError(
            f"SQLiteSink's file has the format {version}, this version of safe_llm writes {VERSION}: "
            "install the version that made it, or name another file."
        )
    if application != APPLICATION and (application or version or tables):
        raise ConfigurationError("SQLiteSink's file belongs to another program: name another one.")
    return bool(application == APPLICATION)


def _record_row(record: UsageRecord) -> tuple[Any, ...]:
    denial = record.denial
    return (
        record.timestamp.timestamp(),
        *(getattr(record, name) for name in _COLUMNS),
        denial and denial.code,
        denial and denial.limit,
        _nano(record.cost_usd),
        _nano(record.cost_reserved_usd),
        record.model_dump_json(),
    )


def _alert_row(alert: Alert) -> tuple[Any, ...]:
    return (
        *(alert.timestamp.timestamp(), alert.kind, alert.limit, alert.percent, alert.message),
        alert.model_dump_json(),
    )


def _nano(amount: Decimal | None) -> int | None:
    return None if amount is None else nano(format(amount, "f"))


# Forks ----------------------------------------------------------------------------------------------------------------
#
# SQLite cannot be carried over a fork: parent and child would believe that they hold one another's locks. So every
# connection is closed before, between two transactions, and each side opens one of its own when it next needs it.

_SINKS: WeakSet[SQLiteSink] = WeakSet()
_FORKING = Lock()
_waiting: list[SQLiteSink] = []


def _before_fork() -> None:
    _FORKING.acquire()
    for sink in list(_SINKS):
        sink._lock.acquire()
        _waiting.append(sink)
        sink._disconnect()


def _after_fork() -> None:
    while _waiting:
        _waiting.pop()._lock.release()
    _FORKING.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)

"""Records that are to go: the old ones, and those of a user who asks for it; and a user's records, to hand out.

Works on the files of `JSONLinesSink`, with those that they were rotated into, and of `SQLiteSink`, while others go on
writing to them. A file of lines is copied without what is to go, and the copy takes its place in one step: whoever
reads sees all of the old file or all of the new one, and whoever is killed in the middle has changed nothing.
"""

from __future__ import annotations

import gzip
import os
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from datetime import datetime
from typing import IO, Any, NamedTuple

from pydantic_core import from_json, to_json

from ..errors import ConfigurationError
from ..sinks._files import alone_in, is_at, locked, rotated
from .reading import Reading, Row, Rows, epoch, is_sqlite, read

Doomed = Callable[[bytes], str | None]
"""For a line: "record" or "alert" where it is to go, else None."""

_CHUNK = 1000
_TRIES = 10
_SECONDS = 60.0


class Removed(NamedTuple):
    """How much has gone."""

    records: int
    alerts: int


def export(paths: Rows, user_id: str) -> Iterator[Row]:
    """A user's records, and then the alerts about that user, as `read` gives them.

    Raises:
        ConfigurationError: as `read`, at once.
    """
    return _export(read(paths), user_id)


def _export(reading: Reading, user_id: str) -> Iterator[Row]:
    reading.alerts = deque()  # all of them
    yield from (row for row in reading if row["user_id"] == user_id)
    yield from (row for row in reading.alerts if _is_about(row, user_id))


def erase(paths: Rows, user_id: str) -> Removed:
    """Remove a user's records, and the alerts about that user.

    A line that was cut short goes as well if it names the user. Nothing is left in the free pages of a SQLite file;
    what a file system or a backup keeps of files that were replaced is theirs.

    Raises:
        ConfigurationError: a file does not exist, or cannot be read or replaced.
    """
    quoted = to_json(user_id)

    def doomed(line: bytes) -> str | None:
        if quoted not in line and b"\\" not in line:  # escaped differently by another writer, perhaps
            return None
        try:
            row = from_json(line)
        except ValueError:
            return "record" if quoted in line else None
        if not isinstance(row, dict):
            return None
        if "record_id" in row:
            return "record" if row.get("user_id") == user_id else None
        return "alert" if _is_about(row, user_id) else None

    return _remove(paths, doomed, "user_id = ?", "json_extract(json, '$.scope.user') = ?", user_id)


def prune(paths: Rows, before: datetime | float) -> Removed:
    """Remove the records and alerts of calls that began before a moment: a `datetime`, or UTC epoch seconds.

    What is no record and no alert stays.

    Raises:
        ValueError: the `datetime` has no time zone.
        ConfigurationError: a file does not exist, or cannot be read or replaced.
    """
    if isinstance(before, datetime) and before.tzinfo is None:
        raise ValueError("before= needs a time zone: datetime.now(UTC) - timedelta(days=90), for example.")
    moment = before.timestamp() if isinstance(before, datetime) else before

    def doomed(line: bytes) -> str | None:
        try:
            row = from_json(line)
            kind = "record" if "record_id" in row else "alert" if "kind" in row else None
            return kind if kind and epoch(row["timestamp"]) < moment else None
        except (ValueError, TypeError, LookupError):
            return None

    return _remove(paths, doomed, "time < ?", "time < ?", moment)


def _is_about(alert: Row, user_id: str) -> bool:
    scope = alert.get("scope")
    return "kind" in alert and isinstance(scope, dict) and scope.get("user") == user_id


def _remove(paths: Rows, doomed: Doomed, records: str, alerts: str, value: object) -> Removed:
    counts = {"record": 0, "alert": 0}
    for path in [paths] if isinstance(paths, str | os.PathLike) else list(paths):
        path = os.path.abspath(path)
        try:
            if is_sqlite(path):
                counts["record"] += _delete(path, "records", records, value)
                counts["alert"] += _delete(path, "alerts", alerts, value)
            else:
                _rewrite_all(path, doomed, counts)
        except OSError as error:
            raise ConfigurationError(
                f"The records in {path!r} cannot be changed ({error.strerror}). Name a file that exists, in a "
                "directory that this process may write to."
            ) from error
    return Removed(counts["record"], counts["alert"])


# Files of SQLite ------------------------------------------------------------------------------------------------------


def _delete(path: str, table: str, where: str, value: object) -> int:
    from ..sinks.sqlite import connect, transaction

    found = f"SELECT rowid FROM {table} WHERE {where} LIMIT {_CHUNK}"  # noqa: S608
    removed = 0
    with closing(connect(path, _SECONDS, create=False)) as connection:
        connection.execute("PRAGMA secure_delete = ON")
        number = 1
        while number:  # by and by, so that those who write need not wait long
            with transaction(connection):
                number = connection.execute(f"DELETE FROM {table} WHERE rowid IN ({found})", (value,)).rowcount  # noqa: S608
            removed += number
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return removed


# Files of lines -------------------------------------------------------------------------------------------------------


def _rewrite_all(path: str, doomed: Doomed, counts: dict[str, int]) -> None:
    """Rewrite a file and those that it was rotated into, again where another program took one away meanwhile."""
    if not os.path.exists(path) and not rotated(path):
        raise FileNotFoundError(2, "No such file or directory")
    for _ in range(_TRIES):
        with ExitStack() as opened:
            opened.enter_context(alone_in(os.path.dirname(path)))
            with locked(path):
                names = [*reversed(rotated(path)), path]
                files = [opened.enter_context(open(name, "rb")) for name in names]
                sizes = [os.fstat(file.fileno()).st_size for file in files]  # whole lines, under the lock
            if all(_rewrite(path, file, size, doomed, counts) for file, size in zip(files, sizes, strict=True)):
                return
    raise ConfigurationError(
        f"The records in {path!r} are taken away all the time by another program. Try again later."
    )


def _rewrite(path: str, file: IO[bytes], size: int, doomed: Doomed, counts: dict[str, int]) -> bool:
    """Put a copy without the doomed lines in the place of a file. False where somebody else has taken its place."""
    zipped = file.peek(2)[:2] == b"\x1f\x8b"  # type: ignore[attr-defined]
    removed = {"record": 0, "alert": 0}
    folder, name = os.path.split(path)
    # A name that is none of a rotated file. It is made for its owner alone.
    with tempfile.NamedTemporaryFile(dir=folder, prefix=f".{name}-", suffix=".tmp", delete=False) as copy:
        try:
            target: Any = gzip.GzipFile(fileobj=copy, mode="wb", filename="") if zipped else copy
            source: Any = gzip.GzipFile(fileobj=file) if zipped else file
            # The most of it without the lock; then under it what was appended since, which is little.
            _copy(source, target, None if zipped else size, doomed, removed)
            if sum(removed.values()) or os.fstat(file.fileno()).st_size > size:
                with locked(path):
                    if not zipped:
                        _copy(source, target, None, doomed, removed)
                    if sum(removed.values()):
                        if zipped:
                            target.close()
                        if not _replace(path, file, copy):
                            return False
            for kind, number in removed.items():
                counts[kind] += number
            return True
        finally:
            with suppress(FileNotFoundError):
                os.unlink(copy.name)


def _copy(source: IO[bytes], target: IO[bytes], most: int | None, doomed: Doomed, removed: dict[str, int]) -> None:
    left = most
    while left is None or left > 0:
        line = source.readline()
        if not line:
            return
        if left is not None:
            left -= len(line)
        if kind := doomed(line):
            removed[kind] += 1
        else:
            target.write(line)


def _replace(path: str, file: IO[bytes], copy: IO[bytes]) -> bool:
    """Under the lock. The file may have been rotated since it was opened, and then has another name."""
    status = os.fstat(file.fileno())
    for name in [path, *rotated(path)]:
        if is_at(name, status):
            copy.flush()
            if name != path and not os.fstat(copy.fileno()).st_size:
                os.unlink(name)
                return True
            os.fchmod(copy.fileno(), status.st_mode & 0o7777)
            with suppress(PermissionError):  # only root may give a file away
                os.fchown(copy.fileno(), status.st_uid, status.st_gid)
            os.fsync(copy.fileno())
            os.replace(copy.name, name)
            return True
    return False

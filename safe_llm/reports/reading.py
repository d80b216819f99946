"""Records as they stand in files, streamed: millions of them, each as a plain ``dict``.

::

    reading = read(["usage.jsonl", "usage.db"])
    for record in reading:
        cost = nano_usd(record.get("cost_usd"))
    reading.alerts, reading.skipped

A record has the JSON names and values of `UsageRecord`: ``timestamp`` is text (`epoch` gives seconds), money is text
(`nano_usd` gives an int). ``record_id``, ``timestamp``, ``user_id``, ``endpoint`` and ``outcome`` are always there and
are text; for the others use ``.get``, since a record of another version may lack them.
"""

from __future__ import annotations

import gzip
import os
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, suppress
from datetime import datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from pydantic_core import from_json

from ..errors import ConfigurationError
from ..sinks._files import locked, rotated
from ..types import nano

if TYPE_CHECKING:
    import sqlite3

Row = dict[str, Any]
"""One record or alert, by its JSON names."""

Rows = Iterable[str | os.PathLike[str]] | str | os.PathLike[str]
"""Paths of files of records, or the path of one."""

ALERTS_KEPT = 100_000
"""The newest alerts that a `Reading` keeps."""

_CHUNK = 1 << 20
"""Bytes of lines that are looked at between two looks at the progress."""
_PAGE = 2_000


def read(paths: Rows) -> Reading:
    """The records of files of JSON lines, and of SQLite files, in the order given.

    Beside a file, those that it was rotated into are read, the oldest first; a file is read once, however often it is
    named. Files of lines are opened now and read as far as they are written now: what is appended, rotated or
    rewritten meanwhile does not disturb.

    Raises:
        ConfigurationError: a file does not exist, cannot be read, or is a SQLite file of another kind.
    """
    return Reading([paths] if isinstance(paths, str | os.PathLike) else paths)


class Reading:
    """Iterate over it once: it yields records. The rest is complete when the iteration is."""

    def __init__(self, paths: Iterable[str | os.PathLike[str]]) -> None:
        self.alerts: deque[Row] = deque(maxlen=ALERTS_KEPT)
        """Alerts by their JSON names, in the order of the files."""
        self.skipped = 0
        """Lines that are no record and no alert: cut short by a crash, or not ours."""
        self.bytes_read = 0
        """For a progress bar, as `bytes_total` is."""
        self.bytes_total = 0
        self._sources: list[tuple[str, int, IO[bytes] | None]] = []
        with ExitStack() as opened:
            seen: set[tuple[int, int]] = set()
            for path in paths:
                self._open(os.fspath(path), opened, seen)
            self._files = opened.pop_all()

    def __iter__(self) -> Iterator[Row]:
        sources, self._sources = self._sources, []
        with self._files:
            for path, size, file in sources:
                yield from self._rows(path, size) if file is None else self._lines(file, size)

    def close(self) -> None:
        """Close the files of a reading that is not iterated to its end."""
        self._files.close()

    # Opening ----------------------------------------------------------------------------------------------------------

    def _open(self, path: str, opened: ExitStack, seen: set[tuple[int, int]]) -> None:
        try:
            if is_sqlite(path):
                self._add(path, os.stat(path), None, seen)
                return
            with ExitStack() as lock:
                with suppress(FileNotFoundError):
                    lock.enter_context(locked(path, os.O_RDONLY))  # or a rotation would move files as they are listed
                names = [*reversed(rotated(path)), path]
                files = [(name, open(name, "rb")) for name in names if os.path.exists(name)]  # noqa: SIM115
        except OSError as error:
            raise ConfigurationError(
                f"The records in {path!r} cannot be read ({error.strerror}). Name a file that this process may read."
            ) from error
        for _, file in files:
            opened.push(file)
        if not files:
            raise ConfigurationError(f"There is no file {path!r}. Name one that JSONLinesSink or SQLiteSink writes.")
        for name, file in files:
            self._add(name, os.fstat(file.fileno()), file, seen)

    def _add(self, name: str, status: os.stat_result, file: IO[bytes] | None, seen: set[tuple[int, int]]) -> None:
        if (identity := (status.st_dev, status.st_ino)) not in seen:
            seen.add(identity)
            self.bytes_total += status.st_size
            self._sources.append((name, status.st_size, file))

    # Reading ----------------------------------------------------------------------------------------------------------

    def _lines(self, file: IO[bytes], size: int) -> Iterator[Row]:
        zipped = file.peek(2)[:2] == b"\x1f\x8b"  # type: ignore[attr-defined]
        lines = gzip.GzipFile(fileobj=file) if zipped else file
        before, left = self.bytes_read, size
        try:
            # `readlines` stops at the end of the line that fills what it is given, and so exactly where we end.
            while left > 0 and (batch := lines.readlines(_CHUNK if zipped else min(left, _CHUNK))):
                for line in batch:
                    if (row := self._row(line)) is not None:
                        yield row
                left = size - file.tell() if not zipped else left
                self.bytes_read = before + min(file.tell(), size)
        except (EOFError, gzip.BadGzipFile):
            self.skipped += 1  # a compressed file that was cut short

    def _rows(self, path: str, size: int) -> Iterator[Row]:
        import sqlite3

        before = self.bytes_read
        try:
            with closing(_to_read(path)) as connection:
                for table in ("alerts", "records"):
                    last, page = 0, f"SELECT rowid, json FROM {table} WHERE rowid > ? ORDER BY rowid LIMIT {_PAGE}"  # noqa: S608
                    # Page by page: one long read would keep the writers' log from being written back.
                    while rows := connection.execute(page, (last,)).fetchall():
                        last = rows[-1][0]
                        for _, text in rows:
                            if (row := self._row(text)) is not None:
                                yield row
                        self.bytes_read = min(self.bytes_read + sum(len(text) for _, text in rows), before + size)
        except sqlite3.Error as error:
            raise ConfigurationError(f"The records in {path!r} cannot be read: {error}. Is it SQLiteSink's?") from error
        self.bytes_read = before + size

    def _row(self, line: bytes | str) -> Row | None:
        try:
            row = from_json(line, cache_strings="keys")  # the values seldom come again
            if "record_id" in row:
                # Concatenating is the cheapest way to demand that all of them are text.
                row["record_id"] + row["timestamp"] + row["user_id"] + row["endpoint"] + row["outcome"] + ""
                return row  # type: ignore[no-any-return]
            row["kind"] + row["timestamp"] + row["message"] + ""
            self.alerts.append(row)
        except (ValueError, TypeError, LookupError):
            if line.strip():
                self.skipped += 1
        return None


def is_sqlite(path: str) -> bool:
    """Whether a file is one of SQLite, ours or not."""
    try:
        import sqlite3

        # Asked of SQLite: closing a descriptor of our own would drop all locks that this process has on the file.
        if not os.path.isfile(path) or not os.path.getsize(path):
            return False  # SQLite would take an empty one for a new file
        with closing(_to_read(path)) as connection:
            connection.execute("PRAGMA schema_version")
    except ImportError:
        return False
    except sqlite3.Error as error:
        return getattr(error, "sqlite_errorname", "") != "SQLITE_NOTADB"
    return True


def _to_read(path: str) -> sqlite3.Connection:
    import sqlite3

    return sqlite3.connect(f"{Path(path).absolute().as_uri()}?mode=ro", uri=True)


def epoch(timestamp: str) -> float:
    """A record's ``timestamp`` as UTC epoch seconds. Raises `ValueError` where it is none."""
    return datetime.fromisoformat(timestamp).timestamp()


def nano_usd(amount: object) -> int | None:
    """A record's money as an int of nano-USD: exact. None where there is none, or what stands there is no such amount.

    Never take None for zero: the price is unknown.
    """
    if not isinstance(amount, str):
        return None
    if amount.replace(".", "", 1).isdecimal() and amount.isascii():
        return nano(amount)
    try:  # 1E-7, as a small Decimal is written
        return nano(format(Decimal(amount), "f"))
    except (InvalidOperation, ValueError):
        return None

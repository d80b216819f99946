"""Events as lines of a file."""

from __future__ import annotations

import os
import stat

from ..errors import ConfigurationError
from ..types import Event
from ._files import can_lock, locked, numbered

_SMALLEST = 4096


class JSONLinesSink:
    """Appends each event to a file as one line of JSON, its ``model_dump_json()``, in UTF-8.

    A line with ``record_id`` is a `UsageRecord`, one with ``kind`` an `Alert`. Lines end with ``\\n`` and nothing else:
    iterate over the file, for ``str.splitlines`` also splits at characters that JSON leaves as they are.

    Several clients, threads and processes may append to one file, by turns (``flock``; not over NFS). A full disk
    leaves no part of a line behind; the event then counts as failed. Where a process was killed in the middle of a
    line, the next one begins a new line.

    Args:
        path: created with mode 0600 where it does not exist; an existing file keeps its mode. A relative path is
            resolved now, so a later ``chdir`` does not move it.
        max_bytes: a file that would grow beyond this is renamed to ``path.1``, what had that name to ``path.2``, and so
            on. Without it, the file grows; another program may then rename it at any time.
        keep: older files that are kept; what is older still is deleted.

    Raises:
        ConfigurationError: the file cannot be opened for appending, for example because its directory does not exist;
            or `max_bytes` or `keep` is too small; or the system cannot lock files, and so cannot rotate them safely.
    """

    def __init__(self, path: str | os.PathLike[str], *, max_bytes: int | None = None, keep: int = 10) -> None:
        self._path = os.path.abspath(path)
        self._max_bytes = max_bytes
        self._keep = keep
        if (max_bytes is not None and max_bytes < _SMALLEST) or keep < 1:
            raise ConfigurationError(f"JSONLinesSink takes max_bytes of {_SMALLEST} or more, and keep of 1 or more.")
        if max_bytes is not None and not can_lock():
            raise ConfigurationError("JSONLinesSink cannot rotate on this system, which has no flock: omit max_bytes.")
        try:
            with locked(self._path):
                pass
        except OSError as exc:
            raise ConfigurationError(
                f"JSONLinesSink cannot append to {self._path!r} ({exc.strerror}). "
                "Name a file in a directory that exists and that this process may write to."
            ) from exc

    def emit(self, event: Event) -> None:
        self._append([event])

    def emit_batch(self, events: list[Event]) -> None:
        """Several events under one lock."""
        self._append(events)

    def _append(self, events: list[Event]) -> None:
        lines = [event.model_dump_json().encode() + b"\n" for event in events]
        while lines:
            with locked(self._path) as file:
                number = self._fitting(os.fstat(file), lines)
                if number:
                    _write(file, b"".join(lines[:number]))
                    del lines[:number]
                else:
                    self._rotate()

    def _fitting(self, file: os.stat_result, lines: list[bytes]) -> int:
        """How many of the lines the file still takes. An empty one takes at least one, whatever its length."""
        if self._max_bytes is None or not stat.S_ISREG(file.st_mode):
            return len(lines)
        size, number = file.st_size, 0
        for line in lines:
            size += len(line)
            if size > self._max_bytes:
                break
            number += 1
        return number or (not file.st_size)

    def _rotate(self) -> None:
        """Give every file the next number, the oldest first, and the current one the number 1. Under its lock.

        Whoever is killed in the middle leaves a gap and the current file in place: the next to rotate moves only what
        stands before the gap.
        """
        names = [self._path, *(numbered(self._path, number) for number in range(1, self._keep + 1))]
        end = next((number for number, name in enumerate(names) if not os.path.lexists(name)), self._keep)
        for number in range(end, 0, -1):
            os.replace(names[number - 1], names[number])


def _write(file: int, data: bytes) -> None:
    """Append all of it or nothing."""
    status = os.fstat(file)
    size = status.st_size if stat.S_ISREG(status.st_mode) else 0
    if size and os.pread(file, 1, size - 1) != b"\n":
        data = b"\n" + data  # somebody was killed in the middle of a line
    try:
        # One write takes it all, unless the disk is nearly full; the second then says what is wrong.
        while data:
            data = data[os.write(file, data) :]
    except OSError:
        if stat.S_ISREG(status.st_mode):
            os.ftruncate(file, size)
        raise

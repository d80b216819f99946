"""Events as lines of a file."""

from __future__ import annotations

import os

from ..errors import ConfigurationError
from ..types import Event


class JSONLinesSink:
    """Appends each event to a file as one line of JSON, its ``model_dump_json()``, in UTF-8.

    A line with ``record_id`` is a `UsageRecord`, one with ``kind`` an `Alert`. Lines end with ``\\n`` and nothing else:
    iterate over the file, for ``str.splitlines`` also splits at characters that JSON leaves as they are.

    Several clients, threads and processes may append to one file, on any file system whose appends are atomic (local
    ones; not NFS). A full disk can leave part of a line behind; the event then counts as failed.

    Args:
        path: created with mode 0600 where it does not exist; an existing file keeps its mode. A relative path is
            resolved now, so a later ``chdir`` does not move it.

    Raises:
        ConfigurationError: the file cannot be opened for appending, for example because its directory does not exist.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = os.path.abspath(path)
        try:
            os.close(self._open())
        except OSError as exc:
            raise ConfigurationError(
                f"JSONLinesSink cannot append to {self._path!r} ({exc.strerror}). "
                "Name a file in a directory that exists and that this process may write to."
            ) from exc

    def _open(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def emit(self, event: Event) -> None:
        line = event.model_dump_json().encode() + b"\n"
        # Opened for each line, about a microsecond: then a rotated file is left at once, and there is neither a
        # descriptor to share with a forked child nor one to close.
        file = self._open()
        try:
            # One write takes the whole line, unless the disk is nearly full; the second then says what is wrong.
            while line:
                line = line[os.write(file, line) :]
        finally:
            os.close(file)

"""A file of lines with the older files that it was rotated into, and the lock that whoever changes them holds.

``usage.jsonl`` is written to; ``usage.jsonl.1`` is the newest of the older files, ``usage.jsonl.2`` the one before it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


def can_lock() -> bool:
    """Whether the system locks files."""
    return fcntl is not None


def numbered(path: str, number: int) -> str:
    """The name of an older file."""
    return f"{path}.{number}"


@contextmanager
def locked(path: str, flags: int = os.O_RDWR | os.O_APPEND | os.O_CREAT) -> Iterator[int]:
    """The descriptor of the file that has this name, locked against everybody else who writes, rotates or rewrites.

    Opened each time, about a microsecond: then there is neither a descriptor to share with a forked child nor one to
    close. Whoever renames or replaces the file holds the lock of the one that had the name, so a descriptor that still
    has it once it is locked keeps it until it is closed. On a system without ``flock`` nothing is locked.
    """
    while True:
        file = os.open(path, flags, 0o600)
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX)
                if not is_at(path, os.fstat(file)):
                    continue  # it was rotated or replaced while we waited
            yield file
            return
        finally:
            os.close(file)


@contextmanager
def alone_in(folder: str) -> Iterator[None]:
    """Locks a folder against others who do the same: those who rewrite files in it."""
    file = os.open(folder, os.O_RDONLY)
    try:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)


def is_at(path: str, file: os.stat_result) -> bool:
    """Whether this very file has this name."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return False
    return (found.st_dev, found.st_ino) == (file.st_dev, file.st_ino)


def rotated(path: str) -> list[str]:
    """The older files of `path`, the newest first. What another program has compressed, as ``.gz``, is among them."""
    folder, name = os.path.split(path)
    pattern = re.compile(re.escape(name) + r"\.([1-9]\d{0,8})(\.gz)?")
    try:
        found = [(int(match[1]), entry) for entry in os.listdir(folder or ".") if (match := pattern.fullmatch(entry))]
    except FileNotFoundError:
        return []
    return [os.path.join(folder, entry) for _, entry in sorted(found)]

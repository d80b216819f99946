"""A policy that stands in a file, and is read again when that changes."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable

from .alerts import policy_invalid
from .errors import ConfigurationError
from .guard import Guard
from .policy import Policy
from .types import Alert

log = logging.getLogger("safe_llm")

_UNSETTLED = 2.0
"""Seconds after its last change in which a file is read again although its time and size are the same: a second change
inside one tick of the file system's clock leaves no other trace."""

Signature = tuple[int, int, int] | None
"""Modified, size, inode; None where there is no file."""


class PolicyInForce:
    """The guard of the policy in force. Where that comes from a file, of the file as it is now.

    A change is taken up whole, by the next call; one that is no valid policy leaves the old one in force, and an alert
    tells of it, once. Calls that are under way keep the policy that they began with.

    Args:
        path: the file; None for a policy that does not move.
        emit: takes the alerts.
    """

    def __init__(self, guard: Guard, path: str | os.PathLike[str] | None, emit: Callable[[Alert], None]) -> None:
        self._guard = guard
        self._path = path
        self._emit = emit
        self.renew()
        self._seen: Signature = None
        self._looked = False
        self._text: bytes | None = None  # so that the first call finds what changed while the client was made

    def renew(self) -> None:
        """Start afresh in a forked child, where nobody will give the parent's lock back."""
        self._lock = threading.Lock()

    @property
    def guard(self) -> Guard:
        """The guard to take the next call to."""
        if self._path is not None:
            self._look()
        return self._guard

    def _look(self) -> None:
        seen = self._signature()
        settled = seen is None or time.time() - seen[0] / 1e9 > _UNSETTLED
        if seen == self._seen and settled and self._looked:
            return
        if not self._lock.acquire(blocking=False):
            return  # another thread is at it: meanwhile the old policy holds
        try:
            self._seen, self._looked = seen, True
            text = self._read()
            if text != self._text and (text or settled):  # one that was emptied just now is about to be written
                self._text = text
                self._take_up()
        finally:
            self._lock.release()

    def _take_up(self) -> None:
        assert self._path is not None
        old = self._guard
        try:
            policy = Policy.from_file(self._path)
        except ConfigurationError as error:
            self._emit(policy_invalid(str(error), old.policy.version, old.now()))
            return
        if policy.version != old.policy.version:
            self._guard = old.under(policy)
            log.info("The policy is now version %s, before it was %s.", policy.version, old.policy.version)

    def _signature(self) -> Signature:
        assert self._path is not None
        try:
            found = os.stat(self._path)
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino

    def _read(self) -> bytes | None:
        assert self._path is not None
        try:
            with open(self._path, "rb") as file:
                return file.read()
        except OSError:
            return None

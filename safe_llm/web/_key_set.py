"""The keys behind a JWKS address: how long they are believed, and when they are fetched anew.

A set is fetched when it is first needed, when it has reached its age, and when a token names a key that it lacks. The
last is what an attacker can bring about with made-up key ids. So after a fetch that did not find the key it was made
for, as after one that failed, there is none for a while; one that found it costs nothing, for that takes a new key at
the issuer. There is at most one fetch in flight; those who need it wait for it together, in threads and tasks alike.

Keys that a fetched set lacks are gone with it. While the server is away the keys at hand are used beyond their age,
for a bounded time, and nobody who holds a token of theirs waits for it.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from concurrent.futures import Future

from ..errors import NotAuthenticatedError
from ..types import Clock
from . import _fetching
from ._keys import Key, of_jwk

_log = logging.getLogger("safe_llm")

_MARGIN = 0.25
"""Seconds that a fetch has to end by itself after its time-out, before those who wait give it up: where a name is
being resolved, nothing can end it."""


class Flight:
    """A fetch under way. It ends, well or not, at the latest a moment after its time-out."""

    def __init__(self, timeout: float) -> None:
        self._ends = time.monotonic() + timeout + _MARGIN
        self._landed: Future[None] = Future()
        self._landed.set_running_or_notify_cancel()  # so that nobody who stops waiting cancels it for the others

    def left(self) -> float:
        """Seconds that it may still take, by the system's clock, never below 0."""
        return max(0.0, self._ends - time.monotonic())

    def land(self) -> None:
        self._landed.set_result(None)

    def wait(self) -> None:
        try:
            self._landed.result(self.left())
        except TimeoutError:
            return  # it is overdue, and counts as failed

    async def wait_async(self) -> None:
        try:
            async with asyncio.timeout(self.left()):
                await asyncio.wrap_future(self._landed)
        except TimeoutError:
            return


class OneKey:
    """A key that the application has, in the place of a `KeySet`."""

    def __init__(self, key: Key) -> None:
        self._key = key

    def key(self, id: str | None, algorithm: str) -> Key:
        return self._key

    def must_wait(self, id: str | None, algorithm: str) -> bool:
        return False

    def flight(self, id: str | None, algorithm: str) -> Flight | None:
        return None


class KeySet:
    """The keys at `url` that may serve `algorithms`. Safe to share among threads and event loops.

    Args:
        max_age: seconds after which the set is fetched anew.
        max_stale: seconds beyond that for which its keys are still used while the server is away.
        min_interval: seconds without a fetch after one that failed or did not find the key it was made for.
    """

    def __init__(
        self,
        url: str,
        *,
        algorithms: tuple[str, ...],
        timeout: float,
        max_age: float,
        max_stale: float,
        min_interval: float,
        clock: Clock,
    ) -> None:
        self._url, self._algorithms, self._timeout = url, algorithms, timeout
        self._max_age, self._max_stale, self._min_interval = max_age, max_stale, min_interval
        self._clock = clock
        self._lock = threading.Lock()
        self._keys: tuple[Key, ...] = ()
        self._fetched: float | None = None  # when the keys at hand came
        self._in_vain: float | None = None  # when a fetch last failed or did not find its key
        self._away = False  # whether the last fetch failed
        self._flight: Flight | None = None

    def key(self, id: str | None, algorithm: str) -> Key:
        """The key at hand that a token names.

        Raises:
            NotAuthenticatedError: there is none (401), or none can be had now (503): that says nothing against the
                token, and a new one would fare no better.
        """
        with self._lock:
            self._give_up_overdue()
            found = self._find(id, algorithm)
            unknowable = self._away or self._fetched is None
            rest = self._rest()
        if found is not None:
            return found
        if unknowable:
            raise NotAuthenticatedError(
                "The token could not be verified: the issuer's key set cannot be fetched now (jwks_url=). "
                "The token may be good: try it again later.",
                code="key_set_unavailable",
                status_code=503,
                retry_after=rest,
            )
        raise NotAuthenticatedError(
            "The token was refused: the trusted issuer's key set has no one key that its header names (kid, alg). "
            "Get a token from the issuer that this application trusts.",
            code="token_foreign",
        )

    def must_wait(self, id: str | None, algorithm: str) -> bool:
        """Whether the key that a token names has to be fetched first. Fetches nothing."""
        with self._lock:
            self._give_up_overdue()
            return all(self._needs(id, algorithm))

    def flight(self, id: str | None, algorithm: str) -> Flight | None:
        """The fetch to wait for before asking for this key, begun if need be; None if there is no reason to wait."""
        with self._lock:
            self._give_up_overdue()
            fetch, wait = self._needs(id, algorithm)
            if fetch and self._flight is None:
                flight = self._flight = Flight(self._timeout)
                threading.Thread(
                    target=self._fly, args=(flight, id, algorithm), name="safe-llm-key-set", daemon=True
                ).start()
            return self._flight if wait else None

    def _needs(self, id: str | None, algorithm: str) -> tuple[bool, bool]:
        """Whether there should be a fetch, and whether this token has to wait for it."""
        at_hand = self._find(id, algorithm) is not None
        aged = self._fetched is None or self._clock.monotonic() - self._fetched >= self._max_age
        if at_hand and not aged:
            return False, False
        if self._rest() > 0:
            return False, False
        return True, not (at_hand and self._away)

    def _find(self, id: str | None, algorithm: str) -> Key | None:
        """The key of this id that serves the algorithm; for a token that names none, the only one that does."""
        if self._fetched is None or self._clock.monotonic() - self._fetched >= self._max_age + self._max_stale:
            return None
        fit = [key for key in self._keys if algorithm in key.algorithms and id in (None, key.id)]
        return fit[0] if len(fit) == 1 else None

    def _rest(self) -> float:
        """Seconds for which nothing is fetched."""
        if self._in_vain is None:
            return 0.0
        return max(0.0, self._in_vain + self._min_interval - self._clock.monotonic())

    def _give_up_overdue(self) -> None:
        """An overdue fetch has failed, though its thread may hang; so has one whose thread a fork left behind."""
        if self._flight is not None and not self._flight.left():
            self._flight = None
            self._failed(f"no answer within {self._timeout:g} s")

    def _fly(self, flight: Flight, id: str | None, algorithm: str) -> None:
        why = ""
        keys: tuple[Key, ...] = ()
        try:
            entries = _fetching.fetch(self._url, self._timeout)
            keys = tuple(key for entry in entries if (key := of_jwk(entry, self._algorithms)) is not None)
        except TimeoutError:
            why = f"no answer within {self._timeout:g} s"
        except Exception as exc:  # of any library in between: the set could not be had, and the log says why
            why = f"{type(exc).__name__}: {exc}"
        with self._lock:
            if self._flight is flight:  # else it was given up
                self._flight = None
                if why:
                    self._failed(why)
                else:
                    self._keys, self._fetched, self._away = keys, self._clock.monotonic(), False
                    if self._find(id, algorithm) is None:
                        self._in_vain = self._fetched
        flight.land()

    def _failed(self, why: str) -> None:
        self._away, self._in_vain = True, self._clock.monotonic()
        _log.warning("The key set of tokens (jwks_url=) could not be fetched: %s.", why)

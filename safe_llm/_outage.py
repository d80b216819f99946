"""The link to the quota store, which may break: what happens to calls meanwhile, and what is made up for afterwards.

While the store is away it is asked again after pauses that grow, so that calls do not each wait for a time-out. What it
could not be told is owed to it. Delivering that is harmless however often it arrives, for ids make it count once.

Nothing here waits or does I/O: a shell asks the store, and says how that went.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from threading import Lock
from typing import Any

from .effects import Effect, Flow, Peek, Reserve, Settle, reserve, settle
from .errors import StoreUnavailableError
from .limits import LARGEST
from .stores import MemoryQuotaStore
from .types import Alert, Clock, LocalReservation, Refusal, Reservation

SHORTEST, LONGEST = 0.1, 5.0
"""Seconds of the first and the longest pause, each twice the one before."""

ROOM = 100_000
"""Settlements that may be owed: some 250 MB. The oldest go first; their leases charge what was reserved."""

STRIKES = 10
"""How often a settlement may fail although the store has answered since, before it is the one that is given up."""

_TTL = 60.0
"""Seconds of the lease under which calls are added; they are settled at once."""


class StoreLink:
    """Whether the store is there, what stands in for it, and what is owed to it. Safe to use from any thread::

        if link.asks(effect):
            try:
                answer = ...    # the store's
            except Exception as error:
                return link.instead(effect, error)
            link.answered()
            return answer
        return link.instead(effect)

    Args:
        allows: tells whether calls go on while the store is away, counted by a store of this process.
        emit: takes the alerts.
    """

    def __init__(self, *, allows: Callable[[], bool], clock: Clock, emit: Callable[[Alert], None]) -> None:
        self._is_allowed = allows
        self._clock = clock
        self._emit = emit
        # One for all outages: a store that comes and goes does not give the whole of a limit away each time.
        self._local = MemoryQuotaStore(clock=clock.time)
        self._away = False
        self._error = ""  # its class
        self._pauses = 0
        self._asks_at = 0.0  # monotonic seconds at which the pause is over
        self._began: float | None = None  # the outage that has been told of, until its end has been told of, too
        self._owed: deque[tuple[Settle, int]] = deque()  # and their strikes
        self._in_hand = 0  # of those owed, what is being delivered
        self._merged = 0
        self._lost = 0
        self._closed = False
        self.delivering: Any = None
        """What delivers at the moment; the shell's own."""
        self.renew()

    def renew(self) -> None:
        """Start afresh in a forked child: what is owed is the parent's to deliver."""
        self._lock = Lock()
        self.turn = Lock()
        """Held by the thread that delivers."""
        self._owed.clear()
        self._in_hand = 0
        self.delivering = None

    # Asking -----------------------------------------------------------------------------------------------------------

    def asks(self, effect: Effect) -> bool:
        """Whether the store itself is to be asked for this."""
        if isinstance(effect, Settle) and isinstance(effect.reservation, LocalReservation):
            return False
        return not self._away or self.tries()

    def answered(self) -> None:
        """The store did what it was asked."""
        if self._began is not None:
            self._away = False
            self._over()

    def failed(self, error: Exception) -> None:
        """The store did not. Its message is never quoted: it may hold an address, or a password."""
        with self._lock:
            if self._away:
                return
            self._away, self._error, self._pauses = True, type(error).__name__, 0
            self._begin_pause()
            if self._began is not None:
                return
            self._began = self._clock.monotonic()
        what = "this process counts calls by itself" if self._is_allowed() else "calls are denied"
        why = f"on_store_error is {'allow' if self._is_allowed() else 'deny'}"
        self._tell(f"The quota store failed with {self._error}. Until it is back, {what}: {why}.")

    def instead(self, effect: Effect, cause: Exception | None = None) -> Any:
        """The answer in place of the store's, which was not asked, or failed with `cause`.

        Raises:
            StoreUnavailableError: nothing stands in for it.
        """
        if cause is not None:
            self.failed(cause)
        match effect:
            case Settle(LocalReservation() as reservation, actual):
                if used := [
                    (charge, amount) for charge, amount in zip(reservation.charges, actual, strict=True) if amount
                ]:
                    self._owe(reservation._replace(charges=tuple(c for c, _ in used)), [amount for _, amount in used])
                return self._local.settle(reservation, actual)
            case Settle(reservation, actual):
                self._owe(reservation, actual)
                return True
            case Reserve(id, charges, ttl, local):
                if local and cause is not None:  # it may have been taken all the same, and only the answer got lost
                    self._owe(LocalReservation(id, tuple(charges), 0.0), [0] * len(charges))
                if local and self._is_allowed():
                    answer = self._local.reserve(f"local/{id}", charges, ttl)
                    return LocalReservation(*answer) if isinstance(answer, Reservation) else answer
            case Peek(charges, True) if self._is_allowed():
                return self._local.peek(charges)
        raise self._unavailable(isinstance(effect, Reserve) and effect.local) from cause

    def _unavailable(self, call: bool) -> StoreUnavailableError:
        if call:
            return StoreUnavailableError(
                f"The call is denied: the quota store failed with {self._error}, and on_store_error is deny. Nothing "
                "was sent. Try again when the store is back."
            )
        return StoreUnavailableError(f"The quota store failed with {self._error}. Try again when it is back.")

    # There, or away ---------------------------------------------------------------------------------------------------

    def tries(self) -> bool:
        """Whether the store is there, or a pause is over; then the next one begins."""
        if not self._away:
            return True
        with self._lock:
            if self.pause() > 0:
                return False
            self._begin_pause()
            return True

    def pause(self) -> float:
        """Seconds until the store is asked again."""
        return max(self._asks_at - self._clock.monotonic(), 0.0)

    def _begin_pause(self) -> None:
        self._asks_at = self._clock.monotonic() + min(SHORTEST * 2**self._pauses, LONGEST)
        self._pauses = min(self._pauses + 1, 10)

    def _over(self) -> None:
        """Tell that the store is back, once nothing is owed to it any more."""
        with self._lock:
            if self._began is None or self._away or self._owed or self._in_hand:
                return
            seconds, self._began = self._clock.monotonic() - self._began, None
            merged, self._merged = self._merged, 0
            lost, self._lost = self._lost, 0
        parts = [f"The quota store is back after {seconds:.1f} s."]
        if merged:
            parts.append(f"Calls that this process counted meanwhile and that have been added: {merged}.")
        if lost:
            parts.append(f"Settlements that were given up, so that what they had reserved stays charged: {lost}.")
        self._tell(" ".join(parts))

    def _tell(self, message: str) -> None:
        now = datetime.fromtimestamp(self._clock.time(), UTC)
        self._emit(Alert(kind="store_degraded", timestamp=now, message=message))

    # What is owed -----------------------------------------------------------------------------------------------------

    @property
    def owes(self) -> bool:
        """Whether something is yet to be delivered."""
        return bool(self._owed) or self._in_hand > 0

    def rest(self) -> bool:
        """Whether nothing is owed; then nobody delivers from here on, until there is something again."""
        with self._lock:
            if self._owed:
                return False
            self.delivering = None
            return True

    def deliver(self) -> Flow[bool]:
        """Deliver one settlement that is owed. Whether there was one, and it got through."""
        with self._lock:
            if not self._owed:
                return False
            settlement, strikes = self._owed.popleft()
            self._in_hand += 1
        try:
            yield from _make_up(settlement)
        except Exception as error:
            # Where the store was there a moment ago, it may be the settlement that is at fault.
            self._let_go(settlement, strikes + (not self._away))
            self.failed(error)
            return False
        except BaseException:
            self._let_go(settlement, strikes)
            raise
        with self._lock:
            self._in_hand -= 1
            self._merged += isinstance(settlement.reservation, LocalReservation) and any(settlement.actual)
        self.answered()
        return True

    def _owe(self, reservation: Reservation, actual: Sequence[int]) -> None:
        with self._lock:
            self._closed = False
            self._owed.append((Settle(reservation, actual), 0))
            if len(self._owed) > ROOM:
                self._owed.popleft()
                self._lost += 1

    def _let_go(self, settlement: Settle, strikes: int) -> None:
        """Put what could not be delivered behind the others, of which it is not to be in the way."""
        with self._lock:
            self._in_hand -= 1
            if self._closed or strikes >= STRIKES:
                self._lost += 1
            else:
                self._owed.append((settlement, strikes))

    def give_up(self) -> int:
        """Deliver nothing more, for the store is about to be closed. How many settlements were still owed."""
        with self._lock:
            self._closed = True
            owed = len(self._owed)
            self._owed.clear()
            return owed


def _make_up(owed: Settle) -> Flow[None]:
    """Settle what the store holds, or may hold. What it does not hold is reserved first, by the same id, whatever the
    limits: it has been used."""
    reservation: Reservation | Refusal = owed.reservation
    if isinstance(reservation, LocalReservation):
        charges = [charge._replace(limit=LARGEST) for charge in reservation.charges]
        reservation = yield from reserve(reservation.id, charges, _TTL)
    if isinstance(reservation, Reservation):
        yield from settle(reservation, owed.actual)

"""Whether a user is at ten times the usual volume: of requests, in the hour or day that is running.

Usual is the mean of the user's own last windows with any request in them. Until there are ten of those, the typical
user of this process fills in for the ones that are missing, so that somebody who has never called before is seen too.
What counts is a request that the limits let through or refused: a loop that runs into its limit is an anomaly all the
same.

Why not tokens or money: a user who turns from searching to reading documents is at ten times his tokens, and nobody
wants to be told. What is spent is watched by the limits in money, and told of at their percentages.

Everything is of one process, in bounded memory, and gone with it. With traffic spread evenly, a process sees the same
share of what is usual and of what is not. `benchmarks.anomalies` measures what is found, and what is told for nothing.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal, NamedTuple

from .limits import Calendar, part
from .types import Alert, Charge

TIMES = 10
"""How many times the usual is an anomaly."""

_OWN = 10
"""Windows after which a user is measured by himself alone."""
_LEAST_OWN = 3
"""Windows that he must have where there is no typical user yet."""
_MEMORY = 20
"""Windows that his mean goes back, about: habits change."""
_CROWD_LEAST, _CROWD_MEMORY = 30, 1_000
"""Windows of users that the typical one is made of: at least, and about how many it goes back."""
_USERS = 10_000
"""At least so many are remembered, and at most twice as many; those not seen for longest are forgotten first."""

_HOUR = 3_600


class Anomaly(NamedTuple):
    """Somebody is at ten times the usual, or beyond."""

    user: str
    window: Literal["hour", "day"]
    start: int
    """The window is [start, end), in UTC epoch seconds."""
    end: int
    requests: int
    """So far in it."""
    first: float
    """When the first of them came, in UTC epoch seconds."""
    usual: float
    own: int
    """Windows of the user's own that `usual` is made of; 0 where it is that of the typical user."""


class _Habit:
    """One user in one kind of window: the running one, and what was usual before it."""

    __slots__ = ("first", "mean", "requests", "start", "windows")

    def __init__(self) -> None:
        self.start = 0
        self.first = 0.0
        self.requests = 0
        self.mean = 0.0
        self.windows = 0


class _Habits:
    """All users in one kind of window, and the typical one among them.

    Threads share it without a lock: of two requests at the same moment one may be lost, which tenfold does not notice.
    """

    def __init__(self) -> None:
        self.start = 0
        self._recent: dict[str, _Habit] = {}
        self._older: dict[str, _Habit] = {}
        self._mean = 0.0
        self._windows = 0
        self._users = self._requests = 0  # Of the running window.

    def note(self, user: str, start: int, now: float) -> tuple[_Habit, float] | None:
        """Count one request in the window that begins at `start`; what is usual, if that is surpassed tenfold."""
        if start > self.start:
            self._turn_over(start)
        habit = self._recent.get(user) or self._recall(user)
        if start > habit.start:
            if habit.requests:
                # A window is learned at no more than tenfold: one day of abuse does not make a habit.
                seen = min(habit.requests, TIMES * self._usual(habit)) if self._knows(habit) else habit.requests
                habit.windows = min(habit.windows + 1, _MEMORY)
                habit.mean += (seen - habit.mean) / habit.windows
            habit.start, habit.first, habit.requests = start, now, 0
            self._users += 1
        elif start < habit.start:  # the clock was set back
            return None
        habit.requests += 1
        if not self._knows(habit):
            self._requests += 1
            return None
        usual = self._usual(habit)
        if habit.requests < TIMES * usual:
            self._requests += 1
            return None
        return habit, usual

    @property
    def remembered(self) -> int:
        return len(self._recent) + len(self._older)

    def _knows(self, habit: _Habit) -> bool:
        return habit.windows >= _LEAST_OWN or self._windows >= _CROWD_LEAST

    def _usual(self, habit: _Habit) -> float:
        own = habit.windows
        if own >= _OWN or self._windows < _CROWD_LEAST:
            return habit.mean
        return max(habit.mean, (habit.mean * own + self._mean * (_OWN - own)) / _OWN)

    def _turn_over(self, start: int) -> None:
        """Learn from the window that is over what the typical user did in it. What was beyond tenfold is left out."""
        self.start = start
        users, requests = self._users, self._requests
        self._users = self._requests = 0
        if users:
            self._windows = min(self._windows + users, _CROWD_MEMORY)
            self._mean += (requests / users - self._mean) * min(users / self._windows, 1.0)

    def _recall(self, user: str) -> _Habit:
        """A user who has not been seen for a while, or never."""
        recent = self._recent
        if len(recent) >= _USERS:
            # Two threads that do this at once do the same: neither throws away what the other has kept.
            self._older, self._recent = recent, {}
        return self._recent.setdefault(user, self._older.get(user) or _Habit())


class Volumes:
    """The volume of every user."""

    def __init__(self) -> None:
        self._hours, self._days = _Habits(), _Habits()

    @property
    def remembered(self) -> int:
        """Users in memory, those that stand in two places counted twice."""
        return self._hours.remembered + self._days.remembered

    def note(self, user: str, now: float, calendar: Calendar) -> list[Anomaly]:
        """Count one request at `now`, in UTC epoch seconds; what is anomalous with it, the hour or the day or both."""
        hour = int(now // _HOUR) * _HOUR
        _, day, tomorrow = calendar.window("day", now)
        anomalies = []
        if above := self._hours.note(user, hour, now):
            anomalies.append(_anomaly(user, "hour", hour, hour + _HOUR, *above))
        if above := self._days.note(user, day, now):
            anomalies.append(_anomaly(user, "day", day, tomorrow, *above))
        return anomalies


def _anomaly(user: str, window: Literal["hour", "day"], start: int, end: int, habit: _Habit, usual: float) -> Anomaly:
    own = 0 if usual > habit.mean else habit.windows
    return Anomaly(user, window, start, end, habit.requests, habit.first, usual, own)


def claim(anomaly: Anomaly) -> Charge:
    """The charge that only the first to tell can make: once a user and window."""
    return Charge(f"alert/anomaly/{anomaly.window}/{part(anomaly.user)}", 1, 1, "fixed", anomaly.start, anomaly.end)


def alert(anomaly: Anomaly, now: datetime) -> Alert:
    """The alert: what is usual, what is now, and since when."""
    window, usual = anomaly.window, f"{anomaly.usual:.1f}".removesuffix(".0")
    whose = f"this user, over {anomaly.own} {window}s with any" if anomaly.own else "one user here"
    return Alert(
        kind="anomaly",
        timestamp=now,
        scope={"user": anomaly.user},
        message=(
            f"User {anomaly.user!r} has made {anomaly.requests:_} requests in the {window} since "
            f"{_minute(anomaly.start)} UTC, the first at {_minute(anomaly.first)[11:]}. Usual are {usual} "
            f"{_PER[window]} for {whose}."
        ),
    )


_PER = {"hour": "an hour", "day": "a day"}


def _minute(epoch: float) -> str:
    return f"{datetime.fromtimestamp(epoch, UTC):%Y-%m-%d %H:%M}"

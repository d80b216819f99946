"""A sink that remembers what it was given."""

from __future__ import annotations

import threading

from ..types import Alert, Event, UsageRecord


class RecordingSink:
    """Keeps every event in the order of arrival: ``SafeOpenAI(sinks=[sink])``. Safe to share among threads.

    It is inline: once a call has returned, its record is here.
    """

    inline = True

    def __init__(self) -> None:
        self._lock = threading.RLock()  # the garbage collector may emit in the middle of it
        self._events: list[Event] = []

    def emit(self, event: Event) -> None:
        with self._lock:
            self._events.append(event)

    @property
    def events(self) -> list[Event]:
        """Records and alerts; a copy, as are the two below."""
        with self._lock:
            return list(self._events)

    @property
    def records(self) -> list[UsageRecord]:
        return [event for event in self.events if isinstance(event, UsageRecord)]

    @property
    def alerts(self) -> list[Alert]:
        return [event for event in self.events if isinstance(event, Alert)]

    @property
    def last(self) -> UsageRecord:
        """The latest record. Raises `LookupError` when there is none."""
        records = self.records
        if not records:
            raise LookupError("No record has been emitted. Is the sink passed to the client, as sinks=[sink]?")
        return records[-1]

    def clear(self) -> None:
        """Forget everything so far."""
        with self._lock:
            self._events.clear()

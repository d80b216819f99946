from __future__ import annotations

from datetime import UTC, datetime
from threading import Thread

import pytest

from safe_llm.testing import RecordingSink
from safe_llm.types import Alert, Sink, UsageRecord

NOW = datetime(2027, 1, 15, tzinfo=UTC)


def record(name: str) -> UsageRecord:
    return UsageRecord(record_id=name, timestamp=NOW, user_id="u1", endpoint="chat.completions", outcome="ok")


def test_records_and_alerts_are_told_apart_and_kept_in_order() -> None:
    sink = RecordingSink()
    alert = Alert(kind="debt", timestamp=NOW, message="owed")
    for event in (record("a"), alert, record("b")):
        sink.emit(event)
    assert sink.events == [record("a"), alert, record("b")]
    assert sink.records == [record("a"), record("b")]
    assert sink.alerts == [alert]
    assert sink.last == record("b")


def test_it_is_an_inline_sink() -> None:
    sink = RecordingSink()
    assert isinstance(sink, Sink)
    assert sink.inline


def test_what_it_hands_out_is_a_copy() -> None:
    sink = RecordingSink()
    sink.emit(record("a"))
    sink.events.clear()
    assert sink.records == [record("a")]


def test_clearing_forgets_and_then_there_is_no_last() -> None:
    sink = RecordingSink()
    sink.emit(record("a"))
    sink.clear()
    assert sink.events == []
    with pytest.raises(LookupError, match="sinks="):
        sink.last


def test_no_event_of_any_thread_is_lost() -> None:
    sink = RecordingSink()

    def emit_many() -> None:
        for _ in range(500):
            sink.emit(record("x"))

    threads = [Thread(target=emit_many) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(sink.records) == 4000

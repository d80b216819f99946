"""LoggingSink: one line of JSON for each event."""

from __future__ import annotations

import json
import logging
from contextvars import ContextVar
from datetime import UTC, datetime

import pytest

from safe_llm.sinks import Dispatcher, LoggingSink
from safe_llm.types import Alert, Denial, Sink, UsageRecord

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
RECORD = UsageRecord(record_id="r1", timestamp=NOW, user_id="100%s", endpoint="chat.completions", outcome="ok")
DENIED = RECORD.model_copy(update={"outcome": "denied", "denial": Denial(code="rate_limit_exceeded")})
SHADOW = RECORD.model_copy(update={"denial": Denial(code="rate_limit_exceeded")})
ALERT = Alert(kind="limit_threshold", timestamp=NOW, percent=80, message="80 % of $1/day")


@pytest.mark.parametrize(
    ("event", "level"), [(RECORD, "INFO"), (SHADOW, "INFO"), (DENIED, "WARNING"), (ALERT, "WARNING")]
)
def test_the_line_is_the_json_of_the_event_and_only_denials_and_alerts_are_warnings(
    event: UsageRecord | Alert, level: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "safe_llm")
    LoggingSink().emit(event)
    (line,) = caplog.records
    assert (line.name, line.levelname) == ("safe_llm", level)
    assert line.getMessage() == event.model_dump_json()
    assert json.loads(line.getMessage()) == event.model_dump(mode="json")


def test_logger_and_level_are_a_matter_of_choice_and_a_higher_level_holds_for_alerts_too(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "mine")
    for sink in (LoggingSink("mine", logging.ERROR), LoggingSink(logging.getLogger("mine"), logging.DEBUG)):
        sink.emit(RECORD)
        sink.emit(ALERT)
    assert [(line.name, line.levelname) for line in caplog.records] == [
        ("mine", "ERROR"),
        ("mine", "ERROR"),
        ("mine", "DEBUG"),
        ("mine", "WARNING"),
    ]


def test_what_nobody_listens_to_is_not_serialized(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "safe_llm")
    unserializable = RECORD.model_copy(update={"user_id": object()})
    LoggingSink().emit(unserializable)
    assert caplog.records == []


def test_a_logging_filter_sees_the_context_of_the_call(caplog: pytest.LogCaptureFixture) -> None:
    request_id: ContextVar[str] = ContextVar("request_id", default="")
    seen: list[str] = []

    def note(_: logging.LogRecord) -> bool:
        seen.append(request_id.get())
        return True

    logger = logging.getLogger("safe_llm.of-this-test")
    logger.addFilter(note)
    caplog.set_level(logging.INFO, logger.name)
    request_id.set("req-7")
    Dispatcher([LoggingSink(logger)]).emit(RECORD)
    assert seen == ["req-7"]


def test_no_handler_is_installed() -> None:
    logger = LoggingSink("a logger that only this test names")._logger
    assert logger.handlers == []
    assert logger.level == logging.NOTSET


def test_it_is_a_sink() -> None:
    assert isinstance(LoggingSink(), Sink)

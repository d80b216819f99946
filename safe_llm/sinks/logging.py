"""Events as lines of the standard library's logging."""

from __future__ import annotations

import logging

from ..types import Alert, Event


class LoggingSink:
    """Logs each event as one line of JSON, its ``model_dump_json()``.

    Args:
        logger: the logger, or its name. No handler is installed and no level set: that is the application's.
        level: of the records. Denials and alerts are logged at WARNING, or at `level` where that is higher.
    """

    inline = True
    """Called in the thread of the call, so that filters see its context: a request id in a contextvar, say."""

    def __init__(self, logger: logging.Logger | str = "safe_llm", level: int = logging.INFO) -> None:
        self._logger = logging.getLogger(logger) if isinstance(logger, str) else logger
        self._level = level

    def emit(self, event: Event) -> None:
        urgent = isinstance(event, Alert) or event.outcome == "denied"
        level = max(self._level, logging.WARNING) if urgent else self._level
        if self._logger.isEnabledFor(level):
            self._logger.log(level, "%s", event.model_dump_json())

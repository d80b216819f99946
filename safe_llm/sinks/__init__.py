"""Where records and alerts go. A sink is an object with ``emit(event)``, or a function of one event.

A new one: one file in this folder and one line here. It may be slow or fail, `Dispatcher` keeps both from the calls.
What it stands on may not be installed: it is imported when a sink is made, under `needing`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .base import Dispatcher, SinkLike, SinkStats
from .jsonl import JSONLinesSink
from .logging import LoggingSink

if TYPE_CHECKING:
    from .opentelemetry import OpenTelemetrySink
    from .prometheus import PrometheusSink
    from .sqlite import SQLiteSink
    from .webhook import WebhookSink

__all__ = [
    "Dispatcher",
    "JSONLinesSink",
    "LoggingSink",
    "OpenTelemetrySink",
    "PrometheusSink",
    "SQLiteSink",
    "SinkLike",
    "SinkStats",
    "WebhookSink",
]

# The module of each sink that is imported when it is first named.
_LAZY = {
    "OpenTelemetrySink": "opentelemetry",
    "PrometheusSink": "prometheus",
    "SQLiteSink": "sqlite",
    "WebhookSink": "webhook",
}

if not TYPE_CHECKING:  # To a type checker, any name would be one of this module.

    def __getattr__(name: str) -> Any:
        if name not in _LAZY:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f".{_LAZY[name]}", __name__), name)

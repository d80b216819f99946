"""Where records and alerts go. A sink is an object with ``emit(event)``, or a function of one event.

A new one: one file in this folder and one line here. It may be slow or fail, `Dispatcher` keeps both from the calls.
"""

from .base import Dispatcher, SinkLike, SinkStats
from .jsonl import JSONLinesSink
from .logging import LoggingSink

__all__ = ["Dispatcher", "JSONLinesSink", "LoggingSink", "SinkLike", "SinkStats"]

"""The testing kit: a provider on this machine, a clock that stands still, a sink that remembers, and two proofs.

::

    with FakeOpenAI() as server:
        sink = RecordingSink()
        client = SafeOpenAI(base_url=server.base_url, api_key="test", clock=FakeClock(), sinks=[sink])
        server.reply("Hello")
        client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "Hi"}], user_id="u1")
        assert sink.last.outcome == "ok"
        assert_no_overspend(sink, limit_usd="0.01")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .clock import FakeClock
from .overspend import assert_no_overspend
from .reply import Reply, Request
from .server import FakeOpenAI
from .sink import RecordingSink

if TYPE_CHECKING:
    from .conformance import QuotaStoreConformance, SharedQuotaStoreConformance

__all__ = [
    "FakeClock",
    "FakeOpenAI",
    "QuotaStoreConformance",
    "RecordingSink",
    "Reply",
    "Request",
    "SharedQuotaStoreConformance",
    "assert_no_overspend",
]


def __getattr__(name: str) -> Any:
    # The conformance classes need pytest, which a program that only wants the fake server, such as the demo, lacks.
    if name in ("QuotaStoreConformance", "SharedQuotaStoreConformance"):
        from . import conformance

        return getattr(conformance, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""What every web framework must show behind a middleware."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest
from served import TOLD, bearer, until

from safe_llm.testing import FakeOpenAI, RecordingSink, Reply


@pytest.fixture
def holds(server: FakeOpenAI, sink: RecordingSink) -> Callable[[str], None]:
    """Demands of a service with the routes ``/chat``, ``/stream`` and ``/bug``: callers, refusals, limits, leaving."""

    def holds(url: str) -> None:
        assert httpx.get(f"{url}/chat").status_code == 401
        for path in ("/chat", "/stream"):
            answer = httpx.get(url + path, headers=bearer(path[1:]))
            assert (answer.status_code, answer.text) == (200, "Hello from the fake server."), path
            assert answer.headers["ratelimit"].startswith(TOLD)
            until(lambda path=path: sink.records and sink.last.user_id == path[1:])  # type: ignore[misc]
            assert httpx.get(url + path, headers=bearer(path[1:])).status_code == 200
            refused = httpx.get(url + path, headers=bearer(path[1:]))
            assert refused.status_code == 429, path
            assert refused.headers["content-type"] == "application/problem+json"
            assert refused.json()["code"] == "rate_limit_exceeded"
            assert 0 < int(refused.headers["retry-after"]) <= 61
        assert httpx.get(f"{url}/bug", headers=bearer("bob")).status_code == 500
        server.always(Reply(chunks=1_000, drip=0.05))
        with httpx.stream("GET", f"{url}/stream", headers=bearer("carol")) as answer:
            next(answer.iter_bytes())
        server.wait_until(lambda: len(server.disconnects) == 1, 3)
        until(lambda: sink.last.user_id == "carol")
        assert (sink.last.outcome, sink.last.usage_source) == ("aborted", "estimated")

    return holds

"""What the tests of the web layer share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from callers import Tokens

from safe_llm.testing import FakeOpenAI, RecordingSink


@pytest.fixture
def verifier() -> Tokens:
    return Tokens()


@pytest.fixture
def make(kind: Any, server: FakeOpenAI, sink: RecordingSink) -> Callable[..., Any]:
    """Makes clients of one colour against the stand-in for the provider."""

    def make(*limits: str, **sections: Any) -> Any:
        policy = {"plans": {"default": {"limits": list(limits)}}, **sections}
        return kind(base_url=server.base_url, api_key="test", policy=policy, sinks=[sink])

    return make

"""What all tests share."""

from __future__ import annotations

import functools
import ssl
from collections.abc import Iterator
from typing import Any

import pytest

from safe_llm import AsyncSafeOpenAI, SafeOpenAI
from safe_llm.testing import FakeClock, FakeOpenAI, RecordingSink

# Every client of the SDK builds a TLS context, which takes longer than most tests; none of them speaks TLS to a name.
ssl.create_default_context = functools.cache(ssl.create_default_context)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def server() -> Iterator[FakeOpenAI]:
    with FakeOpenAI() as server:
        yield server


@pytest.fixture
def sink() -> RecordingSink:
    return RecordingSink()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(params=[SafeOpenAI, AsyncSafeOpenAI], ids=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param

"""What the tests of the fake provider share: the bare SDK that talks to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from openai import OpenAI

from safe_llm.testing import FakeOpenAI


@pytest.fixture
def client(server: FakeOpenAI) -> Iterator[OpenAI]:
    with OpenAI(base_url=server.base_url, api_key="test", max_retries=0) as client:
        yield client


@pytest.fixture
def strict() -> Callable[[Any], Any]:
    """Gives back what the SDK parsed, if it has all that its type demands; the SDK itself lets anything pass."""

    def check(value: Any) -> Any:
        type(value).model_validate(value.to_dict())
        return value

    return check

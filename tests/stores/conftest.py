"""The servers behind the stores, started for the session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.servers import RedisServer, given_redis, redis_server


@pytest.fixture(scope="session")
def own_redis() -> Iterator[RedisServer]:
    """A Redis of which nobody else knows."""
    with redis_server() as server:
        yield server


@pytest.fixture(scope="session")
def redis_url(request: pytest.FixtureRequest) -> str:
    """The Redis that ``SAFE_LLM_TEST_REDIS_URL`` names, else one of our own."""
    given = given_redis()
    return given if given is not None else request.getfixturevalue("own_redis").url

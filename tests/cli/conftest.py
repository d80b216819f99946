"""The stores that commands reach, and the application that counts there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from benchmarks.servers import given_redis, redis_server, with_options
from safe_llm import SafeOpenAI
from safe_llm.testing import FakeOpenAI


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """The Redis that ``SAFE_LLM_TEST_REDIS_URL`` names, else one of our own."""
    given = given_redis()
    if given is not None:
        yield given
        return
    with redis_server() as server:
        yield server.url


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """A store in a file that an application has opened."""
    url = f"sqlite:///{tmp_path}/quotas.db"
    with SafeOpenAI(api_key="none", quota_store=url):
        pass
    return url


@pytest.fixture(params=["sqlite", "redis"])
def shared_url(request: pytest.FixtureRequest) -> str:
    """A store that processes share, empty."""
    if request.param == "sqlite":
        return str(request.getfixturevalue("sqlite_url"))
    return with_options(request.getfixturevalue("redis_url"), namespace=f"cli-{uuid4().hex}")


@pytest.fixture
def application(sqlite_url: str, server: FakeOpenAI) -> Iterator[SafeOpenAI]:
    """A client of an application that counts in `sqlite_url`."""
    with SafeOpenAI(api_key="none", base_url=server.base_url, quota_store=sqlite_url, sinks=[]) as client:
        yield client

"""What the tests of the frameworks share: bound clients, and what must be true of every call."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from scripted import COST, MODEL, done

from safe_llm import UsageRecord
from safe_llm.testing import FakeOpenAI, RecordingSink

ROOT = Path(__file__).parents[2]
EXAMPLE_SECONDS = 120
"""What an example may take on a busy machine; most of it is the import of its framework."""


@pytest.fixture(params=["responses", "chat.completions"])
def endpoint(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[False, True], ids=["plain", "streamed"])
def stream(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
async def make(kind: Any, server: FakeOpenAI, sink: RecordingSink) -> AsyncIterator[Callable[..., Any]]:
    """Makes clients of one colour against the server, with these limits for each user, and sections of the policy."""
    made: list[Any] = []

    def make(*limits: str, **sections: Any) -> Any:
        policy = {"plans": {"default": {"limits": list(limits)}}, **sections}
        client = kind(base_url=server.base_url, api_key="test", policy=policy, sinks=[sink])
        client.chat.completions, client.responses  # one that was used before keeps these, which its copies must not
        made.append(client)
        return client

    yield make
    for client in made:
        await done(client.close())


@pytest.fixture
def client(make: Callable[..., Any]) -> Any:
    """Bound to a user and a feature, as an application hands it to a framework."""
    return make("1_000 requests/day", "$1/day").with_identity(user_id="u1", feature="travel")


@pytest.fixture
def broke(make: Callable[..., Any]) -> Any:
    """Bound to a user who cannot pay for a single call."""
    return make("$0.0000001/day").with_identity(user_id="u1", feature="travel")


@pytest.fixture
def once(make: Callable[..., Any]) -> Any:
    """Bound to a user who may make one call."""
    return make("1 requests/day").with_identity(user_id="u1", feature="travel")


@pytest.fixture
def hurried(make: Callable[..., Any]) -> Any:
    """Bound to a user whose calls have a third of a second."""
    client = make("$1/day", time={"deadline_seconds": 0.3})
    return client.with_identity(user_id="u1", feature="travel")


@pytest.fixture
def accounted(server: FakeOpenAI, sink: RecordingSink) -> Callable[..., None]:
    """Demands a record for each model call, which says who made it and what it cost; the provider learns no names."""

    def accounted(endpoint: str, calls: int = 1, *, stream: bool = False) -> None:
        one = ("u1", "travel", endpoint, MODEL, stream, "ok", 1_000, 300, "provider", COST)
        assert [_facts(record) for record in sink.records] == [one] * calls
        assert [record.request_id for record in sink.records] == [request.id for request in server.requests]
        assert server.count == calls
        for request in server.requests:
            sent = f"{request.body} {dict(request.headers)}"
            assert not any(name in sent for name in ("u1", "travel", "safe_llm"))

    return accounted


def _facts(record: UsageRecord) -> tuple[Any, ...]:
    who = record.user_id, record.feature, record.endpoint, record.model, record.stream, record.outcome
    return *who, record.input_tokens, record.output_tokens, record.usage_source, record.cost_usd


@pytest.fixture
def refused(server: FakeOpenAI, sink: RecordingSink) -> Callable[..., None]:
    """Demands that after so many calls one was denied, once: who tries again leaves a record of each denial."""

    def refused(after: int = 0) -> None:
        assert [record.outcome for record in sink.records] == ["ok"] * after + ["denied"]
        assert sink.last.user_id == "u1"
        assert server.count == len(server.requests) == after

    return refused


@pytest.fixture
def kept_apart(server: FakeOpenAI, sink: RecordingSink) -> Callable[[int], None]:
    """Demands that alice and bob made so many calls each, and that the record of each call is of who spoke in it."""

    def kept_apart(calls: int) -> None:
        asked = {request.id: "alice" if "alice" in str(request.body) else "bob" for request in server.requests}
        assert sorted(asked.values()) == ["alice"] * calls + ["bob"] * calls
        assert {record.request_id: record.user_id for record in sink.records} == asked
        assert all(record.feature == f"{record.user_id}'s" for record in sink.records)

    return kept_apart


@pytest.fixture
def run_example(server: FakeOpenAI) -> Callable[[str], list[str]]:
    """Runs an example as a reader would, with the server for a provider, and gives back the lines that it prints."""

    def run_example(name: str) -> list[str]:
        environment = {**os.environ, "OPENAI_API_KEY": "none", "OPENAI_BASE_URL": server.base_url}
        command = [sys.executable, "-W", "error", f"examples/{name}.py"]
        finished = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=EXAMPLE_SECONDS
        )
        assert finished.returncode == 0, finished.stderr
        return finished.stdout.splitlines()

    return run_example

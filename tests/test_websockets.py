"""Websockets do not pass the client's request: they are closed, every one that the installed SDK has."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import pytest

from safe_llm import AsyncSafeOpenAI, RouteBlockedError, SafeAzureOpenAI, SafeOpenAI

SKIPPED = ("with_raw_response", "with_streaming_response")


def sockets(resource: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Each ``connect`` at or below a resource of the SDK."""
    if callable(getattr(resource, "connect", None)):
        yield path, resource.connect
    for cls in type(resource).__mro__:
        for name, value in vars(cls).items():
            if isinstance(value, cached_property) and name not in SKIPPED and cls.__module__.startswith("openai"):
                yield from sockets(getattr(resource, name), f"{path}.{name}")


@pytest.mark.parametrize("kind", [SafeOpenAI, AsyncSafeOpenAI])
def test_every_websocket_of_the_sdk_is_closed(kind: Any) -> None:
    found = list(sockets(kind(api_key="k"), "client"))
    assert {"client.realtime", "client.responses", "client.beta.realtime"} <= {path for path, _ in found}
    for path, connect in found:
        with pytest.raises(RouteBlockedError, match="Websockets"):
            connect(model="gpt-realtime")
        assert path


def test_azure_websockets_are_closed_too() -> None:
    client = SafeAzureOpenAI(azure_endpoint="https://example.invalid", api_version="1", api_key="k")
    with pytest.raises(RouteBlockedError):
        client.realtime.connect(model="gpt-realtime")


def test_a_policy_that_opens_all_routes_opens_websockets() -> None:
    client = SafeOpenAI(api_key="k", policy={"routes": {"allow": ["*"]}})
    assert type(client.realtime.connect(model="gpt-realtime")).__name__ == "RealtimeConnectionManager"

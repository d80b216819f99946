"""What the provider would say. One file per API surface, one line in `ROUTES`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ..reply import Reply, Request
from . import chat, completions, embeddings, responses
from .draft import Events, MalformedRequestError, sse

__all__ = ["ROUTES", "Events", "MalformedRequestError", "Route", "sse"]


class Route(NamedTuple):
    body: Callable[[Request, Reply], dict[str, Any]]
    events: Callable[[Request, Reply], Events] | None = None
    """None: the surface does not stream."""


ROUTES: dict[str, Route] = {
    "/chat/completions": Route(chat.body, chat.events),
    "/completions": Route(completions.body, completions.events),
    "/embeddings": Route(embeddings.body),
    "/responses": Route(responses.body, responses.events),
}

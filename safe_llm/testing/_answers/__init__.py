"""What the provider would say. One file per API surface, one line in `ROUTES`."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ..reply import Reply, Request
from . import chat, compaction, completions, embeddings, images, moderations, responses, speech, transcriptions
from .draft import Body, Events, MalformedRequestError, Media, asks_to_stream, sse

__all__ = ["ROUTES", "Body", "Events", "MalformedRequestError", "Media", "Route", "sse"]


class Route(NamedTuple):
    body: Callable[[Request, Reply], Body]
    events: Callable[[Request, Reply], Events] | None = None
    """None: the surface does not stream."""
    streams: Callable[[Request], bool] = asks_to_stream
    """Whether this request is answered by `events`."""
    needs_body: bool = True
    """What has no body of parameters is malformed."""


ROUTES: dict[str, Route] = {
    "/audio/speech": Route(speech.body, speech.events, speech.streams),
    "/audio/transcriptions": Route(transcriptions.body, transcriptions.events, transcriptions.streams),
    "/audio/translations": Route(transcriptions.translation),
    "/chat/completions": Route(chat.body, chat.events),
    "/completions": Route(completions.body, completions.events),
    "/embeddings": Route(embeddings.body),
    "/images/edits": Route(images.body, images.edit_events, images.streams),
    "/images/generations": Route(images.body, images.generation_events, images.streams),
    "/images/variations": Route(images.body),
    "/moderations": Route(moderations.body),
    "/responses": Route(responses.body, responses.events),
    "/responses/compact": Route(compaction.body),
}

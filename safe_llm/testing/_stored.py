"""The responses that a server has given, for those who come back for them."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ._answers import Route, responses
from .reply import Reply, Request

_PATH = re.compile(r"/responses/(?P<id>[^/]+)(?P<cancel>/cancel)?")


@dataclass(slots=True)
class _Stored:
    request: Request
    reply: Reply
    status: Literal["queued", "cancelled", "done"]
    polls: float
    """Retrievals for which it is still in progress, if it is queued."""

    def retrieved(self, query: Mapping[str, str]) -> Route:
        """A stream waits for the end, so it does not count as a poll; of what is cancelled there is none."""
        stream = query.get("stream") == "true"
        if self.status == "queued" and (stream or self.polls < 1):
            self.status = "done"
        if self.status == "done":
            after = query.get("starting_after", "")
            return self._done(skip=int(after) + 1 if after.isdecimal() else 0, stream=stream)
        self.polls -= 1
        return self._unfinished("cancelled" if self.status == "cancelled" else "in_progress")

    def cancelled(self) -> Route:
        """Of what is done already, nothing is cancelled."""
        if self.status == "done":
            return self._done()
        self.status = "cancelled"
        return self._unfinished("cancelled")

    def _done(self, skip: int = 0, stream: bool = False) -> Route:
        return Route(
            lambda _, reply: responses.finished(self.request, reply),
            lambda _, reply: responses.events(self.request, reply, skip),
            lambda _: stream,
            needs_body=False,
        )

    def _unfinished(self, status: str) -> Route:
        return Route(lambda _, reply: responses.unfinished(self.request, reply, status), needs_body=False)


class StoredResponses:
    """What was answered to ``POST /responses``, unless the request said not to store it."""

    def __init__(self) -> None:
        self.manners: deque[Reply] = deque()
        self._given: dict[str, _Stored] = {}

    def keep(self, request: Request, reply: Reply) -> None:
        body = request.body
        if not isinstance(body, Mapping) or body.get("store") is False or reply.status >= 400 or reply.body is not None:
            return
        stored = _Stored(request, reply, "queued" if body.get("background") else "done", reply.polls)
        self._given[responses.response_id(request)] = stored

    def answer(self, request: Request, path: str) -> tuple[Reply, Route | None] | None:
        """To a retrieval or a cancellation; None to anything else."""
        found = _PATH.fullmatch(path)
        if found is None or request.method != ("POST" if found["cancel"] else "GET"):
            return None
        stored = self._given.get(found["id"])
        if stored is None:
            return Reply(status=404, error={"message": f"Response with id '{found['id']}' not found."}), None
        if found["cancel"] and not stored.request.body.get("background"):
            return Reply(status=400, error={"message": "Cannot cancel a synchronous response."}), None
        reply = stored.reply.in_the_manner_of(self.manners.popleft() if self.manners else Reply())
        if reply.status >= 400:
            return reply, None
        return reply, stored.cancelled() if found["cancel"] else stored.retrieved(request.query)

"""Every route of the API that is not guarded: free, or blocked unless the policy opens it.

Reads, deletes and cancels are free: they run no model. A POST is closed unless it is free by name, so that a route
which a new SDK brings is closed until somebody has looked at it.
"""

from __future__ import annotations

import re
from collections.abc import Container
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal
from urllib.parse import unquote, urlsplit

FREE_POSTS = re.compile(
    r"/files|/uploads(/[^/]+/(parts|complete|cancel))?|/moderations|/conversations(/[^/]+(/items)?)?"
    r"|/responses/input_tokens|/chat/completions/[^/]+|.*/cancel"
    r"|/evals/[^/]+/runs/[^/]+|/(realtime/calls|live/sessions)/[^/]+/(hangup|reject)"
)
"""POST routes that run no model and rent nothing, or end what does. A stored completion's POST only changes its
metadata, and that of a run of evals cancels it."""

BLOCKED = (
    # They run a model now, later, or for as long as something stays open.
    *("POST /batches", "POST /decisions", "POST /content_provenance_checks", "POST /chatkit/sessions"),
    *("POST /realtime/calls", "POST /realtime/calls/*/accept", "POST /realtime/calls/*/refer"),
    *("POST /realtime/client_secrets", "POST /realtime/sessions", "POST /realtime/transcription_sessions"),
    *("POST /realtime/translations/client_secrets", "POST /live/sessions", "POST /live/sessions/*/accept"),
    *("POST /live/sessions/*/fork", "POST /live/sessions/*/refer"),
    *("POST /videos", "POST /videos/characters", "POST /videos/edits", "POST /videos/extensions"),
    "POST /videos/*/remix",
    *("POST /fine_tuning/jobs", "POST /fine_tuning/jobs/*/resume", "POST /fine_tuning/jobs/*/pause"),
    *("POST /fine_tuning/alpha/graders/run", "POST /fine_tuning/alpha/graders/validate"),
    *("POST /fine_tuning/checkpoints/*/permissions", "POST /evals", "POST /evals/*", "POST /evals/*/runs"),
    *("POST /assistants", "POST /assistants/*", "POST /threads", "POST /threads/*", "POST /threads/runs"),
    *("POST /threads/*/messages", "POST /threads/*/messages/*", "POST /threads/*/runs", "POST /threads/*/runs/*"),
    "POST /threads/*/runs/*/submit_tool_outputs",
    *("POST /agents", "POST /agents/*", "POST /agents/automations", "POST /agents/automations/*"),
    *("POST /agents/automations/*/invocations", "POST /agents/automations/*/pause"),
    *("POST /agents/automations/*/resume", "POST /agents/environments", "POST /agents/environments/templates"),
    *("POST /agents/environments/templates/*", "POST /agents/environments/*/files", "POST /agents/sessions"),
    *("POST /agents/sessions/*", "POST /agents/sessions/*/events"),
    # They rent storage or a machine.
    *("POST /vector_stores", "POST /vector_stores/*", "POST /vector_stores/*/files", "POST /vector_stores/*/files/*"),
    *("POST /vector_stores/*/file_batches", "POST /vector_stores/*/search", "POST /containers"),
    *("POST /containers/*/files", "POST /audio/voices", "POST /audio/voice_consents", "POST /audio/voice_consents/*"),
    *("POST /skills", "POST /skills/*", "POST /skills/*/versions"),
    # They change who may do what.
    *("POST /vaults", "POST /vaults/*", "POST /vaults/*/credentials", "POST /vaults/*/credentials/*"),
    *("POST /webhook_endpoints", "POST /webhook_endpoints/*", "POST /webhook_endpoints/*/rotate_secret"),
    *("POST /webhook_endpoints/*/test", "PATCH /vaults/*", "POST /organization/**", "POST /projects/**"),
)
"""Routes that were looked at and stay closed, as a policy names them: ``*`` stands for one segment. What is neither
here, nor free, nor guarded is closed as well."""

_RESPONSE = re.compile(r"/responses/([^/]+)(/cancel)?")
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS", "DELETE")
_HIDDEN = re.compile(r"%(25)*(2e|2f|5c)|\\\\", re.IGNORECASE)
"""Dots and slashes that are not written as such."""


@dataclass(frozen=True, slots=True)
class Route:
    """One request's route: what to do with it, and how it reads in the policy."""

    kind: Literal["guarded", "free", "other"]
    method: str
    path: str
    deployment: str | None = None
    """The deployment that the URL names: Azure."""
    is_foreign: bool = False
    """It leads to another server than the client's own."""

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def response_id(self) -> str | None:
        """The response that the provider is asked for, in lower case; None where it is another route."""
        match = None if self.is_foreign else _RESPONSE.fullmatch(self.path)
        return match[1] if match and self.method == ("POST" if match[2] else "GET") else None

    @property
    def template(self) -> str:
        """As a policy names it: its ids are ``*``, where the route is one that is known."""
        return next((known for known in BLOCKED if "**" not in known and self.matches(known)), str(self))

    def matches(self, entry: str) -> bool:
        """Whether an entry of the policy means this route: ``*`` stands for one segment, ``**`` for all that follow."""
        method, _, path = entry.lower().partition(" ")
        wanted, found = path.split("/"), self.path.split("/")
        if wanted[-1] == "**":
            wanted, found = wanted[:-1], found[: len(wanted) - 1]
        fits = all(want in ("*", have) for want, have in zip(wanted, found, strict=False))
        return method == self.method.lower() and len(wanted) == len(found) and fits

    def opened_by(self, allow: tuple[str, ...]) -> bool:
        """Whether ``[routes] allow`` lets it through."""
        return any(entry == "*" or self.matches(entry) for entry in allow)


def classify(method: str, url: str, base: str, guarded: Container[str]) -> Route:
    """Find a request's route. `base` is the client's base URL; `guarded` holds the paths of the endpoints.

    The path is compared as a server would read it: decoded, without empty or dotted segments, below the base URL, so
    that no spelling of a guarded route passes for another.
    """
    path, deployment = _found(url, base)
    method = method.upper()
    if method == "POST" and path in guarded:
        return Route("guarded", method, path, deployment)
    if method in _SAFE_METHODS or (method == "POST" and FREE_POSTS.fullmatch(path)):
        return Route("free", method, path, is_foreign=_is_foreign(url, base))
    return Route("other", method, path)


def deployment_of(base: str) -> str | None:
    """The deployment that a client's base URL names: Azure."""
    return _found("", base)[1]


@lru_cache(256)
def _found(url: str, base: str) -> tuple[str, str | None]:
    """A URL's path below the base, in lower case, and the deployment that it names."""
    below, above = _segments(url), _segments(base)
    if above and _lower(below[: len(above)]) == _lower(above):
        below = below[len(above) :]
    for prefix in ("openai", "v1"):
        below = below[1:] if _lower(below[:1]) == [prefix] else below
    deployments = [pair[1] for pair in (above[-2:], below[:2]) if _lower(pair[:1]) == ["deployments"] and pair[1:]]
    if _lower(below[:1]) == ["deployments"]:
        below = below[2:]
        if _HIDDEN.search(urlsplit(url).path):
            return "/", None  # the HTTP client and the server may find two different deployments in it
    return "/" + "/".join(_lower(below)), deployments[-1] if deployments else None


def _segments(url: str) -> list[str]:
    """The segments of a URL's path as a server reads them: decoded, none of them empty or dotted."""
    path = unquote(unquote(urlsplit(url).path))
    kept: list[str] = []
    for segment in path.replace("\\", "/").split("/"):
        if segment == "..":
            del kept[-1:]
        elif segment not in ("", "."):
            kept.append(segment.strip())
    return kept


def _lower(segments: list[str]) -> list[str]:
    return [segment.lower() for segment in segments]


def _is_foreign(url: str, base: str) -> bool:
    """Whether a URL leads to another server than the client's own."""
    there, here = urlsplit(url), urlsplit(base)
    return bool(there.netloc) and (there.scheme, there.netloc.lower()) != (here.scheme, here.netloc.lower())

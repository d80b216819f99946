"""Every route of the API that is not guarded: free, or blocked unless the policy opens it.

Reads, deletes and cancels are free: they run no model. A POST is blocked unless it stands below, so that a route that
a new SDK brings is closed until somebody has looked at it.
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
)
"""POST routes that run no model and rent nothing. A stored completion's POST only changes its metadata."""

_RESPONSE = re.compile(r"/responses/([^/]+)(/cancel)?")
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS", "DELETE")
_DEPLOYED = re.compile(r"/deployments/([^/]+)", re.IGNORECASE)
_DEPLOYMENT = re.compile(r"^/deployments/[^/]+")


@dataclass(frozen=True, slots=True)
class Route:
    """One request's route: what to do with it, and how it reads in the policy."""

    kind: Literal["guarded", "free", "other"]
    method: str
    path: str
    deployment: str | None = None
    """The deployment that the URL names: Azure."""

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def response_id(self) -> str | None:
        """The response that it retrieves or cancels, in lower case; None where it does neither."""
        match = _RESPONSE.fullmatch(self.path)
        return match[1] if match and self.method == ("POST" if match[2] else "GET") else None

    def opened_by(self, allow: tuple[str, ...]) -> bool:
        """Whether ``[routes] allow`` lets it through."""
        return "*" in allow or str(self).lower() in [entry.lower() for entry in allow]


def classify(method: str, url: str, base: str, guarded: Container[str]) -> Route:
    """Find a request's route. `base` is the client's base URL; `guarded` holds the paths of the endpoints.

    The path is compared as a server would read it: decoded, without empty or dotted segments, below the base URL, so
    that no spelling of a guarded route passes for another.
    """
    path = _path(url, base)
    method = method.upper()
    if method == "POST" and path in guarded:
        return Route("guarded", method, path, _deployment(url) or _deployment(base))
    if method in _SAFE_METHODS or (method == "POST" and FREE_POSTS.fullmatch(path)):
        return Route("free", method, path)
    return Route("other", method, path)


@lru_cache(256)
def _path(url: str, base: str) -> str:
    return _DEPLOYMENT.sub("", _below(_cleaned(url), _cleaned(base))) or "/"


@lru_cache(256)
def _deployment(url: str) -> str | None:
    match = _DEPLOYED.search(unquote(urlsplit(url).path))
    return match[1] if match else None


def _cleaned(url: str) -> str:
    path = unquote(unquote(urlsplit(url).path))
    kept: list[str] = []
    for segment in path.replace("\\", "/").split("/"):
        if segment == "..":
            del kept[-1:]
        elif segment not in ("", "."):
            kept.append(segment.strip().lower())
    return "/" + "/".join(kept)


def _below(path: str, base: str) -> str:
    if base != "/" and (path == base or path.startswith(base + "/")):
        path = path[len(base) :]
    for version in ("/openai", "/v1"):
        path = path.removeprefix(version)
    return path

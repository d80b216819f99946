"""The list of models."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

from .reply import Reply, Request

MODELS = ("gpt-4o", "gpt-4o-mini", "text-embedding-3-small")


def models(request: Request, path: str) -> tuple[Reply, None] | None:
    """The answer to a request for the list, or for one model, whose name may be any; None to anything else."""
    if request.method == "GET" and path == "/models":
        return Reply(body={"object": "list", "data": [_model(name) for name in MODELS]}), None
    if request.method == "GET" and path.startswith("/models/"):
        return Reply(body=_model(unquote(path.removeprefix("/models/")))), None
    return None


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 1_700_000_000, "owned_by": "openai"}

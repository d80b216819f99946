"""Embeddings. The vectors have the right shape and length, and no meaning."""

from __future__ import annotations

import base64
import struct
from typing import Any

from ...types import Usage
from ..reply import Reply, Request
from .draft import batch_size, draft, whole_number, words

DIMENSIONS = 1536
"""Of text-embedding-3-small and text-embedding-ada-002, where the request names no other."""


def body(request: Request, reply: Reply) -> dict[str, Any]:
    given = request.body.get("input")
    # It has no words of its own, so none may be billed.
    answer = draft(request, reply, prompt_tokens=words(given), cap=0)
    length = whole_number(request, "dimensions") or DIMENSIONS
    vector: list[float] | str = [length**-0.5] * length
    if request.body.get("encoding_format") == "base64":
        vector = base64.b64encode(struct.pack(f"<{length}f", *vector)).decode()
    usage = answer.usage
    if isinstance(usage, Usage):
        usage = {"prompt_tokens": usage.input_tokens, "total_tokens": usage.input_tokens}
    data = [{"object": "embedding", "index": index, "embedding": vector} for index in range(batch_size(given))]
    result = {"object": "list", "data": data, "model": answer.model}
    return result if usage is None else result | {"usage": usage}

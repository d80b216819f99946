"""Embeddings: ``POST /embeddings``. They read, and write nothing that is billed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .. import tokens
from ..types import Call, Part, Usage
from .base import Count, Endpoint
from .reading import read_texts, read_usage, text_parts


class Embeddings(Endpoint):
    """Reads and meters embeddings."""

    name = "embeddings"
    path = "/embeddings"
    answers_in_words = False

    def read(self, call: Call) -> None:
        read_texts(call.body.get("input"), "input")
        call.most_output = 0

    def parts(self, call: Call) -> tuple[Part, ...]:
        return text_parts(call.body.get("input"), "input")

    def prompt(self, call: Call) -> Any:
        return call.body.get("input")

    def overhead(self, call: Call, count: Count) -> int:
        return tokens.input_tokens(call.body.get("input"), count)

    def usage(self, item: Mapping[str, Any]) -> Usage | None:
        usage = item.get("usage")
        return read_usage({**usage, "output": 0}, "prompt_tokens", "output") if type(usage) is dict else None


EMBEDDINGS = Embeddings()

"""Legacy completions: ``POST /completions``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .. import tokens
from ..policy import InputRules
from ..types import Call, Part, Usage
from .base import Count, Endpoint
from .reading import (
    asking_for_usage,
    asks_for_usage,
    hold_length,
    read_texts,
    read_usage,
    text_or_none,
    text_parts,
    texts_of,
    whole_number,
)


class Completions(Endpoint):
    """Reads, writes and meters legacy completions."""

    name = "completions"
    path = "/completions"
    cap_field = "max_tokens"

    def read(self, call: Call) -> None:
        body = call.body
        prompts = 1 if body.get("prompt") is None else read_texts(body["prompt"], "prompt")
        text_or_none(body, "suffix")
        call.cap = whole_number(body, "max_tokens")
        # All answers that are made are billed, and not only the best of them that are shown.
        call.answers = prompts * max(whole_number(body, "n") or 1, whole_number(body, "best_of", least=0) or 1)

    def validate(self, call: Call, rules: InputRules) -> None:
        for name in ("prompt", "suffix"):
            for text in texts_of(call.body.get(name)):
                hold_length(name, len(text), rules)

    def parts(self, call: Call) -> tuple[Part, ...]:
        return text_parts(call.body.get("prompt"), "prompt") + text_parts(call.body.get("suffix"), "suffix")

    def prompt(self, call: Call) -> Any:
        return [call.body.get("prompt"), call.body.get("suffix")]

    def overhead(self, call: Call, count: Count) -> int:
        prompt = call.body.get("prompt") or ""
        prompts = len(prompt) if isinstance(prompt, list) and not isinstance(prompt[0], int) else 1
        return tokens.input_tokens(prompt, count) + prompts * count(call.body.get("suffix") or "")

    def write(self, call: Call) -> dict[str, Any]:
        body = super().write(call)
        if call.stream:
            body["stream_options"] = asking_for_usage(body)
        return body

    def wants_usage(self, call: Call) -> bool:
        return asks_for_usage(call.body)

    def usage(self, item: Mapping[str, Any]) -> Usage | None:
        return read_usage(item.get("usage"), "prompt_tokens", "completion_tokens")

    def said(self, item: Mapping[str, Any]) -> tuple[str, bool]:
        choices = item.get("choices")
        found = [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []
        texts = [choice.get("text") for choice in found]
        ended = any(choice.get("finish_reason") for choice in found)
        return "".join(text for text in texts if isinstance(text, str)), ended

    def only_usage(self, item: Mapping[str, Any]) -> bool:
        return not item.get("choices") and not item.get("error")


COMPLETIONS = Completions()

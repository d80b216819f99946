"""Legacy completions."""

from __future__ import annotations

from typing import Any

from ..reply import Reply, Request
from .draft import DONE, Draft, Events, batch_size, completion_usage, draft, sse, whole_number, words


def body(request: Request, reply: Reply) -> dict[str, Any]:
    answer = _draft(request, reply)
    completion = _head(answer) | {"choices": _choices(answer, answer.text or "", answer.finish_reason)}
    if answer.usage is not None:
        completion["usage"] = completion_usage(answer.usage)
    return completion


def events(request: Request, reply: Reply) -> Events:
    answer = _draft(request, reply)
    head = _head(answer)
    content = [sse(head | {"choices": [choice]}) for piece in answer.pieces for choice in _choices(answer, piece)]
    closing = [sse(head | {"choices": [choice]}) for choice in _choices(answer, "", answer.finish_reason)]
    if answer.usage is not None and (request.body.get("stream_options") or {}).get("include_usage"):
        closing.append(sse(head | {"choices": [], "usage": completion_usage(answer.usage)}))
    return Events([], content, closing, DONE)


def _draft(request: Request, reply: Reply) -> Draft:
    prompt = request.body.get("prompt")
    answers = batch_size(prompt) * (whole_number(request, "n") or 1)
    cap = whole_number(request, "max_tokens")
    return draft(request, reply, prompt_tokens=words(prompt), cap=cap, answers=answers)


def _head(answer: Draft) -> dict[str, Any]:
    number, created, model = answer.number, answer.created, answer.model
    return {"id": f"cmpl-{number}", "object": "text_completion", "created": created, "model": model}


def _choices(answer: Draft, text: str, finish_reason: str | None = None) -> list[dict[str, Any]]:
    choice = {"text": text, "logprobs": None, "finish_reason": finish_reason}
    return [{"index": index} | choice for index in range(answer.answers)]

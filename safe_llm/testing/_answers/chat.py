"""Chat completions."""

from __future__ import annotations

from typing import Any

from ..reply import Reply, Request
from .draft import (
    DONE,
    Draft,
    Events,
    MalformedRequestError,
    completion_usage,
    conversation,
    draft,
    split,
    sse,
    whole_number,
)


def body(request: Request, reply: Reply) -> dict[str, Any]:
    answer = _draft(request, reply)
    message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": answer.refusal}
    if answer.tool_calls:
        message["tool_calls"] = [
            {"id": _call_id(answer, position), "type": "function", "function": dict(call)}
            for position, call in enumerate(answer.tool_calls)
        ]
    completion = _head(answer, "chat.completion") | {
        "choices": [
            {"index": index, "message": message, "logprobs": None, "finish_reason": answer.finish_reason}
            for index in range(answer.answers)
        ],
    }
    if answer.usage is not None:
        completion["usage"] = completion_usage(answer.usage)
    return completion


def events(request: Request, reply: Reply) -> Events:
    """As the real API: the usage comes only when ``stream_options.include_usage`` asks for it, in a chunk of its own
    behind all choices, and is null in the chunks before.
    """
    answer = _draft(request, reply)
    head = _head(answer, "chat.completion.chunk")
    asked = answer.usage is not None and bool((request.body.get("stream_options") or {}).get("include_usage"))
    if asked:
        head["usage"] = None

    def chunks(delta: dict[str, Any], finish_reason: str | None = None) -> list[bytes]:
        choice = {"delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return [sse(head | {"choices": [{"index": index} | choice]}) for index in range(answer.answers)]

    content = [chunk for delta in _deltas(answer) for chunk in chunks(delta)]
    closing = chunks({}, answer.finish_reason)
    if asked and answer.usage is not None:
        closing.append(sse(head | {"choices": [], "usage": completion_usage(answer.usage)}))
    return Events(chunks({"role": "assistant", "content": "", "refusal": None}), content, closing, DONE)


def _draft(request: Request, reply: Reply) -> Draft:
    messages = request.body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise MalformedRequestError("messages", "a list of at least one message")
    cap = whole_number(request, "max_completion_tokens") or whole_number(request, "max_tokens")
    answers = whole_number(request, "n") or 1
    return draft(request, reply, prompt_tokens=conversation(messages), cap=cap, answers=answers)


def _head(answer: Draft, kind: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{answer.number}",
        "object": kind,
        "created": answer.created,
        "model": answer.model,
        "service_tier": answer.service_tier,
        "system_fingerprint": None,
    }


def _deltas(answer: Draft) -> list[dict[str, Any]]:
    deltas: list[dict[str, Any]] = [{"refusal" if answer.refused else "content": piece} for piece in answer.pieces]
    for position, call in enumerate(answer.tool_calls):
        function = {"name": call["name"], "arguments": ""}
        opening = {"index": position, "id": _call_id(answer, position), "type": "function", "function": function}
        deltas.append({"tool_calls": [opening]})
        deltas += [
            {"tool_calls": [{"index": position, "function": {"arguments": piece}}]}
            for piece in split(call["arguments"])
        ]
    return deltas


def _call_id(answer: Draft, position: int) -> str:
    return f"call_{answer.number}_{position}"

"""The Responses API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...types import Usage
from ..reply import Reply, Request
from .draft import Draft, Events, conversation, draft, split, sse, whole_number, words


def body(request: Request, reply: Reply) -> dict[str, Any]:
    return _whole(_draft(request, reply))


def events(request: Request, reply: Reply) -> Events:
    """As the real API: numbered events, the whole response in the first and the last, usage only in the last."""
    answer = _draft(request, reply)
    whole = _whole(answer)
    begun = _response(answer, "in_progress", []) | {"usage": None}
    opening = [{"type": "response.created", "response": begun}, {"type": "response.in_progress", "response": begun}]
    content: list[dict[str, Any]] = []
    closing: list[dict[str, Any]] = []
    for position, item in enumerate(whole["output"]):
        before, pieces, after = _item_events(answer, item, position)
        # Only the first item can open before, and only the last one close after, all of the content.
        (content if position else opening).extend(before)
        content += pieces
        (closing if position == len(whole["output"]) - 1 else content).extend(after)
    closing.append({"type": f"response.{whole['status']}", "response": whole})

    numbered = [
        sse(event | {"sequence_number": number}, event["type"])
        for number, event in enumerate([*opening, *content, *closing])
    ]
    first, last = len(opening), len(opening) + len(content)
    return Events(numbered[:first], numbered[first:last], numbered[last:-1], numbered[-1])


Stages = tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]


def _item_events(answer: Draft, item: dict[str, Any], position: int) -> Stages:
    """What comes before, with and after the content of one output item."""
    where = {"item_id": item["id"], "output_index": position}
    added = {"type": "response.output_item.added", "output_index": position}
    done = {"type": "response.output_item.done", "output_index": position, "item": item}
    if item["type"] == "function_call":
        kind, pieces = "function_call_arguments", split(item["arguments"])
        finished = {"arguments": item["arguments"], "name": item["name"]}
        before = [added | {"item": item | {"arguments": "", "status": "in_progress"}}]
        after: list[dict[str, Any]] = []
    else:
        part = item["content"][0]
        kind, field = part["type"], part["type"].removeprefix("output_")
        pieces, finished = answer.pieces, {field: part[field]}
        where |= {"content_index": 0}
        before = [
            added | {"item": item | {"content": [], "status": "in_progress"}},
            where | {"type": "response.content_part.added", "part": part | {field: ""}},
        ]
        after = [where | {"type": "response.content_part.done", "part": part}]
    extra: dict[str, Any] = {"logprobs": []} if kind == "output_text" else {}
    deltas = [where | extra | {"type": f"response.{kind}.delta", "delta": piece} for piece in pieces]
    return before, deltas, [where | extra | {"type": f"response.{kind}.done"} | finished, *after, done]


def _draft(request: Request, reply: Reply) -> Draft:
    prompt = conversation(request.body.get("input")) + words(request.body.get("instructions"))
    return draft(request, reply, prompt_tokens=prompt, cap=whole_number(request, "max_output_tokens"))


def _whole(answer: Draft) -> dict[str, Any]:
    status = "incomplete" if answer.capped else "completed"
    return _response(answer, status, [_message(answer, status)] * bool(answer.pieces) + _calls(answer))


def _response(answer: Draft, status: str, output: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "id": f"resp_{answer.number}",
        "object": "response",
        "created_at": answer.created,
        "status": status,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
        "instructions": None,
        "metadata": {},
        "model": answer.model,
        "output": output,
        "parallel_tool_calls": True,
        "service_tier": answer.service_tier,
        "tool_choice": "auto",
        "tools": [],
        "usage": _usage(answer.usage),
    }


def _message(answer: Draft, status: str) -> dict[str, Any]:
    if answer.refused:
        part: dict[str, Any] = {"type": "refusal", "refusal": answer.refusal}
    else:
        part = {"type": "output_text", "text": answer.text, "annotations": [], "logprobs": []}
    message_id = f"msg_{answer.number}"
    return {"id": message_id, "type": "message", "role": "assistant", "status": status, "content": [part]}


def _calls(answer: Draft) -> list[dict[str, Any]]:
    return [
        {
            "id": f"fc_{answer.number}_{position}",
            "call_id": f"call_{answer.number}_{position}",
            "type": "function_call",
            "status": "completed",
            "name": call["name"],
            "arguments": call["arguments"],
        }
        for position, call in enumerate(answer.tool_calls)
    ]


def _usage(usage: Usage | Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    if not isinstance(usage, Usage):
        return usage
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_input_tokens},
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.total_tokens,
    }

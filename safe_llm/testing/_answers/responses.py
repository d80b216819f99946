"""The Responses API: a response as it is created, and as it is retrieved later."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...types import Usage
from ..reply import Reply, Request
from .draft import Draft, Events, conversation, draft, split, sse, whole_number, words
from .hosted import hosted_items, tool_usage


def response_id(request: Request) -> str:
    return f"resp_{request.id.removeprefix('req_')}"


def body(request: Request, reply: Reply) -> dict[str, Any]:
    """A background response is only queued."""
    return unfinished(request, reply, "queued") if request.body.get("background") else finished(request, reply)


def finished(request: Request, reply: Reply) -> dict[str, Any]:
    return _finished(request, reply, _draft(request, reply))


def _finished(request: Request, reply: Reply, answer: Draft) -> dict[str, Any]:
    status = "failed" if reply.failure is not None else "incomplete" if answer.capped else "completed"
    said = [_message(answer, "completed" if status == "completed" else "incomplete")] * bool(answer.pieces)
    hosted = hosted_items(reply, answer.number)
    whole = _response(request, answer, status, hosted + said + _calls(answer))
    if hosted:
        whole["tool_usage"] = tool_usage(hosted)
    if reply.failure is not None:
        whole |= {"error": dict(reply.failure)}
        if reply.usage == "computed":
            whole["usage"] = None
    return whole


def unfinished(request: Request, reply: Reply, status: str) -> dict[str, Any]:
    """A response that is queued, in progress or cancelled: without output, and without usage."""
    return _unfinished(request, _draft(request, reply), status)


def _unfinished(request: Request, answer: Draft, status: str) -> dict[str, Any]:
    return _response(request, answer, status, []) | {"usage": None}


def events(request: Request, reply: Reply, skip: int = 0) -> Events:
    """As the real API: numbered events, the whole response in the first and the last, usage only in the last. The first
    `skip` are left out.
    """
    answer = _draft(request, reply)
    whole = _finished(request, reply, answer)
    begun = _unfinished(request, answer, "in_progress")
    opening = [{"type": "response.created", "response": begun}, {"type": "response.in_progress", "response": begun}]
    content: list[dict[str, Any]] = []
    closing: list[dict[str, Any]] = []
    for position, item in enumerate(whole["output"]):
        before, pieces, after = _item_events(answer, item, position)
        # What stands before the first piece opens the stream, and what stands behind the last one closes it.
        (content or opening).extend(before)
        content += pieces
        (closing if position == len(whole["output"]) - 1 else content or opening).extend(after)
    closing.append({"type": f"response.{whole['status']}", "response": whole})

    numbered = [
        sse(event | {"sequence_number": number}, event["type"])
        for number, event in enumerate([*opening, *content, *closing])
    ]
    first, last = len(opening), len(opening) + len(content)
    return Events(numbered[skip:first], numbered[max(skip, first) : last], numbered[max(skip, last) : -1], numbered[-1])


Stages = tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]


def _item_events(answer: Draft, item: dict[str, Any], position: int) -> Stages:
    """What comes before, with and after the content of one output item."""
    where = {"item_id": item["id"], "output_index": position}
    added = {"type": "response.output_item.added", "output_index": position}
    done = {"type": "response.output_item.done", "output_index": position, "item": item}
    if item["type"] not in ("function_call", "message"):
        return [added | {"item": item | {"status": "in_progress"}}], [], [done]
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


def _response(request: Request, answer: Draft, status: str, output: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "id": response_id(request),
        "object": "response",
        "created_at": answer.created,
        "status": status,
        "background": bool(request.body.get("background")),
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
        "instructions": None,
        "metadata": {},
        "model": answer.model,
        "output": output,
        "parallel_tool_calls": True,
        "service_tier": answer.service_tier,
        "text": request.body.get("text") or {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "usage": usage_of(answer.usage),
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


def usage_of(usage: Usage | Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """A usage in the words of the Responses API."""
    if not isinstance(usage, Usage):
        return usage
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {
            "cached_tokens": usage.cached_input_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
        },
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.total_tokens,
    }

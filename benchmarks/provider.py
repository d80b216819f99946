"""A provider inside this process: it answers at once, so that what is measured is the client.

Imports nothing of safe_llm: `first_call` measures the bare SDK with it too.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import openai
from openai import DefaultAsyncHttpxClient, DefaultHttpxClient

MODEL = "gpt-4o-mini"
CHUNKS = 53
"""Events of a streamed answer, without ``[DONE]`` and without the usage that only some callers ask for."""

_USAGE = {
    "prompt_tokens": 9,
    "completion_tokens": 51,
    "total_tokens": 60,
    "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
}
_NAMES = {"id": "chatcmpl-1", "created": 1_800_000_000, "model": f"{MODEL}-2024-07-18", "service_tier": "default"}


def _answer() -> bytes:
    message: dict[str, Any] = {"role": "assistant", "content": "a short answer " * 10, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    return json.dumps({**_NAMES, "object": "chat.completion", "choices": [choice], "usage": _USAGE}).encode()


def _event(choices: list[dict[str, Any]], **more: object) -> bytes:
    chunk = {**_NAMES, "object": "chat.completion.chunk", "choices": choices, **more}
    return f"data: {json.dumps(chunk)}\n\n".encode()


def _item(kind: str, **fields: object) -> bytes:
    """One event of a streamed Response."""
    return f"event: {kind}\ndata: {json.dumps({'type': kind, 'sequence_number': 7, **fields})}\n\n".encode()


def _response(status: str, **more: object) -> dict[str, Any]:
    fixed = {"tools": [], "tool_choice": "auto", "parallel_tool_calls": True, "output": [], "metadata": {}}
    names = {"id": "resp_1", "object": "response", "created_at": 1_800_000_000, "model": f"{MODEL}-2024-07-18"}
    return {**names, **fixed, "status": status, "error": None, "usage": None, **more}


def _delta(delta: dict[str, str], finish_reason: str | None = None) -> bytes:
    return _event([{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}])


ANSWER = _answer()
EVENTS = [
    _delta({"role": "assistant", "content": ""}),
    *[_delta({"content": " word"})] * (CHUNKS - 2),
    _delta({}, "stop"),
]
_READ = {
    "input_tokens": 9,
    "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
    "output_tokens": 51,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": 60,
}
RESPONSE_EVENTS = [
    _item("response.created", response=_response("in_progress")),
    *[_item("response.output_text.delta", item_id="msg_1", output_index=0, content_index=0, delta=" word", logprobs=[])]
    * (CHUNKS - 2),
    _item("response.completed", response=_response("completed", usage=_READ)),
]
_LAST = _event([], usage=_USAGE)
_DONE = b"data: [DONE]\n\n"

# httpx or httpx2, whichever the installed SDK speaks.
_library: Any = sys.modules[DefaultHttpxClient.__mro__[1].__module__.partition(".")[0]]


class _Events(_library.SyncByteStream):  # type: ignore[misc]  # the library is known only at run time
    """Yields each event as bytes of their own, as a network would."""

    def __init__(self, events: list[bytes]) -> None:
        self._events = events

    def __iter__(self) -> Any:
        return iter(self._events)


def _respond(request: Any) -> Any:
    headers = {"content-type": "application/json", "x-request-id": "req_1"}
    asked = json.loads(request.content)
    if not asked.get("stream"):
        return _library.Response(200, content=ANSWER, headers=headers)
    if "input" in asked:
        headers["content-type"] = "text/event-stream; charset=utf-8"
        return _library.Response(200, stream=_Events(RESPONSE_EVENTS), headers=headers)
    # Whoever asks for usage is sent one event more, and reading it is part of the price.
    last = [_LAST] if (asked.get("stream_options") or {}).get("include_usage") else []
    headers["content-type"] = "text/event-stream; charset=utf-8"
    return _library.Response(200, stream=_Events([*EVENTS, *last, _DONE]), headers=headers)


def client(cls: type[Any], **options: Any) -> Any:
    """A client of a class of the SDK, or of one derived from it, that talks to this provider."""
    http = DefaultAsyncHttpxClient if issubclass(cls, openai.AsyncOpenAI) else DefaultHttpxClient
    return cls(api_key="none", http_client=http(transport=_library.MockTransport(_respond)), **options)

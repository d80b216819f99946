"""What a chat request costs as input, counted message by message with whichever counter is handed in.

The same code gives a bound in microseconds (`upper_bound`) and the exact count (`exact`). The constants were fitted to
requests recorded with the provider's own counts; of plain text they are exact, of tools and schemas they come close.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .images import audio_tokens, file_tokens, image_tokens
from .text import Counter, family
from .tools import compact, typescript

Message = Mapping[str, Any]

PER_MESSAGE = 4
"""The frame of a message, its role included."""
PER_NAME = 1
PER_CALL = 9
PARALLEL_CALLS = 12
"""The wrapper of several tool calls in one message."""
PRIMING = 3
"""The beginning of the answer."""
PRIMING_OF_GPT_5 = 2
TOOLS = 9
"""What stands around the definitions of the tools."""
TOOL_INSTRUCTIONS = 83
"""What the gpt-5 family is told about its tools; gpt-6 is taken to be told as much."""
SCHEMA = 8
"""What stands around the JSON schema of a response format."""
MARGIN_PERCENT = 10

_FREE_FIELDS = frozenset({"role", "tool_call_id"})
_PLAIN_FIELDS = frozenset({"role", "content", "name", "refusal"})
_PLAIN_ROLES = frozenset({"system", "developer", "user", "assistant"})


def request_tokens(body: Mapping[str, Any], count: Counter, model: str) -> int:
    """Input tokens of a chat request: `overhead_tokens` and each of its messages."""
    messages = body.get("messages") or ()
    return overhead_tokens(body, count, model) + sum(message_tokens(message, count, model) for message in messages)


def bound_tokens(body: Mapping[str, Any], count: Counter, model: str) -> int:
    """What is reserved for the input of a chat request.

    That is `request_tokens`, and 10 % more where a request is not plain text: how a model reads tools, schemas, calls
    and images is known only by observation. With `upper_bound` it is never below the same with an exact counter.
    """
    tokens = request_tokens(body, count, model)
    return tokens if is_plain(body) else with_margin(tokens)


def with_margin(tokens: int) -> int:
    """A count with the margin for requests that are not plain text."""
    return tokens + -(-tokens * MARGIN_PERCENT // 100)


def is_plain(body: Mapping[str, Any]) -> bool:
    """Whether a request holds nothing but text: its exact count is then what the provider will bill."""
    if body.get("tools") or body.get("functions") or _schema(body):
        return False
    return all(_is_plain_message(message) for message in body.get("messages") or ())


def overhead_tokens(body: Mapping[str, Any], count: Counter, model: str) -> int:
    """Input tokens of a chat request without its messages: tools, functions, response format, priming."""
    name = family(model)
    tokens = PRIMING_OF_GPT_5 if name.startswith("gpt-5") else PRIMING
    if tools := [*(body.get("tools") or ()), *(body.get("functions") or ())]:
        tokens += TOOLS + count(typescript(tools))
        if name.startswith(("gpt-5", "gpt-6")):
            tokens += TOOL_INSTRUCTIONS
    if isinstance(choice := body.get("tool_choice") or body.get("function_call"), Mapping):
        tokens += count(compact(choice))
    if schema := _schema(body):
        tokens += SCHEMA + count(compact(schema))
    return tokens


def message_tokens(message: Message, count: Counter, model: str) -> int:
    """Input tokens of one chat message. A field that is not known counts as its JSON."""
    tokens = PER_MESSAGE
    for field, value in message.items():
        if field not in _FREE_FIELDS and value:
            tokens += _field_tokens(field, value, count, model)
    return tokens


def _field_tokens(field: str, value: Any, count: Counter, model: str) -> int:
    match field, value:
        case "content" | "refusal", str():
            return count(value)
        case "name", str():
            return PER_NAME + count(value)
        case "content", list():
            return sum(_part_tokens(part, count, model) for part in value)
        case "tool_calls", list():
            return sum(_call_tokens(call, count) for call in value) + (PARALLEL_CALLS if len(value) > 1 else 0)
        case "function_call", _:
            return _call_tokens({"function": value}, count)
    return count(compact(value))


def _call_tokens(call: object, count: Counter) -> int:
    match call:
        case {"function": {"name": str(name), "arguments": str(arguments)}}:
            return PER_CALL + count(name) + count(arguments)
    return PER_CALL + count(compact(call))


def _part_tokens(part: object, count: Counter, model: str) -> int:
    match part:
        case {"type": "text", "text": str(text)} | {"type": "refusal", "refusal": str(text)}:
            return count(text)
        case {"type": "image_url", "image_url": {"url": str(url), **rest}}:
            return image_tokens(url, str(rest.get("detail")), model)
        case {"type": "input_audio", "input_audio": {"data": str(data), **rest}}:
            return audio_tokens(data, str(rest.get("format")))
        case {"type": "file", "file": {"file_data": str(data)}}:
            return file_tokens(data, model)
    return count(compact(part))


def _schema(body: Mapping[str, Any]) -> Any:
    response_format = body.get("response_format")
    return response_format.get("json_schema") if isinstance(response_format, Mapping) else None


def _is_plain_message(message: Message) -> bool:
    if message.get("role") not in _PLAIN_ROLES or any(message[field] for field in message.keys() - _PLAIN_FIELDS):
        return False
    match message.get("content"):
        case None | str():
            return True
        case list(parts):
            return all(isinstance(part, Mapping) and part.get("type") == "text" for part in parts)
    return False

"""What a Responses request costs as input: each item is read as the chat message that says the same, and counted so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .chat import Message, message_tokens, overhead_tokens
from .text import Counter
from .tools import compact

# What the surface adds of its own accord, as seen in recorded requests.
NO_TOOLS = 18
"""For a list of tools that is given and empty."""
ONE_CALL_AT_A_TIME = 15
"""For ``parallel_tool_calls`` switched off."""
STRICT_WITHOUT_PROPERTIES = 210
"""For each strict function that takes nothing."""

_TEXT_PARTS = frozenset({"input_text", "output_text", "text", "summary_text", "reasoning_text"})
_CALLS = frozenset({"function_call", "custom_tool_call"})


def as_message(item: Mapping[str, Any]) -> Message:
    """An input item as a chat message. What has no such form is its own JSON, so that it counts for something."""
    kind = item.get("type")
    if item.get("role") is not None and kind in (None, "message"):
        return {"role": item["role"], "content": _content(item.get("content"))}
    if isinstance(kind, str) and kind in _CALLS:
        said = item.get("arguments", item.get("input"))
        return {"role": "assistant", "tool_calls": [{"function": {"name": item.get("name"), "arguments": said}}]}
    if isinstance(kind, str) and kind.endswith("_output"):
        return {"role": "tool", "content": _content(item.get("output", item.get("result")))}
    if kind == "image_generation_call" and isinstance(item.get("result"), str):
        drawn = {"type": "input_image", "image_url": f"data:image/png;base64,{item['result']}"}
        said = {name: value for name, value in item.items() if name != "result"}
        return {"role": "assistant", "content": [_part(drawn), {"type": "text", "text": compact(said)}]}
    return {"role": "assistant", "content": compact(item)}


def item_tokens(item: Mapping[str, Any], count: Counter, model: str) -> int:
    """Input tokens of one input item."""
    return message_tokens(as_message(item), count, model)


def response_overhead(body: Mapping[str, Any], count: Counter, model: str) -> int:
    """Input tokens of a Responses request without its items: instructions, tools, schema, priming."""
    text = body.get("text")
    schema = text.get("format") if isinstance(text, Mapping) else None
    as_chat: dict[str, Any] = {"tools": body.get("tools"), "tool_choice": body.get("tool_choice")}
    if isinstance(schema, Mapping) and schema.get("type") == "json_schema":
        as_chat["response_format"] = {"json_schema": schema}
    total = overhead_tokens(as_chat, count, model)
    tools = body.get("tools")
    if isinstance(tools, list):
        total += NO_TOOLS if not tools else STRICT_WITHOUT_PROPERTIES * sum(map(_is_strict_and_empty, tools))
    if body.get("parallel_tool_calls") is False:
        total += ONE_CALL_AT_A_TIME
    if instructions := body.get("instructions"):
        total += message_tokens({"role": "system", "content": instructions}, count, model)
    return total


def _is_strict_and_empty(tool: object) -> bool:
    match tool:
        case {"type": "function", "strict": True, "parameters": {**schema}}:
            return not schema.get("properties")
    return False


def _content(content: object) -> Any:
    if isinstance(content, Mapping):
        content = [content]
    if not isinstance(content, list):
        return content if isinstance(content, str) or content is None else compact(content)
    return [_part(part) for part in content]


def _part(part: object) -> Any:
    match part:
        case {"type": str(kind), "text": str(text)} if kind in _TEXT_PARTS:
            return {"type": "text", "text": text}
        case {"type": "input_image" | "computer_screenshot", **rest}:
            url = rest.get("image_url")
            image = {"url": url if isinstance(url, str) else "", "detail": rest.get("detail")}
            return {"type": "image_url", "image_url": image}
        case {"type": "input_file", "file_data": str(data)}:
            return {"type": "file", "file": {"file_data": data}}
        case {"type": "input_audio", "input_audio": audio}:
            return {"type": "input_audio", "input_audio": audio}
    return part

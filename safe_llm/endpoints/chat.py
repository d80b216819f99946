"""Chat completions: ``POST /chat/completions``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from .. import tokens
from ..policy import InputRules
from ..types import Call, Part, Usage
from .base import Count, Endpoint
from .reading import (
    asking_for_usage,
    asks_for_usage,
    file_parts,
    hold_images,
    hold_length,
    inside,
    malformed,
    objects,
    read_usage,
    said,
    whole,
    whole_number,
)

_ROLES = ("system", "developer", "user", "assistant", "tool", "function")
_PARTS = ("text", "image_url", "input_audio", "file", "refusal")
_OWN_TOOLS = ("function", "custom")
_SEARCHES = re.compile(r"search-(preview|api)")


class ChatCompletions(Endpoint):
    """Reads, writes and meters chat completions."""

    name = "chat.completions"
    path = "/chat/completions"
    cap_field = "max_completion_tokens"
    knows_safety_identifier = True

    # Requests ---------------------------------------------------------------------------------------------------------

    def read(self, call: Call) -> None:
        body = call.body
        messages = body.get("messages")
        if not isinstance(messages, list | tuple):
            raise malformed("messages must be a list")
        call.messages = [_message(position, message) for position, message in enumerate(messages)]
        caps = [whole_number(body, name) for name in ("max_completion_tokens", "max_tokens")]
        call.cap = min((cap for cap in caps if cap is not None), default=None)
        call.answers = whole_number(body, "n") or 1
        call.hosted_tools = _hosted_tools(body, call.model)
        objects(body, "functions")
        tier = body.get("service_tier")
        call.tier = tier if isinstance(tier, str) else None
        modalities = body.get("modalities")
        call.speaks = body.get("audio") is not None or (isinstance(modalities, list) and "audio" in modalities)
        call.hears = any(
            part["type"] == "input_audio"
            for message in call.messages
            if isinstance(message.get("content"), list)
            for part in message["content"]
        )
        call.unseen = any(_is_unseen(message) for message in call.messages)
        prediction = body.get("prediction")
        if isinstance(prediction, Mapping):
            # Predicted tokens that the answer does not use are billed as output, beyond the cap.
            call.extra_output = sum(len(text.encode()) for text in _texts(prediction.get("content")))

    def validate(self, call: Call, rules: InputRules) -> None:
        images = 0
        for position, message in enumerate(call.messages or ()):
            content = message.get("content")
            if message["role"] == "user":
                hold_length(f"messages[{position}]", sum(map(len, _texts(content))), rules)
            if isinstance(content, list):
                images += sum(part["type"] == "image_url" for part in content)
        hold_images(images, rules)

    def parts(self, call: Call) -> tuple[Part, ...]:
        found: list[Part] = []
        for position, message in enumerate(call.messages or ()):
            found += _said_in(message, f"messages[{position}]")
        return tuple(found)

    def prompt(self, call: Call) -> Any:
        return call.body.get("messages")

    def overhead(self, call: Call, count: Count) -> int:
        return tokens.overhead_tokens(call.body, count, call.model)

    def measure(self, call: Call, message: Mapping[str, Any], count: Count) -> int:
        return tokens.message_tokens(message, count, call.model)

    def plain(self, call: Call) -> bool:
        return tokens.is_plain(call.body)

    def write(self, call: Call) -> dict[str, Any]:
        body = {**call.body, "messages": call.messages}
        if call.cap is not None:
            # One field, never both: the caller's own where there is one, for servers that know only one of them.
            old = body.get("max_tokens") is not None and body.get("max_completion_tokens") is None
            body.pop("max_tokens", None)
            body.pop("max_completion_tokens", None)
            body["max_tokens" if old else "max_completion_tokens"] = call.cap
        if call.stream:
            body["stream_options"] = asking_for_usage(body)
        return body

    def cap_sent(self, call: Call) -> int | None:
        return whole(call.body.get("max_completion_tokens", call.body.get("max_tokens")))

    def wants_usage(self, call: Call) -> bool:
        return asks_for_usage(call.body)

    # Answers ----------------------------------------------------------------------------------------------------------

    def usage(self, item: Mapping[str, Any]) -> Usage | None:
        return read_usage(item.get("usage"), "prompt_tokens", "completion_tokens")

    def said(self, item: Mapping[str, Any]) -> tuple[str, bool]:
        text, ended = "", False
        choices = item.get("choices")
        for choice in choices if type(choices) is list else ():
            if type(choice) is dict:
                said = choice.get("delta") or choice.get("message")
                if type(said) is dict:
                    text += _said(said)
                if choice.get("finish_reason"):
                    ended = True
        return text, ended

    def only_usage(self, item: Mapping[str, Any]) -> bool:
        return not item.get("choices") and not item.get("error")


CHAT = ChatCompletions()


def _message(position: int, message: Any) -> Mapping[str, Any]:
    """One message, its shape checked: what the provider would refuse, and what we could not count."""
    where = f"messages[{position}]"
    if not isinstance(message, Mapping):
        raise malformed(f"{where} is not an object")
    role = message.get("role")
    if role not in _ROLES:
        raise malformed(f"{where} has an unknown role; the roles are {', '.join(_ROLES)}")
    content = message.get("content")
    if content is None:
        says = ("tool_calls", "function_call", "refusal", "audio")
        if role == "function" or (role == "assistant" and any(message.get(name) for name in says)):
            return message
        raise malformed(f"{where} has no content")
    if isinstance(content, str):
        return message
    if not isinstance(content, list | tuple) or not content:
        raise malformed(f"{where}.content must be text or a list of parts")
    parts = [_part(f"{where}.content[{index}]", part) for index, part in enumerate(content)]
    return {**message, "content": parts}


def _part(where: str, part: Any) -> Mapping[str, Any]:
    if not isinstance(part, Mapping) or part.get("type") not in _PARTS:
        raise malformed(f"{where} is not a part of a known type; the types are {', '.join(_PARTS)}")
    kind = part["type"]
    value = part.get(kind)
    if kind in ("text", "refusal"):
        right = isinstance(value, str)
    else:
        right = isinstance(value, Mapping)
    if not right:
        raise malformed(f"{where}.{kind} is missing or of the wrong type")
    return part


def _is_unseen(message: Mapping[str, Any]) -> bool:
    """Whether a message refers to what only the provider has: an uploaded file, an answer that was spoken before."""
    content = message.get("content")
    files = [part["file"] for part in content if part["type"] == "file"] if isinstance(content, list) else []
    return bool(message.get("audio")) or any("file_data" not in file for file in files)


def _texts(content: Any) -> list[str]:
    if isinstance(content, str):
        return [content]
    if not isinstance(content, list | tuple):
        return []
    found = [part.get("text", part.get("refusal")) for part in content if isinstance(part, Mapping)]
    return [text for text in found if isinstance(text, str)]


def _said_in(message: Mapping[str, Any], where: str) -> Iterable[Part]:
    """All that a message says, with its name, the arguments of its calls, and files."""
    role, content = message["role"], message.get("content")
    if isinstance(content, str) and len(message) == 2:
        return said(role, content, where)
    return _said_at_length(role, content, message, where)


def _said_at_length(role: str, content: Any, message: Mapping[str, Any], where: str) -> Iterator[Part]:
    for text in _texts(content):
        yield from said(role, text, where)
    if isinstance(content, list):
        for part in content:
            if part["type"] == "file":
                yield from file_parts(part["file"].get("file_data"), part["file"].get("filename"), where)
    for name in ("name", "refusal", "reasoning_content"):
        yield from said(role, message.get(name), where)
    calls = message.get("tool_calls")
    for call in (*(calls if isinstance(calls, list) else ()), {"function": message.get("function_call")}):
        if isinstance(call, Mapping):
            yield from said(role, inside(call, "function").get("arguments"), where)
            yield from said(role, inside(call, "custom").get("input"), where)


def _hosted_tools(body: Mapping[str, Any], model: str) -> tuple[str, ...]:
    """Tools that the provider runs and bills by itself. Some models search whether they are told to or not."""
    hosted = []
    for position, tool in enumerate(objects(body, "tools")):
        name = tool.get("type")
        if not isinstance(name, str) or (name in _OWN_TOOLS and not isinstance(tool.get(name), Mapping)):
            raise malformed(f"tools[{position}] has no type, or not what its type says")
        if name not in _OWN_TOOLS:
            hosted.append(name)
    if body.get("web_search_options") is not None or _SEARCHES.search(model):
        hosted.append("web_search")
    return tuple(hosted)


def _said(said: dict[str, Any]) -> str:
    content = said.get("content")
    found = content if type(content) is str else ""
    if len(said) > 1 or not found:
        for name in ("refusal", "reasoning_content"):
            more = said.get(name)
            if isinstance(more, str):
                found += more
        calls = said.get("tool_calls")
        functions = [call.get("function") for call in calls if type(call) is dict] if type(calls) is list else []
        for function in (*functions, said.get("function_call")):
            if isinstance(function, dict) and isinstance(function.get("arguments"), str):
                found += function["arguments"]
    return found

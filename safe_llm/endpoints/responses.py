"""Responses: ``POST /responses``, and ``POST /responses/compact``, which shortens a conversation by a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .. import tokens
from ..policy import InputRules
from ..types import Call, Part, Usage
from .base import Count, Endpoint
from .hosted import calls_in, hosted_in
from .reading import (
    file_parts,
    hold_images,
    hold_length,
    inside,
    malformed,
    read_usage,
    said,
    text_or_none,
    whole_number,
)

_ROLES = ("system", "developer", "user", "assistant")
_TEXTS = frozenset({"input_text", "output_text", "text", "refusal", "summary_text", "reasoning_text"})
_PARTS = _TEXTS | {"input_image", "input_file", "input_audio", "computer_screenshot", "encrypted_content"}
_ITEMS = frozenset(
    (
        *("function_call", "function_call_output", "custom_tool_call", "custom_tool_call_output"),
        *("reasoning", "compaction", "compaction_trigger", "item_reference", "program", "program_output"),
        *("file_search_call", "web_search_call", "code_interpreter_call", "image_generation_call"),
        *("computer_call", "computer_call_output", "tool_search_call", "tool_search_output", "additional_tools"),
        *("local_shell_call", "local_shell_call_output", "shell_call", "shell_call_output"),
        *("apply_patch_call", "apply_patch_call_output"),
        *("mcp_list_tools", "mcp_approval_request", "mcp_approval_response", "mcp_call"),
        *("configuration_update", "agent_message", "multi_agent_call", "multi_agent_call_output"),
    )
)
"""Types of input items beside messages."""
_STATE = ("previous_response_id", "conversation", "prompt")
"""Fields that refer to what only the provider has."""
_OFFERING = ("additional_tools", "tool_search_output")
"""Types of items that offer tools to the model."""
_NOT_TEXT = frozenset(
    (
        *("type", "id", "call_id", "role", "status", "phase", "name", "server_label", "namespace", "format", "detail"),
        *("image_url", "file_data", "file_id", "file_url", "filename", "data", "encrypted_content", "fingerprint"),
    )
)
"""Fields of items that a model is not told in words."""
_OUTSIDE = ("_output", "mcp_call", "search_call", "mcp_list_tools")
"""How the types of items end that say what others than the model have to say."""
_UNFINISHED = ("queued", "in_progress")
_ENDINGS = ("response.completed", "response.incomplete", "response.failed", "response.cancelled")


class Responses(Endpoint):
    """Reads, writes and meters Responses."""

    name = "responses"
    path = "/responses"
    cap_field: str | None = "max_output_tokens"
    knows_safety_identifier = True

    # Requests ---------------------------------------------------------------------------------------------------------

    def read(self, call: Call) -> None:
        body = call.body
        call.messages = _items(body.get("input"))
        text_or_none(body, "instructions")
        has_state = any(body.get(name) is not None for name in _STATE)
        call.unseen = has_state or any(map(_is_unseen, call.messages))
        call.cap = None if self.cap_field is None else whole_number(body, self.cap_field)
        call.max_hosted_calls = whole_number(body, "max_tool_calls", least=0)
        added = [
            name for item in call.messages if item.get("type") in _OFFERING for name in hosted_in(item, "input[].tools")
        ]
        call.hosted_tools = tuple(dict.fromkeys([*hosted_in(body), *added]))
        if body.get("background") not in (None, True, False):
            raise malformed("background must be true or false")
        call.background = bool(body.get("background"))
        tier = body.get("service_tier")
        call.tier = tier if isinstance(tier, str) else None
        call.hears = any(part.get("type") == "input_audio" for item in call.messages for part in _parts(item))

    def names_model(self, call: Call) -> bool:
        return call.body.get("prompt") is None  # a stored prompt has a model of its own

    def validate(self, call: Call, rules: InputRules) -> None:
        images = 0
        given = [(f"input[{position}]", item) for position, item in enumerate(call.messages or ())]
        given += [("a variable of the prompt", item) for item in _variables(call)]
        for where, item in given:
            if item.get("role") == "user":
                hold_length(where, sum(map(len, _texts(item))), rules)
            images += sum(part.get("type") in ("input_image", "computer_screenshot") for part in _parts(item))
        hold_images(images, rules)

    def parts(self, call: Call) -> tuple[Part, ...]:
        items = call.messages or ()
        if isinstance(call.body.get("input"), str):
            given = [("input", item) for item in items]
        else:
            given = [(f"input[{position}]", item) for position, item in enumerate(items)]
        given += [("prompt.variables", item) for item in _variables(call)]
        return (
            *said("system", call.body.get("instructions"), "instructions"),
            *(part for where, item in given for part in _said_in(item, where)),
        )

    def prompt(self, call: Call) -> Any:
        names = ("instructions", "input", *_STATE)
        return {name: call.body[name] for name in names if call.body.get(name) is not None}

    def overhead(self, call: Call, count: Count) -> int:
        visible = tokens.response_overhead(call.body, count, call.model)
        return visible + sum(tokens.item_tokens(item, count, call.model) for item in _variables(call))

    def measure(self, call: Call, message: Mapping[str, Any], count: Count) -> int:
        return tokens.item_tokens(message, count, call.model)

    def plain(self, call: Call) -> bool:
        as_chat = {"tools": call.body.get("tools"), "response_format": call.body.get("text")}
        items = call.messages or ()
        return tokens.is_plain({**as_chat, "messages": list(map(tokens.as_message, items))})

    def write(self, call: Call) -> dict[str, Any]:
        body = super().write(call)
        if isinstance(body.get("input"), list):
            body["input"] = call.messages
        return body

    # Answers ----------------------------------------------------------------------------------------------------------

    def usage(self, item: Mapping[str, Any]) -> Usage | None:
        kind = item.get("type")
        if (isinstance(kind, str) and kind not in _ENDINGS) or self.pending(item):
            return None  # what is told before the end is not the bill
        return read_usage(self.answer(item).get("usage"), "input_tokens", "output_tokens")

    def said(self, item: Mapping[str, Any]) -> tuple[str, bool]:
        kind = item.get("type")
        if not isinstance(kind, str):
            return "".join(_said(item)), True
        delta = item.get("delta")
        return (delta if isinstance(delta, str) and kind.endswith(".delta") else ""), kind in _ENDINGS

    def answer(self, item: Mapping[str, Any]) -> Mapping[str, Any]:
        return inside(item, "response") or item

    def failed(self, item: Mapping[str, Any]) -> bool:
        return super().failed(item) or self.answer(item).get("status") == "failed"

    def pending(self, item: Mapping[str, Any]) -> bool:
        return self.answer(item).get("status") in _UNFINISHED

    def hosted_calls(self, item: Mapping[str, Any]) -> Mapping[str, int] | None:
        answer = self.answer(item)
        return calls_in(answer) if isinstance(answer.get("output"), list) else None


class Compaction(Responses):
    """Reads, writes and meters compactions of a conversation. Their length has no cap but the model's own."""

    name = "responses.compact"
    path = "/responses/compact"
    cap_field = None
    knows_safety_identifier = False


RESPONSES, COMPACTION = Responses(), Compaction()


def _items(given: object) -> list[Mapping[str, Any]]:
    if given is None:
        return []
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    if not isinstance(given, list | tuple):
        raise malformed("input must be text or a list of items")
    return [_item(position, item) for position, item in enumerate(given)]


def _item(position: int, item: Any) -> Mapping[str, Any]:
    """One item, its shape checked: what the provider would refuse, and what we could not count."""
    where = f"input[{position}]"
    if not isinstance(item, Mapping):
        raise malformed(f"{where} is not an object")
    kind = item.get("type")
    if kind is None and "role" not in item and isinstance(item.get("id"), str):
        return item  # a reference to an item
    if kind not in (None, "message"):
        if not isinstance(kind, str) or kind not in _ITEMS:
            raise malformed(f"{where} is not an item of a known type")
        return item
    if item.get("role") not in _ROLES:
        raise malformed(f"{where} has an unknown role; the roles are {', '.join(_ROLES)}")
    content = item.get("content")
    if isinstance(content, str):
        return item
    if not isinstance(content, list) or not (content or item["role"] == "assistant"):
        raise malformed(f"{where}.content must be text or a list of parts")
    for index, part in enumerate(content):
        _check_part(f"{where}.content[{index}]", part)
    return item


def _check_part(where: str, part: Any) -> None:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if not isinstance(kind, str) or kind not in _PARTS:
        raise malformed(f"{where} is not a part of a known type; the types are {', '.join(sorted(_PARTS))}")
    if kind in _TEXTS and not isinstance(part.get("refusal" if kind == "refusal" else "text"), str):
        raise malformed(f"{where} has no text")


def _parts(item: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The parts of an item: of a message's content, a tool's output, a model's reasoning."""
    for name in ("content", "output", "summary"):
        found = item.get(name)
        if isinstance(found, Mapping):
            yield found
        elif isinstance(found, list):
            yield from (part for part in found if isinstance(part, Mapping))


def _texts(item: Mapping[str, Any]) -> list[str]:
    """All that an item says in words: content, arguments, the output of a tool, whatever it is in."""
    return list(_words(item, item.get("type") == "image_generation_call"))


def _said_in(item: Mapping[str, Any], where: str) -> Iterator[Part]:
    """All that an item says, for the checks, with the files in it."""
    role = _role(item)
    for text in _texts(item):
        yield from said(role, text, where)
    for part in _parts(item):
        if part.get("type") == "input_file":
            yield from file_parts(part.get("file_data"), part.get("filename"), where)


def _words(value: object, is_drawn: bool) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            if name not in _NOT_TEXT and not (is_drawn and name == "result"):
                yield from _words(inner, is_drawn)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _words(inner, is_drawn)


def _variables(call: Call) -> list[Mapping[str, Any]]:
    """What fills the gaps of a stored prompt, as messages of the user."""
    found = inside(inside(call.body, "prompt"), "variables")
    return [{"role": "user", "content": value if isinstance(value, str) else [value]} for value in found.values()]


def _role(item: Mapping[str, Any]) -> str:
    """A tool's output speaks with the tool's voice, any other item without a role with the model's."""
    role = item.get("role")
    if isinstance(role, str):
        return role
    kind = item.get("type")
    return "tool" if isinstance(kind, str) and kind.endswith(_OUTSIDE) else "assistant"


def _is_unseen(item: Mapping[str, Any]) -> bool:
    """Whether an item refers to what only the provider has: another item, an uploaded file, a file behind a URL."""
    if item.get("type") == "item_reference" or (item.get("type") is None and "role" not in item):
        return True
    return any(
        part.get("file_id") is not None or (part.get("type") == "input_file" and not part.get("file_data"))
        for part in _parts(item)
    )


def _said(answer: Mapping[str, Any]) -> Iterator[str]:
    output = answer.get("output")
    for item in output if isinstance(output, list) else ():
        if isinstance(item, Mapping):
            yield from _texts(item)

"""The rule ``tool_calls``: calls of tools that were not offered, or whose arguments break the tool's schema; and
structured outputs that break theirs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from typing import Any, NamedTuple

from .events import Key, item_of, read

_ANY = object()
"""A schema that is not known."""
_CALLS = {"function_call": "arguments", "custom_tool_call": "input"}
"""Types of output items of Responses that call a tool of the application's, and the field that says with what."""


_PIECES_OF_CALLS = ("response.function_call_arguments.delta", "response.custom_tool_call_input.delta")


class ToolCall(NamedTuple):
    """A call of a tool, as the model asks for it."""

    name: str
    arguments: str | None
    """JSON; None where the tool takes free text."""


class Offer:
    """What a request offers the model: its tools, and the shape that its answer must have."""

    def __init__(self, body: Mapping[str, Any]) -> None:
        self._tools: dict[str, Any] = {}
        """Name to the schema of its arguments; None where it takes free text."""
        self._is_open = body.get("prompt") is not None
        """A stored prompt may offer tools that are not seen here."""
        for name in ("tools", "functions"):
            self._take(body.get(name))
        given = body.get("input")
        for item in given if isinstance(given, list | tuple) else ():
            if isinstance(item, Mapping) and item.get("type") in ("additional_tools", "tool_search_output"):
                self._take(item.get("tools"))
        self.shape = _shape_of(body)

    def _take(self, tools: Any) -> None:
        for tool in tools if isinstance(tools, list | tuple) else ():
            if not isinstance(tool, Mapping):
                continue
            kind = tool.get("type", "function")
            inner = tool.get(kind) if isinstance(kind, str) else None
            told = inner if isinstance(inner, Mapping) else tool
            if isinstance(told.get("name"), str) and "tools" not in told:
                schema = told.get("parameters")
                self._tools[told["name"]] = None if kind == "custom" else _ANY if schema is None else schema
            self._take(told.get("tools"))  # a namespace

    def judges(self, key: Key) -> bool:
        """Whether a text in pieces belongs to what can only be judged as a whole: a call, or a structured output."""
        if key[0] == "item":
            return key[-1] in _PIECES_OF_CALLS or (self.shape is not None and key[-1] == "response.output_text.delta")
        is_shaped = self.shape is not None and key[2:] == ("delta", "content")
        return is_shaped or "tool_calls" in key or "function_call" in key

    def fits(self, text: str) -> bool:
        """Whether a text is the structured output that was asked for."""
        return fits(text, self.shape)

    def allows(self, call: ToolCall) -> bool:
        """Whether a call is one of a tool that was offered, with arguments as its schema wants them."""
        if call.name not in self._tools:
            return self._is_open
        schema = self._tools[call.name]
        if call.arguments is None or schema is None:
            return call.arguments is schema
        return fits(call.arguments or "{}", schema)


def _shape_of(body: Mapping[str, Any]) -> Any:
    """The schema of a structured output; None where any text will do."""
    text = body.get("text")
    asked = body.get("response_format") or (text.get("format") if isinstance(text, Mapping) else None)
    if not isinstance(asked, Mapping):
        return None
    if asked.get("type") == "json_object":
        return _ANY
    if asked.get("type") != "json_schema":
        return None
    told = asked.get("json_schema", asked)
    return told.get("schema", _ANY) if isinstance(told, Mapping) else _ANY


def fits(text: str, schema: Any) -> bool:
    """Whether a text is JSON that a schema allows.

    Raises:
        Exception: the schema itself is wrong.
    """
    value = read(text.encode("utf-8", "surrogatepass"))
    if value is None and text.strip() != "null":
        return False
    if schema is _ANY:
        return True
    # Here, because most answers call no tool, and the import takes 60 ms.
    jsonschema, referencing = import_module("jsonschema"), import_module("referencing")
    kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    # With a registry of its own it never fetches what a schema refers to.
    return bool(kind(schema, registry=referencing.Registry()).is_valid(value))


def calls_in(value: Any) -> Iterator[ToolCall]:
    """The calls in an answer, or in an event that tells one whole."""
    if isinstance(value, list):
        for inner in value:
            yield from calls_in(inner)
    elif isinstance(value, dict):
        field = _CALLS.get(str(value.get("type")))
        if field is not None:
            given = value.get(field)
            yield ToolCall(str(value.get("name")), str(given or "") if field == "arguments" else None)
            return
        calls = value.get("tool_calls")
        for call in calls if isinstance(calls, list) else ():
            if isinstance(call, dict):
                yield _called(call)
        if isinstance(value.get("function_call"), dict):
            yield _called({"function": value["function_call"]})
        for name in ("choices", "message", "output", "response", "item"):
            yield from calls_in(value.get(name))


def _called(call: Mapping[str, Any]) -> ToolCall:
    custom = call.get("custom")
    if isinstance(custom, Mapping):
        return ToolCall(str(custom.get("name")), None)
    function = call.get("function")
    told: Mapping[str, Any] = function if isinstance(function, Mapping) else {}
    return ToolCall(str(told.get("name")), str(told.get("arguments") or ""))


def begun_in(item: Mapping[str, Any]) -> Iterator[Key]:
    """Where calls stand of which an event tells the beginning, or more, but not the whole."""
    choices = item.get("choices")
    for position, choice in enumerate(choices if isinstance(choices, list) else ()):
        delta = choice.get("delta") if isinstance(choice, dict) else None
        if not isinstance(delta, dict):
            continue
        place: Key = ("choice", choice.get("index", position), "delta")
        calls = delta.get("tool_calls")
        for number, call in enumerate(calls if isinstance(calls, list) else ()):
            yield *place, "tool_calls", call.get("index", number) if isinstance(call, dict) else number
        if delta.get("function_call"):
            yield *place, "function_call"
    if str(item.get("type")).endswith("output_item.added") and any(calls_in(item)):
        yield "item", item_of(item)[0]


def calls_from(texts: Mapping[Key, str], begun: Iterable[Key]) -> Iterator[ToolCall]:
    """The calls in a choice that came in pieces: its texts by where they stand, and where calls began."""
    for key in begun:
        told = {str(place[-1]): text for place, text in texts.items() if place[: len(key)] == key}
        is_custom = any((*key, "custom", field) in texts for field in ("name", "input"))
        yield ToolCall(told.get("name", ""), None if is_custom else told.get("arguments", ""))


def said_in(value: Any) -> Iterator[str]:
    """The texts of messages in an answer, or in an event that tells one whole: what may be structured."""
    if isinstance(value, list):
        for inner in value:
            yield from said_in(inner)
    elif isinstance(value, dict):
        if value.get("type") == "output_text" and isinstance(value.get("text"), str):
            yield value["text"]
        content = value.get("content")
        if isinstance(content, str):
            yield content
        for name in ("choices", "message", "output", "response", "item"):
            yield from said_in(value.get(name))
        if value.get("type") == "message":
            yield from said_in(content)

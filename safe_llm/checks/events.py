"""Where the text stands in an answer, plain or streamed, of whatever surface."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterator, Mapping
from typing import Any, NamedTuple

from pydantic_core import from_json

Key = tuple[Hashable, ...]

AS_TEXT = "\0text"
"""The one field of what stands for data that is no JSON."""


class Piece(NamedTuple):
    """A text in an answer, where it can be replaced."""

    key: Key | None
    """Which text it goes on with; None where it is whole by itself."""
    holder: Any
    name: Any
    text: str


_NO_TEXT = frozenset(
    (
        *("id", "object", "type", "role", "status", "model", "finish_reason", "created", "index", "phase", "detail"),
        *("call_id", "item_id", "response_id", "file_id", "container_id", "previous_response_id", "conversation"),
        *("content_filter_results", "content_filter_offsets", "prompt_filter_results"),
        *("system_fingerprint", "service_tier", "prompt_cache_key", "safety_identifier", "user", "obfuscation"),
        *("usage", "logprobs", "bytes", "encrypted_content", "b64_json", "partial_image_b64", "data", "fingerprint"),
        # What a response repeats of its request.
        *("instructions", "tools", "tool_choice", "metadata", "prompt", "format", "truncation"),
    )
)
"""Fields that hold nothing a model wrote, or nothing in words."""


def read(data: bytes) -> Any:
    """JSON as the SDK reads it; None where it is none, or nested too deeply for anybody."""
    try:
        return from_json(data)
    except ValueError:
        try:
            return json.loads(data)  # it takes a few things more, which the caller would see
        except (ValueError, RecursionError):
            return None


def dump(item: Any) -> bytes:
    """What was read, as it is sent: JSON, or text."""
    if isinstance(item, dict) and AS_TEXT in item:
        return str(item[AS_TEXT]).encode("utf-8", "surrogateescape")
    try:
        return json.dumps(item, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:  # half of a pair of surrogates
        return json.dumps(item, separators=(",", ":")).encode()


def texts(value: Any, key: Key | None = None) -> Iterator[Piece]:
    """All texts in an answer, or in a part of one that is streamed: then each goes on with the one in its place."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if isinstance(inner, str):
                if inner and name not in _NO_TEXT:
                    yield Piece(key and (*key, name), value, name, inner)
            elif isinstance(inner, dict | list) and name not in _NO_TEXT:
                if name == "result" and value.get("type") == "image_generation_call":
                    continue
                yield from texts(inner, key and (*key, name))
    elif isinstance(value, list):
        for position, inner in enumerate(value):
            if isinstance(inner, str):
                yield Piece(key and (*key, position), value, position, inner)
            elif isinstance(inner, dict | list):
                place = inner.get("index", position) if isinstance(inner, dict) else position
                yield from texts(inner, key and (*key, place))


_CHOICE = frozenset({"index", "delta", "finish_reason", "logprobs", "content_filter_results"})
_DELTA = frozenset(
    (
        *("type", "delta", "sequence_number", "item_id", "output_index", "content_index", "summary_index"),
        *("logprobs", "obfuscation", "response_id", "event_id"),
    )
)


def only_piece(item: dict[str, Any]) -> tuple[Key, str] | None:
    """The one piece of text in an event that holds nothing else, as nearly all do: looked for at once. Else None."""
    choices = item.get("choices")
    if type(choices) is list:
        if len(choices) != 1:
            return None
        choice = choices[0]
        if type(choice) is not dict or not choice.keys() <= _CHOICE or choice.get("finish_reason"):
            return None
        delta = choice.get("delta")
        if type(delta) is not dict:
            return None
        text = delta.get("content")
        if len(delta) > 1 and any(value and name not in ("content", "role") for name, value in delta.items()):
            return None
        if type(text) is not str or not text:
            return None
        return ("choice", choice.get("index", 0), "delta", "content"), text
    text, kind = item.get("delta"), item.get("type")
    if type(text) is str and type(kind) is str and text and item.keys() <= _DELTA:
        return ("item", *item_of(item), kind), text
    return None


def where(item: dict[str, Any], key: Key, text: str) -> Piece:
    """Such a piece, with the place where it stands."""
    if key[0] == "item":
        return Piece(key, item, "delta", text)
    return Piece(key, item["choices"][0]["delta"], "content", text)


def pieces(item: Mapping[str, Any]) -> Iterator[Piece]:
    """The texts in any other event of a stream."""
    choices = item.get("choices")
    if isinstance(choices, list):
        for position, choice in enumerate(choices):
            if isinstance(choice, dict):
                yield from texts(choice, ("choice", choice.get("index", position)))
        return
    delta, kind = item.get("delta"), item.get("type")
    if isinstance(delta, str) and isinstance(kind, str):
        key = ("item", *item_of(item), kind)
        for piece in texts(item):
            yield piece._replace(key=key) if piece.holder is item and piece.name == "delta" else piece
    else:
        yield from texts(item)


def item_of(item: Mapping[str, Any]) -> tuple[Hashable, Hashable]:
    """Which output item of a response an event is about, and which part of it."""
    inner = item.get("item")
    name = item.get("item_id") or (inner.get("id") if isinstance(inner, dict) else None) or item.get("output_index")
    return name, item.get("content_index", item.get("summary_index"))


def closed(item: Mapping[str, Any]) -> Iterator[Key]:
    """The beginnings of the keys of those texts that an event says are complete."""
    choices = item.get("choices")
    if isinstance(choices, list):
        for position, choice in enumerate(choices):
            if isinstance(choice, dict) and choice.get("finish_reason"):
                yield "choice", choice.get("index", position)
        return
    kind = item.get("type")
    if not isinstance(kind, str):
        return
    if kind.endswith(".done"):
        name, part = item_of(item)
        yield ("item", name) if part is None else ("item", name, part)
    elif item.get("response") is not None and kind.rpartition(".")[2] in ("completed", "incomplete", "failed"):
        yield ()


def forget_probabilities(value: Any) -> None:
    """Take out what tells a text token by token, where the text itself was changed."""
    if isinstance(value, dict):
        if value.get("logprobs"):
            value["logprobs"] = [] if isinstance(value["logprobs"], list) else None
        for inner in value.values():
            forget_probabilities(inner)
    elif isinstance(value, list):
        for inner in value:
            forget_probabilities(inner)


def rewritten(event: bytes, item: Any) -> bytes:
    """An event with other data, everything else as it was."""
    data = dump(item)
    out, written = [], False
    for line in event.splitlines(keepends=True):
        if not line.startswith(b"data:"):
            out.append(line)
        elif not written:
            written = True
            out += [b"data: ", data, line[len(line.rstrip(b"\r\n")) :]]
    return b"".join(out)

"""What endpoints read in requests and answers alike."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from typing import Any

from ..checks.provenance import OPENS, told_apart
from ..errors import InputRejectedError
from ..metering import whole
from ..policy import InputRules
from ..types import Call, Part, Usage

__all__ = [
    "TRUSTED",
    "asking_for_usage",
    "asks_for_usage",
    "file_parts",
    "hold_images",
    "hold_length",
    "inside",
    "malformed",
    "objects",
    "read_texts",
    "read_usage",
    "said",
    "text_or_none",
    "text_parts",
    "texts_of",
    "too_large",
    "uploads_for_hash",
    "whole",
    "whole_number",
]

TRUSTED = ("system", "developer")
"""Roles of the application itself."""
_LONGEST_HEADER = 128
"""Characters of a data URL before its comma."""


def malformed(problem: str) -> InputRejectedError:
    """The error for a request that cannot be read."""
    return InputRejectedError(f"The request is malformed: {problem}.", code="malformed_request")


def too_large(problem: str, code: str) -> InputRejectedError:
    """The error for a request that is larger than a rule allows."""
    return InputRejectedError(problem, code=code, status_code=413)


def whole_number(body: Mapping[str, Any], name: str, *, least: int = 1) -> int | None:
    """A field that must be a whole number of at least 1, or whatever `least` is, or be absent.

    Raises:
        InputRejectedError: it is something else.
    """
    value = body.get(name)
    if value is None:
        return None
    if type(value) is not int or value < least:
        raise malformed(f"{name} must be a whole number of at least {least}")
    return value


def objects(body: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    """A field that must be a list of objects, or be absent.

    Raises:
        InputRejectedError: it is something else.
    """
    found = body.get(name)
    if found is None:
        return []
    if not isinstance(found, list | tuple) or not all(isinstance(item, Mapping) for item in found):
        raise malformed(f"{name} must be a list of objects")
    return list(found)


def text_or_none(body: Mapping[str, Any], name: str) -> str | None:
    """A field that must be text, or be absent.

    Raises:
        InputRejectedError: it is something else.
    """
    value = body.get(name)
    if value is not None and not isinstance(value, str):
        raise malformed(f"{name} must be text")
    return value


def inside(item: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """An object inside of an answer; empty where there is none."""
    found = item.get(name)
    return found if isinstance(found, Mapping) else {}


def hold_length(where: str, length: int, rules: InputRules) -> None:
    """Compare the characters of one user message with the rules.

    Raises:
        InputRejectedError: there are more than they allow.
    """
    if length > rules.max_message_chars:
        raise too_large(
            f"{where} has {length:_} characters: a user message may have {rules.max_message_chars:_} "
            "([input] max_message_chars).",
            "message_too_long",
        )


def hold_images(images: int, rules: InputRules) -> None:
    """Compare the number of images with the rules.

    Raises:
        InputRejectedError: there are more than they allow.
    """
    if images > rules.max_images:
        raise too_large(
            f"The request has {images} images: {rules.max_images} are allowed ([input] max_images).",
            "too_many_images",
        )


def read_usage(found: object, given: str, generated: str) -> Usage | None:
    """The usage that an object tells under these two names, with what its ``…_details`` tell of it."""
    if type(found) is not dict:
        return None
    inputs, outputs = whole(found.get(given)), whole(found.get(generated))
    if inputs is None or outputs is None:
        return None
    details, produced = inside(found, f"{given}_details"), inside(found, f"{generated}_details")

    def part(of: Mapping[str, Any], name: str, most: int) -> int:
        return min(whole(of.get(name)) or 0, most)

    def told(of: Mapping[str, Any], name: str, most: int) -> int | None:
        return part(of, name, most) if whole(of.get(name)) is not None else None

    return Usage(
        input_tokens=inputs,
        output_tokens=outputs,
        cached_input_tokens=part(details, "cached_tokens", inputs),
        cache_write_tokens=part(details, "cache_write_tokens", inputs),
        reasoning_tokens=part(produced, "reasoning_tokens", outputs),
        input_audio_tokens=part(details, "audio_tokens", inputs),
        output_audio_tokens=part(produced, "audio_tokens", outputs),
        input_image_tokens=told(details, "image_tokens", inputs),
        output_image_tokens=told(produced, "image_tokens", outputs),
    )


def uploads_for_hash(call: Call) -> list[list[str]]:
    """What the prompt's hash takes of a call's uploads."""
    return [[upload.field, blake2b(upload.content).hexdigest()] for upload in call.uploads]


def asking_for_usage(body: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a stream, with the usage asked for."""
    return {**inside(body, "stream_options"), "include_usage": True}


def asks_for_usage(body: Mapping[str, Any]) -> bool:
    """Whether the caller asked for the usage of a stream."""
    return bool(inside(body, "stream_options").get("include_usage"))


def read_texts(given: object, name: str) -> int:
    """How many texts a field holds: a text, a list of tokens, or a list of either.

    Raises:
        InputRejectedError: it holds something else, or nothing.
    """
    if isinstance(given, str) and given:
        return 1
    if isinstance(given, list) and given:
        if all(map(_is_token, given)):
            return 1
        if all(item and (isinstance(item, str) or _is_tokens(item)) for item in given):
            return len(given)
    raise malformed(f"{name} must be a text, a list of tokens, or a list of either, and not empty")


def texts_of(given: object) -> list[str]:
    """The texts of such a field."""
    found = given if isinstance(given, list) else [given]
    return [text for text in found if isinstance(text, str)]


def text_parts(given: object, name: str) -> tuple[Part, ...]:
    """The texts of such a field, for the checks; tokens are not read."""
    if not isinstance(given, list):
        return said("user", given, name)
    return tuple([part for position, text in enumerate(given) for part in said("user", text, f"{name}[{position}]")])


def said(role: str, text: object, where: str) -> tuple[Part, ...]:
    """What a role says in one text, for the checks: what is wrapped as untrusted in it is a document of its own."""
    if not isinstance(text, str) or not text:
        return ()
    if OPENS not in text:
        return (Part(role, text, role in TRUSTED, where),)
    return tuple(
        [
            Part("document", piece, False, where) if is_document else Part(role, piece, role in TRUSTED, where)
            for is_document, piece in told_apart(text)
            if piece
        ]
    )


def file_parts(data: object, name: object, where: str) -> Iterator[Part]:
    """The name of a file, and what it says where it is text: sent inline, as base64 or a data URL of it."""
    yield from said("document", name, where)
    if isinstance(data, str) and data:
        try:
            # What is no text fails soon; zero bytes stand in nearly all that decodes by accident.
            text = b64decode(data[data.find(",", 0, _LONGEST_HEADER) + 1 :]).decode()
        except ValueError:
            return
        if "\0" not in text:
            yield Part("document", text, False, where)


def _is_token(value: object) -> bool:
    return type(value) is int and value >= 0


def _is_tokens(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_token, value))

"""The first look at a request: it is copied and weighed, before anything in it is understood."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from math import isfinite
from os import PathLike
from typing import Any, NamedTuple

from pydantic import BaseModel

from ..policy import InputRules
from ..types import Upload
from .reading import malformed, too_large

_LONGEST_INT = 1024
"""Bits. A longer int takes long to write, and Python refuses to."""
_DEEPEST = 64
"""Levels of nesting. Real requests have about ten; deeper ones are made to exhaust a recursive reader."""


class Weight(NamedTuple):
    """How large a request is, before anything of it is understood."""

    text: int
    """UTF-8 bytes of all text, the names of fields included."""
    inline: int
    """Characters of base64, and bytes of uploaded files."""

    def with_uploads(self, uploads: Sequence[Upload]) -> Weight:
        """This, and the files that are sent along."""
        return self._replace(inline=self.inline + sum(len(upload.content) for upload in uploads))

    def hold(self, rules: InputRules) -> None:
        """Compare with the rules.

        Raises:
            InputRejectedError: there is more than they allow.
        """
        for weight, most, what, key in (
            (self.text, rules.max_request_bytes, "bytes of text", "max_request_bytes"),
            (self.inline, rules.max_inline_bytes, "bytes of inline data", "max_inline_bytes"),
        ):
            if weight > most:
                raise too_large(f"The request has more than {most:_} {what} ([input] {key}).", "request_too_large")


def take_over(body: Mapping[str, Any], rules: InputRules) -> tuple[dict[str, Any], Weight]:
    """Copy a request into plain containers of our own, and weigh it; stops at the first rule that is broken.

    What is checked, counted and sent is then one and the same, whatever the caller does with his objects meanwhile, and
    whatever subclasses they are of. No text is read.

    Raises:
        InputRejectedError: there is more than the rules allow, nesting is too deep, or JSON has no such value.
    """
    taker = _Taker(rules)
    copied: dict[str, Any] = taker.take(None, body, 0)
    return copied, Weight(taker.text, taker.inline)


class _Taker:
    """Copies values, and keeps the weight of what it has copied."""

    __slots__ = ("inline", "items", "rules", "text")

    def __init__(self, rules: InputRules) -> None:
        self.rules = rules
        self.text = self.inline = self.items = 0

    def take(self, key: str | None, value: Any, depth: int) -> Any:
        if isinstance(value, str):
            return self._text(key, value if type(value) is str else str.__str__(value))
        if isinstance(value, BaseModel):
            hidden = getattr(value, "__api_exclude__", None)  # the SDK's mark for what it added to an answer itself
            value = value.model_dump(mode="json", exclude_unset=True, by_alias=True, exclude=hidden)
        if isinstance(value, Mapping | list | tuple):
            if depth == _DEEPEST:
                raise malformed(f"it is nested more than {_DEEPEST} levels deep")
            self.items += len(value)
            if 2 * self.items > self.rules.max_request_bytes:  # each item takes two bytes of JSON at least
                Weight(2 * self.items, 0).hold(self.rules)
            if not isinstance(value, Mapping):
                return [self.take(key, item, depth + 1) for item in value]
            copied = {}
            for name, item in value.items():
                exact = self._name(name)
                copied[exact] = self.take(exact, item, depth + 1)
            return copied
        _check_scalar(value)
        return value

    def _name(self, name: object) -> str:
        if not isinstance(name, str):
            raise malformed("it holds an object with a name that is not text")
        return self._text(None, name if type(name) is str else str.__str__(name))

    def _text(self, key: str | None, value: str) -> str:
        is_inline = key in _MAY_BE_INLINE and (key not in _URLS or value.startswith("data:"))
        is_inline = is_inline or (key == "result" and value.startswith(_PICTURES))
        size = len(value) if value.isascii() or len(value) > self.rules.max_request_bytes else _utf8(value)
        if is_inline:
            self.inline += len(value)
        else:
            self.text += size
        if self.text > self.rules.max_request_bytes or self.inline > self.rules.max_inline_bytes:
            Weight(self.text, self.inline).hold(self.rules)
        return value


def _check_scalar(value: object) -> None:
    """Refuse what is neither text nor holds anything, and cannot stand in JSON either."""
    if value is None or isinstance(value, date | PathLike):  # the SDK writes the latter as text
        return
    if isinstance(value, int) and value.bit_length() <= _LONGEST_INT:
        return
    if isinstance(value, float) and isfinite(value):
        return
    if isinstance(value, bytes | bytearray):
        raise malformed("it holds bytes where JSON has text")
    raise malformed(f"it holds a value that JSON does not have, of type {type(value).__name__}")


def _utf8(text: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        raise malformed("it holds text that is not valid Unicode") from None


_URLS = ("url", "image_url")
_PICTURES = ("iVBOR", "/9j/", "UklGR", "R0lGOD")
"""How PNG, JPEG, WebP and GIF begin in base64: a picture that a model has drawn is sent back as a result."""
_MAY_BE_INLINE = frozenset({*_URLS, "data", "file_data", "b64_json"})

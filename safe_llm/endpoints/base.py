"""What an endpoint is, and what all of them read in a request alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date
from math import isfinite
from os import PathLike
from typing import Any, NamedTuple, Protocol

from pydantic import BaseModel

from ..errors import InputRejectedError
from ..policy import InputRules
from ..types import Call, Part, Usage

Count = Callable[[str], int]

_LONGEST_INT = 1024
"""Bits. A longer int takes long to write, and Python refuses to."""
_DEEPEST = 64
"""Levels of nesting. Real requests have about ten; deeper ones are made to exhaust a recursive reader."""


class Endpoint(Protocol):
    """One API surface: reading its requests, writing what is sent, metering its answers."""

    name: str
    """As it stands on the record: ``chat.completions``."""
    path: str
    """The route's path below the base URL."""

    def read(self, call: Call) -> None:
        """Read the body into the call's fields.

        Raises:
            InputRejectedError: the body is malformed.
        """

    def validate(self, call: Call, rules: InputRules) -> None:
        """Hold the input to the rules.

        Raises:
            InputRejectedError: it is too long, or has too many images.
        """

    def parts(self, call: Call) -> tuple[Part, ...]:
        """The texts of the input, for the checks."""

    def prompt(self, call: Call) -> Any:
        """What the prompt's hash is of: JSON."""

    def overhead(self, call: Call, count: Count) -> int:
        """Input tokens of everything but the messages: tools, schemas, priming."""

    def measure(self, call: Call, message: Mapping[str, Any], count: Count) -> int:
        """Input tokens of one message."""

    def plain(self, call: Call) -> bool:
        """Whether local counting is exact: text only, without tools, schemas or images."""

    def write(self, call: Call) -> dict[str, Any]:
        """The body to send: the call's messages and cap, usage asked for in streams. Never the caller's object."""

    def wants_usage(self, call: Call) -> bool:
        """Whether the caller asked for the usage of a stream."""

    def usage(self, item: Mapping[str, Any]) -> Usage | None:
        """The usage that an answer or an event carries. Negative or empty usage counts as none."""

    def said(self, item: Mapping[str, Any]) -> tuple[str, bool]:
        """The text that an answer or an event carries, and whether it says that the answer is complete."""

    def only_usage(self, item: Mapping[str, Any]) -> bool:
        """Whether an event carries nothing but usage."""

    def answer(self, item: Mapping[str, Any]) -> Mapping[str, Any]:
        """The part of an answer or an event that names the model and the service tier."""


class Unguarded:
    """Stands for an endpoint on the record of a route that is none. Its answers are not metered."""

    def __init__(self, name: str) -> None:
        self.name = name


def malformed(problem: str) -> InputRejectedError:
    """The error for a request that cannot be read."""
    return InputRejectedError(f"The request is malformed: {problem}.", code="malformed_request")


def too_large(problem: str, code: str) -> InputRejectedError:
    """The error for a request that is larger than a rule allows."""
    return InputRejectedError(problem, code=code, status_code=413)


class Weight(NamedTuple):
    """How large a request is, before anything of it is understood."""

    text: int
    """UTF-8 bytes of all text, the names of fields included."""
    inline: int
    """Characters of base64."""

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
            value = value.model_dump(mode="json", exclude_unset=True, by_alias=True)
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
_MAY_BE_INLINE = frozenset({*_URLS, "data", "file_data", "b64_json"})


def whole_number(body: Mapping[str, Any], name: str) -> int | None:
    """A field that must be a whole number of at least 1, or be absent.

    Raises:
        InputRejectedError: it is something else.
    """
    value = body.get(name)
    if value is None:
        return None
    if type(value) is not int or value < 1:
        raise malformed(f"{name} must be a whole number of at least 1")
    return value

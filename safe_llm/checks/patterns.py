"""Checks of an application's own, as rules: a bounded expression, or an object that looks through a window."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

from ..types import Check, Content, Finding
from .spans import Span

_TAKEN = ("", "secrets", "prompt_leak", "links", "tool_calls")


class Pattern:
    """Forbids what a regular expression matches, in answers: ``Pattern("ticket", r"TCK-[0-9]{6}", max_length=10)``.

    On streams, the last ``max_length`` characters are held back until it is certain that none of them belongs to a
    match. A longer match is found only where it comes in one piece.

    Raises:
        ValueError: the expression matches nothing at all, or the length is not positive.
    """

    phases = ("output",)

    def __init__(
        self,
        name: str,
        regex: str | re.Pattern[str],
        *,
        max_length: int,
        action: Literal["flag", "deny", "redact"] = "redact",
        severity: str = "high",
    ) -> None:
        self.name = name
        self.regex = re.compile(regex)
        if max_length < 1:
            raise ValueError(f"max_length must be at least 1, not {max_length}")
        if self.regex.match(""):
            raise ValueError(f"the pattern {name!r} matches the empty text: it would match everywhere")
        if name in _TAKEN:
            raise ValueError(f"{name!r} is the name of a built-in check: call the pattern something else")
        if action not in ("flag", "deny", "redact"):
            raise ValueError(f'action must be "flag", "deny" or "redact", not {action!r}')
        self.max_length, self.action, self.severity = max_length, action, severity

    def inspect(self, content: Content) -> Iterable[Finding]:
        """As a `Check` of a whole text."""
        return [
            Finding(self.name, self.severity, content.phase, action=self.action)
            for part in content.parts
            for _ in self.regex.finditer(part.text)
        ]

    def is_quiet(self, text: str, start: int) -> bool:
        """As a `Rule` does: where a match may begin is not known."""
        return False

    def scan(self, text: str, start: int, final: bool) -> tuple[Sequence[Span], int]:
        """As a `Rule` of a text that is still coming."""
        spans: list[Span] = []
        decided = len(text) if final else max(start, len(text) - self.max_length + 1)
        for match in self.regex.finditer(text, start):
            if match.start() >= decided:
                break
            if match.end() > match.start():
                spans.append(Span(match.start(), match.end()))
        return spans, max(decided, spans[-1].end) if spans else decided


class Windowed:
    """A check of the application's that says how many characters it must see at once, as a rule."""

    name = ""

    def __init__(self, check: Check, window: int, judge: Callable[[Check, str], bool]) -> None:
        """`judge` runs the check on a text, and says whether to take the text out."""
        self._check, self._window, self._judge = check, window, judge

    def is_quiet(self, text: str, start: int) -> bool:
        """As a `Rule` does: where a match may begin is not known."""
        return False

    def scan(self, text: str, start: int, final: bool) -> tuple[Sequence[Span], int]:
        """As a `Rule` does. It waits for twice the window, so that each character is looked at twice at the most."""
        length = len(text)
        if length == start or (length - start < 2 * self._window and not final):
            return (), start
        takes = self._judge(self._check, text[start:])
        decided = length if final or takes else max(start, length - self._window + 1)
        return ((Span(start, length),) if takes else ()), decided


def looks_at(check: Any, phase: str) -> bool:
    """Whether a check looks at the "input" or the "output": at both, unless it names its ``phases``."""
    return phase in getattr(check, "phases", ("input", "output"))

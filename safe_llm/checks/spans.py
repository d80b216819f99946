"""What is found in the text of an answer, and how a rule looks for it while the text is still coming.

A rule is asked what it finds from a position on, and up to where it is sure: what stands behind that may still become a
match, so it is not shown yet. Whether a text comes whole or in pieces, the matches are the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

PLACEHOLDER = "[redacted]"
"""What stands in an answer where something was taken out."""


class Tail(NamedTuple):
    """How far a match goes on: as long as its characters do, or to an end of its own."""

    goes_on: re.Pattern[str]
    """Matches the characters that belong to it, none at the least."""
    ends: re.Pattern[str] | None = None
    """Where it is over; no more than `LONGEST_END` characters."""

    def end(self, text: str, start: int, behind: str = "") -> tuple[int, bool]:
        """Where it ends in a text, seen from `start` on, and whether it is over. `behind`: its last characters."""
        going = self.goes_on.match(text, start)
        end = start if going is None else going.end()
        if self.ends is not None and (over := self.ends.search(behind + text[start:end])):
            return start + over.end() - len(behind), True
        return end, end < len(text)


LONGEST_END = 96


class Span(NamedTuple):
    """A match, by its positions in the text."""

    begin: int
    end: int
    tail: Tail | None = None
    """What follows the text belongs to it, too, as far as this says."""

    def grown(self, text: str) -> Span:
        """With what belongs to it in this text."""
        if self.tail is None:
            return self
        end, is_over = self.tail.end(text, self.end)
        return Span(self.begin, end, None if is_over else self.tail)


class Rule(Protocol):
    """Looks for what is forbidden."""

    @property
    def name(self) -> str: ...

    def is_quiet(self, text: str, start: int) -> bool:
        """Whether nothing that may be a match begins at `start` or behind. It may say no to be sure."""
        ...

    def scan(self, text: str, start: int, final: bool) -> tuple[Sequence[Span], int]:
        """The matches that begin at `start` or behind, in order and apart, and up to where all is decided. Only the
        last one may have a tail.

        `final`: no more text will come, so everything is.
        """
        ...


def without(text: str, start: int, spans: Sequence[Sequence[int]]) -> str:
    """A piece of text that begins at `start`, with a placeholder in the place where a span begins and the rest of it
    left out. The spans are in the order in which they begin; they may overlap.
    """
    out, done, end = [], start, start + len(text)
    for begin, until in spans:
        if until <= done or begin >= end:
            continue
        if begin >= done:
            out += [text[done - start : begin - start], PLACEHOLDER]
        done = min(until, end)
    out.append(text[done - start :])
    return "".join(out)


# Rules from the shape of what they look for ---------------------------------------------------------------------------

_ATOM = re.compile(r"(\[(?:\\.|[^\]\\])+\]|\\.|[^\\\[\](){}|?*+.^$])(?:\{(\d+)(?:,(\d+))?\}(\+)?|(\?))?")


class _Step(NamedTuple):
    """A class of characters, and how many of them."""

    atom: str
    least: int
    most: int
    keeps: str = ""
    """``+`` where it gives none back."""
    condition: str = ""
    """What must hold of it where it is complete."""

    def __str__(self) -> str:
        if self.least == self.most == 1:
            return self.atom
        return f"{self.atom}{{{self.least},{self.most}}}{self.keeps}"


class Shape(NamedTuple):
    """One kind of text to look for."""

    pattern: str
    """A regular expression of characters, classes, ``{m,n}`` and ``?``."""
    tail: Tail | None = None
    """None: what follows decides whether it is one."""
    last: int = 0
    """How many of its last characters are taken out; 0 stands for all."""
    condition: str = ""
    """A look ahead at its last step, which must not see further than that is long."""
    confirms: Callable[[str], bool] | None = None
    """Says of what would be taken out whether it is what is looked for, where no expression can."""

    def steps(self) -> tuple[_Step, ...]:
        """Step by step.

        Raises:
            ValueError: the pattern holds something else.
        """
        found, position = [], 0
        while position < len(self.pattern):
            atom = _ATOM.match(self.pattern, position)
            if atom is None:
                raise ValueError(f"a shape is made of characters, classes, {{m,n}} and ?: {self.pattern!r}")
            position = atom.end()
            least, most = (0, 1) if atom[5] else (int(atom[2] or 1), int(atom[3] or atom[2] or 1))
            found.append(_Step(atom[1], least, most, atom[4] or ""))
        return *found[:-1], found[-1]._replace(condition=self.condition)


_Rest = tuple[tuple[_Step, ...], Shape]
"""What is left of a shape behind its first steps."""


class Shapes:
    """Looks for many shapes at once.

    Shapes that begin alike share a branch of one expression, so that most characters of a text are looked at once. A
    second expression finds where a text ends in the beginning of any of them.
    """

    def __init__(
        self, name: str, shapes: Sequence[Shape], *, before: str = "", behind: str = "", needs: str = ""
    ) -> None:
        """`before` and `behind`: conditions about what stands before each, and behind those without a tail. `needs`:
        what is in every text that holds one."""
        self.name = name
        self._needs = needs
        self._behind = behind
        self._shapes: list[Shape] = []
        """By the number of the empty group that tells which one was found."""
        rests = [(shape.steps(), shape) for shape in shapes]
        self._found = re.compile(before + self._finding(rests))
        self._begun = re.compile(before + (self._beginning(rests, at_start=True) or "(?!)"))
        self._longest = 1 + max(sum(step.most for step in steps) for steps, _ in rests)
        self._shortest = min(sum(step.least for step in steps) for steps, _ in rests)

    def _finding(self, rests: Sequence[_Rest]) -> str:
        ways = [f"{step.condition}{step}{self._finding(others)}" for step, others in _branches(rests)]
        for steps, shape in rests:
            if not steps:
                self._shapes.append(shape)
                ways.append("()" if shape.tail is not None else f"(){self._behind}")
        return _any(ways)

    def _beginning(self, rests: Sequence[_Rest], *, at_start: bool = False) -> str | None:
        """None where there is none: what is complete is decided."""
        decided = any(not steps and shape.tail is not None for steps, shape in rests)
        ways = [] if at_start or decided else [r"\Z"]
        for step, others in _branches(rests):
            behind = self._beginning(others)
            if behind is not None:
                ways.append(f"{step}{behind}")
            if step.least > 1:
                ways.append(f"{step.atom}{{1,{step.least - 1}}}\\Z")
        return _any(ways) if ways else None

    def is_quiet(self, text: str, start: int) -> bool:
        """As a `Rule` does."""
        if self._needs and self._needs not in text:
            return True
        return len(text) - start < self._shortest and self._begun.search(text, start) is None

    def scan(self, text: str, start: int, final: bool) -> tuple[Sequence[Span], int]:
        """As a `Rule` does."""
        spans: list[Span] = []
        length = len(text)
        if length - start < self._shortest and (final or not length):
            return spans, length
        if self._needs and self._needs not in text:
            return spans, length
        while True:
            decided = length
            if not final:
                begun = self._begun.search(text, max(start, length - self._longest))
                if begun is not None:
                    decided = begun.start()
            if length - start >= self._shortest:
                while match := self._found.search(text, start):
                    if match.start() >= decided:
                        return spans, decided
                    end = match.end()
                    shape = self._shapes[(match.lastindex or 1) - 1]
                    begin = end - shape.last if shape.last else match.start()
                    if shape.confirms is not None and not shape.confirms(text[begin:end]):
                        start = match.start() + 1
                        continue
                    span = Span(begin, end, shape.tail).grown(text)
                    spans.append(span)
                    start = span.end
                    if start > decided:
                        break
            if start <= decided:
                return spans, decided
            # A match reaches into what seemed open: behind it, that is looked for once more.


def _branches(rests: Sequence[_Rest]) -> list[tuple[_Step, list[_Rest]]]:
    """The shapes by their next step."""
    branches: dict[_Step, list[_Rest]] = {}
    for steps, shape in rests:
        if steps:
            branches.setdefault(steps[0], []).append((steps[1:], shape))
    return list(branches.items())


def _any(ways: Sequence[str]) -> str:
    return ways[0] if len(ways) == 1 else f"(?:{'|'.join(ways)})"


def either_case(pattern: str) -> str:
    """A shape for letters of either case. Its classes must hold no letters."""
    return "".join([f"[{letter.lower()}{letter.upper()}]" if letter.isalpha() else letter for letter in pattern])

"""The rule ``prompt_leak``: a canary, or a long run of the system prompt's own wording, in the answer."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache, lru_cache

from .provenance import CANARY_PATTERN
from .spans import Rule, Shape, Shapes, Tail, either_case

LONG = 80
"""Letters and digits, in UTF-8 bytes, that an answer may share with the prompt in one run: about a hundred characters
of English. A shorter prompt leaks whole."""
_SHORT = 32
"""A prompt of fewer says nothing worth hiding that others do not say as well."""
_BLOCK = 8
"""Every eighth place of the prompt is remembered; a shared run is noticed after twice as many letters at the most."""
_MOST_PIECES = 256
_DRAWN = 16
"""Hex digits of a canary, behind its name: as in `provenance.CANARY_PATTERN`."""
_PIECE = 256
"""Characters that are looked at in one go: where a run begins is found by walking back in one."""

_DROPPED = bytes(code for code in range(128) if not chr(code).isalnum())
_LOWER = bytes(range(256)).lower()
INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff\U000e0000-\U000e007f]+"
)


@cache
def canary_rules() -> tuple[Rule, Rule]:
    """Find canaries. Whosesoever it is, the model has been told it in a prompt.

    The second rule finds those that are glued to a word: it looks for what follows the first hyphen but one, so that
    the end of many a word need not wait for what follows.
    """
    drawn = f"[0-9a-fA-F]{{{_DRAWN}}}"
    tail = Tail(re.compile("[0-9a-fA-F]*"))
    begin, name = (either_case(part) for part in ("safe-llm", "-canary-"))
    alone = Shapes("prompt_leak", [Shape(begin + name + drawn, tail)], before="(?<![A-Za-z0-9])")
    return alone, Shapes("prompt_leak", [Shape(name + drawn, tail)], before=f"(?<=[A-Za-z0-9]{begin})")


def folded(text: str) -> bytes:
    """Letters and digits alone, in lower case: what stays of a text in whatever layout it is repeated."""
    if not text.isascii():
        text = INVISIBLE.sub("", text.casefold())
    return text.encode("utf-8", "surrogatepass").translate(_LOWER, _DROPPED)


class Wording:
    """The letters of prompts, and where in them to find a run of letters."""

    __slots__ = ("blocks", "letters", "needs")

    def __init__(self, texts: Sequence[str]) -> None:
        # Without canaries, which have a rule of their own: with one, a short prompt's words would leak unnoticed.
        said = [folded(re.sub(CANARY_PATTERN, "", text)) for text in texts]
        parts = [letters for letters in said if len(letters) >= _SHORT]
        self.letters = b"\0".join(parts)
        self.needs: list[tuple[int, int]] = []
        """Where each prompt begins, and how long a run in it leaks."""
        self.blocks: dict[bytes, int] = {}
        position = 0
        for part in parts:
            self.needs.append((position, min(LONG, len(part))))
            for place in range(position, position + len(part) - _BLOCK + 1, _BLOCK):
                self.blocks.setdefault(self.letters[place : place + _BLOCK], place)
            position += len(part) + 1

    def needed(self, place: int) -> int:
        """Letters of a run that begins there until it leaks."""
        need = LONG
        for begin, least in self.needs:
            if begin > place:
                break
            need = least
        return need


@lru_cache(maxsize=64)
def wording(texts: tuple[str, ...]) -> Wording:
    """Applications say the same prompt again and again."""
    return Wording(texts)


class Overlap:
    """Follows one text of an answer, and says where it repeats the prompt."""

    __slots__ = ("_from", "_hidden", "_letters", "_met", "_place", "_said", "_texts", "_total", "_wording", "span")

    def __init__(self, prompts: Wording, said: Callable[[], bytes] = bytes) -> None:
        """`said`: the folded words of everybody but the application."""
        self._wording = prompts
        self._said = said
        self._letters = b""
        """The last of the text's letters."""
        self._total = 0
        """Letters so far."""
        self._texts: list[tuple[int, int, str]] = []
        """The last pieces: letters before each, where it begins in the text, and itself."""
        self._met = -1
        """How many letters were there when the run that is followed began; -1 without one."""
        self._place = 0
        """Where in the prompt it goes on."""
        self._from = -1
        """Where in the text it began; -1 until that is asked for."""
        self.span: list[int] | None = None
        """The run that is followed, once it is a leak; it grows."""

    def quiet(self, text: str) -> bytes | None:
        """The letters of a piece in which no run goes on or is noticed; None otherwise."""
        if self._met >= 0 or len(text) > _PIECE:
            return None
        new = folded(text)
        letters = self._letters[1 - _BLOCK :] + new
        blocks = self._wording.blocks
        for end in range(_BLOCK, len(letters) + 1):
            if letters[end - _BLOCK : end] in blocks:
                return None
        return new

    def go_on(self, new: bytes, text: str, start: int) -> None:
        """Take such a piece."""
        self._texts.append((self._total, start, text))
        self._total += len(new)
        self._letters = (self._letters + new)[-LONG - _BLOCK :]
        if len(self._texts) > _MOST_PIECES:
            self._forget()

    def _forget(self) -> None:
        """Forget the pieces before those that hold the last letters."""
        first = self._total - len(self._letters)
        kept = next((place for place, piece in enumerate(self._texts) if piece[0] > first), len(self._texts))
        del self._texts[: max(kept - 1, 0)]

    def feed(self, text: str, start: int) -> tuple[list[list[int]], int]:
        """The runs that became leaks, and up to where in the text none may begin. `start`: where it stands."""
        leaks: list[list[int]] = []
        for offset in range(0, len(text), _PIECE):
            self._piece(text[offset : offset + _PIECE], start + offset, leaks)
        if self._met < 0:
            return leaks, start + len(text)
        # Behind a leak, what is no letter waits for the next one, which tells whether it belongs to it.
        return leaks, self._begin() if self.span is None else self.span[1]

    def _piece(self, text: str, start: int, leaks: list[list[int]]) -> None:
        new = folded(text)
        if not new:
            return
        prompts, before = self._wording, self._letters
        self._texts.append((self._total, start, text))
        letters = before + new
        origin = self._total - len(before)
        self._total += len(new)
        position = len(before)
        if self._met >= 0:
            position = self._follow(letters, position, origin, leaks)
        place = max(0, position - _BLOCK + 1)
        last = len(letters) - _BLOCK
        blocks = prompts.blocks
        while place <= last:
            found = blocks.get(letters[place : place + _BLOCK])
            if found is None:
                place += 1
                continue
            back = _backwards(prompts.letters, found, letters, place)
            self._met, self._place = origin + place - back, found + _BLOCK
            self._from = -1
            place = self._follow(letters, place + _BLOCK, origin, leaks) - _BLOCK + 1
        self._letters = letters[-LONG - _BLOCK :]
        if len(self._texts) > _MOST_PIECES:
            self._forget()

    def _follow(self, letters: bytes, position: int, origin: int, leaks: list[list[int]]) -> int:
        """Go on with the run from a position of `letters`; where it ends, or their end."""
        prompts = self._wording.letters
        same = _forwards(prompts, self._place, letters, position)
        position += same
        self._place += same
        length = origin + position - self._met
        if self.span is None and length >= self._wording.needed(self._place - length):
            if letters[max(0, self._met - origin) : position] in self._said():
                # Who was told so much already is told nothing of the prompt by it; what goes on from here may tell.
                self._met, self._from = origin + position, self._where(origin + position - 1) + 1
            else:
                self.span = [self._begin(), 0]
                leaks.append(self.span)
        if self.span is not None:
            self.span[1] = self._where(origin + position - 1) + 1
        if position < len(letters):
            self._met, self.span = -1, None
        return position

    def _begin(self) -> int:
        """Where in the text the run began."""
        if self._from < 0:
            self._from = self._where(self._met)
        return self._from

    def _where(self, letter: int) -> int:
        """Where in the text a letter stands."""
        before, start, text = next((piece for piece in reversed(self._texts) if piece[0] <= letter), self._texts[0])
        left = letter - before
        for offset, character in enumerate(text):
            left -= len(folded(character))
            if left < 0:
                return start + offset
        return start + len(text)


def _forwards(one: bytes, i: int, other: bytes, j: int) -> int:
    """How many letters are the same from there on."""
    most = min(len(one) - i, len(other) - j)
    if one[i : i + most] == other[j : j + most]:
        return most
    same = 0
    while one[i + same] == other[j + same]:
        same += 1
    return same


def _backwards(one: bytes, i: int, other: bytes, j: int) -> int:
    """How many letters are the same before there."""
    same, most = 0, min(i, j, LONG)
    while same < most and one[i - same - 1] == other[j - same - 1] != 0:
        same += 1
    return same

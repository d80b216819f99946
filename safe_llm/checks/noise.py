"""Text that no person writes: one thing over and over, or a tail of signs that an optimizer has found."""

from __future__ import annotations

import re

_TAIL = 320
"""Characters at the end that are looked at; found suffixes have about 20 tokens."""
_FEWEST = 8
"""Tokens that a tail must have, to be told from a smiley or a formula."""
_odd = re.compile(
    r"[A-Za-z][^\w\s]*[^\w\s'’.,/@&:_-][^\w\s]*[A-Za-z]"  # letters glued together by signs
    r"|[a-z]{2}[A-Z][a-z]{2}"  # words glued together by their capitals
    r"|[^\w\s]{3,}"
)
_MOSTLY, _HARDLY = 0.4, 0.08
_LONGEST_RUN, _FEW = 120, 3
"""Words, and how few different ones: a phrase that is repeated has more."""


def has_odd_tail(text: str) -> bool:
    """Whether a text ends in a jumble of signs and words on one line, and does not begin so: code does."""
    tail = text[-_TAIL:].rstrip().rpartition("\n")[2].split()
    for length in (12, 20, 30):
        if len(tail) >= max(_FEWEST, length // 2) and _share(tail[-length:]) >= _MOSTLY:
            head = text[: max(len(text) - _TAIL // 2, len(text) // 2)].split(maxsplit=40)[:40]
            return len(head) >= _FEWEST // 2 and _share(head[: len(head) // 2]) <= _HARDLY
    return False


def _share(tokens: list[str]) -> float:
    return sum([_odd.search(token) is not None for token in tokens]) / max(len(tokens), 1)


def is_repetition(words: list[str]) -> bool:
    """Whether hardly more than one word is said, many times."""
    return len(words) >= _LONGEST_RUN and len(set(words)) <= _FEW

"""Text that a person does not see and a model reads: tag characters, reversed order, floods of zero width.

Invisible characters have honest uses, which pass: flags, joined emoji, joiners in the scripts that need them, breaks in
those that have no spaces, marks of direction, soft hyphens, byte order marks, the padding of newsletters.
"""

from __future__ import annotations

import re
from itertools import islice

from .normalizing import INVISIBLE

_ZERO = (
    "\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180e\u200b-\u200d\u2060-\u2065\u206a-\u206f\u3164\ufeff\uffa0"
    "\ufff9-\ufffb"
)
_DIRECTION = "\u061c\u200e\u200f\u202a-\u202c\u2066-\u2069"
_JOINING = "\u0590-\u1dff\u2071-\ufdff\ufe0f-\ufefe\U00010000-\U0001ffff"
"""Letters and pictures that joiners stand after: from Hebrew on, and all emoji."""
_UNSPACED = "\u0e00-\u1cff\u2e80-\ufaff\uff00-\uff9f\U00020000-\U0003ffff"
"""Scripts that are written without spaces, and show by breaks where a line may end."""
_CJK = "\u2e80-\ua4cf\uf900-\ufaff\U00020000-\U0003ffff"
_LETTER = "0-9A-Za-z\u00c0-\u02af\u0370-\u058f"

_invisible = re.compile(f"[{INVISIBLE}]")
_flag = re.compile(
    "\U0001f3f4\U000e0067\U000e0062"
    "(?:\U000e0065\U000e006e\U000e0067|\U000e0073\U000e0063\U000e0074|\U000e0077\U000e006c\U000e0073)\U000e007f"
)
"""England, Scotland and Wales: the only emoji that are made of tag characters."""
_tag = re.compile("[\U000e0000-\U000e007f]")
_reversed = re.compile("\u202e|\u202d(?![0-9\\s()+./-]{1,32}(?:\u202c|$))")
"""Overrides of direction. Address books put one around a telephone number, which changes nothing."""
_padding = re.compile(f"((?:[{_ZERO}]{{1,3}}[ \u00a0\u2007]{{1,2}}){{1,4}}?)\\1{{4,}}")
_run = re.compile(f"[{_ZERO}]{{6,}}|[{_DIRECTION}]{{6,}}|[\ufe00-\ufe0f\U000e0100-\U000e01ef]{{3,}}")
_stray = re.compile(
    f"(?<![{_JOINING}])[\u200c\u200d]"
    f"|(?<![{_UNSPACED}])[\u200b\u2060](?![{_UNSPACED}])"
    f"|(?<=[{_LETTER}])\ufeff(?=[{_LETTER}])"
    "|[\u034f\u2061-\u2065\u206a-\u206f\u3164\uffa0\ufff9-\ufffb]"
    "|(?<=\u00ad.)\u00ad"
    f"|(?<=[{_LETTER}])[{_DIRECTION}](?=[{_LETTER}])"
    f"|(?<![{_CJK}])[\ufe01-\ufe0d\U000e0100-\U000e01ef]"
)
_in_word = re.compile(f"(?<=[{_LETTER}])[{_ZERO}{_DIRECTION}]+(?=[{_LETTER}])")
_FLOOD, _FLOOD_IN_WORDS = 24, 5
_SHARE = 0.01
"""Of all characters, from which on strays are a flood and no accident of copying."""


def has_hidden_text(text: str) -> bool:
    """Whether a text holds something that is made not to be seen."""
    if text.isascii() or not _invisible.search(text):
        return False
    text = _flag.sub("", text)
    if _tag.search(text) or _reversed.search(text):
        return True
    text = _padding.sub(" ", text)
    if _run.search(text):
        return True
    least = max(_FLOOD_IN_WORDS, int(_SHARE * len(text)))
    if not _occurs(_stray, text, least):
        return False
    return _occurs(_stray, text, max(_FLOOD, least)) or _occurs(_in_word, text, _FLOOD_IN_WORDS)


def _occurs(pattern: re.Pattern[str], text: str, times: int) -> bool:
    """Whether a pattern is found that often; no more is looked for."""
    return next(islice(pattern.finditer(text), times - 1, None), None) is not None

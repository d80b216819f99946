"""What a text says, whatever it is dressed up as: one plain form of it, and the other ways to read it.

A model sees through letters of another alphabet, fullwidth forms, invisible characters, spaced letters, digits for
letters and the usual encodings, so `readings` undoes them. Plain ASCII text, which nearly all text is, costs its words
and a look for what could be more than it seems.
"""

from __future__ import annotations

import re
import unicodedata
from collections import deque
from collections.abc import Iterator
from itertools import islice

from .decoding import decoded, unescaped

_DEEPEST = 3
"""Encodings inside of encodings."""
_MOST_AGAIN = 4
"""Times the length of a text, of all that is read of it."""

INVISIBLE = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f"
    "\ufeff\uffa0\ufff9-\ufffb\U000e0000-\U000e0fff"
)
"""For a class of a regular expression: what has no shape of its own."""
_invisible = re.compile(f"[{INVISIBLE}]+")
_tagged = re.compile("[\U000e0020-\U000e007e]+")
_accents = re.compile(
    "[\u0300-\u036f\u0483-\u0487\u0591-\u05bd\u064b-\u065f\u0670\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff]+"
)

_FOREIGN = "\u0370-\u058f\u13a0-\u13ff\u1d00-\u1d7f\u0250-\u02af\ua730-\ua731"
_foreign = re.compile(f"[{_FOREIGN}]")
_mixed = re.compile(f"[a-z][{_FOREIGN}]|[{_FOREIGN}][a-z]")
_LOOKALIKES = {
    "a": "аɑᴀα", "b": "вʙ", "c": "сϲᴄ", "d": "ԁᴅɗ", "e": "еҽᴇε", "f": "ғꜰ", "g": "ɡցɢ", "h": "һհʜн", "i": "іɪι",
    "j": "јϳᴊ", "k": "кκᴋ", "l": "ӏʟⅼ", "m": "мᴍ", "n": "ոηɴп", "o": "оοօᴏσ", "p": "рρᴘ", "q": "ԛզ", "r": "гʀᴦ",
    "s": "ѕꜱʂ", "t": "тτᴛ", "u": "սυᴜц", "v": "ѵνᴠ", "w": "ԝωᴡш", "x": "хχ", "y": "уүγʏ", "z": "ᴢʐ",
}  # fmt: skip
"""Letters of other alphabets by the Latin one that they are taken for, in lower case and without accents."""
_latin = {ord(letter): plain for plain, letters in _LOOKALIKES.items() for letter in letters}

BREAK = "\x00"
"""Stands among the words where a sentence ends."""
_ENDS = (". ", "? ", "! ", "\n\n", "。", "！", "？")

_NOT_IN_WORDS = {code: " " for code in range(128) if not chr(code).isalnum() and chr(code) not in f"'{BREAK}"}
_word = re.compile("[^\\s!-&(-/:-@\\[-`{-~–—…“”„«»‹›。、，．：；？！（）「」『』【】《》·•¿¡،؛؟।՝]+")

_SINGLES = frozenset("abcdefghijklmnopqrstuvwxyz")
_PAIRS = frozenset(pair for code in range(0x20, 0x7F) if not (pair := f"{code:02x}").isdecimal())
"""Printable characters in hex, but for those that look like numbers."""
_ROT13 = str.maketrans("abcdefghijklmnopqrstuvwxyz", "nopqrstuvwxyzabcdefghijklm")
_FREQUENT = (
    "the and you your this that with for not are all now ignore forget previous instructions system prompt reveal "
    "above und nicht der die das ist ein eine mir auf alle vergiss que para los todo les tout"
)
"""Words of which a text has several, and which mean nothing when they are shifted or turned round."""
_SHIFTED = frozenset(_FREQUENT.translate(_ROT13).split())
_BACKWARDS = frozenset(_FREQUENT[::-1].split())
_LEAST_FREQUENT, _LEAST_PAIRS = 2, 3
"""Different ones of these, from which on they are no accident."""
_LEAST_LEET = 2
_LEAST_SINGLES = 5
_LONG = 20
"""Letters: longer words may be encoded."""

_ESCAPES = ("%", "\\", "&#")

_spaced = re.compile(r"(?<!\S)\S(?P<by>[ ._*|/~-])(?:(?:\s(?P=by))?\S(?P=by)){3,}(?:\S(?!\S))?")
_leet = re.compile(r"[a-z][0134578]{1,2}[a-z]")
_leet_signs = re.compile(r"[a-z][@$!|][a-z]")
_letters = str.maketrans("0134578@$!|", "oieastbasii")
_letters_l = str.maketrans("0134578@$!|", "oleastbasll")


def shapes(text: str) -> str:
    """The text without accents, invisible characters and forms that only look different; tags become letters."""
    if text.isascii():
        return text
    if _invisible.search(text):
        text = _tagged.sub(lambda found: f" {''.join([chr(ord(tag) - 0xE0000) for tag in found[0]])} ", text)
        text = _invisible.sub("", text)
    # The one character that would become eighteen.
    text = unicodedata.normalize("NFKD", text.replace("\ufdfa", " "))
    return unicodedata.normalize("NFC", _accents.sub("", text))


def plain(text: str) -> str:
    """The shapes of a text in lower case, and without the strokes that no accent stands for."""
    return _lowered(shapes(text))


def _lowered(shaped: str) -> str:
    lowered = shaped.lower()
    if lowered.isascii():
        return lowered
    return lowered.replace("ı", "i").replace("ł", "l").replace("ø", "o").replace("đ", "d")


def words_of(read: str) -> list[str]:
    """The words of a plain text."""
    for end in _ENDS:
        if end in read:
            read = read.replace(end, f" {BREAK} ")
    return read.translate(_NOT_IN_WORDS).split() if read.isascii() else _word.findall(read.replace("’", "'"))


def readings(text: str, shaped: str | None = None) -> Iterator[tuple[str, list[str]]]:
    """The plain form of a text with its words, and then the same of each other way to read it.

    All of them together are at most a few times as long as the text.
    """
    seen: set[str] = set()
    waiting = deque([(text, 0)])
    budget = _MOST_AGAIN * len(text) + 4_096
    while waiting and budget > 0:
        raw, depth = waiting.popleft()
        read = _lowered(shapes(raw) if shaped is None else shaped)
        shaped = None  # that was the text's own
        if read in seen:
            continue
        seen.add(read)
        budget -= len(read)
        words = words_of(read)
        yield read, words
        if depth < _DEEPEST:
            waiting += [(other, depth + 1) for other in _otherwise(raw, read, words)]


def _otherwise(raw: str, read: str, words: list[str]) -> Iterator[str]:
    different = set(words)
    may_be_encoded = max(map(len, different), default=0) >= _LONG or len(different & _PAIRS) >= _LEAST_PAIRS
    if may_be_encoded or any(map(raw.__contains__, _ESCAPES)):
        found = decoded(raw) if may_be_encoded else unescaped(raw)
        if found != raw:
            yield found
    if not read.isascii() and _foreign.search(read) and _mixed.search(read):
        yield read.translate(_latin)
    if len(different & _SINGLES) >= _LEAST_SINGLES:
        unspaced = _spaced.sub(_unspaced, raw)
        if unspaced != raw:
            yield unspaced
    is_leet = _is_leet(read, different)
    if is_leet:
        yield read.translate(_letters)
    if len(different & _SHIFTED) >= _LEAST_FREQUENT:
        yield read.translate(_ROT13)
    if len(different & _BACKWARDS) >= _LEAST_FREQUENT:
        yield read[::-1]
    if is_leet and "1" in read:
        yield read.translate(_letters_l)


def _unspaced(found: re.Match[str]) -> str:
    said = found[0][::2]
    return f" {said} " if sum(map(str.isalpha, said)) * 2 > len(said) else found[0]


def _is_leet(read: str, words: set[str]) -> bool:
    """Whether several words have digits or signs for letters."""
    mixed = (word for word in words if not word.isalpha() and not word.isdecimal() and _leet.search(word))
    if len(list(islice(mixed, _LEAST_LEET))) == _LEAST_LEET:
        return True
    return any(map(read.__contains__, "@$!|")) and len(_leet_signs.findall(read)) >= _LEAST_LEET

"""Undoing the usual encodings: base64, hex, percent signs, escapes and entities."""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode
from binascii import Error
from html import unescape
from urllib.parse import unquote

_base64 = re.compile(r"[A-Za-z0-9+/_-]{16,}={0,2}(?:\r?\n[A-Za-z0-9+/_-]{8,}={0,2})*")
_hex = re.compile(r"(?:0x|\\x)?[0-9A-Fa-f]{2}(?:[ :,-]?(?:0x|\\x)?[0-9A-Fa-f]{2}){7,}")
_not_hex = re.compile(r"0x|\\x|[^0-9A-Fa-f]")
_percent = re.compile(r"%[0-9A-Fa-f]{2}")
_escape = re.compile(r"\\(?:u\{?([0-9A-Fa-f]{4,5})\}?|x([0-9A-Fa-f]{2}))")
_control = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_said = re.compile(r"[^\W\d_]{2}")
_MOST_ODD = 0.1
"""Share of bytes that no text has, of all that were decoded."""


def decoded(text: str) -> str:
    """The text, with all that is encoded in it written out. What does not decode to text stays as it is."""
    return _base64.sub(_from_base64, _hex.sub(_from_hex, unescaped(text)))


def unescaped(text: str) -> str:
    """The text, with the characters written out that stand as percent signs, escapes or entities."""
    if "%" in text and _percent.search(text):
        text = unquote(text, errors="replace")
    if "\\" in text:
        text = _escape.sub(lambda found: chr(int(found[1] or found[2], 16)), text)
    if "&" in text:
        text = unescape(text)
    return text


def _from_hex(found: re.Match[str]) -> str:
    digits = _not_hex.sub("", found[0])
    return _as_text(bytes.fromhex(digits[: len(digits) // 2 * 2])) or found[0]


def _from_base64(found: re.Match[str]) -> str:
    letters = found[0].translate(_URLSAFE)
    # What is cut off, or has letters put before it, is read from the next whole group on.
    whole = letters[: len(letters) // 4 * 4] if len(letters) % 4 == 1 else letters + "=" * (-len(letters) % 4)
    try:
        return _as_text(urlsafe_b64decode(whole)) or found[0]
    except (Error, ValueError):
        return found[0]


_URLSAFE = {ord("+"): "-", ord("/"): "_", ord("="): None, ord("\r"): None, ord("\n"): None}


def _as_text(data: bytes) -> str | None:
    """Decoded bytes, where they are text."""
    text = data.decode(errors="ignore")
    odd = len(data) - len(text.encode()) + len(_control.findall(text))
    return f" {text} " if odd <= _MOST_ODD * len(data) and _said.search(text) else None

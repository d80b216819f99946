"""Images, audio and files: what they may cost, from what can be seen of them without decoding them.

Rates are those of OpenAI's guide "Images and vision", and of its bills where the two differ.
"""

from __future__ import annotations

import binascii
import math
import struct
from base64 import b64decode
from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

from .text import family

Size = tuple[int, int]
"""Width and height in pixels, either way round: no rate tells them apart."""


class Tiles(NamedTuple):
    """A base, and a price per 512-pixel tile of the image scaled down to 2,048 × 768; "low" detail is the base."""

    base: int
    each: int

    def tokens(self, size: Size | None, detail: str) -> int:
        if detail == "low":
            return self.base
        if size is None:
            return self.base + self.each * 8  # 2,048 × 768
        scale = min(Fraction(1), Fraction(2_048, max(size)), Fraction(768, min(size)))
        return self.base + self.each * math.prod(math.ceil(side * scale / 512) for side in size)


class Patches(NamedTuple):
    """A price per 32-pixel patch, up to a cap. "low" detail was seen to make no difference."""

    percent: int
    """Tokens per hundred patches."""
    cap: int = 1_536

    def tokens(self, size: Size | None, detail: str) -> int:
        cap = 10_000 if detail == "original" else self.cap
        # An image above the cap is scaled to fit it, and may then need a few patches less.
        patches = cap if size is None else min(cap, math.prod(math.ceil(side / 32) for side in size))
        return math.ceil(patches * self.percent / 100)


_RATES: dict[str, Tiles | Patches] = {  # by prefix; the first that fits
    "gpt-4o-mini": Tiles(2_833, 5_667),
    "gpt-4.1-mini": Patches(162),
    "gpt-4.1-nano": Patches(246),
    "o4-mini": Patches(172),
    "codex-mini": Patches(172),
    "gpt-5-mini": Patches(120),
    "gpt-5-nano": Patches(150),
    "gpt-5.1": Tiles(70, 140),
    "gpt-5.": Patches(120, cap=2_500),
    "gpt-5": Tiles(70, 140),
    "gpt-6": Patches(120, cap=2_500),
    "o1": Tiles(75, 150),
    "o3": Tiles(75, 150),
    "gpt-4": Tiles(85, 170),
    "chatgpt-4o": Tiles(85, 170),
}
_UNKNOWN = (Tiles(85, 170), Patches(246))
"""For other names, an Azure deployment's for one, the dearer of these; gpt-4o-mini alone costs more."""

_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""JPEG markers SOF0 to SOF15; the three left out are tables."""


def image_tokens(url: str, detail: str, model: str) -> int:
    """What an image costs `model`. Only one sent inline as base64 has a known size; any other counts as the largest."""
    name = family(model)
    rate = next((rate for prefix, rate in _RATES.items() if name.startswith(prefix)), None)
    size = image_size(url)
    return max(rate.tokens(size, detail) for rate in ((rate,) if rate else _UNKNOWN))


def audio_tokens(data: str, format: str) -> int:
    """The most that audio in base64 may cost: a frame, and the ten tokens a second of OpenAI's guide to audio, at the
    lowest usual bit rate of its format: 8 kHz × 8 bit for wav, 8 kbit/s for all others."""
    return 8 + len(data) * 3 // 4 // (800 if format == "wav" else 100)


def file_tokens(data: str, model: str) -> int:
    """What a file in base64 may cost: one token a byte, and one image. This is no proof: of a PDF, the provider reads
    its text, which is compressed, and a picture of each page."""
    return len(data) * 3 // 4 + image_tokens("", "high", model)


def image_size(url: str) -> Size | None:
    """Width and height of a PNG, GIF, WebP or JPEG sent as a ``data:`` URL; None if they cannot be read.

    Decodes no more than the headers, whatever the image's length.
    """
    start = url.find(",", 0, 256) + 1
    if not url.startswith("data:") or not url.endswith(";base64,", 0, start):
        return None

    def read(position: int, length: int) -> bytes:
        """Bytes of the image. Four characters are three bytes, so any of them can be reached without the rest."""
        first, last = position // 3, -(-(position + length) // 3)
        skip = position - first * 3
        return b64decode(url[start + first * 4 : start + last * 4], validate=True)[skip : skip + length]

    try:
        size = _size(read)
    except (binascii.Error, struct.error):  # not base64, or cut short
        return None
    return size if size and min(size) > 0 else None


def _size(read: Callable[[int, int], bytes]) -> Size | None:
    head = read(0, 30)
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return struct.unpack(">II", head[16:24])
    if head.startswith((b"GIF87a", b"GIF89a")):
        return struct.unpack("<HH", head[6:10])
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return _webp_size(head)
    if head.startswith(b"\xff\xd8"):
        return _jpeg_size(read)
    return None


def _webp_size(head: bytes) -> Size | None:
    match head[12:16]:
        case b"VP8 ":  # lossy: two 14-bit numbers, each with two bits of scale above
            width, height = struct.unpack("<HH", head[26:30])
            return width & 0x3FFF, height & 0x3FFF
        case b"VP8L":  # lossless: both less one, in 14 bits each
            bits = int.from_bytes(head[21:25], "little")
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case b"VP8X":  # extended: both less one, in three bytes each
            return int.from_bytes(head[24:27], "little") + 1, int.from_bytes(head[27:30], "little") + 1
    return None


def _jpeg_size(read: Callable[[int, int], bytes]) -> Size | None:
    """The size stands in the frame header, after any number of segments such as previews and colour profiles."""
    position = 2
    for _ in range(1_000):
        marker, kind, length, height, width = struct.unpack(">BBHxHH", read(position, 9))
        if marker != 0xFF:
            return None
        if kind in _FRAMES:
            return width, height
        position += 2 + length
    return None

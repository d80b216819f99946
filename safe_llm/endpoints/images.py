"""Images: ``POST /images/generations``, ``/images/edits`` and ``/images/variations``."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from ..policy import InputRules
from ..types import Call, Part, Usage
from .base import Count, Endpoint
from .reading import (
    hold_images,
    hold_length,
    malformed,
    read_usage,
    text_or_none,
    text_parts,
    uploads_for_hash,
    whole_number,
)

_PIXELS = 1_024 * 1_024
_QUALITIES = {"low": 272, "medium": 1_056, "high": 4_160, "xhigh": 8_320, "max": 16_640}
"""Output tokens of 1,024 × 1,024 pixels, from OpenAI's guide "Image generation", which has none for the two highest:
they are taken for twice and four times the third. "auto" was never seen to be dearer than "high"."""
_LARGEST_AUTO = 1.5
"""In units of `_PIXELS`: 1,536 × 1,024."""
_PARTIAL = 100
"""Output tokens of each partial image of a stream; same guide."""
_FRAMES = 9
"""Of a GIF that names no number."""

_SEEN, _SEEN_CLOSELY = 1_097, 7_337
"""Input tokens of one image at the most: a base of 65 and 129 for each of eight tiles, and 6,240 more where it is read
with high fidelity, as models after gpt-image-1 always do; same guide."""

_SIZE = re.compile(r"([0-9]{2,5})x([0-9]{2,5})")


class Images(Endpoint):
    """Reads and meters images made from a text."""

    name = "images.generate"
    path = "/images/generations"
    streams_text = False
    answers_in_words = False
    sums_usage = True

    def read(self, call: Call) -> None:
        body = call.body
        text_or_none(body, "prompt")
        call.answers = self._number(call, "n") or 1
        partial = self._number(call, "partial_images", least=0) or 0
        call.most_output = _output_tokens(body, self._number(call, "frame_count")) + _PARTIAL * partial
        if body.get("output_format") == "svg":
            call.hosted_tools = ("svg",)  # drawn by a second model, which is billed apart
        call.extra_input = self._images(call) * _closeness(call)

    @staticmethod
    def _number(call: Call, name: str, *, least: int = 1) -> int | None:
        """A count, which a form may carry as text."""
        value = call.body.get(name)
        if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= 6 and call.uploads:
            value = int(value)
        return whole_number({name: value}, name, least=least)

    def _images(self, call: Call) -> int:
        """How many images are given to look at: as files, or in the body."""
        named = [call.body[name] for name in ("image", "images", "mask", "markup") if call.body.get(name) is not None]
        return len(call.uploads) + sum(len(given) if isinstance(given, list) else 1 for given in named)

    def names_model(self, call: Call) -> bool:
        return False

    def validate(self, call: Call, rules: InputRules) -> None:
        hold_length("prompt", len(call.body.get("prompt") or ""), rules)
        hold_images(self._images(call), rules)

    def parts(self, call: Call) -> tuple[Part, ...]:
        return text_parts(call.body.get("prompt"), "prompt")

    def prompt(self, call: Call) -> Any:
        return [call.body.get("prompt"), uploads_for_hash(call)]

    def overhead(self, call: Call, count: Count) -> int:
        return count(call.body.get("prompt") or "")

    def usage(self, item: Mapping[str, Any]) -> Usage | None:
        return read_usage(item.get("usage"), "input_tokens", "output_tokens")

    def said(self, item: Mapping[str, Any]) -> tuple[str, bool]:
        kind = item.get("type")
        return "", not isinstance(kind, str) or kind.endswith(".completed")


class ImageEdits(Images):
    """Reads and meters images made from images and a text."""

    name = "images.edit"
    upload_fields = ("image", "mask", "markup")
    path = "/images/edits"


class ImageVariations(Images):
    """Reads and meters images made from an image alone."""

    name = "images.create_variation"
    upload_fields = ("image",)
    path = "/images/variations"


IMAGES, IMAGE_EDITS, IMAGE_VARIATIONS = Images(), ImageEdits(), ImageVariations()


def _output_tokens(body: Mapping[str, Any], frames: int | None) -> int:
    """The most that one image costs."""
    quality, size = text_or_none(body, "quality"), text_or_none(body, "size") or "auto"
    units = _LARGEST_AUTO
    if size != "auto":
        match = _SIZE.fullmatch(size)
        if match is None:
            raise malformed("size must be auto, or a width and a height such as 1024x1024")
        units = max(int(match[1]) * int(match[2]) / _PIXELS, 1.0)
    tokens = math.ceil(_QUALITIES.get(quality or "auto", _QUALITIES["high"]) * units)
    return tokens * (frames or _FRAMES) if body.get("output_format") == "gif" else tokens


def _closeness(call: Call) -> int:
    close = not call.model.startswith("gpt-image-1") or call.body.get("input_fidelity") == "high"
    return _SEEN_CLOSELY if close else _SEEN

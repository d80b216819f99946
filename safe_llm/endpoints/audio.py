"""Audio: ``POST /audio/transcriptions``, ``/audio/translations`` and ``/audio/speech``."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from typing import Any

from ..policy import InputRules
from ..types import Call, Part, Usage
from .base import Count, Endpoint
from .reading import (
    hold_length,
    inside,
    malformed,
    read_usage,
    text_or_none,
    text_parts,
    texts_of,
    uploads_for_hash,
)

_TOKENS_PER_SECOND = 10
"""Of audio that is read; OpenAI's guide to audio."""
_BYTES_PER_SECOND = 1_000
"""At the lowest usual bit rate of what is compressed: 8 kbit/s."""
_WRITTEN_PER_SECOND, _WRITTEN_AT_LEAST = 10, 200
"""Output tokens of a transcript: twice as many as a fast speaker's words come to."""
_SPOKEN_PER_BYTE = 4
"""Output tokens for each byte of text that is spoken: at 21 tokens a second, five letters a second, which is slow."""
_SLOWEST = 0.25
_LONGEST = 10_000_000
"""Seconds. What a provider reports beyond that is no length."""


class Transcriptions(Endpoint):
    """Reads and meters recordings turned to text."""

    name = "audio.transcriptions"
    path = "/audio/transcriptions"
    upload_fields = ("file",)

    def read(self, call: Call) -> None:
        text_or_none(call.body, "prompt")
        if len(call.uploads) != 1:
            raise malformed("file must be one recording")
        call.audio_seconds = _seconds(call.uploads[0].content)
        samples = sum(map(len, texts_of(call.body.get("known_speaker_references")))) * 3 // 4
        call.extra_input = (call.audio_seconds + -(-samples // _BYTES_PER_SECOND)) * _TOKENS_PER_SECOND
        call.most_output = call.audio_seconds * _WRITTEN_PER_SECOND + _WRITTEN_AT_LEAST
        call.hears = True

    def validate(self, call: Call, rules: InputRules) -> None:
        hold_length("prompt", len(call.body.get("prompt") or ""), rules)

    def parts(self, call: Call) -> tuple[Part, ...]:
        return text_parts(call.body.get("prompt"), "prompt")

    def prompt(self, call: Call) -> Any:
        return [call.body.get("prompt"), uploads_for_hash(call)]

    def overhead(self, call: Call, count: Count) -> int:
        return sum(map(count, [call.body.get("prompt") or "", *texts_of(call.body.get("keywords"))]))

    def usage(self, item: Mapping[str, Any]) -> Usage | None:
        found = inside(item, "usage")
        if found.get("type") == "duration" or not found:
            seconds = found.get("seconds", item.get("duration"))
            known = isinstance(seconds, int | float) and 0 <= seconds <= _LONGEST
            return Usage(audio_seconds=math.ceil(seconds)) if known and not isinstance(seconds, bool) else None
        details = found.get("input_token_details")
        return read_usage({**found, "input_tokens_details": details}, "input_tokens", "output_tokens")

    def said(self, item: Mapping[str, Any]) -> tuple[str, bool]:
        kind = item.get("type")
        if not isinstance(kind, str):
            text = item.get("text")
            return text if isinstance(text, str) else "", True
        delta = item.get("delta")
        return delta if isinstance(delta, str) else "", kind == "transcript.text.done"


class Translations(Transcriptions):
    """Reads and meters recordings turned to English text."""

    name = "audio.translations"
    path = "/audio/translations"


class Speech(Endpoint):
    """Reads and meters text turned to speech. An answer that is no stream of events tells no usage."""

    name = "audio.speech"
    path = "/audio/speech"
    streams_text = False
    answers_in_words = False
    may_bill_letters = True

    def read(self, call: Call) -> None:
        body = call.body
        if not text_or_none(body, "input"):
            raise malformed("input must be text, and not empty")
        text_or_none(body, "instructions")
        speed = 1 if body.get("speed") is None else body["speed"]
        if not isinstance(speed, int | float) or isinstance(speed, bool) or not speed >= _SLOWEST:
            raise malformed(f"speed must be a number of at least {_SLOWEST}")
        slowness = max(1 / speed, 1)
        spoken = math.ceil(len(body["input"].encode()) * _SPOKEN_PER_BYTE * slowness)
        call.most_output = 0 if call.by_letter else spoken

    def validate(self, call: Call, rules: InputRules) -> None:
        hold_length("input", len(call.body["input"]), rules)

    def parts(self, call: Call) -> tuple[Part, ...]:
        return text_parts(call.body["input"], "input") + text_parts(call.body.get("instructions"), "instructions")

    def prompt(self, call: Call) -> Any:
        return [call.body["input"], call.body.get("instructions")]

    def overhead(self, call: Call, count: Count) -> int:
        if call.by_letter:
            return len(call.body["input"])
        return count(call.body["input"]) + count(call.body.get("instructions") or "")

    def usage(self, item: Mapping[str, Any]) -> Usage | None:
        return read_usage(item.get("usage"), "input_tokens", "output_tokens")

    def said(self, item: Mapping[str, Any]) -> tuple[str, bool]:
        return "", item.get("type") == "speech.audio.done"


TRANSCRIPTIONS, TRANSLATIONS, SPEECH = Transcriptions(), Translations(), Speech()


def _seconds(recording: bytes) -> int:
    """The most seconds that a recording can have: what is not compressed, as its header says."""
    rate = _BYTES_PER_SECOND
    if recording[:4] == b"RIFF" and recording[8:16] == b"WAVEfmt " and recording[20:22] == b"\x01\x00":
        frames, second, frame = struct.unpack_from("<IIH", recording[:36].ljust(36, b"\0"), 24)
        rate = max(1, min(second, frames * frame))
    return -(-len(recording) // rate)

"""Audio: ``POST /audio/transcriptions``, ``/audio/translations`` and ``/audio/speech``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..policy import InputRules
from ..types import Call, Part, Upload, Usage
from .base import Count, Endpoint
from .reading import (
    hold_length,
    inside,
    malformed,
    read_usage,
    text_or_none,
    text_parts,
    uploads_for_hash,
)

_TOKENS_PER_SECOND = 10
"""Of audio that is read; OpenAI's guide to audio."""
_BYTES_PER_SECOND, _BYTES_PER_SECOND_OF_PCM = 1_000, 8_000
"""At the lowest usual bit rate: 8 kbit/s, and 8 kHz × 8 bit where it is not compressed."""
_SPOKEN_PER_BYTE = 4
"""Output tokens for each byte of text that is spoken: at 21 tokens a second, five letters a second, which is slow."""
_LONGEST = 10_000_000
"""Seconds. What a provider reports beyond that is no length."""


class Transcriptions(Endpoint):
    """Reads and meters recordings turned to text."""

    name = "audio.transcriptions"
    path = "/audio/transcriptions"
    upload_fields = ("file",)

    def read(self, call: Call) -> None:
        text_or_none(call.body, "prompt")
        recordings = [upload for upload in call.uploads if upload.field == "file"]
        if len(recordings) != 1:
            raise malformed("file must be one recording")
        call.audio_seconds = _seconds(recordings[0])
        call.extra_input = call.audio_seconds * _TOKENS_PER_SECOND
        call.hears = True

    def validate(self, call: Call, rules: InputRules) -> None:
        hold_length("prompt", len(call.body.get("prompt") or ""), rules)

    def parts(self, call: Call) -> tuple[Part, ...]:
        return text_parts(call.body.get("prompt"))

    def prompt(self, call: Call) -> Any:
        return [call.body.get("prompt"), uploads_for_hash(call)]

    def overhead(self, call: Call, count: Count) -> int:
        return count(call.body.get("prompt") or "")

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

    def read(self, call: Call) -> None:
        body = call.body
        if not text_or_none(body, "input"):
            raise malformed("input must be text, and not empty")
        text_or_none(body, "instructions")
        speed = body.get("speed")
        slowness = 1 / speed if isinstance(speed, int | float) and 0.25 <= speed < 1 else 1
        spoken = math.ceil(len(body["input"].encode()) * _SPOKEN_PER_BYTE * slowness)
        call.most_output = 0 if _is_billed_by_letter(call) else spoken

    def validate(self, call: Call, rules: InputRules) -> None:
        hold_length("input", len(call.body["input"]), rules)

    def parts(self, call: Call) -> tuple[Part, ...]:
        return text_parts([call.body["input"], call.body.get("instructions")])

    def prompt(self, call: Call) -> Any:
        return [call.body["input"], call.body.get("instructions")]

    def overhead(self, call: Call, count: Count) -> int:
        if _is_billed_by_letter(call):
            return len(call.body["input"])  # a letter stands for a token
        return count(call.body["input"]) + count(call.body.get("instructions") or "")

    def usage(self, item: Mapping[str, Any]) -> Usage | None:
        return read_usage(item.get("usage"), "input_tokens", "output_tokens")

    def said(self, item: Mapping[str, Any]) -> tuple[str, bool]:
        return "", item.get("type") == "speech.audio.done"


TRANSCRIPTIONS, TRANSLATIONS, SPEECH = Transcriptions(), Translations(), Speech()


def _is_billed_by_letter(call: Call) -> bool:
    return call.model.startswith("tts-1")


def _seconds(recording: Upload) -> int:
    """The most seconds that a recording can have."""
    head = (recording.content or b"")[:22]
    is_pcm = head[:4] == b"RIFF" and head[8:16] == b"WAVEfmt " and head[20:22] == b"\x01\x00"
    return -(-(recording.size or 0) // (_BYTES_PER_SECOND_OF_PCM if is_pcm else _BYTES_PER_SECOND))

"""Transcriptions and translations of audio, which is never listened to: only its length is looked at."""

from __future__ import annotations

import io
import math
import wave
from typing import Any

from ...types import Usage
from ..reply import Reply, Request
from .draft import Body, Events, asks_to_stream, pieces, sse, uploads, words

TOKENS_PER_SECOND = 10
"""Of audio."""
BYTES_PER_SECOND = 16_000
"""Of a file that is no WAV file: 128 kbit/s."""


def body(request: Request, reply: Reply) -> Body:
    seconds = _seconds(request)
    text = "".join(pieces(reply))
    return _written(request, "transcribe", text, seconds, _usage(request, reply, seconds))


def translation(request: Request, reply: Reply) -> Body:
    """As the real API: no usage, in any format."""
    return _written(request, "translate", "".join(pieces(reply)), _seconds(request), {})


def events(request: Request, reply: Reply) -> Events:
    seconds = _seconds(request)
    said = pieces(reply)
    name = "transcript.text.delta"
    content = [sse({"type": name, "delta": piece}, name) for piece in said]
    name = "transcript.text.done"
    end = {"type": name, "text": "".join(said)} | _usage(request, reply, seconds)
    return Events([], content, [], sse(end, name))


def streams(request: Request) -> bool:
    """whisper-1 does not, and ignores that it is asked to."""
    return _model(request) != "whisper-1" and asks_to_stream(request)


def _written(request: Request, task: str, text: str, seconds: int, usage: dict[str, Any]) -> Body:
    whole = {"task": task, "language": "english", "duration": float(seconds), "text": text}
    match request.body.get("response_format"):
        case "text":
            return f"{text}\n"
        case "srt":
            return f"1\n{_clock(0, ',')} --> {_clock(seconds, ',')}\n{text}\n\n"
        case "vtt":
            return f"WEBVTT\n\n{_clock(0, '.')} --> {_clock(seconds, '.')}\n{text}\n\n"
        case "verbose_json":
            return whole | {"segments": [_segment(text, seconds)]} | usage
        case "diarized_json":
            segment = {"id": "seg_0", "type": "transcript.text.segment", "speaker": "A", "text": text}
            return whole | {"segments": [segment | {"start": 0.0, "end": float(seconds)}]} | usage
    return {"text": text} | usage


def _segment(text: str, seconds: int) -> dict[str, Any]:
    heard = {"avg_logprob": -0.1, "compression_ratio": 1.0, "no_speech_prob": 0.0, "temperature": 0.0}
    return {"id": 0, "seek": 0, "start": 0.0, "end": float(seconds), "text": text, "tokens": []} | heard


def _clock(seconds: int, point: str) -> str:
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{point}000"


def _model(request: Request) -> str:
    return str(request.body.get("model"))


def _seconds(request: Request) -> int:
    """Rounded up, and at least one."""
    content = uploads(request, "file")[0]
    seconds: int
    try:
        with wave.open(io.BytesIO(content)) as sound:
            seconds = math.ceil(sound.getnframes() / sound.getframerate())
    except (wave.Error, EOFError):
        seconds = math.ceil(len(content) / BYTES_PER_SECOND)
    return max(1, seconds)


def _usage(request: Request, reply: Reply, seconds: int) -> dict[str, Any]:
    """Computed, it is seconds for the models that are billed by duration, whisper-1 and gpt-transcribe, and tokens for
    any other. A `Usage` is tokens always.
    """
    usage = reply.usage
    if usage == "computed":
        if _model(request).startswith(("whisper", "gpt-transcribe")):
            return {"usage": {"type": "duration", "seconds": seconds}}
        audio = seconds * TOKENS_PER_SECOND
        usage = Usage(words(request.body.get("prompt")) + audio, len(pieces(reply)), input_audio_tokens=audio)
    if isinstance(usage, Usage):
        audio = usage.input_audio_tokens
        usage = {
            "type": "tokens",
            "input_tokens": usage.input_tokens,
            "input_token_details": {"text_tokens": usage.input_tokens - audio, "audio_tokens": audio},
            "output_tokens": usage.output_tokens,
            "total_tokens": usage.total_tokens,
        }
    return {} if usage is None else {"usage": usage}

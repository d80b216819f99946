"""Speech. The sound is the start of an audio frame for every word, which no player plays."""

from __future__ import annotations

import base64
from typing import Any

from ...types import Usage
from ..reply import Reply, Request
from .draft import Events, MalformedRequestError, Media, pieces, sse, words

FRAME = b"\xff\xfb\x90\x64" + bytes(28)


def body(request: Request, reply: Reply) -> Media:
    """As the real API: the sound alone, without usage."""
    kind = request.body.get("response_format") or "mp3"
    return Media("audio/mpeg" if kind == "mp3" else f"audio/{kind}", FRAME * len(_pieces(request, reply)))


def events(request: Request, reply: Reply) -> Events:
    said = _pieces(request, reply)
    name = "speech.audio.delta"
    delta = sse({"type": name, "audio": base64.b64encode(FRAME).decode()}, name)
    name = "speech.audio.done"
    return Events([], [delta] * len(said), [], sse({"type": name} | _usage(request, reply, len(said)), name))


def streams(request: Request) -> bool:
    """tts-1 and tts-1-hd cannot."""
    return request.body.get("stream_format") == "sse" and not str(request.body.get("model")).startswith("tts-1")


def _pieces(request: Request, reply: Reply) -> list[str]:
    text = request.body.get("input")
    if not isinstance(text, str) or not text:
        raise MalformedRequestError("input", "a text")
    return pieces(reply, text)


def _usage(request: Request, reply: Reply, spoken: int) -> dict[str, Any]:
    usage = reply.usage
    if usage == "computed":
        usage = Usage(words(request.body["input"]) + words(request.body.get("instructions")), spoken)
    if isinstance(usage, Usage):
        usage = {
            "input_tokens": usage.input_tokens,
            "output_tokens": usage.output_tokens,
            "total_tokens": usage.total_tokens,
        }
    return {} if usage is None else {"usage": usage}

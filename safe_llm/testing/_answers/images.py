"""Images. Each is the same transparent pixel, whatever was asked for, and billed by the quality that was asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...types import Usage
from ..reply import Reply, Request
from .draft import Events, MalformedRequestError, asks_to_stream, is_form, sse, uploads, whole_number, words

IMAGE = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAAC0lEQVR42mNgAAIAAAUAAen63NgAAAAASUVORK5CYII="
"""A PNG of one pixel, in base64."""
URL = "https://images.invalid/fake.png"

OUTPUT_TOKENS = {"low": 272, "medium": 1_056, "high": 4_160}
"""Of an image by its quality, as gpt-image-1 bills a square one. Any other quality is taken for the high one."""
PARTIAL_TOKENS = 100
"""Of each partial image of a stream."""
INPUT_TOKENS = 256
"""Of each image that is sent to be edited. The real number depends on its size."""


def body(request: Request, reply: Reply) -> dict[str, Any]:
    """Models named ``dall-e…`` give a URL where the request asks for it, and tell no usage."""
    given = _check(request)
    count = whole_number(request, "n") or 1
    created = {"created": int(request.time)}
    if _is_gpt(request):
        return created | {"data": [{"b64_json": IMAGE}] * count} | _look(request) | _usage(request, reply, count)
    image = {"url": URL} if given.get("response_format") == "url" else {"b64_json": IMAGE}
    return created | {"data": [image] * count}


def generation_events(request: Request, reply: Reply) -> Events:
    return _events(request, reply, "image_generation")


def edit_events(request: Request, reply: Reply) -> Events:
    return _events(request, reply, "image_edit")


def streams(request: Request) -> bool:
    return _is_gpt(request) and asks_to_stream(request)


def _events(request: Request, reply: Reply, kind: str) -> Events:
    """One image, after as many partial ones as were asked for; these are what a cut counts."""
    _check(request)
    partial = whole_number(request, "partial_images", least=0) or 0
    image = {"b64_json": IMAGE, "created_at": int(request.time)} | _look(request)
    name = f"{kind}.partial_image"
    content = [sse({"type": name} | image | {"partial_image_index": index}, name) for index in range(partial)]
    name = f"{kind}.completed"
    return Events([], content, [], sse({"type": name} | image | _usage(request, reply, 1, partial), name))


def _check(request: Request) -> Mapping[str, Any]:
    """Raises `MalformedRequestError` for what has neither a prompt nor, where it is a form, an image."""
    given: Mapping[str, Any] = request.body
    if is_form(request):
        uploads(request, "image")
    elif not isinstance(given.get("prompt"), str):
        raise MalformedRequestError("prompt", "a text")
    return given


def _is_gpt(request: Request) -> bool:
    """So is a name that says nothing, such as that of a deployment."""
    return not str(request.body.get("model")).startswith("dall-e")


def _look(request: Request) -> dict[str, Any]:
    looks = {"background": "opaque", "output_format": "png", "quality": "high", "size": "1024x1024"}
    asked = {name: request.body.get(name) for name in looks}
    return looks | {name: value for name, value in asked.items() if value not in (None, "auto")}


def _usage(request: Request, reply: Reply, count: int, partial: int = 0) -> dict[str, Any]:
    """Of the input tokens of a `Usage`, those of the images that were sent are image tokens."""
    seen = INPUT_TOKENS * sum(map(len, request.files.values()))
    usage = reply.usage
    if usage == "computed":
        each = OUTPUT_TOKENS.get(_look(request)["quality"], OUTPUT_TOKENS["high"])
        usage = Usage(words(request.body.get("prompt")) + seen, count * each + partial * PARTIAL_TOKENS)
    if isinstance(usage, Usage):
        seen = min(seen, usage.input_tokens)
        usage = {
            "input_tokens": usage.input_tokens,
            "input_tokens_details": {"text_tokens": usage.input_tokens - seen, "image_tokens": seen},
            "output_tokens": usage.output_tokens,
            "output_tokens_details": {"text_tokens": 0, "image_tokens": usage.output_tokens},
            "total_tokens": usage.total_tokens,
        }
    return {} if usage is None else {"usage": usage}

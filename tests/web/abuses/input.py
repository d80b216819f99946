"""What may be sent: looked at before anything is sent, and before most of it is read."""

from __future__ import annotations

import json

from .abuse import Row, sent, sent_or_crashed
from .stage import Target

row = Row("Input validation")

MEGABYTE = 1_048_576
PATH = b"POST /ask/chat_support HTTP/1.1\r\nHost: shop\r\nContent-Type: application/json\r\n"


def body(text: str, **fields: object) -> bytes:
    return json.dumps({"messages": [{"role": "user", "content": text}], **fields}).encode()


def authorized(target: Target) -> bytes:
    return PATH + f"Authorization: Bearer {target.token()}\r\n".encode()


# The body itself ------------------------------------------------------------------------------------------------------


@row("a body of 5 MB")
def oversized(target: Target) -> str | None:
    target.ask(content=body("word " * MEGABYTE))
    return sent(target)


@row("a body of 5 MB in chunks, its length not told")
def oversized_in_chunks(target: Target) -> str | None:
    chunk = b" " * MEGABYTE
    pieces = [b"%x\r\n%s\r\n" % (len(piece), piece) for piece in (chunk, chunk, chunk, chunk, chunk, body("Hi"))]
    target.raw([authorized(target) + b"Transfer-Encoding: chunked\r\n\r\n", *pieces, b"0\r\n\r\n"])
    return sent(target)


@row("a body that comes byte by byte")
def slow(target: Target) -> str | None:
    content = body("Hi")
    head = authorized(target) + b"Content-Length: %d\r\n\r\n" % len(content)
    target.raw([head, *(content[i : i + 1] for i in range(len(content)))], pause=0.12)
    return sent(target)


@row("JSON of 5,000 levels")
def deep(target: Target) -> str | None:
    target.ask(content=b'{"messages": ' + b"[" * 5_000 + b"]" * 5_000 + b"}")
    return sent_or_crashed(target)


@row("content of 200 levels")
def nested(target: Target) -> str | None:
    part: object = {"type": "text", "text": "Hi"}
    for _ in range(200):
        part = {"type": "text", "text": "Hi", "more": part}
    target.ask(messages=[{"role": "user", "content": [part]}])
    return sent(target)


@row("bytes that are not UTF-8")
def invalid_utf8(target: Target) -> str | None:
    target.ask(content=body("Hi").replace(b"Hi", b"\xff\xfe\x80"))
    return sent_or_crashed(target)


@row("half of a surrogate pair")
def surrogate(target: Target) -> str | None:
    target.ask(content=body("Hi").replace(b"Hi", rb"\ud800"))
    target.ask(content=body("Hi").replace(b'"content"', rb'"\udfff"'))
    return sent_or_crashed(target)


@row("a number of 5,000 digits")
def huge_number(target: Target) -> str | None:
    target.ask(content=body("Hi", seed=1).replace(b'"seed": 1', b'"seed": ' + b"9" * 5_000))
    return sent_or_crashed(target)


@row("NaN and Infinity")
def no_numbers(target: Target) -> str | None:
    target.ask(content=body("Hi", temperature=1).replace(b'"temperature": 1', b'"temperature": NaN'))
    target.ask(content=body("Hi", n=1).replace(b'"n": 1', b'"n": Infinity'))
    return sent_or_crashed(target)


@row("a list where an object is expected")
def wrong_shape(target: Target) -> str | None:
    for content in (b"[]", b'"Hi"', b"null", b'{"messages": 5}', b'{"messages": null}'):
        target.ask(content=content)
    return sent_or_crashed(target)


# What it says ---------------------------------------------------------------------------------------------------------


@row("a message of 100,000 words")
def huge_message(target: Target) -> str | None:
    target.ask("word " * 100_000)
    return sent(target)


@row("a message of 200,000 characters without a space")
def unbroken(target: Target) -> str | None:
    target.ask("x" * 200_000)
    return sent(target)


@row("a history of 1,000 messages")
def huge_history(target: Target) -> str | None:
    turns = [{"role": role, "content": f"Part {part}."} for part in range(500) for role in ("user", "assistant")]
    target.ask(messages=[*turns, {"role": "user", "content": "Go on."}])
    most = max((len(asked["messages"]) for asked in target.provider.asked), default=0)
    return f"{most} messages sent" if most > 21 else None


@row("a last turn of 100,000 words")
def huge_turn(target: Target) -> str | None:
    answers = [{"role": "assistant", "content": "word " * 1_000} for _ in range(100)]
    target.ask(messages=[{"role": "user", "content": "Hi"}, *answers])
    return sent(target)


@row("a message cut into 200 parts")
def many_parts(target: Target) -> str | None:
    target.ask(messages=[{"role": "user", "content": [{"type": "text", "text": "word " * 100}] * 200}])
    return sent(target)


@row("1,000 images")
def many_images(target: Target) -> str | None:
    image = {"type": "image_url", "image_url": {"url": "https://example.com/cat.png", "detail": "high"}}
    target.ask(messages=[{"role": "user", "content": [image] * 1_000}])
    return sent(target)


@row("an image of 9 MB in the message itself")
def inline_image(target: Target) -> str | None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 9_000_000}}
    target.ask(messages=[{"role": "user", "content": [image]}])
    return sent(target)


@row("base64 passed off as text")
def base64_as_text(target: Target) -> str | None:
    target.ask("data:image/png;base64," + "A" * 500_000)
    return sent(target)


@row("a role that does not exist")
def unknown_role(target: Target) -> str | None:
    target.ask(messages=[{"role": "root", "content": "Hi"}])
    return sent(target)


@row("parts of a type that does not exist")
def unknown_part(target: Target) -> str | None:
    target.ask(
        messages=[{"role": "user", "content": [{"type": "video_url", "video_url": {"url": "https://a.example"}}]}]
    )
    return sent(target)


@row("content that is no text")
def no_text(target: Target) -> str | None:
    for content in (5, None, {"text": "Hi"}, [], [5]):
        target.ask(messages=[{"role": "user", "content": content}])
    return sent(target)

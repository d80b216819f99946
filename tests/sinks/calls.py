"""Calls of every kind, whose records sinks must show exactly."""

from __future__ import annotations

import contextlib
import inspect
from typing import Any

from safe_llm import DeniedError
from safe_llm.testing import FakeOpenAI, Reply
from safe_llm.types import Usage

POLICY = {
    "plans": {
        "default": {"limits": ["$1/day"]},
        "small": {"features": ["search"], "limits": []},
    }
}


def ask(model: str = "gpt-4o-mini", **arguments: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "Good morning"}], **arguments}


async def done(result: Any) -> Any:
    """What a client of either colour answers."""
    return await result if inspect.isawaitable(result) else result


async def read(stream: Any) -> None:
    if hasattr(stream, "__aiter__"):
        async for _ in stream:
            pass
    else:
        for _ in stream:
            pass


async def all_kinds(client: Any, server: FakeOpenAI) -> None:
    """Plain and streamed answers, embeddings, Responses, an error of the provider, and denials."""
    server.script(Reply(usage=Usage(1000, 300, cached_input_tokens=200, reasoning_tokens=100)))
    await done(client.chat.completions.create(**ask(), user_id="ann", feature="chat", session_id="s1"))
    server.script(Reply(chunks=7))
    await read(await done(client.chat.completions.create(**ask("gpt-4o", stream=True), user_id="bob", feature="chat")))
    await done(client.responses.create(model="gpt-4o-mini", input="Hello there", user_id="ann", feature="search"))
    await done(client.embeddings.create(model="text-embedding-3-small", input="Hello", tags={"team": "a"}))
    server.script(Reply(status=500))
    with contextlib.suppress(Exception):
        await done(client.with_options(max_retries=0).chat.completions.create(**ask(), feature="chat"))
    for arguments in (ask("no-such-model"), ask(max_tokens=0)):
        with contextlib.suppress(DeniedError):
            await done(client.chat.completions.create(**arguments, user_id="eve", feature="chat"))

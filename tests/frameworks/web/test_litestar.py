"""Litestar behind the ASGI middleware."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from litestar import Litestar, MediaType, get
from litestar.middleware import DefineMiddleware
from litestar.response import Stream
from served import ASKED, POLICY, Tokens, by_uvicorn

from safe_llm import AsyncSafeOpenAI
from safe_llm.testing import FakeOpenAI, RecordingSink
from safe_llm.web import SafeLLMMiddleware


@pytest.mark.parametrize("place", ["added", "outside"])
def test_litestar(server: FakeOpenAI, sink: RecordingSink, holds: Callable[[str], None], place: str) -> None:
    client = AsyncSafeOpenAI(base_url=server.base_url, api_key="t", policy=POLICY, sinks=[sink])

    @get("/chat", media_type=MediaType.TEXT)
    async def chat() -> str:
        return (await client.chat.completions.create(**ASKED)).choices[0].message.content or ""

    @get("/stream")
    async def stream() -> Stream:
        async def words() -> AsyncIterator[str]:
            async for chunk in await client.chat.completions.create(**ASKED, stream=True):
                yield chunk.choices[0].delta.content or ""

        return Stream(words())

    @get("/bug")
    async def bug() -> None:
        raise KeyError("a bug")

    options: Any = {"verifier": Tokens(), "client": client}
    inside = [DefineMiddleware(SafeLLMMiddleware, **options)] if place == "added" else []
    app: Any = Litestar([chat, stream, bug], middleware=inside, logging_config=None)
    with by_uvicorn(app if inside else SafeLLMMiddleware(app, **options)) as url:
        holds(url)

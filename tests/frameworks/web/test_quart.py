"""Quart behind the ASGI middleware."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

from quart import Quart, Response
from served import ASKED, POLICY, Tokens, by_uvicorn

from safe_llm import AsyncSafeOpenAI
from safe_llm.testing import FakeOpenAI, RecordingSink
from safe_llm.web import SafeLLMMiddleware


def test_quart(server: FakeOpenAI, sink: RecordingSink, holds: Callable[[str], None]) -> None:
    client = AsyncSafeOpenAI(base_url=server.base_url, api_key="t", policy=POLICY, sinks=[sink])
    app: Any = Quart(__name__)

    @app.get("/chat")
    async def chat() -> str:
        return (await client.chat.completions.create(**ASKED)).choices[0].message.content or ""

    @app.get("/stream")
    async def stream() -> Any:
        async def words() -> AsyncIterator[str]:
            async for chunk in await client.chat.completions.create(**ASKED, stream=True):
                yield chunk.choices[0].delta.content or ""

        return Response(words())

    @app.get("/bug")
    async def bug() -> None:
        raise KeyError("a bug")

    app.asgi_app = SafeLLMMiddleware(app.asgi_app, verifier=Tokens(), client=client)
    with by_uvicorn(app) as url:
        holds(url)

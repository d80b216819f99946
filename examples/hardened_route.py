"""A chat service with all eight rows on: whoever has a token may ask, plainly or streamed, and no more than is agreed.

    pip install "safe-llm[web]" fastapi uvicorn
    export OPENAI_API_KEY=... JWKS_URL=https://login.example.com/jwks.json JWT_ISSUER=https://login.example.com
    uvicorn --factory examples.hardened_route:make_app

Calls are counted in this process's memory, which is right for one worker. With several, say where they are counted
together, SAFE_LLM_QUOTA_STORE=sqlite:///quotas.db or redis://...; nothing else changes. `make example` shows it work.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from openai import APIError, APITimeoutError, AsyncStream
from openai.types.chat import ChatCompletionChunk
from pydantic import BaseModel, ConfigDict

from safe_llm import AsyncSafeOpenAI, JSONLinesSink, SafeLLMError, canary
from safe_llm.web import JWTVerifier, SafeLLMMiddleware, require_feature

POLICY: dict[str, Any] = {  # sizes, output caps, the deadline of 30 s, checks and records are the defaults
    "identity": {"required": True, "verified": True},
    "limits": ["$500/day"],
    "default_plan": "free",
    "plans": {
        "free": {
            "features": ["chat_support"],
            "models": ["gpt-4o-mini"],
            "limits": [
                *("10 requests/minute", "50_000 tokens/day", "$0.50/day", "$10/month", "4 concurrent"),
                "5 requests/minute per user, prompt",  # a loop that asks the same again and again
            ],
        },
        "pro": {
            "features": ["chat_support", "document_analysis"],
            "models": ["gpt-4o-mini", "gpt-4o"],
            "limits": ["60 requests/minute", "1_000_000 tokens/day", "$5/day", "$100/month", "8 concurrent"],
        },
        "staff": {"limits": ["60 requests/minute", "$20/day", "8 concurrent"]},
    },
    "features": {
        "document_analysis": {
            "limits": ["$50/day", "20 requests/minute per user"],
            "input": {"max_message_chars": 60_000, "max_context_tokens": 32_000},
        }
    },
    "checks": {"links": "redact"},
}
CANARY = f"({canary()})"  # an answer that holds it is stopped
PROMPTS = {
    "chat_support": f"You help the customers of an online shop. {CANARY}",
    "document_analysis": f"You summarize the document that the user sends. {CANARY}",
    "admin": f"You answer the staff's questions about the shop's margins. {CANARY}",
}


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Part(Strict):
    type: Literal["text", "image_url"]
    text: str | None = None
    image_url: dict[str, str] | None = None


class Message(Strict):
    """Of the conversation. The system's message is the application's, and nobody else's."""

    role: Literal["user", "assistant"]
    content: str | list[Part]


class Ask(Strict):
    """All that a caller may say; how much of it, the policy says."""

    messages: list[Message]
    model: str = "gpt-4o-mini"
    max_completion_tokens: int = 1_000
    n: int = 1
    stream: bool = False


def make_app(client: AsyncSafeOpenAI | None = None, verifier: JWTVerifier | None = None) -> FastAPI:
    """The service. What is left out comes from the environment."""
    client = client or AsyncSafeOpenAI(policy=POLICY, sinks=[JSONLinesSink(os.environ.get("USAGE_LOG", "usage.jsonl"))])
    verifier = verifier or JWTVerifier(
        jwks_url=os.environ["JWKS_URL"], issuer=os.environ["JWT_ISSUER"], audience="shop-assistant"
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await client.close()  # which writes the last records

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(SafeLLMMiddleware, verifier=verifier, client=client, body_seconds=5)

    @app.post("/ask/{feature}")
    async def ask(feature: str, asked: Ask) -> Any:
        said = asked.model_dump(exclude_none=True)
        said["messages"].insert(0, {"role": "system", "content": PROMPTS.get(feature, "")})
        answer = await client.chat.completions.create(feature=feature, **said)
        return StreamingResponse(events(answer), media_type="text/event-stream") if asked.stream else answer

    @app.post("/admin/switch", dependencies=[Depends(require_feature("admin"))])
    async def switch(on: bool, feature: str | None = None, user: str | None = None) -> dict[str, bool]:
        turn = client.guard.switch_on if on else client.guard.switch_off
        await turn(feature=feature, user_id=user)
        return {"on": on}

    @app.exception_handler(APIError)
    async def provider_failed(_: Request, error: APIError) -> Response:
        # Its own words stay here: they may quote the key or the prompt.
        late = isinstance(error, APITimeoutError)
        return problem(504 if late else 502, "The model did not answer in time." if late else "The model failed.")

    @app.exception_handler(RequestValidationError)
    async def malformed(_: Request, error: RequestValidationError) -> Response:
        return problem(422, f"The request is not what this route takes: {len(error.errors())} fields are wrong.")

    return app


async def events(stream: AsyncStream[ChatCompletionChunk]) -> AsyncIterator[str]:
    """The chunks as server-sent events. What goes wrong on the way is an event, too."""
    try:
        async for chunk in stream:
            yield f"data: {chunk.model_dump_json(exclude_unset=True)}\n\n"
        yield "data: [DONE]\n\n"
    except (SafeLLMError, APIError) as error:
        yield f'event: error\ndata: {{"error": "{type(error).__name__}"}}\n\n'


def problem(status: int, detail: str) -> Response:
    """An answer of RFC 9457, as the middleware gives for what the policy refuses."""
    body = {"type": "about:blank", "status": status, "detail": detail}
    return JSONResponse(body, status, media_type="application/problem+json")

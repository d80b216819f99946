"""A chat service as a sprint would write it: a key, a call, a response. Do not copy it: see hardened_route.py.

Nothing in it is unusual, and all of it works. `make attack` shows what can be done to it.

    OPENAI_API_KEY=... uvicorn --factory examples.sprint_route:make_app
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import jwt
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse
from openai import AsyncOpenAI, OpenAIError

log = logging.getLogger("sprint")

PROMPTS = {
    "chat_support": "You help the customers of an online shop.",
    "document_analysis": "You summarize the document that the user sends.",
    "admin": "You answer the staff's questions about the shop's margins.",
}


def caller(request: Request, body: dict[str, Any]) -> str:
    """Who is asking: what the front end says, else what the token says. The gateway has checked the token."""
    token = request.headers.get("authorization", "").removeprefix("Bearer ") or request.query_params.get("token")
    claims = jwt.decode(token, options={"verify_signature": False}) if token else {}
    said = request.headers.get("x-user-id") or request.query_params.get("user") or body.get("user")
    return said or claims.get("sub") or "anonymous"


def make_app(client: AsyncOpenAI | None = None) -> FastAPI:
    """The service. `client` is the SDK's own, with the key of the environment."""
    client = client or AsyncOpenAI()
    app = FastAPI()
    app.state.tokens = Counter()  # by user, for the invoice

    @app.post("/ask/{feature}")
    async def ask(feature: str, request: Request) -> Any:
        body = await request.json()
        user = caller(request, body)
        log.info("%s asks %s of %s: %s", user, body, feature, dict(request.headers))
        prompt = PROMPTS.get(feature, PROMPTS["chat_support"])
        body["messages"] = [{"role": "system", "content": prompt}, *body["messages"]]
        body.setdefault("model", "gpt-4o-mini")
        try:
            answer = await client.chat.completions.create(**body)
        except OpenAIError as error:
            return JSONResponse({"error": str(error)}, status_code=500)
        if body.get("stream"):
            return StreamingResponse(events(answer), media_type="text/event-stream")
        app.state.tokens[user] += answer.usage.total_tokens
        return answer

    return app


async def events(stream: AsyncIterator[Any]) -> AsyncIterator[str]:
    """The chunks as server-sent events."""
    async for chunk in stream:
        yield f"data: {chunk.model_dump_json(exclude_unset=True)}\n\n"
    yield "data: [DONE]\n\n"

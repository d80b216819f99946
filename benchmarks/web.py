"""What the middleware costs a route that makes a guarded call, in this process and without a network.

    python -m benchmarks.web                    # under a minute

The same FastAPI route with and without the middleware takes turns; the provider answers at once (`provider`). The token
is one that the verifier has seen before: checking a signature is shown apart, if PyJWT is installed.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from fastapi import FastAPI

from safe_llm import AsyncSafeOpenAI, Identity
from safe_llm.web import SafeLLMMiddleware

from . import provider
from .calls import POLICY
from .table import Row, aligned

TURNS = 400
_WARMUP = 0.3
MOST = 1.15
_MESSAGES: Any = [{"role": "user", "content": "What is the capital of France?"}]


class _Known:
    """A verifier that has checked the token before."""

    identity = Identity("u1", verified=True)

    def verify(self, token: str) -> Identity:
        return self.identity


def _route(client: Any) -> FastAPI:
    app = FastAPI()

    @app.post("/chat")
    async def chat() -> dict[str, str | None]:
        answer = await client.chat.completions.create(model=provider.MODEL, messages=_MESSAGES)
        return {"answer": answer.choices[0].message.content}

    return app


async def _request(app: Any) -> None:
    """One request, as a server hands it to an application."""
    headers = [(b"authorization", b"Bearer a.b.c"), (b"content-length", b"2"), (b"content-type", b"application/json")]
    scope = {
        "type": "http",
        "http_version": "1.1",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "method": "POST",
        "scheme": "http",
        "path": "/chat",
        "raw_path": b"/chat",
        "root_path": "",
        "query_string": b"",
        "headers": headers,
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    asked = [{"type": "http.request", "body": b"{}", "more_body": False}]
    left = asyncio.Event()
    statuses = []

    async def receive() -> Any:
        if asked:
            return asked.pop()
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        statuses.append(message.get("status"))

    await app(scope, receive, send)
    assert statuses[0] == 200, statuses


async def _pairs(bare: Any, guarded: Any) -> list[tuple[float, float]]:
    """Seconds of CPU time of both, turn by turn: nothing waits here, and other work on the machine counts less."""

    async def timed(app: Any) -> float:
        start = time.process_time()
        await _request(app)
        return time.process_time() - start

    until = time.perf_counter() + _WARMUP
    while time.perf_counter() < until:
        await _request(bare)
        await _request(guarded)
    gc.collect()
    return [(await timed(bare), await timed(guarded)) for _ in range(TURNS)]


async def _compare() -> list[Row]:
    client = provider.client(AsyncSafeOpenAI, policy=POLICY)
    route = _route(client)
    rows = []
    for what, told in (("refusals alone", None), ("and RateLimit on every answer", client)):
        pairs = await _pairs(route, SafeLLMMiddleware(route, verifier=_Known(), client=told))
        rows.append(Row(what, [(a * 1e3, b * 1e3) for a, b in pairs], "ms", most=MOST))
    await client.close()
    return rows


def _signatures() -> list[str]:
    """What checking a token costs, with a key that is at hand."""
    if find_spec("jwt") is None:
        return []
    import jwt
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    def each(check: Callable[[], object]) -> float:
        best = []
        for _ in range(200):
            start = time.process_time()
            check()
            best.append(time.process_time() - start)
        return sorted(best)[100]

    private: dict[str, Any] = {
        "HS256": "x" * 32,
        "ES256": ec.generate_private_key(ec.SECP256R1()),
        "RS256": rsa.generate_private_key(65_537, 2_048),
    }
    lines = []
    for name, key in private.items():
        token = jwt.encode({"sub": "u1", "exp": time.time() + 600}, key, name)
        public = key if isinstance(key, str) else key.public_key()
        taken = each(lambda token=token, public=public, name=name: jwt.decode(token, public, [name]))  # type: ignore[misc]
        lines.append(f"{name} {taken * 1e6:.0f} µs")
    return [f"Checking a token with PyJWT: {', '.join(lines)}."]


def main() -> None:
    rows = asyncio.run(_compare())
    print(aligned(rows), "", *_signatures(), sep="\n")


if __name__ == "__main__":
    main()

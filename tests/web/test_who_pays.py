"""Nothing of a request but its one bearer token says who is calling, and thereby who pays."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Iterator
from typing import Any

import pytest
from callers import Tokens
from hypothesis import given, settings
from hypothesis import strategies as st

from safe_llm import AsyncSafeOpenAI, SafeOpenAI
from safe_llm.testing import FakeOpenAI, RecordingSink
from safe_llm.web import SafeLLMMiddleware, SafeLLMWSGIMiddleware

FIELDS = ("user", "user_id", "safety_identifier", "metadata", "plan", "identity", "tags", "feature", "extra_body")
names = st.sampled_from(
    [
        "X-User-Id",
        "X-User",
        "X-Forwarded-User",
        "Remote-User",
        "From",
        "Cookie",
        "Proxy-Authorization",
        "X-Api-Key",
        "X-Authorization",
        "Authorization-",
        "Safe-LLM-Identity",
        "safe_llm.identity",
        "Forwarded",
        "X-Safe-LLM-User",
    ]
)
values = st.sampled_from(["mallory", "Bearer user-mallory", "user-mallory", "access_token=user-mallory"]) | st.text(
    st.characters(codec="latin-1", categories=["L", "N", "P"]), max_size=20
)
headers = st.lists(st.tuples(names, values), max_size=5)
tokens = st.sampled_from(["Authorization", "authorization", "AUTHORIZATION", "aUTHORIZATION"])
bodies = st.dictionaries(st.sampled_from(FIELDS), st.sampled_from(["mallory", {"user_id": "mallory"}, None, 1]))
queries = st.dictionaries(st.sampled_from(["user", "user_id", "access_token", "plan"]), st.just("user-mallory"))
MESSAGES: Any = [{"role": "user", "content": "Hello"}]


def forwarded(body: bytes) -> dict[str, Any]:
    """What a careless route hands on to the provider: the body's user, and everything else it says."""
    given = json.loads(body)
    more = {"user": given["user"]} if isinstance(given.get("user"), str) else {}
    return {"model": "gpt-4o-mini", "messages": MESSAGES, **more, "extra_body": {"user_id": "mallory"}}


@pytest.fixture(scope="module")
def provider() -> Iterator[FakeOpenAI]:
    with FakeOpenAI() as server:
        yield server


def policy() -> dict[str, Any]:
    return {"plans": {"default": {"limits": ["1_000_000 requests/day"]}}, "identity": {"verified": True}}


@settings(max_examples=60, deadline=None)
@given(headers, headers, tokens, bodies, queries)
def test_no_header_body_or_query_changes_the_identity(
    provider: FakeOpenAI, before: Any, after: Any, name: str, body: Any, query: Any
) -> None:
    """In front of a route that hands the body's user to the provider; by ASGI and by WSGI."""
    given = [*before, (name, "Bearer user-alice"), *after]
    content = json.dumps(body).encode()
    assert _asgi(provider, given, content, query) == (200, ["alice"])
    assert _wsgi(provider, given, content, query) == (200, ["alice"])


@settings(max_examples=60, deadline=None)
@given(headers, st.lists(st.tuples(tokens, values), min_size=1, max_size=2), bodies, queries)
def test_a_second_authorization_header_is_refused_however_it_is_written(
    provider: FakeOpenAI, others: Any, more: Any, body: Any, query: Any
) -> None:
    """Even if it says the same."""
    given = [("Authorization", "Bearer user-alice"), *others, *more]
    assert _asgi(provider, given, json.dumps(body).encode(), query) == (401, [])


def _asgi(provider: FakeOpenAI, given: Any, body: bytes, query: Any) -> tuple[int, list[str | None]]:
    """The status of the answer, and whose the calls were."""
    sink, sent = RecordingSink(), []

    async def main() -> None:
        async with AsyncSafeOpenAI(base_url=provider.base_url, api_key="t", policy=policy(), sinks=[sink]) as client:

            async def app(scope: Any, receive: Any, send: Any) -> None:
                message = await receive()
                await client.chat.completions.create(**forwarded(message["body"]))
                await send({"type": "http.response.start", "status": 200, "headers": []})
                await send({"type": "http.response.body"})

            async def send(message: Any) -> None:
                sent.append(message)

            asked = [{"type": "http.request", "body": body}]

            async def receive() -> Any:
                return asked.pop() if asked else await asyncio.Event().wait()

            raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in given]
            path = {"path": "/", "query_string": "&".join(f"{k}={v}" for k, v in query.items()).encode()}
            scope = {"type": "http", "method": "POST", "headers": raw, **path}
            await SafeLLMMiddleware(app, verifier=Tokens())(scope, receive, send)

    asyncio.run(main())
    return sent[0]["status"], [record.user_id for record in sink.records]


def _wsgi(provider: FakeOpenAI, given: Any, body: bytes, query: Any) -> tuple[int, list[str | None]]:
    sink = RecordingSink()
    with SafeOpenAI(base_url=provider.base_url, api_key="t", policy=policy(), sinks=[sink]) as client:

        def app(environ: Any, start_response: Any) -> Any:
            client.chat.completions.create(**forwarded(environ["wsgi.input"].read()))
            start_response("200 OK", [])
            return [b"fine"]

        environ = {
            "PATH_INFO": "/",
            "QUERY_STRING": "&".join(f"{k}={v}" for k, v in query.items()),
            "CONTENT_LENGTH": str(len(body)),
            "wsgi.input": io.BytesIO(body),
            "REMOTE_USER": "mallory",
            **{f"HTTP_{name.upper().replace('-', '_')}": value for name, value in given},
        }
        said: list[Any] = []
        b"".join(SafeLLMWSGIMiddleware(app, verifier=Tokens())(environ, lambda *start: said.append(start)))  # type: ignore[arg-type, func-returns-value]
    return int(said[0][0].split()[0]), [record.user_id for record in sink.records]

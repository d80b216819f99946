"""The dependency that names a route's feature, and refuses those whose plan lacks it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from callers import Tokens, bearer, serving
from fastapi import Depends, FastAPI
from fastapi.responses import StreamingResponse

from safe_llm import SafeOpenAI
from safe_llm.testing import FakeOpenAI, RecordingSink
from safe_llm.web import SafeLLMMiddleware, require_feature

ASKED: Any = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]}
PLANS = {
    "default": {"features": ["chat"]},
    "pro": {"features": ["chat", "document_analysis"], "limits": ["9 requests/day"]},
}


def application(client: Any, ran: list[str]) -> FastAPI:
    app = FastAPI(dependencies=[])
    feature = [Depends(require_feature("document_analysis"))]

    if isinstance(client, SafeOpenAI):

        @app.post("/analyse", dependencies=feature)
        def analyse() -> None:
            ran.append("analyse")
            client.chat.completions.create(**ASKED)

        @app.post("/stream", dependencies=feature)
        def stream() -> StreamingResponse:
            def words() -> Iterator[str]:
                for chunk in client.chat.completions.create(**ASKED, stream=True):
                    yield chunk.choices[0].delta.content or ""

            return StreamingResponse(words())

    else:

        @app.post("/analyse", dependencies=feature)
        async def analyse_async() -> None:
            ran.append("analyse")
            await client.chat.completions.create(**ASKED)

        @app.post("/stream", dependencies=feature)
        async def stream_async() -> StreamingResponse:
            async def words() -> Any:
                async for chunk in await client.chat.completions.create(**ASKED, stream=True):
                    yield chunk.choices[0].delta.content or ""

            return StreamingResponse(words())

    @app.post("/other")
    async def other() -> None:
        created = client.chat.completions.create(**ASKED)
        if not isinstance(client, SafeOpenAI):
            await created

    return app


def test_the_feature_holds_for_the_rest_of_the_request_and_no_other(
    make: Any, verifier: Tokens, sink: RecordingSink
) -> None:
    client = make(plans=PLANS)
    ran: list[str] = []
    app = SafeLLMMiddleware(application(client, ran), verifier=verifier, client=client)
    with serving(app) as url, httpx.Client(base_url=url, headers=bearer("alice.pro"), timeout=10) as http:
        for path in ("/analyse", "/stream", "/other"):
            answer = http.post(path)
            assert answer.status_code == 200
            assert '"9 requests/day"' in answer.headers["ratelimit"]
    assert [record.feature for record in sink.records] == ["document_analysis", "document_analysis", None]
    assert {(record.user_id, record.plan) for record in sink.records} == {("alice", "pro")}


def test_who_lacks_the_feature_is_refused_before_the_endpoint_runs(
    make: Any, verifier: Tokens, server: FakeOpenAI
) -> None:
    client = make(plans=PLANS)
    ran: list[str] = []
    app = application(client, ran)
    app.add_middleware(SafeLLMMiddleware, verifier=verifier, client=client)
    with serving(app) as url:
        answer = httpx.post(f"{url}/analyse", headers=bearer("alice"))
        assert httpx.post(f"{url}/other", headers=bearer("alice")).status_code == 200
    assert answer.status_code == 403
    assert answer.json()["code"] == "feature_not_allowed"
    assert answer.json()["scope"] == {"user": "alice", "feature": "document_analysis"}
    assert not ran


def test_without_a_client_the_first_guarded_call_finds_out(make: Any, verifier: Tokens, server: FakeOpenAI) -> None:
    ran: list[str] = []
    with serving(SafeLLMMiddleware(application(make(plans=PLANS), ran), verifier=verifier)) as url:
        assert httpx.post(f"{url}/analyse", headers=bearer("alice")).status_code == 403
        assert httpx.post(f"{url}/analyse", headers=bearer("alice.pro")).status_code == 200
    assert ran == ["analyse", "analyse"]
    assert server.count == 1


def test_a_name_that_cannot_be_a_feature_is_refused_when_the_route_is_declared() -> None:
    with pytest.raises(ValueError, match="feature"):
        require_feature("")

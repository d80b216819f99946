"""Programs that test themselves with mocks: respx, which sees only the legacy httpx, and MockTransport of either."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest
import respx

from safe_llm import AsyncSafeOpenAI, RateLimitExceededError, SafeOpenAI
from safe_llm.testing import RecordingSink

pytestmark = pytest.mark.anyio

URL = "https://api.openai.com/v1/chat/completions"
ASK: dict[str, Any] = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Good morning"}]}
USAGE = {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}
HEAD = {"id": "c1", "created": 1, "model": "gpt-4o-mini"}
ANSWER = HEAD | {
    "object": "chat.completion",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Hello you"}}],
    "usage": USAGE,
}


def chunk(text: str | None, finish: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": {"content": text} if text else {}, "finish_reason": finish}
    return HEAD | {"object": "chat.completion.chunk", "choices": [choice], "usage": None}


def events(*, usage: bool = True) -> bytes:
    """A stream of two words."""
    last = [HEAD | {"object": "chat.completion.chunk", "choices": [], "usage": USAGE}] * usage
    lines = [json.dumps(item) for item in (chunk("Hello"), chunk(" you"), chunk(None, "stop"), *last)]
    return "".join(f"data: {line}\n\n" for line in [*lines, "[DONE]"]).encode()


SSE = {"content-type": "text/event-stream"}


async def done(result: Any) -> Any:
    """What a client of either colour answers."""
    return await result if inspect.isawaitable(result) else result


async def chat(client: Any, **arguments: Any) -> Any:
    return await done(client.chat.completions.create(**{**ASK, **arguments}))


async def said(stream: Any) -> str:
    """The text of a stream of either colour."""
    chunks = [item async for item in stream] if hasattr(stream, "__aiter__") else list(stream)
    return "".join(choice.delta.content or "" for item in chunks for choice in item.choices)


# respx ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["sync", "async"])
async def client(request: pytest.FixtureRequest, sink: RecordingSink) -> AsyncIterator[Any]:
    """A client over the legacy httpx, as respx needs it."""
    policy = {"plans": {"default": {"limits": ["2 requests/day", "1_000_000 tokens/day", "1 concurrent"]}}}
    common: dict[str, Any] = {"api_key": "test", "sinks": [sink], "policy": policy}
    client: Any
    if request.param == "sync":
        client = SafeOpenAI(http_client=httpx.Client(), **common)
    else:
        client = AsyncSafeOpenAI(http_client=httpx.AsyncClient(), **common)
    yield client
    await done(client.close())


async def nothing_is_held(client: Any) -> bool:
    return all(status.held == 0 for status in await done(client.guard.usage(user_id="u1")))


async def test_a_plain_answer_of_respx_is_guarded_and_metered(client: Any, sink: RecordingSink) -> None:
    with respx.mock:
        route = respx.post(URL).respond(json=ANSWER, headers={"x-request-id": "r1"})
        answer = await chat(client, user_id="u1")
        assert answer.choices[0].message.content == "Hello you"
        sent = json.loads(route.calls.last.request.content)
    assert sent == {**ASK, "max_completion_tokens": 1_000}
    record = sink.last
    assert (record.outcome, record.usage_source, record.total_tokens, record.attempts) == ("ok", "provider", 11, 1)
    assert (record.request_id, record.user_id) == ("r1", "u1")
    assert await nothing_is_held(client)


async def test_a_stream_of_respx_is_guarded_and_metered(client: Any, sink: RecordingSink) -> None:
    with respx.mock:
        route = respx.post(URL).respond(content=events(), headers=SSE)
        assert await said(await chat(client, user_id="u1", stream=True)) == "Hello you"
        sent = json.loads(route.calls.last.request.content)
    assert sent["stream_options"] == {"include_usage": True}
    record = sink.last
    assert (record.outcome, record.usage_source, record.total_tokens, record.stream) == ("ok", "provider", 11, True)
    assert record.first_token_ms is not None
    assert await nothing_is_held(client)


async def test_a_stream_of_respx_without_usage_is_estimated(client: Any, sink: RecordingSink) -> None:
    with respx.mock:
        respx.post(URL).respond(content=events(usage=False), headers=SSE)
        await said(await chat(client, user_id="u1", stream=True))
    assert (sink.last.outcome, sink.last.usage_source, sink.last.output_tokens) == ("ok", "estimated", 2)


async def test_a_stream_of_respx_can_be_left_early(client: Any, sink: RecordingSink) -> None:
    with respx.mock:
        respx.post(URL).respond(content=events(), headers=SSE)
        stream = await chat(client, user_id="u1", stream=True)
        if hasattr(stream, "__aiter__"):
            async for _ in stream:
                break
        else:
            for _ in stream:
                break
        await done(stream.close())
    assert len(sink.records) == 1
    assert await nothing_is_held(client)


async def test_a_stream_manager_works_over_respx(client: Any, sink: RecordingSink) -> None:
    with respx.mock:
        respx.post(URL).respond(content=events(), headers=SSE)
        manager = client.chat.completions.stream(**ASK, user_id="u1")
        if hasattr(manager, "__aenter__"):
            async with manager as stream:
                final = await stream.get_final_completion()
        else:
            with manager as stream:
                final = stream.get_final_completion()
    assert final.choices[0].message.content == "Hello you"
    assert (sink.last.outcome, sink.last.user_id) == ("ok", "u1")


async def test_a_retry_over_respx_is_one_call_with_two_attempts(client: Any, sink: RecordingSink) -> None:
    with respx.mock:
        busy = httpx.Response(500, headers={"retry-after-ms": "1"}, json={"error": {"message": "busy"}})
        respx.post(URL).mock(side_effect=[busy, httpx.Response(200, json=ANSWER)])
        await chat(client, user_id="u1")
    assert [(record.outcome, record.attempts) for record in sink.records] == [("ok", 2)]


async def test_a_refusal_of_respx_costs_nothing(client: Any, sink: RecordingSink) -> None:
    with respx.mock:
        respx.post(URL).respond(401, json={"error": {"message": "no key"}})
        with pytest.raises(openai.AuthenticationError):
            await chat(client, user_id="u1")
    assert (sink.last.outcome, sink.last.usage_source) == ("error", "none")
    assert sink.last.cost_usd == 0
    assert await nothing_is_held(client)


async def test_a_denied_call_does_not_reach_respx(client: Any) -> None:
    with respx.mock:
        route = respx.post(URL).respond(json=ANSWER)
        await chat(client, user_id="u1")
        await chat(client, user_id="u1")
        with pytest.raises(RateLimitExceededError):
            await chat(client, user_id="u1")
        assert route.call_count == 2


# MockTransport --------------------------------------------------------------------------------------------------------

NAMES = ("httpx",) if openai.__version__.startswith("2.") else ("httpx2", "httpx")  # openai 2 knows no httpx2


@pytest.fixture(params=NAMES)
def library(request: pytest.FixtureRequest) -> Any:
    return importlib.import_module(request.param)


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
async def test_a_mock_transport_of_either_library_is_guarded_and_metered(
    library: Any, is_async: bool, stream: bool, sink: RecordingSink
) -> None:
    bodies: list[Any] = []

    def handle(request: Any) -> Any:
        bodies.append(json.loads(request.content))
        if bodies[-1].get("stream"):
            return library.Response(200, content=events(), headers=SSE)
        return library.Response(200, json=ANSWER)

    transport = library.MockTransport(handle)
    client: Any
    if is_async:
        client = AsyncSafeOpenAI(api_key="test", sinks=[sink], http_client=library.AsyncClient(transport=transport))
    else:
        client = SafeOpenAI(api_key="test", sinks=[sink], http_client=library.Client(transport=transport))
    answer = await chat(client, user_id="u1", **({"stream": True} if stream else {}))
    text = await said(answer) if stream else answer.choices[0].message.content
    await done(client.close())

    assert text == "Hello you"
    assert [body["max_completion_tokens"] for body in bodies] == [1_000]
    record = sink.last
    assert (record.outcome, record.usage_source, record.total_tokens) == ("ok", "provider", 11)

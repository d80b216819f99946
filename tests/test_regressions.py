"""What once went wrong between the parts: opened routes, repeated cancellation, collection inside a lock."""

from __future__ import annotations

import gc
import gzip
import inspect
import threading
import time
from collections.abc import Sequence
from typing import Any

import anyio
import httpx
import pytest
from openai import AsyncStream, Stream

from safe_llm import (
    AsyncSafeOpenAI,
    Charge,
    Content,
    FeatureNotAllowedError,
    Finding,
    InputRejectedError,
    MemoryQuotaStore,
    Refusal,
    Reservation,
    SafeAzureOpenAI,
    SafeOpenAI,
)
from safe_llm.endpoints.chat import CHAT
from safe_llm.metering import Meter
from safe_llm.testing import FakeOpenAI, RecordingSink, Reply

pytestmark = pytest.mark.anyio

ASK: dict[str, Any] = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}], "user_id": "u1"}


async def done(result: Any) -> Any:
    return await result if inspect.isawaitable(result) else result


@pytest.mark.parametrize("kind", [SafeOpenAI, AsyncSafeOpenAI])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_through_an_opened_route_comes_through_and_leaves_one_record(kind: Any, stream: bool) -> None:
    sink = RecordingSink()

    def answer(request: httpx.Request) -> httpx.Response:
        if stream:
            return httpx.Response(200, text='data: {"a": 1}\n\n', headers={"content-type": "text/event-stream"})
        return httpx.Response(200, json={"a": 1})

    is_async = kind is AsyncSafeOpenAI
    http_client = (httpx.AsyncClient if is_async else httpx.Client)(transport=httpx.MockTransport(answer))
    policy = {"routes": {"allow": ["POST /Something"]}}
    client = kind(api_key="k", sinks=[sink], policy=policy, http_client=http_client)
    kinds = {"stream": True, "stream_cls": (AsyncStream if is_async else Stream)[object]} if stream else {}
    got = await done(client.post("/something", body={}, cast_to=object, **kinds))
    if hasattr(got, "__aiter__"):
        got = [event async for event in got]
    assert (list(got) if stream else [got]) == [{"a": 1}]
    await done(client.close())
    assert [(r.endpoint, r.outcome, r.usage_source, r.cost_usd) for r in sink.records] == [
        ("POST /something", "ok", "none", None)
    ]


async def test_a_stream_cancelled_again_and_again_is_settled_and_recorded() -> None:
    """Cancel scopes of anyio cancel at every await; counting what was seen of the answer awaits a thread."""
    sink = RecordingSink()
    with FakeOpenAI() as server:
        server.always(Reply("one two three four five six", drip=0.1, usage=None))
        client = AsyncSafeOpenAI(base_url=server.base_url, api_key="k", sinks=[sink], max_retries=0)
        await client.guard.quote(**ASK)  # loads prices and ranks, which would take all of the time below
        with anyio.move_on_after(0.25):
            async for _ in await client.chat.completions.create(**ASK, stream=True):
                pass
        usage = await client.guard.usage(user_id="u1")
        await client.close()
    assert [(record.outcome, record.usage_source) for record in sink.records] == [("aborted", "estimated")]
    assert {status.held for status in usage} == {0}


class Collecting(MemoryQuotaStore):
    """Holds the lock of all memory stores while the garbage collector runs, as it may at any allocation."""

    def reserve(self, id: str, charges: Sequence[Charge], ttl: float) -> Reservation | Refusal:
        from safe_llm.stores import memory

        with memory._LOCK:
            gc.collect()
        return super().reserve(id, charges, ttl)


def test_a_stream_collected_while_another_client_is_inside_its_store_does_not_deadlock() -> None:
    sink = RecordingSink()

    def both() -> None:
        with FakeOpenAI() as server:
            first = SafeOpenAI(base_url=server.base_url, api_key="k", sinks=[sink])
            second = SafeOpenAI(base_url=server.base_url, api_key="k", sinks=[], quota_store=Collecting())
            stream = first.chat.completions.create(**ASK, stream=True)
            cycle: list[Any] = [stream]
            cycle.append(cycle)
            gc.disable()
            try:
                del stream, cycle
                second.chat.completions.create(**ASK)
            finally:
                gc.enable()
            first.close()
            second.close()

    worker = threading.Thread(target=both, daemon=True)
    worker.start()
    worker.join(10)
    assert not worker.is_alive()
    assert [record.outcome for record in sink.records] == ["aborted"]


def test_what_a_check_wants_redacted_is_not_sent() -> None:
    class Check:
        name = "names"

        def inspect(self, content: Content) -> list[Finding]:
            return [Finding(rule="a name", severity="low", where="messages[0]", action="redact")]

    with FakeOpenAI() as server:
        client = SafeOpenAI(base_url=server.base_url, api_key="k", sinks=[], checks=[Check()])
        with pytest.raises(InputRejectedError):
            client.chat.completions.create(**ASK)
    assert server.count == 0


@pytest.mark.parametrize("kind", [SafeOpenAI, AsyncSafeOpenAI])
async def test_what_is_sent_is_what_was_checked_though_the_caller_edits_it_meanwhile(kind: Any) -> None:
    message = {"role": "user", "content": "Hi"}

    class Editing:
        name = "editing"

        def inspect(self, content: Content) -> list[Finding]:
            message["content"] = "boom " * 20_000
            return []

    with FakeOpenAI() as server:
        client = kind(base_url=server.base_url, api_key="k", sinks=[])
        editing = client.with_options(checks=[Editing()])
        await done(editing.chat.completions.create(model="gpt-4o-mini", messages=[message]))
        await done(client.close())
    assert [request.body["messages"][0]["content"] for request in server.requests] == ["Hi"]


def test_text_that_lies_about_itself_is_taken_for_what_it_is() -> None:
    class Key(str):
        def __eq__(self, other: object) -> bool:
            return self is other

        __hash__ = object.__hash__  # type: ignore[assignment]

    class Text(str):
        def __len__(self) -> int:
            return 2

        def isascii(self) -> bool:
            return True

        def encode(self, *_: Any) -> bytes:
            return b"hi"

    with FakeOpenAI() as server:
        client = SafeOpenAI(base_url=server.base_url, api_key="k", sinks=[])
        client.chat.completions.create(**ASK, extra_body={Key("max_completion_tokens"): 99_999})
        assert server.requests[-1].content.count(b"max_completion_tokens") == 1
        assert server.requests[-1].body["max_completion_tokens"] == 4_000
        with pytest.raises(InputRejectedError):
            client.chat.completions.create(
                model="gpt-4o-mini", messages=[{"role": "user", "content": Text("boom " * 20_000)}]
            )
    assert server.count == 1


def test_the_deployment_in_the_url_is_the_model_that_is_allowed_and_priced() -> None:
    policy = {"plans": {"default": {"models": ["gpt-4o-mini"], "limits": ["$0.50/day"]}}}
    with FakeOpenAI() as server:
        client = SafeAzureOpenAI(
            azure_endpoint=server.url, api_version="2024-10-21", api_key="k", azure_deployment="gpt-4o", policy=policy
        )
        with pytest.raises(FeatureNotAllowedError, match="gpt-4o"):
            client.chat.completions.create(**ASK)
        other = SafeAzureOpenAI(azure_endpoint=server.url, api_version="2024-10-21", api_key="k", policy=policy)
        with pytest.raises(FeatureNotAllowedError):
            other.post("/deployments/gpt-4o/chat/completions", cast_to=object, body=dict(ASK, user_id=None))
    assert server.count == 0


def test_the_usage_of_a_compressed_answer_is_read_through_a_streaming_response() -> None:
    sink = RecordingSink()
    with FakeOpenAI() as server:
        client = SafeOpenAI(base_url=server.base_url, api_key="k", sinks=[sink])
        with client.chat.completions.with_streaming_response.create(**ASK) as response:
            response.parse()
    assert server.requests[-1].headers["accept-encoding"] == "identity"
    assert sink.last.usage_source == "provider"


def test_events_are_metered_whatever_their_type_says() -> None:
    sink = RecordingSink()
    with FakeOpenAI() as server:
        server.always(Reply("hello", headers={"Content-Type": "Text/Event-Stream; charset=utf-8"}))
        client = SafeOpenAI(base_url=server.base_url, api_key="k", sinks=[sink])
        chunks = list(client.chat.completions.create(**ASK, stream=True))
    assert all(chunk.choices for chunk in chunks)
    assert (sink.last.outcome, sink.last.usage_source) == ("ok", "provider")


def test_a_large_event_in_small_pieces_takes_linear_time() -> None:
    meter = Meter(CHAT, hide_usage=True)
    began = time.process_time()
    for _ in range(4_096):
        assert meter.feed(b"x" * 1024) == b""
    assert time.process_time() - began < 2
    assert len(meter.end()) == 4_096 * 1024


def test_what_only_the_provider_has_is_reserved_at_the_policys_maximum() -> None:
    client = SafeOpenAI(api_key="k", sinks=[])
    parts = [{"type": "file", "file": {"file_id": "file-1"}}]
    file = client.guard.quote(model="gpt-4o-mini", messages=[{"role": "user", "content": parts}])
    spoken = client.guard.quote(
        model="gpt-4o-mini", messages=[{"role": "assistant", "audio": {"id": "audio_1"}}, *ASK["messages"]]
    )
    assert (file.input_tokens, spoken.input_tokens) == (8_000, 8_000)


def test_calls_collected_from_a_stream_can_be_put_back_as_the_view_that_they_are() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    history = [
        *ASK["messages"],
        {"role": "assistant", "tool_calls": {0: call}.values()},
        {"role": "tool", "tool_call_id": "1", "content": "done"},
    ]
    with FakeOpenAI() as server:
        client = SafeOpenAI(base_url=server.base_url, api_key="k", sinks=[])
        client.chat.completions.create(model="gpt-4o-mini", messages=history)
    assert server.requests[-1].body["messages"][1]["tool_calls"] == [call]


def test_a_stream_that_the_sdk_was_not_told_of_is_handed_over_whole_and_metered() -> None:
    sink = RecordingSink()
    with FakeOpenAI() as server:
        client = SafeOpenAI(base_url=server.base_url, api_key="k", sinks=[sink])
        body = {"model": "gpt-4o-mini", "messages": ASK["messages"], "stream": True}
        text = client.post("/chat/completions", cast_to=str, body=body)
    assert text.rstrip().endswith("data: [DONE]")
    assert (sink.last.outcome, sink.last.usage_source, len(sink.records)) == ("ok", "provider", 1)


def test_a_compressed_body_that_came_with_its_response_is_read_once() -> None:
    sink = RecordingSink()
    events = (
        b'data: {"id":"1","object":"chat.completion.chunk","created":1,"model":"gpt-4o-mini",'
        b'"choices":[{"index":0,"delta":{"content":"hi"},"finish_reason":"stop"}]}\n\n'
        b'data: {"id":"1","object":"chat.completion.chunk","created":1,"model":"gpt-4o-mini",'
        b'"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":1,"total_tokens":6}}\n\ndata: [DONE]\n\n'
    )
    headers = {"Content-Type": "text/event-stream", "Content-Encoding": "gzip"}
    transport = httpx.MockTransport(lambda _: httpx.Response(200, content=gzip.compress(events), headers=headers))
    client = SafeOpenAI(api_key="k", sinks=[sink], http_client=httpx.Client(transport=transport))  # type: ignore[arg-type]
    chunks = list(client.chat.completions.create(**ASK, stream=True))
    assert chunks[0].choices[0].delta.content == "hi"
    assert (sink.last.usage_source, sink.last.total_tokens) == ("provider", 6)

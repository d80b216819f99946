"""Shadow mode: everything is decided and recorded, and no request is blocked or changed."""

from __future__ import annotations

import inspect
import io
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from safe_llm import DeniedError, RateLimitExceededError, SafeOpenAI
from safe_llm.testing import FakeClock, FakeOpenAI, RecordingSink, Reply

pytestmark = pytest.mark.anyio

HELLO = {"role": "user", "content": "Good morning"}
ASK: dict[str, Any] = {"model": "gpt-4o-mini", "messages": [HELLO]}


class Answer(BaseModel):
    text: str


async def done(result: Any) -> Any:
    """What a client of either colour answers."""
    return await result if inspect.isawaitable(result) else result


async def read(result: Any) -> Any:
    """An answer of either colour, read to its end if it is a stream."""
    result = await done(result)
    if isinstance(result, openai.AsyncStream):
        return [item async for item in result]
    return list(result) if isinstance(result, openai.Stream) else result


async def chat(client: Any, **arguments: Any) -> Any:
    return await read(client.chat.completions.create(**{**ASK, **arguments}))


@pytest.fixture
def server() -> Iterator[FakeOpenAI]:
    with FakeOpenAI() as server:
        server.always(Reply('{"text": "Hi"}'))
        yield server


@pytest.fixture
async def make(kind: Any, server: FakeOpenAI, sink: RecordingSink) -> AsyncIterator[Any]:
    """Makes clients of one colour with a policy; closes them in the end."""
    made: list[Any] = []

    def make(policy: Mapping[str, Any], **arguments: Any) -> Any:
        base: dict[str, Any] = {"base_url": server.base_url, "api_key": "test", "sinks": [sink], "clock": FakeClock()}
        made.append(kind(policy=policy, max_retries=0, **{**base, **arguments}))
        return made[-1]

    yield make
    for client in made:
        await done(client.close())


# What is sent ---------------------------------------------------------------------------------------------------------

STRICT = {
    "mode": "shadow",
    "identity": {"required": True, "send_safety_identifier": True},
    "input": {"max_message_chars": 3, "max_turns": 1, "max_context_tokens": 5},
    "output": {"default_max_tokens": 5, "max_tokens": 5},
    "plans": {"default": {"limits": ["0 requests/day", "$0/day", "0 concurrent"], "models": ["other"]}},
}
LONG = [HELLO, {"role": "assistant", "content": "Good evening"}, HELLO]

REQUESTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "long": {"messages": LONG},
    "stream": {"stream": True},
    "stream with usage": {"stream": True, "stream_options": {"include_usage": True}},
    "old cap": {"max_tokens": 9_000},
    "both caps": {"max_tokens": 9_000, "max_completion_tokens": 8_000},
    "many answers": {"n": 3, "temperature": 0.5},
    "extra body": {"extra_body": {"model": "gpt-4o", "top_k": 3, "max_tokens": 7_000}},
    "metadata": {"metadata": {"a": "b"}, "user": "somebody", "safety_identifier": "x"},
    "hosted tool": {"web_search_options": {"search_context_size": "low"}},
    "unpriced": {"model": "nobody-s-model"},
    "headers and query": {"extra_headers": {"X-A": "1"}, "extra_query": {"a": "1"}},
    "time-out": {"timeout": 4.0},
    "malformed": {"n": 0},
    "no messages": {"messages": []},
}


@pytest.mark.parametrize("name", REQUESTS)
async def test_each_request_is_the_bare_sdk_s_byte_for_byte(
    kind: Any, make: Any, server: FakeOpenAI, sink: RecordingSink, name: str
) -> None:
    bare = kind.__mro__[3](base_url=server.base_url, api_key="test", max_retries=0)
    for client in (bare, make(STRICT)):
        try:
            await chat(client, **REQUESTS[name])
        except openai.BadRequestError:  # the provider's own, and so for both
            assert name in ("malformed", "no messages")
    await done(bare.close())

    theirs, ours = server.requests
    assert ours.content == theirs.content
    assert (ours.path, ours.query) == (theirs.path, theirs.query)
    # The user agent names the client's class; a stream is read as it passes, and so asked for uncompressed.
    different = ours.headers.items() ^ theirs.headers.items()
    assert {name for name, _ in different} <= {"user-agent", "accept-encoding"}
    assert sink.last.denial is not None


STYLES = {
    "parse": lambda client: client.chat.completions.parse(**ASK, response_format=Answer),
    "raw": lambda client: client.chat.completions.with_raw_response.create(**ASK),
    "post": lambda client: client.post("/chat/completions", body=dict(ASK), cast_to=object),
}


@pytest.mark.parametrize("style", STYLES)
async def test_other_styles_are_sent_unchanged_too(kind: Any, make: Any, server: FakeOpenAI, style: str) -> None:
    bare = kind.__mro__[3](base_url=server.base_url, api_key="test", max_retries=0)
    for client in (bare, make(STRICT)):
        await done(STYLES[style](client))
    await done(bare.close())
    theirs, ours = server.requests
    assert ours.content == theirs.content


async def test_a_stream_shows_usage_to_those_who_asked_and_is_estimated_for_the_others(
    make: Any, sink: RecordingSink
) -> None:
    client = make({"mode": "shadow"})
    plain = await chat(client, stream=True)
    assert all(chunk.choices for chunk in plain)
    assert (sink.last.outcome, sink.last.usage_source) == ("ok", "estimated")
    asked = await chat(client, stream=True, stream_options={"include_usage": True})
    assert asked[-1].usage is not None
    assert (sink.last.outcome, sink.last.usage_source) == ("ok", "provider")


# What is recorded -----------------------------------------------------------------------------------------------------

WOULD_DENY: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "nobody": ("not_authenticated", {"identity": {"required": True}}, {}),
    "feature": ("feature_not_allowed", {"plans": {"default": {"features": ["a"]}}}, {"feature": "b"}),
    "model": ("model_not_allowed", {"plans": {"default": {"models": ["a"]}}}, {}),
    "message": ("message_too_long", {"input": {"max_message_chars": 3}}, {}),
    "bytes": ("request_too_large", {"input": {"max_request_bytes": 3}}, {}),
    "context": ("context_too_long", {"input": {"max_context_tokens": 3}}, {}),
    "history": ("context_too_long", {"input": {"max_turns": 1, "overflow": "deny"}}, {"messages": LONG}),
    "requests": ("rate_limit_exceeded", {"plans": {"default": {"limits": ["0 requests/day"]}}}, {}),
    "money": ("budget_exceeded", {"plans": {"default": {"limits": ["$0/day"]}}}, {}),
    "price": ("unpriced_model", {}, {"model": "nobody-s-model"}),
    "hosted tool": ("hosted_tool_blocked", {}, {"web_search_options": {}}),
}


@pytest.mark.parametrize("reason", WOULD_DENY)
async def test_the_record_says_what_would_have_happened_and_what_did(
    make: Any, server: FakeOpenAI, sink: RecordingSink, reason: str
) -> None:
    code, policy, arguments = WOULD_DENY[reason]
    enforcing = make(policy)
    with pytest.raises(DeniedError) as caught:
        await chat(enforcing, **arguments)
    assert caught.value.code == code
    sink.clear()

    await chat(make({**policy, "mode": "shadow"}), **arguments)
    record = sink.last
    assert len(sink.records) == server.count == 1
    assert (record.outcome, record.usage_source, record.attempts) == ("ok", "provider", 1)
    assert (record.cost_usd is None) == (reason == "price")
    denial = record.denial
    assert denial is not None
    assert (denial.code, denial.limit, denial.scope) == (code, caught.value.limit, caught.value.scope)


async def test_what_would_have_been_trimmed_is_counted_and_sent_all_the_same(
    make: Any, server: FakeOpenAI, sink: RecordingSink
) -> None:
    await chat(make({"mode": "shadow", "input": {"max_turns": 1}}), messages=LONG)
    assert (sink.last.denial, sink.last.trimmed_messages) == (None, 2)
    assert server.requests[-1].body["messages"] == LONG


async def test_the_cap_on_the_record_is_the_one_that_was_sent(make: Any, sink: RecordingSink) -> None:
    client = make({"mode": "shadow"})
    await chat(client)
    await chat(client, max_tokens=9_000)
    assert [record.max_tokens for record in sink.records] == [None, 9_000]


async def test_no_deadline_of_ours_cuts_a_call(make: Any, server: FakeOpenAI, sink: RecordingSink) -> None:
    server.script(Reply("Hi", delay=0.3))
    await chat(make({"mode": "shadow", "time": {"deadline_seconds": 0.1}}))
    assert sink.last.outcome == "ok"


async def test_a_provider_s_error_stays_one_and_would_not_have_been_reached(
    make: Any, server: FakeOpenAI, sink: RecordingSink
) -> None:
    server.script(Reply(status=500))
    with pytest.raises(openai.InternalServerError):
        await chat(make({"mode": "shadow", "plans": {"default": {"limits": ["0 requests/day"]}}}))
    assert sink.last.outcome == "error"
    assert sink.last.denial is not None


async def test_a_blocked_route_is_let_through_and_noted(make: Any, server: FakeOpenAI, sink: RecordingSink) -> None:
    client = make({"mode": "shadow"})
    with pytest.raises(openai.NotFoundError):  # the fake server has no such route; a blocked call would not reach it
        await done(client.post("/batches", body={"input_file_id": "f"}, cast_to=object))
    assert server.requests[-1].path == "/v1/batches"
    assert sink.last.denial is not None
    assert (sink.last.denial.code, sink.last.outcome, sink.last.usage_source) == ("route_blocked", "error", "none")


# What is counted ------------------------------------------------------------------------------------------------------

LIMITS = {"plans": {"default": {"limits": ["3 requests/day", "1_000_000 tokens/day", "$5/day", "2 concurrent"]}}}


async def test_the_counters_stand_as_they_would_under_enforcement(make: Any, sink: RecordingSink) -> None:
    """Five calls of a user that may make three: what would have been denied consumes nothing."""
    enforcing, shadow = make(LIMITS), make({**LIMITS, "mode": "shadow"})
    for _ in range(3):
        await chat(enforcing, user_id="u1")
    for _ in range(2):
        with pytest.raises(RateLimitExceededError):
            await chat(enforcing, user_id="u1")
    sink.clear()
    for _ in range(5):
        await chat(shadow, user_id="u1")

    assert [record.outcome for record in sink.records] == ["ok"] * 5
    assert [record.denial is not None for record in sink.records] == [False, False, False, True, True]
    mirrored, real = [await done(client.guard.usage(user_id="u1")) for client in (shadow, enforcing)]
    assert mirrored == real
    assert [(status.used, status.held) for status in mirrored if status.limit == "3 requests/day"] == [(3, 0)]


async def test_a_kill_switch_in_shadow_is_noted_and_stops_nothing(make: Any, sink: RecordingSink) -> None:
    client = make({"mode": "shadow"})
    await done(client.guard.switch_off(user_id="u1"))
    await chat(client, user_id="u1")
    assert sink.last.outcome == "ok"
    assert sink.last.denial is not None
    assert sink.last.denial.code == "switched_off"


async def test_a_store_that_is_away_stops_nothing(make: Any, sink: RecordingSink) -> None:
    class Away:
        def reserve(self, *arguments: Any) -> Any:
            raise ConnectionError

        settle = peek = reserve

        def close(self) -> None:
            pass

    await chat(make({"mode": "shadow"}, quota_store=Away()))
    assert sink.last.outcome == "ok"
    assert sink.last.denial is not None
    assert sink.last.denial.code == "store_unavailable"


def test_a_file_beyond_the_limit_is_sent_whole(server: FakeOpenAI, sink: RecordingSink) -> None:
    """What would have been denied is noted, and the file goes as it came."""
    file = b"x" * 9_000_000
    policy = {"mode": "shadow", "plans": {"default": {"limits": []}}}
    with SafeOpenAI(base_url=server.base_url, api_key="k", sinks=[sink], policy=policy) as client:
        client.audio.transcriptions.create(model="gpt-4o-transcribe", file=("a.mp3", io.BytesIO(file)))
    assert server.requests[-1].files["file"] == [("a.mp3", file)]
    assert sink.last.denial is not None
    assert sink.last.denial.code == "request_too_large"

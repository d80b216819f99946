"""Every guarded surface over real HTTP, sync and async: who pays, for what, and how it is known."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from typing import Any, NamedTuple

import pytest
from openai.resources.responses import Responses
from pydantic import BaseModel

from safe_llm import (
    AsyncSafeOpenAI,
    BudgetExceededError,
    ConfigurationError,
    InputRejectedError,
    RateLimitExceededError,
    SafeOpenAI,
    UnpricedModelError,
    Usage,
    identify,
)
from safe_llm.testing import FakeOpenAI, RecordingSink, Reply

pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")]

MUCH = {"plans": {"default": {"limits": ["$50/day"]}}, "routes": {"hosted_tools": {}}}
WAV = b"RIFF\x00\x00\x00\x00WAVEfmt \x10\x00\x00\x00\x01\x00\x01\x00" + b"\x40\x1f\x00\x00" * 2 + b"\x00" * 32_000


class Surface(NamedTuple):
    method: str
    arguments: dict[str, Any]
    endpoint: str
    usage: Usage
    cost: str
    """USD for `usage`."""
    cap: int | None = None
    streams: bool = True


CHAT_USAGE = Usage(1_000, 100, cached_input_tokens=400, reasoning_tokens=50)
SURFACES = {
    "chat": Surface(
        "chat.completions.create",
        {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}]},
        "chat.completions",
        CHAT_USAGE,
        "0.003",
        1_000,
    ),
    "responses": Surface(
        "responses.create", {"model": "gpt-4o", "input": "Hi"}, "responses", CHAT_USAGE, "0.003", 1_000
    ),
    "compact": Surface(
        "responses.compact",
        {"model": "gpt-4o", "input": "Hi"},
        "responses.compact",
        CHAT_USAGE,
        "0.003",
        streams=False,
    ),
    "embeddings": Surface(
        "embeddings.create",
        {"model": "text-embedding-3-small", "input": "Hi"},
        "embeddings",
        Usage(1_000),
        "0.00002",
        streams=False,
    ),
    "completions": Surface(
        "completions.create",
        {"model": "gpt-3.5-turbo-instruct", "prompt": "Hi"},
        "completions",
        Usage(1_000, 100),
        "0.0017",
        1_000,
    ),
    "images": Surface(
        "images.generate", {"model": "gpt-image-1", "prompt": "Hi"}, "images.generate", Usage(10, 4_160), "0.16645"
    ),
    "edits": Surface(
        "images.edit",
        {"model": "gpt-image-1", "prompt": "Hi", "image": ("a.png", b"x", "image/png")},
        "images.edit",
        Usage(10, 4_160),
        "0.1665",
    ),
    "transcriptions": Surface(
        "audio.transcriptions.create",
        {"model": "gpt-4o-transcribe", "file": ("a.wav", WAV)},
        "audio.transcriptions",
        Usage(40, 10, input_audio_tokens=40),
        "0.00034",
    ),
    "speech": Surface(
        "audio.speech.create",
        {"model": "tts-1", "input": "Good morning", "voice": "alloy"},
        "audio.speech",
        Usage(12),
        "0.00018",
        streams=False,
    ),
}
if not hasattr(Responses, "compact"):
    del SURFACES["compact"]  # of an older SDK
both_kinds = pytest.mark.parametrize("kind", [SafeOpenAI, AsyncSafeOpenAI], ids=["sync", "async"])
each = pytest.mark.parametrize("name", SURFACES)
streamed = pytest.mark.parametrize("name", [name for name, surface in SURFACES.items() if surface.streams])


async def done(result: Any) -> Any:
    return await result if inspect.isawaitable(result) else result


async def read(stream: Any) -> list[Any]:
    return [event async for event in stream] if hasattr(stream, "__aiter__") else list(stream)


@pytest.fixture
async def make(
    request: pytest.FixtureRequest, kind: Any, server: FakeOpenAI, sink: RecordingSink
) -> AsyncIterator[Callable[..., Any]]:
    made: list[Any] = []

    def make(policy: Any = MUCH, **options: Any) -> Any:
        base = {"base_url": server.base_url, "api_key": "k", "sinks": [sink], "max_retries": 0, "policy": policy}
        made.append(kind(**{**base, **options}))
        return made[-1]

    yield make
    for client in made:
        await done(client.close())


def method(client: Any, path: str) -> Any:
    for step in path.split("."):
        client = getattr(client, step)
    return client


async def call(client: Any, name: str, **more: Any) -> Any:
    surface = SURFACES[name]
    return await done(method(client, surface.method)(**{**surface.arguments, **more}))


# What a call costs ----------------------------------------------------------------------------------------------------


@each
@both_kinds
async def test_a_call_is_billed_as_the_provider_tells(
    make: Any, server: FakeOpenAI, sink: RecordingSink, name: str
) -> None:
    surface = SURFACES[name]
    server.always(Reply("Good morning", usage=surface.usage))
    client = make()
    await call(client, name, user_id="alice", feature="chat_support", session_id="s", tags={"team": "blue"})
    record = sink.last
    assert (record.user_id, record.feature, record.session_id, record.tags) == (
        *("alice", "chat_support", "s"),
        {"team": "blue"},
    )
    assert (record.endpoint, record.model, record.outcome) == (surface.endpoint, surface.arguments["model"], "ok")
    assert record.cost_usd == Decimal(surface.cost)
    assert record.cost_reserved_usd is not None
    assert (
        record.cost_reserved_usd >= record.cost_usd
        or surface.usage == CHAT_USAGE
        or surface.usage.input_tokens == 1_000
    )
    assert record.max_tokens == surface.cap
    told = (record.input_tokens, record.output_tokens, record.cached_input_tokens, record.reasoning_tokens)
    assert told == (*surface.usage[:3], surface.usage.reasoning_tokens)
    (status,) = await done(client.guard.usage(user_id="alice"))
    assert (status.used, status.held) == (record.cost_usd, 0)
    (request,) = server.requests
    assert not {"user_id", "feature", "session_id", "tags"} & set(request.body)
    assert b"alice" not in request.content


@streamed
@both_kinds
async def test_a_stream_is_billed_as_its_last_event_tells(
    make: Any, server: FakeOpenAI, sink: RecordingSink, name: str
) -> None:
    surface = SURFACES[name]
    server.always(Reply("Good morning to you", usage=surface.usage))
    client = make()
    assert await read(await call(client, name, stream=True, user_id="alice"))
    record = sink.last
    assert (record.outcome, record.stream, record.usage_source) == ("ok", True, "provider")
    assert record.total_tokens == surface.usage.total_tokens
    assert len(sink.records) == 1
    (status,) = await done(client.guard.usage(user_id="alice"))
    assert (status.used, status.held) == (record.cost_usd, 0)


@streamed
@both_kinds
async def test_a_stream_that_is_left_is_charged_at_an_estimate(
    make: Any, server: FakeOpenAI, sink: RecordingSink, name: str
) -> None:
    server.always(Reply("one two three four five", drip=0.05))
    client = make()
    stream = await call(client, name, stream=True)
    if hasattr(stream, "__aiter__"):
        await anext(aiter(stream))
        await stream.close()
    else:
        next(iter(stream))
        stream.close()
    server.wait_until(lambda: bool(sink.records))
    assert sink.last.outcome in ("aborted", "ok")  # an image of one event is all there is
    if sink.last.outcome == "aborted":
        assert sink.last.usage_source == "estimated"
        assert sink.last.cost_usd is not None
        assert Decimal(0) < sink.last.cost_usd <= (sink.last.cost_reserved_usd or 0)
    assert (await done(client.guard.usage()))[0].held == 0


@each
@both_kinds
async def test_a_refusal_by_the_provider_costs_nothing(
    make: Any, server: FakeOpenAI, sink: RecordingSink, name: str
) -> None:
    server.always(Reply(status=429))
    client = make()
    with pytest.raises(Exception, match="429"):
        await call(client, name)
    assert (sink.last.outcome, sink.last.usage_source, sink.last.cost_usd) == ("error", "none", 0)
    assert [status.used + status.held for status in await done(client.guard.usage())] == [0]


@each
@both_kinds
async def test_an_answer_without_usage_is_never_free(
    make: Any, server: FakeOpenAI, sink: RecordingSink, name: str
) -> None:
    server.always(Reply("Good morning", usage=None))
    client = make()
    await call(client, name)
    assert (sink.last.outcome, sink.last.usage_source) == ("ok", "estimated")
    assert sink.last.cost_usd is not None
    assert Decimal(0) < sink.last.cost_usd <= (sink.last.cost_reserved_usd or 0)


# What is denied -------------------------------------------------------------------------------------------------------


@each
@both_kinds
async def test_a_call_beyond_a_limit_is_not_sent(make: Any, server: FakeOpenAI, sink: RecordingSink, name: str) -> None:
    client = make({"plans": {"default": {"limits": ["1 requests/day"]}}})
    await call(client, name, user_id="alice")
    with pytest.raises(RateLimitExceededError):
        await call(client, name, user_id="alice")
    await call(client, name, user_id="bob")
    assert server.count == 2
    assert [record.outcome for record in sink.records] == ["ok", "denied", "ok"]


@each
@both_kinds
async def test_the_identity_may_be_bound_or_in_the_context(make: Any, sink: RecordingSink, name: str) -> None:
    client = make()
    await call(client.with_identity(user_id="bound", feature="f"), name)
    with identify(user_id="around", feature="g"):
        await call(client, name)
    assert [(record.user_id, record.feature) for record in sink.records] == [("bound", "f"), ("around", "g")]


@each
@both_kinds
async def test_raw_and_streaming_responses_are_accounted_for(
    make: Any, server: FakeOpenAI, sink: RecordingSink, name: str
) -> None:
    path, _, last = SURFACES[name].method.rpartition(".")
    client = make()
    resource = method(client, path)
    raw = await done(getattr(resource.with_raw_response, last)(**SURFACES[name].arguments, user_id="raw"))
    assert raw.http_response.status_code == 200
    manager = getattr(resource.with_streaming_response, last)(**SURFACES[name].arguments, user_id="streaming")
    if hasattr(manager, "__aenter__"):
        async with manager as response:
            assert await response.read()
    else:
        with manager as response:
            assert response.read()
    assert [(record.user_id, record.outcome) for record in sink.records] == [("raw", "ok"), ("streaming", "ok")]
    assert (await done(client.guard.usage(user_id="streaming")))[0].held == 0
    assert server.count == 2


@each
@both_kinds
async def test_a_quote_says_what_would_be_reserved_and_sends_nothing(
    make: Any, server: FakeOpenAI, sink: RecordingSink, name: str
) -> None:
    surface, client = SURFACES[name], make()
    method(client, surface.method)
    quote = await done(client.guard.quote(endpoint=surface.endpoint, **surface.arguments))
    assert quote.would_be_denied is None
    assert quote.max_usd is not None
    assert quote.min_usd is not None
    assert server.requests == sink.records == []
    await call(client, name)
    assert quote.max_usd == sink.last.cost_reserved_usd
    assert Decimal(0) < quote.min_usd <= quote.max_usd


@both_kinds
async def test_a_quote_of_bad_input_says_so(make: Any) -> None:
    client = make()
    for endpoint, arguments in {
        "embeddings": {"model": "text-embedding-3-small", "input": []},
        "images": {"model": "gpt-image-1", "prompt": "x" * 5_000},
        "audio.transcriptions": {"model": "whisper-1"},
        "responses": {"model": "gpt-4o", "input": [{"role": "nobody", "content": "Hi"}]},
    }.items():
        quote = await done(client.guard.quote(endpoint=endpoint, **arguments))
        assert quote.would_be_denied is not None, endpoint


# Responses ------------------------------------------------------------------------------------------------------------


class Answer(BaseModel):
    text: str


@both_kinds
async def test_parsed_and_managed_responses_are_guarded(make: Any, server: FakeOpenAI, sink: RecordingSink) -> None:
    server.always(Reply('{"text": "Hi"}'))
    client = make()
    ask = {"model": "gpt-4o", "input": [{"role": "user", "content": "Hi"}], "text_format": Answer}
    parsed = await done(client.responses.parse(**ask, user_id="parse"))
    assert parsed.output_parsed == Answer(text="Hi")
    manager = client.responses.stream(**ask, user_id="stream")
    if hasattr(manager, "__aenter__"):
        async with manager as stream:
            final = await stream.get_final_response()
    else:
        with manager as stream:
            final = stream.get_final_response()
    assert final.output_parsed == Answer(text="Hi")
    assert [(record.user_id, record.outcome) for record in sink.records] == [("parse", "ok"), ("stream", "ok")]


@both_kinds
async def test_a_long_history_of_responses_is_trimmed_by_whole_turns(
    make: Any, server: FakeOpenAI, sink: RecordingSink
) -> None:
    """A call stays with its output, and the caller's list is left as it is."""
    turn = [
        {"role": "user", "content": "What is the time?"},
        {"type": "function_call", "call_id": "c", "name": "clock", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "noon"},
        {"role": "assistant", "content": "Noon."},
    ]
    history = [{"role": "developer", "content": "Be brief."}]
    for number in range(12):
        history += [{**item, "call_id": f"c{number}"} if "call_id" in item else dict(item) for item in turn]
    before = [dict(item) for item in history]
    client = make({**MUCH, "input": {"max_turns": 3}})
    await done(client.responses.create(model="gpt-4o", input=history))
    sent = server.requests[-1].body["input"]
    assert sent == [history[0], *history[-12:]]
    assert history == before
    assert sink.last.trimmed_messages == 36


@both_kinds
@pytest.mark.parametrize(
    "state",
    [
        {"previous_response_id": "resp_1"},
        {"conversation": "conv_1"},
        {"conversation": {"id": "conv_1"}},
        {"prompt": {"id": "pmpt_1"}},
        {"input": [{"type": "item_reference", "id": "msg_1"}]},
        {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "file-1"}]}]},
        {"input": [{"role": "user", "content": [{"type": "input_file", "file_url": "https://example.com/a.pdf"}]}]},
        {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "file-1"}]}]},
    ],
)
async def test_what_only_the_provider_sees_is_reserved_at_the_context_s_limit(
    make: Any, sink: RecordingSink, state: dict[str, Any]
) -> None:
    await done(make().responses.create(**{"model": "gpt-4o", "input": "Hi", **state}))
    assert sink.last.input_tokens_estimated >= 8_000


@both_kinds
async def test_what_only_the_provider_sees_is_charged_at_its_reserve_where_no_usage_is_told(
    make: Any, server: FakeOpenAI, sink: RecordingSink
) -> None:
    server.always(Reply("Hi", usage=None))
    await done(make().responses.create(model="gpt-4o", input="Hi", previous_response_id="resp_1"))
    assert (sink.last.usage_source, sink.last.input_tokens) == ("estimated", sink.last.input_tokens_estimated)
    assert sink.last.input_tokens >= 8_000


@both_kinds
async def test_a_stored_prompt_may_name_the_model(make: Any, server: FakeOpenAI, sink: RecordingSink) -> None:
    """Without a model there is no price: a budget denies it, and without one the answer's model tells what it cost."""
    with pytest.raises(UnpricedModelError, match="names no model"):
        await done(make().responses.create(prompt={"id": "pmpt_1"}))
    server.always(Reply("Hi", model="gpt-4o", usage=CHAT_USAGE))
    client = make({"plans": {"default": {"limits": ["5 requests/day"]}}})
    await done(client.responses.create(prompt={"id": "pmpt_1"}))
    assert (sink.last.model, sink.last.response_model, sink.last.cost_usd) == (None, "gpt-4o", Decimal("0.003"))


TOOLS = {"web_search": {"reserve_tokens": 2_000, "fee": "$0.01"}, "code_interpreter": {"fee": "$0.03"}}


@both_kinds
@pytest.mark.parametrize("stream", [False, True])
async def test_each_call_of_a_hosted_tool_is_billed(
    make: Any, server: FakeOpenAI, sink: RecordingSink, stream: bool
) -> None:
    server.always(
        Reply("Hi", usage=CHAT_USAGE, hosted_calls=("web_search_call", "web_search_call", "code_interpreter_call"))
    )
    client = make({**MUCH, "routes": {"hosted_tools": TOOLS}})
    tools = [{"type": "web_search_preview"}, {"type": "code_interpreter", "container": {"type": "auto"}}]
    answer = await done(
        client.responses.create(model="gpt-4o", input="Hi", tools=tools, stream=stream, max_tool_calls=3)
    )
    if stream:
        await read(answer)
    assert sink.last.cost_usd == Decimal("0.003") + 2 * Decimal("0.01") + Decimal("0.03")
    assert sink.last.input_tokens_estimated > 2_000
    reserved = sink.last.cost_reserved_usd
    assert reserved is not None
    assert reserved > 3 * Decimal("0.03")


@both_kinds
async def test_a_hosted_tool_that_was_not_called_is_not_billed(
    make: Any, server: FakeOpenAI, sink: RecordingSink
) -> None:
    server.always(Reply("Hi", usage=CHAT_USAGE))
    client = make({**MUCH, "routes": {"hosted_tools": TOOLS}})
    await done(client.responses.create(model="gpt-4o", input="Hi", tools=[{"type": "web_search"}]))
    assert sink.last.cost_usd == Decimal("0.003")


@both_kinds
async def test_the_cap_of_a_response_is_lowered_and_its_place_kept(make: Any, server: FakeOpenAI) -> None:
    client = make()
    await done(client.responses.create(model="gpt-4o", input="Hi", max_output_tokens=100_000))
    await done(client.responses.create(model="gpt-4o", input="Hi"))
    assert [request.body["max_output_tokens"] for request in server.requests] == [4_000, 1_000]
    assert all("max_tokens" not in request.body for request in server.requests)


# The others -----------------------------------------------------------------------------------------------------------


@both_kinds
async def test_all_answers_of_a_completion_are_reserved(make: Any, sink: RecordingSink) -> None:
    client = make()
    ask = {"model": "gpt-3.5-turbo-instruct", "max_tokens": 100}
    await done(client.completions.create(**ask, prompt=["a", "b", "c"], n=2, best_of=4))
    assert sink.last.cost_reserved_usd is not None
    assert sink.last.cost_reserved_usd >= 3 * 4 * 100 * Decimal("0.000002")


@both_kinds
async def test_images_are_bounded_by_their_number_size_and_quality(make: Any, sink: RecordingSink) -> None:
    client = make({"plans": {"default": {"limits": ["$0.10/day"]}}})
    low = {"model": "gpt-image-1", "prompt": "a cat", "quality": "low", "size": "1024x1024"}
    await done(client.images.generate(**low))
    for more in ({"n": 10}, {"quality": "high"}, {"size": "3840x2160", "quality": "medium"}):
        with pytest.raises(BudgetExceededError):
            await done(client.images.generate(**{**low, **more}))
    with pytest.raises(InputRejectedError, match="size must be"):
        await done(client.images.generate(**{**low, "size": "huge"}))


@both_kinds
async def test_too_many_images_to_edit_are_refused(make: Any, server: FakeOpenAI) -> None:
    image = ("a.png", b"x", "image/png")
    with pytest.raises(InputRejectedError, match="5 images"):
        await done(make().images.edit(model="gpt-image-1", prompt="Hi", image=[image] * 5))
    assert server.requests == []


@both_kinds
async def test_a_recording_billed_by_its_length_costs_that(make: Any, server: FakeOpenAI, sink: RecordingSink) -> None:
    """The fake takes it for two seconds or more; whisper-1 is $0.36 an hour."""
    client = make()
    await done(client.audio.transcriptions.create(model="whisper-1", file=("a.wav", WAV)))
    assert sink.last.usage_source == "provider"
    assert sink.last.cost_usd is not None
    assert sink.last.cost_usd % Decimal("0.0001") == 0
    assert Decimal(0) < sink.last.cost_usd <= (sink.last.cost_reserved_usd or 0)


@both_kinds
async def test_speech_streamed_as_events_tells_its_usage(make: Any, server: FakeOpenAI, sink: RecordingSink) -> None:
    server.always(Reply("Good morning", usage=Usage(12, 40)))
    client = make()
    manager = client.audio.speech.with_streaming_response.create(
        model="gpt-4o-mini-tts", input="Good morning", voice="alloy", stream_format="sse"
    )
    if hasattr(manager, "__aenter__"):
        async with manager as response:
            assert await response.read()
    else:
        with manager as response:
            assert response.read()
    assert (sink.last.usage_source, sink.last.total_tokens) == ("provider", 52)


@both_kinds
@pytest.mark.parametrize("ask", [{"model": "gpt-4o", "input": []}, {"model": "gpt-4o"}, {"input": "Hi"}])
async def test_what_is_incomplete_is_refused_unless_the_policy_opens_everything(
    make: Any, server: FakeOpenAI, ask: dict[str, Any]
) -> None:
    with pytest.raises(InputRejectedError):
        await done(make().responses.create(**ask))
    assert server.requests == []
    await done(make({"routes": {"allow": ["*"]}, "plans": {"default": {"limits": []}}}).responses.create(**ask))
    assert len(server.requests) == 1


def test_under_trio_the_async_client_says_that_it_runs_on_asyncio() -> None:
    async def ask() -> None:
        await AsyncSafeOpenAI(api_key="k").responses.create(model="gpt-4o", input="Hi")

    with pytest.raises(ConfigurationError, match="asyncio"):
        ask().send(None)

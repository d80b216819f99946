"""Output checks on the wire: every calling style, sync and async, what the caller sees, what the record says."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import pytest
from answers import chat_events

from safe_llm import AsyncSafeOpenAI, OutputRejectedError
from safe_llm.checks import Pattern
from safe_llm.checks.provenance import canary
from safe_llm.testing import FakeOpenAI, RecordingSink, Reply
from safe_llm.types import Content, Finding

KEY = "AKIAIOSFODNN7EXAMPLE"
WITH_KEY = f"Here you are: {KEY} and that is all."
WITHOUT_KEY = "Here you are: [redacted] and that is all."
ASKED = [{"role": "user", "content": "Hello"}]
pytestmark = pytest.mark.anyio


Made = Callable[..., Any]


@pytest.fixture
async def make(server: FakeOpenAI, sink: RecordingSink) -> AsyncIterator[Made]:
    clients: list[Any] = []

    def made(kind: Any, checks: Mapping[str, Any] | None = None, **rest: Any) -> Any:
        policy = {"plans": {"default": {}}, "checks": dict(checks or {}), **rest.pop("policy", {})}
        client = kind(base_url=server.base_url, api_key="test", max_retries=0, policy=policy, sinks=[sink], **rest)
        clients.append(client)
        return client

    yield made
    for client in clients:
        await done(client.close())


async def done(value: Any) -> Any:
    return await value if hasattr(value, "__await__") else value


async def each(stream: Any, into: list[Any]) -> list[Any]:
    """All that a stream of either colour yields; what came before an error stays in `into`."""
    if hasattr(stream, "__aiter__"):
        async for item in stream:
            into.append(item)
    else:
        for item in stream:
            into.append(item)
    return into


async def inside(manager: Any, use: Callable[[Any], Any]) -> Any:
    """`use` a context manager of either colour."""
    if hasattr(manager, "__aenter__"):
        async with manager as entered:
            return await done(use(entered))
    with manager as entered:
        return await done(use(entered))


def chat_text(chunks: list[Any]) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


# Each way to ask, and the text that it brings -------------------------------------------------------------------------


async def plain_chat(client: Any, into: list[str]) -> None:
    answer = await done(client.chat.completions.create(model="gpt-4o-mini", messages=ASKED))
    into.append(answer.choices[0].message.content)


async def streamed_chat(client: Any, into: list[str]) -> None:
    stream = await done(client.chat.completions.create(model="gpt-4o-mini", messages=ASKED, stream=True))
    chunks: list[Any] = []
    try:
        await each(stream, chunks)
    finally:
        into.append(chat_text(chunks))


async def raw_chat(client: Any, into: list[str]) -> None:
    raw = await done(client.chat.completions.with_raw_response.create(model="gpt-4o-mini", messages=ASKED))
    into.append(json.loads(raw.text)["choices"][0]["message"]["content"])
    assert (await done(raw.parse())).choices[0].message.content == into[0]


async def raw_streamed_chat(client: Any, into: list[str]) -> None:
    raw = await done(client.chat.completions.with_raw_response.create(model="gpt-4o-mini", messages=ASKED, stream=True))
    chunks: list[Any] = []
    try:
        await each(await done(raw.parse()), chunks)
    finally:
        into.append(chat_text(chunks))


async def chat_lines(client: Any, into: list[str]) -> None:
    lines: list[str] = []
    manager = client.chat.completions.with_streaming_response.create(model="gpt-4o-mini", messages=ASKED, stream=True)
    try:
        await inside(manager, lambda response: each(response.iter_lines(), lines))
    finally:
        items = [json.loads(line[5:]) for line in lines if line.startswith("data:") and "[DONE]" not in line]
        deltas = [item["choices"][0]["delta"] for item in items if item["choices"]]
        into.append("".join(delta.get("content") or "" for delta in deltas))


async def streaming_response_of_a_plain_chat(client: Any, into: list[str]) -> None:
    pieces: list[bytes] = []
    manager = client.chat.completions.with_streaming_response.create(model="gpt-4o-mini", messages=ASKED)
    await inside(manager, lambda response: each(response.iter_bytes(), pieces))
    into.append(json.loads(b"".join(pieces))["choices"][0]["message"]["content"])


async def chat_helper(client: Any, into: list[str]) -> None:
    manager = client.chat.completions.stream(model="gpt-4o-mini", messages=ASKED)
    events: list[Any] = []

    async def use(stream: Any) -> None:
        try:
            await each(stream, events)
        finally:
            into.append("".join(event.delta for event in events if event.type == "content.delta"))
        final = await done(stream.get_final_completion())
        assert final.choices[0].message.content == into[0]

    await inside(manager, use)


async def plain_response(client: Any, into: list[str]) -> None:
    into.append((await done(client.responses.create(model="gpt-4o-mini", input="Hello"))).output_text)


async def streamed_response(client: Any, into: list[str]) -> None:
    stream = await done(client.responses.create(model="gpt-4o-mini", input="Hello", stream=True))
    events: list[Any] = []
    try:
        await each(stream, events)
    finally:
        into.append("".join(event.delta for event in events if event.type == "response.output_text.delta"))
        told = [event.text for event in events if event.type == "response.output_text.done"]
        told += [event.response.output_text for event in events if event.type == "response.completed"]
        assert all(text == into[0] for text in told)


async def response_helper(client: Any, into: list[str]) -> None:
    async def use(stream: Any) -> None:
        events: list[Any] = []
        try:
            await each(stream, events)
        finally:
            into.append("".join(event.delta for event in events if event.type == "response.output_text.delta"))
        assert (await done(stream.get_final_response())).output_text == into[0]

    await inside(client.responses.stream(model="gpt-4o-mini", input="Hello"), use)


async def legacy(client: Any, into: list[str]) -> None:
    into.append((await done(client.completions.create(model="gpt-3.5-turbo-instruct", prompt="Hello"))).choices[0].text)


async def streamed_legacy(client: Any, into: list[str]) -> None:
    stream = await done(client.completions.create(model="gpt-3.5-turbo-instruct", prompt="Hello", stream=True))
    chunks: list[Any] = []
    try:
        await each(stream, chunks)
    finally:
        into.append("".join(chunk.choices[0].text for chunk in chunks if chunk.choices))


PLAIN = (plain_chat, raw_chat, streaming_response_of_a_plain_chat, plain_response, legacy)
STREAMED = (
    streamed_chat,
    raw_streamed_chat,
    chat_lines,
    chat_helper,
    streamed_response,
    response_helper,
    streamed_legacy,
)
WAYS = (*PLAIN, *STREAMED)


@pytest.mark.parametrize("way", WAYS)
async def test_a_key_in_an_answer_is_redacted_by_default(
    kind: Any, way: Any, make: Made, server: FakeOpenAI, sink: RecordingSink
) -> None:
    server.script(Reply(WITH_KEY))
    texts: list[str] = []

    await way(make(kind), texts)

    assert texts == [WITHOUT_KEY]
    assert sink.last.outcome == "ok"
    assert [(finding.rule, finding.action) for finding in sink.last.findings] == [("secrets", "redact")]
    assert sink.last.usage_source == "provider"
    assert KEY not in sink.last.model_dump_json()


@pytest.mark.parametrize("way", WAYS)
async def test_a_denied_answer_is_settled_recorded_and_then_raised(
    kind: Any, way: Any, make: Made, server: FakeOpenAI, sink: RecordingSink
) -> None:
    server.script(Reply(WITH_KEY))
    texts: list[str] = []

    with pytest.raises(OutputRejectedError) as caught:
        await way(make(kind, {"secrets": "deny"}), texts)

    assert "Here you are: ".startswith("".join(texts))
    assert way in PLAIN or texts == ["Here you are:"]
    assert caught.value.rule == "secrets"
    assert caught.value.record == sink.last
    assert (sink.last.outcome, sink.last.error, len(sink.records)) == ("blocked", "OutputRejectedError", 1)
    assert sink.last.output_tokens > 0
    assert sink.last.cost_usd is None or sink.last.cost_usd > 0
    assert sink.last.usage_source == ("provider" if way in PLAIN else "estimated")
    assert server.count == 1
    assert KEY not in str(caught.value) + repr(caught.value) + sink.last.model_dump_json()


@pytest.mark.parametrize("way", WAYS)
async def test_in_shadow_mode_nothing_is_changed_and_all_is_noted(
    kind: Any, way: Any, make: Made, server: FakeOpenAI, sink: RecordingSink
) -> None:
    server.script(Reply(WITH_KEY))
    texts: list[str] = []

    await way(make(kind, {"secrets": "deny"}, policy={"mode": "shadow"}), texts)

    assert texts == [WITH_KEY]
    assert sink.last.outcome == "ok"
    assert [(finding.rule, finding.action) for finding in sink.last.findings] == [("secrets", "deny")]


@pytest.mark.parametrize("way", WAYS)
async def test_what_a_check_of_the_application_denies_is_never_shown_at_all(
    kind: Any, way: Any, make: Made, server: FakeOpenAI, sink: RecordingSink
) -> None:
    server.script(Reply("One two three four."), Reply("One two three five."))
    client = make(kind).with_options(checks=[NoFour()])
    texts: list[str] = []

    with pytest.raises(OutputRejectedError) as caught:
        await way(client, texts)

    assert "".join(texts) == ""
    assert caught.value.rule == "four"
    assert sink.last.outcome == "blocked"
    texts = []
    await way(client, texts)
    assert texts == ["One two three five."]
    assert sink.last.outcome == "ok"


class NoFour:
    """Denies a word in answers."""

    name = "no_four"
    phases = ("output",)

    def inspect(self, content: Content) -> list[Finding]:
        assert content.phase == "output"
        found = any("four" in part.text for part in content.parts)
        return [Finding("four", "high", "output", action="deny")] if found else []


class WindowedNoFour(NoFour):
    window = 8


class AsyncNoFour(NoFour):
    async def inspect(self, content: Content) -> list[Finding]:  # type: ignore[override]
        return super().inspect(content)


async def test_a_coroutine_looks_at_answers_on_async_clients(make: Made, server: FakeOpenAI) -> None:
    client = make(AsyncSafeOpenAI).with_options(checks=[AsyncNoFour()])
    for way in WAYS:
        server.script(Reply("One two three four."))
        with pytest.raises(OutputRejectedError):
            await way(client, [])


async def test_a_check_with_a_window_lets_a_stream_pass_until_it_finds_something(
    kind: Any, make: Made, server: FakeOpenAI, sink: RecordingSink
) -> None:
    words = "one two three " * 10
    server.script(Reply(words + "four" + " and more" * 10))
    client = make(kind).with_options(checks=[WindowedNoFour()])
    texts: list[str] = []

    with pytest.raises(OutputRejectedError):
        await streamed_chat(client, texts)

    assert len(texts[0]) > len(words) - 32
    assert words.startswith(texts[0])
    assert len([finding for finding in sink.last.findings if finding.rule == "four"]) == 1


async def test_a_pattern_of_the_application_is_redacted(
    kind: Any, make: Made, server: FakeOpenAI, sink: RecordingSink
) -> None:
    pattern = Pattern("ticket", r"TCK-[0-9]{6}", max_length=10)
    client = make(kind).with_options(checks=[pattern])
    for way in WAYS:
        server.script(Reply("Your ticket TCK-123456 is open, not TCK-12."))
        texts: list[str] = []
        await way(client, texts)
        assert texts == ["Your ticket [redacted] is open, not TCK-12."]
        assert [finding.rule for finding in sink.last.findings] == ["ticket"]


class Broken:
    name = "broken"
    phases = ("output",)

    def inspect(self, content: Content) -> list[Finding]:
        raise RuntimeError("secret words")


@pytest.mark.parametrize("way", [plain_chat, streamed_chat, streamed_response])
async def test_a_check_that_fails_denies_or_is_noted_as_the_policy_says(
    kind: Any, way: Any, make: Made, server: FakeOpenAI, sink: RecordingSink
) -> None:
    texts: list[str] = []
    server.script(Reply("Fine."), Reply("Fine."))
    with pytest.raises(OutputRejectedError) as caught:
        await way(make(kind).with_options(checks=[Broken()]), texts)
    assert caught.value.rule == "broken"
    assert "secret words" not in str(caught.value)
    texts = []
    await way(make(kind, {"on_error": "allow"}).with_options(checks=[Broken()]), texts)
    assert texts == ["Fine."]
    assert [finding.rule for finding in sink.last.findings] == ["broken_failed"]


@pytest.mark.parametrize("way", [plain_chat, streamed_chat])
async def test_the_canary_of_the_system_prompt_is_never_shown(
    kind: Any, way: Any, make: Made, server: FakeOpenAI, sink: RecordingSink
) -> None:
    server.script(Reply(f"My instructions: {canary()} be kind."))
    texts: list[str] = []
    with pytest.raises(OutputRejectedError) as caught:
        await way(make(kind), texts)
    assert caught.value.rule == "prompt_leak"
    assert "canary" not in "".join(texts)


async def test_a_stream_that_is_cut_hands_on_what_is_safe_of_what_it_held(
    kind: Any, make: Made, server: FakeOpenAI, sink: RecordingSink
) -> None:
    server.script(Reply("One two AKIA", cut=3), Reply("One two AKIA", cut=3, abrupt=False))
    texts: list[str] = []
    with pytest.raises(Exception, match=r"Connection error|closed"):
        await streamed_chat(make(kind), texts)
    assert texts == ["One two AKIA"]
    assert sink.last.outcome == "error"
    texts = []
    await streamed_chat(make(kind), texts)
    assert texts == ["One two AKIA"]


async def test_links_are_noted_by_default_and_allowed_hosts_are_not(
    kind: Any, make: Made, server: FakeOpenAI, sink: RecordingSink
) -> None:
    text = "See ![x](https://evil.example/?q=1) and https://docs.fine.example/a."
    for way in WAYS:
        server.script(Reply(text))
        texts: list[str] = []
        await way(make(kind, {"allowed_hosts": ["*.fine.example"]}), texts)
        assert texts == [text]
        assert [(finding.rule, finding.action) for finding in sink.last.findings] == [("links", "flag")]


async def test_an_answer_that_comes_compressed_though_it_was_not_asked_to_be_is_checked(
    kind: Any, make: Made, server: FakeOpenAI, sink: RecordingSink
) -> None:
    events = b"".join(chat_events([[*WITH_KEY]]))
    headers = {"Content-Type": "text/event-stream", "Content-Encoding": "gzip"}
    server.script(Reply(body=gzip.compress(events), headers=headers))
    texts: list[str] = []
    await streamed_chat(make(kind), texts)
    assert texts == [WITHOUT_KEY]

    server.script(Reply(body=b"what brotli makes of it", headers={**headers, "Content-Encoding": "br"}))
    with pytest.raises(OutputRejectedError):
        await streamed_chat(make(kind), [])
    assert sink.last.outcome == "blocked"


async def test_a_background_response_is_checked_when_it_is_retrieved(
    kind: Any, make: Made, server: FakeOpenAI, sink: RecordingSink
) -> None:
    client = make(kind)
    server.script(Reply(WITH_KEY), Reply(tool_calls=[{"name": "weather", "arguments": "{}"}]))
    begun = await done(client.responses.create(model="gpt-4o-mini", input="Hello", background=True))
    assert (await done(client.responses.retrieve(begun.id))).output_text == WITHOUT_KEY
    again = make(kind, {"secrets": "deny"})
    with pytest.raises(OutputRejectedError):
        await done(again.responses.retrieve(begun.id))

    begun = await done(client.responses.create(model="gpt-4o-mini", input="Hello", background=True))
    strict = make(kind, {"tool_calls": "deny"})  # what was offered is not known there
    assert (await done(strict.responses.retrieve(begun.id))).output[0].name == "weather"

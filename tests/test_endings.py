"""Every way in which a call can end leaves one record, settles what it used, and holds nothing any more."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import importlib
import importlib.util
import inspect
import json
import math
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NamedTuple

import openai
import pytest

from safe_llm import AsyncSafeOpenAI, DeadlineExceededError, SafeOpenAI, UsageRecord
from safe_llm.testing import FakeClock, FakeOpenAI, RecordingSink, Reply
from safe_llm.types import Usage

LIBRARIES = [importlib.import_module(name) for name in ("httpx2", "httpx") if importlib.util.find_spec(name)]
if not openai.__version__.startswith("3."):  # earlier ones speak through httpx alone
    LIBRARIES = [library for library in LIBRARIES if library.__name__ == "httpx"]
STACKS = [
    pytest.param((library, is_async), id=f"{library.__name__}-{'async' if is_async else 'sync'}")
    for library in LIBRARIES
    for is_async in (False, True)
]
Stack = tuple[ModuleType, bool]
stacks = pytest.mark.parametrize("stack", STACKS)

LIMITS = [
    "10 requests/minute",
    "1_000_000 input_tokens/day",
    "1_000_000 output_tokens/day",
    "2_000_000 tokens/day",
    "$10/day",
    "4 concurrent",
]
POLICY = {"plans": {"default": {"limits": LIMITS}}, "prices": {"gpt-4o": {"input": "1", "output": "2"}}}
REQUEST: dict[str, Any] = {
    "model": "gpt-4o",
    "messages": [{"role": "user", "content": "Say something."}],
    "user_id": "u1",
}
BILLED_INPUT = 9
"""Tokens that the fake server bills for it: 2 words, 4 for the message, 3 to prime the answer."""
CAP = 1_000
"""The policy's default."""

ANSWER = Reply(chunks=8)
ENDLESS = Reply(chunks=900, drip=0.01)
"""For streams that are left: it goes on for longer than any of these tests."""


def price(input_tokens: int, output_tokens: int) -> Decimal:
    return Decimal(input_tokens + 2 * output_tokens) / 1_000_000


# The stage ------------------------------------------------------------------------------------------------------------


def in_loop(test: Callable[..., Any]) -> Callable[..., None]:
    """Runs an async test, which may use sync clients as well: it has the event loop to itself."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


async def done(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


class each:
    """Iterates over what is sync or async. Dropped when its loop is left, as the iterator of a plain loop is."""

    def __init__(self, items: Any) -> None:
        self._items = aiter(items) if hasattr(items, "__aiter__") else iter(items)

    def __aiter__(self) -> each:
        return self

    async def __anext__(self) -> Any:
        if hasattr(self._items, "__anext__"):
            return await anext(self._items)
        try:
            return next(self._items)
        except StopIteration:
            raise StopAsyncIteration from None


@contextlib.asynccontextmanager
async def entered(manager: Any) -> AsyncIterator[Any]:
    """Enters what is sync or async."""
    if hasattr(manager, "__aenter__"):
        async with manager as value:
            yield value
    else:
        with manager as value:
            yield value


async def read(stream: Any, chunks: int) -> None:
    """Reads some chunks without beginning a loop."""
    for _ in range(chunks):
        await done(anext(stream) if hasattr(stream, "__anext__") else next(stream))


class Scene:
    """A client, the server it talks to, and the sink it tells."""

    def __init__(self, client: Any, server: FakeOpenAI, sink: RecordingSink) -> None:
        self.client = client
        self.server = server
        self.sink = sink
        self.completions = client.chat.completions

    async def create(self, **options: Any) -> Any:
        return await done(self.completions.create(**REQUEST, **options))

    async def stream(self, **options: Any) -> Any:
        return await self.create(stream=True, **options)

    async def limits(self) -> dict[str, Any]:
        return {status.limit: status for status in await done(self.client.guard.usage(user_id="u1"))}

    async def assert_nothing_held(self) -> None:
        assert {limit: status.held for limit, status in (await self.limits()).items()} == dict.fromkeys(LIMITS, 0)

    async def the_record(self) -> UsageRecord:
        """The only one there is. Nothing is held any more, and it says what has been counted."""
        await self.assert_nothing_held()
        (record,) = self.sink.records
        used = [status.used for status in (await self.limits()).values()]
        assert used == [1, record.input_tokens, record.output_tokens, record.total_tokens, record.cost_usd, 0]
        assert record.total_tokens == record.input_tokens + record.output_tokens
        assert record.cost_usd == price(record.input_tokens, record.output_tokens) <= (record.cost_reserved_usd or 0)
        return record

    async def assert_server_was_left(self) -> None:
        """The connection was closed: nobody goes on writing, and billing, what nobody reads."""
        await asyncio.to_thread(self.server.wait_until, lambda: bool(self.server.disconnects))


@contextlib.asynccontextmanager
async def scene_of(stack: Stack) -> AsyncIterator[Scene]:
    library, is_async = stack
    sink = RecordingSink()
    client_class: Any = AsyncSafeOpenAI if is_async else SafeOpenAI
    http = (library.AsyncClient if is_async else library.Client)(trust_env=False, verify=False)
    with FakeOpenAI() as server:
        made = client_class(
            policy=POLICY,
            clock=FakeClock(),
            sinks=[sink],
            base_url=server.base_url,
            api_key="k",
            max_retries=0,
            http_client=http,
        )
        async with entered(made) as client:
            yield Scene(client, server, sink)


# What callers do ------------------------------------------------------------------------------------------------------


async def plain(scene: Scene) -> None:
    await scene.create()


async def insistent(scene: Scene) -> None:
    """With the two retries that the SDK makes by itself."""
    scene = Scene(scene.client.with_options(max_retries=2), scene.server, scene.sink)
    await scene.create()


async def impatient(scene: Scene) -> None:
    await scene.create(timeout=0.2)


async def impatient_in_the_loop(scene: Scene) -> None:
    async for _ in each(await scene.stream(timeout=0.2)):
        pass


async def stalled(scene: Scene) -> None:
    """Under a time-out of the SDK's own, which holds for each read."""
    async for _ in each(await scene.stream(timeout=openai.Timeout(0.2))):
        pass


async def cancelled_waiting(scene: Scene) -> None:
    task = asyncio.create_task(plain(scene))
    await asyncio.to_thread(scene.server.wait_until, lambda: scene.server.count == 1)
    task.cancel()
    await task


async def cancelled_in_the_loop(scene: Scene) -> None:
    fourth = asyncio.Event()

    async def loop() -> None:
        chunks = 0
        async for _ in await scene.stream():
            chunks += 1
            if chunks == 4:
                fourth.set()

    task = asyncio.create_task(loop())
    await fourth.wait()
    task.cancel()
    await task


async def to_a_closed_port(scene: Scene) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    await Scene(scene.client.with_options(base_url=url), scene.server, scene.sink).create()


async def finished(scene: Scene) -> None:
    async for _ in each(await scene.stream()):
        pass


async def broken_off(scene: Scene) -> None:
    left = 4
    async for _ in each(await scene.stream()):
        left -= 1
        if not left:
            break
    # At once: nothing was collected, and no other task has run.
    assert [record.outcome for record in scene.sink.records] == ["aborted"]


async def failed_in_the_loop(scene: Scene) -> None:
    """By an error of the application's own, which is none of the call's."""
    left = 4
    with contextlib.suppress(ZeroDivisionError):
        async for _ in each(await scene.stream()):
            left -= 1
            1 / left
    assert left == 0


async def relayed(scene: Scene) -> None:
    """As a web framework does whose client has gone: it closes the generator that it was given."""

    async def relay() -> AsyncIterator[Any]:
        async for chunk in each(await scene.stream()):
            yield chunk

    generator = relay()
    for _ in range(4):
        await anext(generator)
    await generator.aclose()  # type: ignore[attr-defined]  # every generator has it


async def closed(scene: Scene) -> None:
    stream = await scene.stream()
    await read(stream, 4)
    await done(stream.close())
    await done(stream.close())


async def closed_unread(scene: Scene) -> None:
    await done((await scene.stream()).close())


async def left_by_with(scene: Scene) -> None:
    async with entered(await scene.stream()) as stream:
        await read(stream, 4)


async def dropped_unread(scene: Scene) -> None:
    await scene.stream()
    gc.collect()


async def dropped_midway(scene: Scene) -> None:
    await read(await scene.stream(), 4)
    gc.collect()


async def raw_parsed(scene: Scene) -> None:
    raw = await done(scene.completions.with_raw_response.create(**REQUEST, stream=True))
    async for _ in each(raw.parse()):
        pass


async def raw_parsed_broken_off(scene: Scene) -> None:
    raw = await done(scene.completions.with_raw_response.create(**REQUEST, stream=True))
    left = 4
    async for _ in each(raw.parse()):
        left -= 1
        if not left:
            break
    assert [record.outcome for record in scene.sink.records] == ["aborted"]


async def raw_lines(scene: Scene) -> None:
    raw = await done(scene.completions.with_raw_response.create(**REQUEST, stream=True))
    response = raw.http_response
    async for _ in each(response.aiter_lines() if hasattr(scene.client, "__aenter__") else response.iter_lines()):
        pass


async def raw_unparsed(scene: Scene) -> None:
    await done(scene.completions.with_raw_response.create(**REQUEST, stream=True))
    gc.collect()


async def raw_plain(scene: Scene) -> None:
    raw = await done(scene.completions.with_raw_response.create(**REQUEST))
    assert raw.parse().usage.prompt_tokens == BILLED_INPUT


def streaming(use: Callable[[Any], Awaitable[object]], **options: Any) -> Callable[[Scene], Awaitable[None]]:
    """``with_streaming_response``, and what is done with the response."""

    async def act(scene: Scene) -> None:
        async with entered(scene.completions.with_streaming_response.create(**REQUEST, **options)) as response:
            await use(response)

    return act


async def lines(response: Any) -> None:
    async for _ in each(response.iter_lines()):
        pass


async def some_lines(response: Any) -> None:
    left = 8  # each event is a line and an empty one
    async for _ in each(response.iter_lines()):
        left -= 1
        if not left:
            break


async def pieces(response: Any) -> None:
    async for _ in each(response.iter_bytes()):
        pass


async def whole(response: Any) -> None:
    await done(response.read())


async def parsed(response: Any) -> None:
    await done(response.parse())


async def nothing(response: Any) -> None:
    assert response.status_code == 200


def helper(chunks: int | None) -> Callable[[Scene], Awaitable[None]]:
    """The ``.stream()`` helper, finished, or left after so many content events."""

    async def act(scene: Scene) -> None:
        left = chunks
        async with entered(scene.completions.stream(**REQUEST)) as stream:
            async for event in each(stream):
                if left is not None and event.type == "content.delta":
                    left -= 1
                    if not left:
                        break

    return act


# The endings ----------------------------------------------------------------------------------------------------------


class Ending(NamedTuple):
    act: Callable[[Scene], Awaitable[object]]
    replies: tuple[Reply, ...]
    outcome: str
    charge: Literal["billed", "seen", "bound", "free"]
    """What the provider says; the input and the output seen; all that was reserved; nothing."""
    seen: int = 0
    """Output tokens that have reached the reader, where the answer is a stream: at least."""
    error: type[BaseException] | tuple[type[BaseException], ...] = ()
    """What the caller gets, and what the record names: one of these."""
    attempts: int = 1
    has_id: bool = True
    """Whether the headers, in which the provider names the request, have been seen."""


CUT = Reply(cut="connect")
HANGS = Reply(delay=math.inf)
NO_USAGE = Reply(chunks=8, usage=None)
STALLS = Reply(chunks=8, drip=5)
NAMED_ERROR = {"error": {"message": "no", "type": "server_error"}}
# openai 2 lets what breaks a stream through as it is.
BROKEN = (openai.APIConnectionError, *(library.RemoteProtocolError for library in LIBRARIES))
TIMED_OUT = (openai.APITimeoutError, *(library.ReadTimeout for library in LIBRARIES))


def status(code: int) -> Reply:
    """A refusal after which the SDK, if it retries, does so at once."""
    return Reply(status=code, headers={"retry-after-ms": "1"})


PLAIN = {
    "result": Ending(plain, (ANSWER,), "ok", "billed"),
    "usage missing": Ending(plain, (NO_USAGE,), "ok", "seen", seen=8),
    "400": Ending(plain, (status(400),), "error", "free", error=openai.BadRequestError),
    "429": Ending(plain, (status(429),), "error", "free", error=openai.RateLimitError),
    "500": Ending(plain, (status(500),), "error", "free", error=openai.InternalServerError),
    "500 three times": Ending(insistent, (status(500),) * 3, "error", "free", 0, openai.InternalServerError, 3),
    "500 then a result": Ending(insistent, (status(500), ANSWER), "ok", "billed", attempts=2),
    # What was cut off may have been billed, whatever is answered to the retry.
    "cut then 400": Ending(insistent, (CUT, status(400)), "error", "bound", 0, openai.BadRequestError, 2),
    "nobody listens": Ending(to_a_closed_port, (), "error", "free", 0, openai.APIConnectionError, 1, has_id=False),
    "cut unanswered": Ending(plain, (CUT,), "error", "bound", 0, openai.APIConnectionError, 1, has_id=False),
    "cut in the body": Ending(plain, (Reply(cut=40),), "error", "bound", 0, openai.APIConnectionError, 1, False),
    "body ends early": Ending(plain, (Reply(cut=40, abrupt=False),), "error", "bound", 0, json.JSONDecodeError),
    "time-out": Ending(impatient, (HANGS,), "timeout", "bound", 0, DeadlineExceededError, 1, has_id=False),
    "raw": Ending(raw_plain, (ANSWER,), "ok", "billed"),
    "response, read": Ending(streaming(whole), (ANSWER,), "ok", "billed"),
    "response, parsed": Ending(streaming(parsed), (ANSWER,), "ok", "billed"),
    "response, all lines": Ending(streaming(lines), (ANSWER,), "ok", "billed"),
    "response, not read": Ending(streaming(nothing), (ANSWER,), "aborted", "bound"),
}
STREAMS = {
    "finished": Ending(finished, (ANSWER,), "ok", "billed", seen=8),
    "usage missing": Ending(finished, (NO_USAGE,), "ok", "seen", seen=8),
    "[DONE] missing": Ending(finished, (Reply(chunks=8, done=False),), "ok", "billed", seen=8),
    "400": Ending(finished, (status(400),), "error", "free", error=openai.BadRequestError),
    "cut": Ending(finished, (Reply(chunks=8, cut=3),), "error", "seen", 3, BROKEN),
    "ends early": Ending(finished, (Reply(chunks=8, cut=3, abrupt=False),), "error", "seen", seen=3),
    "error event": Ending(finished, (Reply(cut=3, error_event=NAMED_ERROR),), "error", "seen", 3, openai.APIError),
    "error event without an error": Ending(finished, (Reply(cut=3, error_event={"no": 1}),), "error", "seen", seen=3),
    "stalled": Ending(stalled, (STALLS,), "timeout", "seen", 0, TIMED_OUT),
    "time-out": Ending(impatient_in_the_loop, (ENDLESS,), "timeout", "seen", 3, DeadlineExceededError),
    "break": Ending(broken_off, (ENDLESS,), "aborted", "seen", seen=3),
    "failed in the loop": Ending(failed_in_the_loop, (ENDLESS,), "aborted", "seen", seen=3),
    "relay closed": Ending(relayed, (ENDLESS,), "aborted", "seen", seen=3),
    "close()": Ending(closed, (ENDLESS,), "aborted", "seen", seen=3),
    "close() unread": Ending(closed_unread, (ENDLESS,), "aborted", "bound"),
    "with": Ending(left_by_with, (ENDLESS,), "aborted", "seen", seen=3),
    "dropped unread": Ending(dropped_unread, (ENDLESS,), "aborted", "bound"),
    "dropped midway": Ending(dropped_midway, (ENDLESS,), "aborted", "seen", seen=3),
    "raw, parsed": Ending(raw_parsed, (ANSWER,), "ok", "billed", seen=8),
    "raw, parsed, break": Ending(raw_parsed_broken_off, (ENDLESS,), "aborted", "seen", seen=3),
    "raw, lines": Ending(raw_lines, (ANSWER,), "ok", "billed", seen=8),
    "raw, dropped": Ending(raw_unparsed, (ENDLESS,), "aborted", "bound"),
    "response, all lines": Ending(streaming(lines, stream=True), (ANSWER,), "ok", "billed", seen=8),
    "response, all bytes": Ending(streaming(pieces, stream=True), (ANSWER,), "ok", "billed", seen=8),
    "response, read": Ending(streaming(whole, stream=True), (ANSWER,), "ok", "billed", seen=8),
    "response, some lines": Ending(streaming(some_lines, stream=True), (ENDLESS,), "aborted", "seen", seen=3),
    "response, not read": Ending(streaming(nothing, stream=True), (ENDLESS,), "aborted", "bound"),
    "helper": Ending(helper(None), (ANSWER,), "ok", "billed", seen=8),
    "helper left": Ending(helper(3), (ENDLESS,), "aborted", "seen", seen=3),
}
CANCELLED = {
    "waiting": Ending(cancelled_waiting, (HANGS,), "aborted", "bound", 0, asyncio.CancelledError, has_id=False),
    "in the loop": Ending(cancelled_in_the_loop, (ENDLESS,), "aborted", "seen", 3, asyncio.CancelledError),
}


def named(endings: dict[str, Ending]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("ending", [pytest.param(ending, id=name) for name, ending in endings.items()])


@stacks
@named(PLAIN)
@in_loop
async def test_a_plain_call_leaves_one_record_and_holds_nothing(stack: Stack, ending: Ending) -> None:
    record = await _play(stack, ending)
    assert not record.stream
    assert record.first_token_ms is None


@stacks
@named(STREAMS)
@in_loop
async def test_a_stream_leaves_one_record_and_holds_nothing(stack: Stack, ending: Ending) -> None:
    record = await _play(stack, ending)
    assert record.stream
    assert (record.first_token_ms is not None) == (ending.seen > 0)


@pytest.mark.parametrize("library", LIBRARIES)
@named(CANCELLED)
@in_loop
async def test_a_cancelled_task_leaves_one_record_and_holds_nothing(library: ModuleType, ending: Ending) -> None:
    await _play((library, True), ending)


async def _play(stack: Stack, ending: Ending) -> UsageRecord:
    async with scene_of(stack) as scene:
        scene.server.script(*ending.replies)
        with pytest.raises(ending.error) if ending.error else contextlib.nullcontext():
            await ending.act(scene)
        record = await scene.the_record()
        if ending.outcome == "aborted" and ending.replies != (ANSWER,):
            await scene.assert_server_was_left()
        counted = (await done(scene.client.guard.quote(**REQUEST))).input_tokens
        ids = [request.id for request in scene.server.requests]
    errors = ending.error if isinstance(ending.error, tuple) else (ending.error,)
    assert record.outcome == ending.outcome
    assert record.error in {error.__name__ for error in errors} or (record.error is None and not errors)
    assert record.attempts == ending.attempts
    assert record.request_id == (ids[-1] if ending.has_id else None)
    assert record.max_tokens == CAP
    assert record.cost_reserved_usd == price(record.input_tokens_estimated, CAP)
    charged = (record.usage_source, record.input_tokens, record.output_tokens)
    match ending.charge:
        case "billed":
            assert charged == ("provider", BILLED_INPUT, 8)
        case "seen":
            assert charged[:2] == ("estimated", counted)
            assert ending.seen <= record.output_tokens < CAP
        case "bound":
            assert charged == ("estimated", record.input_tokens_estimated, CAP)
        case "free":
            assert charged == ("none", 0, 0)
    return record


# At once --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("library", LIBRARIES)
@in_loop
async def test_leaving_a_plain_loop_settles_before_the_next_line(library: ModuleType) -> None:
    async with scene_of((library, False)) as scene:
        scene.server.script(ENDLESS)
        for _ in scene.completions.create(**REQUEST, stream=True):
            assert scene.sink.records == []
            break
        assert scene.sink.last.outcome == "aborted"


@pytest.mark.parametrize("library", LIBRARIES)
@in_loop
async def test_leaving_an_async_loop_settles_before_the_next_line(library: ModuleType) -> None:
    async with scene_of((library, True)) as scene:
        scene.server.script(ENDLESS)
        async for _ in await scene.completions.create(**REQUEST, stream=True):
            assert scene.sink.records == []
            break
        assert scene.sink.last.outcome == "aborted"


@stacks
@in_loop
async def test_a_stream_whose_loop_was_left_says_why_it_cannot_be_read_on(stack: Stack) -> None:
    async with scene_of(stack) as scene:
        scene.server.script(ENDLESS)
        stream = await scene.stream()
        async for _ in each(stream):
            break
        with pytest.raises(RuntimeError, match="closed when its loop was left"):
            await read(stream, 1)


@stacks
@in_loop
async def test_while_a_stream_is_open_its_whole_bound_is_held(stack: Stack) -> None:
    async with scene_of(stack) as scene:
        scene.server.script(ENDLESS)
        stream = await scene.stream()
        await read(stream, 4)
        quote = await done(scene.client.guard.quote(**REQUEST))
        held = [status.held for status in (await scene.limits()).values()]
        bound = held[1]
        assert bound >= quote.input_tokens
        assert held == [1, bound, CAP, bound + CAP, price(bound, CAP), 1]
        assert {status.used for status in (await scene.limits()).values()} == {0}
        await done(stream.close())


# Unknown is never zero ------------------------------------------------------------------------------------------------

streamed = pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
UNUSABLE = [
    pytest.param(None, id="none"),
    pytest.param({}, id="empty"),
    pytest.param({"prompt_tokens": -1, "completion_tokens": 8, "total_tokens": 7}, id="negative"),
]


@stacks
@streamed
@pytest.mark.parametrize("usage", UNUSABLE)
@in_loop
async def test_usage_that_is_missing_empty_or_negative_is_estimated(stack: Stack, stream: bool, usage: Any) -> None:
    async with scene_of(stack) as scene:
        scene.server.script(Reply(chunks=8, usage=usage))
        await (finished if stream else plain)(scene)
        record = await scene.the_record()
        quote = await done(scene.client.guard.quote(**REQUEST))
    assert (record.outcome, record.usage_source, record.input_tokens) == ("ok", "estimated", quote.input_tokens)
    assert 8 <= record.output_tokens < CAP


@stacks
@streamed
@in_loop
async def test_an_explicit_zero_is_believed(stack: Stack, stream: bool) -> None:
    async with scene_of(stack) as scene:
        scene.server.script(Reply(chunks=8, usage=Usage(0, 0)))
        await (finished if stream else plain)(scene)
        record = await scene.the_record()
    assert (record.usage_source, record.total_tokens) == ("provider", 0)
    assert record.cost_usd == 0


@stacks
@streamed
@in_loop
async def test_an_estimate_is_never_above_what_was_reserved(stack: Stack, stream: bool) -> None:
    async with scene_of(stack) as scene:
        # Ten pieces, as the cap allows, but each is a word of several tokens to whoever counts them.
        scene.server.script(Reply("antidisestablishmentarianism " * 10, usage=None))
        async for _ in each(await scene.create(stream=stream, max_completion_tokens=10)):
            pass
        record = await scene.the_record()
    assert (record.usage_source, record.output_tokens, record.max_tokens) == ("estimated", 10, 10)


# The last chunk, which nobody asked for -------------------------------------------------------------------------------

ASKED = {"include_usage": True}
NOT_ASKED = [
    pytest.param({}, id="no options"),
    pytest.param({"stream_options": None}, id="none"),
    pytest.param({"stream_options": {"include_usage": False}}, id="no"),
    pytest.param({"stream_options": {"include_obfuscation": False}}, id="another option"),
]


@stacks
@pytest.mark.parametrize("options", NOT_ASKED)
@in_loop
async def test_usage_is_asked_for_and_hidden_from_a_caller_who_did_not_ask(stack: Stack, options: Any) -> None:
    async with scene_of(stack) as scene:
        scene.server.script(ANSWER)
        chunks = [chunk async for chunk in each(await scene.stream(**options))]
        assert [(len(chunk.choices), chunk.usage) for chunk in chunks] == [(1, None)] * 10
        (sent,) = scene.server.requests
        assert sent.body["stream_options"] == {**(options.get("stream_options") or {}), **ASKED}
        assert (await scene.the_record()).usage_source == "provider"


@stacks
@in_loop
async def test_usage_is_shown_to_a_caller_who_asked(stack: Stack) -> None:
    async with scene_of(stack) as scene:
        scene.server.script(ANSWER)
        *chunks, last = [chunk async for chunk in each(await scene.stream(stream_options=ASKED))]
        assert all(chunk.choices and chunk.usage is None for chunk in chunks)
        assert last.choices == []
        assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (BILLED_INPUT, 8)


@stacks
@pytest.mark.parametrize("usage", [{}, {"prompt_tokens": -1, "completion_tokens": 8, "total_tokens": 7}])
@in_loop
async def test_usage_that_cannot_be_used_is_hidden_as_well(stack: Stack, usage: Any) -> None:
    async with scene_of(stack) as scene:
        scene.server.script(Reply(chunks=8, usage=usage))
        assert [len(chunk.choices) async for chunk in each(await scene.stream())] == [1] * 10


@stacks
@pytest.mark.parametrize("asked", [False, True])
@in_loop
async def test_raw_lines_hide_or_show_the_same_chunk(stack: Stack, asked: bool) -> None:
    found: list[str] = []

    async def keep(response: Any) -> None:
        found.extend([line async for line in each(response.iter_lines()) if line])

    async with scene_of(stack) as scene:
        scene.server.script(ANSWER)
        options = {"stream_options": ASKED} if asked else {}
        await streaming(keep, stream=True, **options)(scene)
        assert (await scene.the_record()).usage_source == "provider"
    *events, end = [line.removeprefix("data: ") for line in found]
    assert end == "[DONE]"
    assert [len(json.loads(event)["choices"]) for event in events] == [1] * 10 + [0] * asked


# The end of the process, and a copy of it -----------------------------------------------------------------------------

PROGRAM = """
import asyncio, gc, os, sys
from safe_llm import AsyncSafeOpenAI, SafeOpenAI
from safe_llm.sinks import JSONLinesSink

url, path, ending = sys.argv[1:]
options = {"base_url": url, "api_key": "k", "sinks": [JSONLinesSink(path)]}
request = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}], "user_id": "u1", "stream": True}


def open_stream():
    global client, stream
    client = SafeOpenAI(**options)
    stream = client.chat.completions.create(**request)
    for _ in range(4):
        next(stream)


async def open_async_stream():
    global client, stream
    client = AsyncSafeOpenAI(**options)
    stream = await client.chat.completions.create(**request)
    for _ in range(4):
        await anext(stream)


def end_child():
    global stream
    if ending == "fork, close":
        stream.close()
    elif ending == "fork, drop":
        del stream
        gc.collect()
    sys.exit()


if ending == "exit, async":
    asyncio.run(open_async_stream())
else:
    open_stream()
if ending.startswith("fork"):
    child = os.fork()
    if not child:
        end_child()
    assert os.waitpid(child, 0) == (child, 0)
    for _ in stream:
        pass
"""


def run_program(ending: str, reply: Reply, path: Path) -> dict[str, Any]:
    """The one line that the program's sink has written."""
    with FakeOpenAI() as server:
        server.script(reply)
        command = [sys.executable, "-c", PROGRAM, server.base_url, str(path), ending]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert ended.returncode == 0
    assert "safe_llm" not in ended.stderr  # asyncio itself may complain of the generators of httpx
    (line,) = path.read_text().splitlines()
    record: dict[str, Any] = json.loads(line)
    return record


@pytest.mark.parametrize("ending", ["exit", "exit, async"])
def test_a_process_that_exits_settles_the_stream_it_was_reading(ending: str, tmp_path: Path) -> None:
    record = run_program(ending, ENDLESS, tmp_path / "records")
    assert (record["outcome"], record["usage_source"]) == ("aborted", "estimated")
    assert record["output_tokens"] >= 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("ending", ["fork, exit", "fork, drop", "fork, close"])
def test_a_forked_copy_of_a_stream_is_the_parents_to_settle(ending: str, tmp_path: Path) -> None:
    record = run_program(ending, ANSWER, tmp_path / "records")
    assert (record["outcome"], record["usage_source"], record["output_tokens"]) == ("ok", "provider", 8)

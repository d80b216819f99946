"""One total deadline over a whole call: connecting, retries, the first byte, the last."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib
import importlib.util
import inspect
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from types import ModuleType
from typing import Any

import openai
import pytest

from safe_llm import AsyncSafeOpenAI, DeadlineExceededError, SafeOpenAI
from safe_llm.testing import FakeClock, FakeOpenAI, RecordingSink, Reply

SECONDS = 0.3
SLACK = 0.5
FAR = 30.0
"""A deadline that no test here comes near."""

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

REQUEST: dict[str, Any] = {
    "model": "gpt-4o",
    "messages": [{"role": "user", "content": "Say something."}],
    "user_id": "u1",
}
HEAD = {"content-type": "text/event-stream"}
EVENT = b'data: {"choices": [{"index": 0, "delta": {"content": "word "}}]}\n\n'

# The stage ------------------------------------------------------------------------------------------------------------


def in_loop(test: Callable[..., Any]) -> Callable[..., None]:
    """Runs an async test, which may use sync clients as well: it has the event loop to itself."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


async def done(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


@contextlib.contextmanager
def ends_in(seconds: float, at_least: float | None = None) -> Iterator[None]:
    start = time.monotonic()
    yield
    took = time.monotonic() - start
    assert (seconds if at_least is None else at_least) - 0.01 <= took <= seconds + SLACK


class Scene:
    """A client with its server and its sink."""

    def __init__(self, client: Any, server: FakeOpenAI, sink: RecordingSink) -> None:
        self.client = client
        self.server = server
        self.sink = sink

    async def create(self, **options: Any) -> Any:
        return await done(self.client.chat.completions.create(**REQUEST, **options))

    async def read(self, after_each: Callable[[], None] = lambda: None, **options: Any) -> int:
        """Reads a stream to its end. Gives its number of chunks."""
        stream = await self.create(stream=True, **options)
        chunks = 0
        while await done(anext(stream, None) if hasattr(stream, "__anext__") else next(stream, None)):
            chunks += 1
            after_each()
        return chunks

    async def assert_says(self, outcome: str, attempts: int = 1) -> None:
        """So does the only record; and nothing is held any more."""
        (record,) = self.sink.records
        assert (record.outcome, record.attempts) == (outcome, attempts)
        assert {status.held for status in await done(self.client.guard.usage(user_id="u1"))} == {0}


@contextlib.asynccontextmanager
async def scene_of(
    stack: Stack, seconds: float | str = SECONDS, *, transport: Any = None, **options: Any
) -> AsyncIterator[Scene]:
    library, is_async = stack
    client_class: Any = AsyncSafeOpenAI if is_async else SafeOpenAI
    http = (library.AsyncClient if is_async else library.Client)(trust_env=False, verify=False, transport=transport)
    sink = RecordingSink()
    policy = {"time": {"deadline_seconds": seconds}}
    with FakeOpenAI() as server:
        client = client_class(
            policy=policy, sinks=[sink], base_url=server.base_url, api_key="k", http_client=http, **options
        )
        try:
            yield Scene(client, server, sink)
        finally:
            await done(client.close())


async def create(scene: Scene, **options: Any) -> None:
    await scene.create(**options)


async def read(scene: Scene, **options: Any) -> None:
    await scene.read(**options)


Act = Callable[..., Awaitable[None]]


@pytest.fixture(autouse=True, scope="module")
def _not_the_first_call() -> None:
    """A process loads parts of the SDK, prices and token ranks at its first call: that is not what is timed here."""
    with FakeOpenAI() as server, SafeOpenAI(base_url=server.base_url, api_key="k", sinks=[]) as client:
        server.script(Reply(usage=None))
        client.chat.completions.create(**REQUEST)


# What never comes to its end ------------------------------------------------------------------------------------------

LONG = Reply(chunks=900, drip=0.02)
ENDLESS = [
    pytest.param(create, Reply(delay=math.inf), id="hang"),
    pytest.param(create, Reply(drip_headers=0.02), id="headers"),
    pytest.param(create, Reply(drip=0.02), id="body"),
    pytest.param(read, LONG, id="events"),
]


@stacks
@pytest.mark.parametrize(("act", "reply"), ENDLESS)
@in_loop
async def test_what_hangs_or_drips_is_cut_at_the_deadline(stack: Stack, act: Act, reply: Reply) -> None:
    async with scene_of(stack) as scene:
        scene.server.always(reply)
        with ends_in(SECONDS), pytest.raises(DeadlineExceededError) as caught:
            await act(scene)
        assert isinstance(caught.value, openai.APITimeoutError)
        await scene.assert_says("timeout")
        assert scene.server.count == 1
        assert SECONDS * 1000 <= scene.sink.last.latency_ms <= (SECONDS + SLACK) * 1000


@stacks
@in_loop
async def test_a_reader_that_dawdles_meets_the_deadline_at_its_next_step(stack: Stack) -> None:
    clock = FakeClock()
    async with scene_of(stack, FAR, clock=clock) as scene:
        scene.server.script(LONG)
        with pytest.raises(DeadlineExceededError):
            await scene.read(after_each=lambda: clock.advance(FAR / 4))
        await scene.assert_says("timeout")


async def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  # nothing tells of it
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("stack", [pytest.param(one, id=f"{one.__name__}-async") for one in LIBRARIES])
@pytest.mark.parametrize("reads_first", [True, False])
@in_loop
async def test_a_reader_that_stops_reading_does_not_keep_the_provider_writing(
    stack: ModuleType, reads_first: bool
) -> None:
    """The stream ends, and is paid for, at its deadline, although nobody asks for its next piece."""
    async with scene_of((stack, True)) as scene:
        scene.server.script(LONG)
        stream = await scene.create(stream=True)
        if reads_first:
            await anext(stream)
        with ends_in(SECONDS, at_least=0):
            await until(lambda: bool(scene.server.disconnects) and bool(scene.sink.records))
        await scene.assert_says("timeout")
        assert scene.sink.last.usage_source == "estimated"
        with pytest.raises(DeadlineExceededError) as caught:
            async for _ in stream:
                pass
        assert caught.value.record == scene.sink.last
        assert len(scene.sink.records) == 1


@stacks
@in_loop
async def test_the_client_works_on_after_a_deadline_has_passed(stack: Stack) -> None:
    async with scene_of(stack) as scene:
        scene.server.script(Reply(delay=math.inf), Reply("Hello"))
        with pytest.raises(DeadlineExceededError):
            await scene.create()
        assert (await scene.create()).choices[0].message.content == "Hello"


# Retries --------------------------------------------------------------------------------------------------------------


@stacks
@pytest.mark.parametrize("act", [create, read])
@in_loop
async def test_a_retry_after_beyond_the_deadline_is_the_providers_own_error_at_once(stack: Stack, act: Act) -> None:
    async with scene_of(stack) as scene:
        scene.server.always(Reply(status=429, headers={"Retry-After": "20"}))
        with ends_in(0), pytest.raises(openai.RateLimitError):
            await act(scene)
        await scene.assert_says("error")
        assert scene.server.count == 1


@stacks
@in_loop
async def test_repeated_failures_are_retried_as_long_as_a_retry_fits(stack: Stack) -> None:
    # The SDK pauses for up to 0.5 s, then for up to 1 s: the first retry fits, the second does not.
    async with scene_of(stack, 1.0) as scene:
        scene.server.always(Reply(status=500))
        with ends_in(0.5, at_least=0.3), pytest.raises(openai.InternalServerError):
            await scene.create()
        await scene.assert_says("error", attempts=2)
        assert scene.server.count == 2


@stacks
@in_loop
async def test_a_lost_connection_is_not_retried_after_the_deadline(stack: Stack) -> None:
    async with scene_of(stack, 0.3) as scene:
        scene.server.always(Reply(cut="connect"))
        with ends_in(0.3, at_least=0), pytest.raises(openai.APIConnectionError):
            await scene.create()
        assert scene.server.count == 1
        assert len(scene.sink.records) == 1


@stacks
@in_loop
async def test_an_attempt_that_was_begun_late_is_cut_at_the_same_deadline(stack: Stack) -> None:
    async with scene_of(stack, 0.4) as scene:
        scene.server.script(Reply(status=500, headers={"Retry-After": "0.2"}), Reply(delay=math.inf))
        with ends_in(0.4), pytest.raises(DeadlineExceededError):
            await scene.create()
        await scene.assert_says("timeout", attempts=2)


# timeout= and "off" ---------------------------------------------------------------------------------------------------


@stacks
@pytest.mark.parametrize(("act", "reply"), [(create, Reply(drip=0.02)), (read, LONG)], ids=["body", "events"])
@in_loop
async def test_a_time_out_shortens_the_deadline(stack: Stack, act: Act, reply: Reply) -> None:
    async with scene_of(stack, FAR) as scene:
        scene.server.always(reply)
        with ends_in(0.2), pytest.raises(DeadlineExceededError):
            await act(scene, timeout=0.2)
        await scene.assert_says("timeout")


@stacks
@pytest.mark.parametrize("own", ["client", "with_options"])
@in_loop
async def test_a_clients_time_out_shortens_the_deadline(stack: Stack, own: str) -> None:
    async with scene_of(stack, FAR, **({"timeout": 0.2} if own == "client" else {})) as scene:
        if own == "with_options":
            scene = Scene(scene.client.with_options(timeout=0.2), scene.server, scene.sink)
        scene.server.always(LONG)
        with ends_in(0.2), pytest.raises(DeadlineExceededError):
            await scene.read()


@stacks
@pytest.mark.parametrize("timeout", [60, None, openai.Timeout(60)], ids=["number", "none", "per read"])
@in_loop
async def test_a_time_out_never_extends_the_deadline(stack: Stack, timeout: Any) -> None:
    async with scene_of(stack, 0.2) as scene:
        scene.server.always(LONG)
        with ends_in(0.2), pytest.raises(DeadlineExceededError):
            await scene.read(timeout=timeout)


@stacks
@pytest.mark.parametrize("timeout", [0.2, openai.Timeout(0.2)], ids=["number", "per read"])
@in_loop
async def test_off_leaves_a_stream_all_the_time_in_which_something_comes(stack: Stack, timeout: Any) -> None:
    # As with the SDK alone, whose time-outs hold for each read, however they are written.
    async with scene_of(stack, "off") as scene:
        scene.server.script(Reply(chunks=8, drip=0.04))
        with ends_in(0.44):
            assert await scene.read(timeout=timeout) == 10
        await scene.assert_says("ok")


@stacks
@pytest.mark.parametrize("timeout", [0.2, openai.Timeout(0.2)], ids=["number", "per read"])
@in_loop
async def test_off_leaves_the_sdks_own_time_outs(stack: Stack, timeout: Any) -> None:
    async with scene_of(stack, "off", max_retries=0) as scene:
        scene.server.always(Reply(delay=math.inf))
        with pytest.raises(openai.APITimeoutError) as caught:
            await scene.create(timeout=timeout)
        assert not isinstance(caught.value, DeadlineExceededError)
        await scene.assert_says("timeout")


# Transports that the deadline cannot be built into --------------------------------------------------------------------


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("act", [create, read])
@in_loop
async def test_a_foreign_async_transport_that_hangs_is_cut_all_the_same(library: ModuleType, act: Act) -> None:
    async def hang(request: Any) -> Any:
        await asyncio.Event().wait()

    async with scene_of((library, True), transport=library.MockTransport(hang)) as scene:
        with ends_in(SECONDS), pytest.raises(DeadlineExceededError):
            await act(scene)
        await scene.assert_says("timeout")


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("stalls", [False, True], ids=["drips", "stalls"])
@in_loop
async def test_a_foreign_async_transport_is_cut_in_the_middle_of_a_stream(library: ModuleType, stalls: bool) -> None:
    async def events() -> AsyncIterator[bytes]:
        while True:
            yield EVENT
            await asyncio.sleep(math.inf if stalls else 0.02)

    mock = library.MockTransport(lambda request: library.Response(200, headers=HEAD, content=events()))
    async with scene_of((library, True), transport=mock) as scene:
        with ends_in(SECONDS), pytest.raises(DeadlineExceededError):
            await scene.read()
        await scene.assert_says("timeout")


@pytest.mark.parametrize("library", LIBRARIES)
@in_loop
async def test_a_foreign_sync_transport_is_cut_between_the_chunks_of_a_stream(library: ModuleType) -> None:
    clock = FakeClock()

    def events() -> Iterator[bytes]:
        for _ in range(100):
            yield EVENT
            clock.advance(FAR / 10)

    mock = library.MockTransport(lambda request: library.Response(200, headers=HEAD, content=events()))
    async with scene_of((library, False), FAR, transport=mock, clock=clock) as scene:
        with pytest.raises(DeadlineExceededError):
            await scene.read()
        await scene.assert_says("timeout")
        assert scene.sink.last.latency_ms == FAR * 1000

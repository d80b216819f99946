"""Hanging up on a provider while somebody else reads its stream, and never on a connection that is somebody else's."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from safe_llm import AsyncSafeOpenAI, SafeOpenAI
from safe_llm._lines import Line, Lines, opened
from safe_llm.testing import FakeOpenAI, RecordingSink, Reply

pytestmark = pytest.mark.anyio
ASKED: Any = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}], "stream": True}


@contextmanager
def lines() -> Iterator[Lines]:
    made = Lines()
    token = opened.set(made)
    try:
        yield made
    finally:
        opened.reset(token)


def test_a_reader_who_waits_in_another_thread_is_let_go(server: FakeOpenAI, sink: RecordingSink) -> None:
    server.always(Reply(chunks=1_000, drip=20))
    client = SafeOpenAI(base_url=server.base_url, api_key="t", sinks=[sink])
    caught: list[BaseException] = []
    with lines() as found:
        stream = client.chat.completions.create(**ASKED)

        def read() -> None:
            try:
                for _ in stream:
                    pass
            except BaseException as error:
                caught.append(error)

        reader = threading.Thread(target=read)
        reader.start()
        reader.join(0.2)
        found.hang_up()
        reader.join(5)
    assert not reader.is_alive()
    assert isinstance(caught[0], ConnectionAbortedError)
    assert (sink.last.outcome, sink.last.usage_source, len(sink.records)) == ("aborted", "estimated", 1)
    server.wait_until(lambda: len(server.disconnects) == 1)


async def test_a_reader_who_waits_in_another_task_is_let_go(server: FakeOpenAI, sink: RecordingSink) -> None:
    server.always(Reply(chunks=1_000, drip=20))
    async with AsyncSafeOpenAI(base_url=server.base_url, api_key="t", sinks=[sink]) as client:
        with lines() as found:
            stream = await client.chat.completions.create(**ASKED)

            async def read() -> None:
                async for _ in stream:
                    pass

            reader = asyncio.create_task(read())
            await asyncio.sleep(0.2)
            found.hang_up()
            with pytest.raises(ConnectionAbortedError):
                await asyncio.wait_for(reader, 5)
        assert (sink.last.outcome, sink.last.usage_source, len(sink.records)) == ("aborted", "estimated", 1)
        await asyncio.to_thread(server.wait_until, lambda: len(server.disconnects) == 1)


def test_a_stream_that_has_ended_is_not_hung_up_on(server: FakeOpenAI, sink: RecordingSink) -> None:
    """Its connection may carry another call by then."""
    client = SafeOpenAI(base_url=server.base_url, api_key="t", sinks=[sink])
    with lines() as found:
        stream = client.chat.completions.create(**ASKED)
        assert list(stream)
        server.always(Reply("one two three", drip=0.2))
    other = client.chat.completions.create(**ASKED)
    next(iter(other_reader := iter(other)))
    found.hang_up()
    found.abandon()
    assert list(other_reader)
    assert [record.outcome for record in sink.records] == ["ok", "ok"]


def test_a_connection_that_other_streams_share_is_left() -> None:
    line = Line(SimpleNamespace(extensions={"http_version": b"HTTP/2", "network_stream": object()}))
    assert not line.hang_up()
    assert not line.cut


def test_a_stream_without_a_connection_is_ended_all_the_same(sink: RecordingSink) -> None:
    """That of a transport of a test's own, say."""
    from openai import DefaultHttpxClient

    library = __import__(DefaultHttpxClient.__mro__[1].__module__.partition(".")[0])

    class Events(library.SyncByteStream):  # type: ignore[misc, name-defined]
        def __iter__(self) -> Iterator[bytes]:
            yield b"data: {}\n\n"

    def respond(request: Any) -> Any:
        return library.Response(200, stream=Events(), headers={"content-type": "text/event-stream"})

    http = DefaultHttpxClient(transport=library.MockTransport(respond))
    client = SafeOpenAI(api_key="t", http_client=http, sinks=[sink])
    with lines() as found:
        stream = client.chat.completions.create(**ASKED)
        found.hang_up()
    assert (sink.last.outcome, len(sink.records)) == ("aborted", 1)
    stream.close()

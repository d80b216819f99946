"""A stand-in for the provider: a real HTTP server on this machine, which says what it is told to say."""

from __future__ import annotations

import asyncio
import itertools
import re
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Self

from ._answers import ROUTES, Route
from ._models import models
from ._render import breaks_off, render
from ._stored import StoredResponses
from ._wire import Connection
from .reply import Reply, Request

BACKLOG = 1024
"""Connections that may wait to be accepted, where the system allows as many."""

CLOSE_SECONDS = 5.0
"""How long `FakeOpenAI.close` waits for a `respond` callable that blocks."""

_PREFIX = re.compile(r"^(/openai)?(/v1|/deployments/[^/]+)?(?=/)")
"""Of OpenAI (``/v1``) and of Azure (``/openai/v1``, ``/openai/deployments/NAME``)."""


class FakeOpenAI:
    """A loopback HTTP/1.1 server that speaks chat completions, Responses, embeddings, legacy completions, images and
    audio, plain and, where the real API streams, streamed. It retrieves and cancels the responses that it gave and
    lists models; anything else is a 404. It runs in one thread of its own, on a free port.

    ::

        with FakeOpenAI() as server:
            client = OpenAI(base_url=server.base_url, api_key="test")
            server.reply("Hello")                                  # the next request is answered with this
            server.script(Reply(status=429), Reply("Hello again"))  # the two after it
            server.always(Reply("Bye", delay=0.1))                 # and every other one
            server.respond(lambda request: Reply(request.body["model"]))

    ``async with`` does the same. `close` takes no longer than a moment, whatever the clients are doing.

    A response with ``background`` is queued, and complete when it is first retrieved, or `Reply.polls` times later. It
    then says what the `Reply` to its creation says; `retrievals` scripts how that is sent.
    """

    def __init__(self) -> None:
        self.requests: list[Request] = []
        """Every request received, in the order of arrival."""
        self.disconnects: list[Request] = []
        """Those whose client left before it had been sent the whole answer."""
        self.count = 0
        """POST requests that reached a model's route, a client's retries included: neither retrievals nor
        cancellations."""
        self.peak = 0
        """The most of them that were being answered at one time."""
        self._in_flight = 0
        self._script: deque[Reply] = deque()
        self._stored = StoredResponses()
        self._respond: Callable[[Request], Reply] = lambda request: Reply()
        self._failures: list[BaseException] = []
        self._connections: set[Connection] = set()
        self._changed = threading.Condition()
        self._port = 0
        self._started = threading.Event()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    # What it answers --------------------------------------------------------------------------------------------------

    def reply(self, *texts: str) -> None:
        """Queue one plain answer for each of the next requests."""
        self.script(*map(Reply, texts))

    def script(self, *replies: Reply) -> None:
        """Queue answers: each is given once, to the next request to a model's route."""
        self._script.extend(replies)

    def always(self, reply: Reply) -> None:
        """Answer with this whenever nothing is queued."""
        self.respond(lambda request: reply)

    def respond(self, answer: Callable[[Request], Reply]) -> None:
        """Answer with what this callable returns, whenever nothing is queued.

        It runs in the server's thread and must not block; `Reply.delay` waits. If it raises, the client gets a 500, and
        `close` raises the error again.
        """
        self._respond = answer

    def retrievals(self, *replies: Reply) -> None:
        """Queue the manner in which the next retrievals and cancellations of known responses are answered, one each:
        ``Reply(status=500)``, ``Reply(cut=2)``. Of these replies, what is declared before `Reply.status` is not used.
        """
        self._stored.manners.extend(replies)

    # What a test looks at ---------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """The root: what Azure's clients take as ``azure_endpoint``."""
        if not self._port:
            raise RuntimeError("The server is not running: use it as `with FakeOpenAI() as server:`.")
        return f"http://127.0.0.1:{self._port}"

    @property
    def base_url(self) -> str:
        """What the clients take as ``base_url``; ends in ``/v1``."""
        return f"{self.url}/v1"

    def wait_until(self, condition: Callable[[], bool], timeout: float = 5.0) -> None:
        """Wait until ``condition()`` holds, which is looked at whenever a request arrives, ends or loses its client:
        ``server.wait_until(lambda: server.count == 3)``. Raises `TimeoutError` after `timeout` seconds.
        """
        with self._changed:
            if not self._changed.wait_for(condition, timeout):
                raise TimeoutError(f"The condition did not come true within {timeout:g} s.")

    def release(self) -> None:
        """End every `Reply.delay` that is being waited for."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._end_delays)

    # Its life ---------------------------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Listen, once. A context manager does this on entering."""
        if self._port:
            raise RuntimeError("The server was started before: make another.")
        listener = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
        self._port = listener.getsockname()[1]
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(listener)), name="FakeOpenAI", daemon=True
        )
        self._thread.start()
        self._started.wait()
        return self

    def close(self) -> None:
        """Drop every connection and stop. Harmless when repeated. Raises what a `respond` callable raised, and
        `TimeoutError` while one blocks.
        """
        if self._thread is None:
            return
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._loop = None
        self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive():
            raise TimeoutError(f"A respond callable has been blocking the server for {CLOSE_SECONDS:g} s.")
        if self._failures:
            failure, self._failures = self._failures[0], []
            raise failure

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self.start()

    async def __aexit__(self, *exc_info: object) -> None:
        self.close()

    # In its own thread ------------------------------------------------------------------------------------------------

    async def _serve(self, listener: socket.socket) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping, self._released = asyncio.Event(), asyncio.Event()
        ids = (f"req_{number:06d}" for number in itertools.count(1))
        server = await self._loop.create_server(
            lambda: Connection(self._answer, ids, self._connections), sock=listener, backlog=BACKLOG
        )
        self._started.set()
        await self._stopping.wait()
        server.close()
        for connection in self._connections:
            connection.abort()
        await asyncio.sleep(0)  # the connections learn of it in the next round of the loop

    async def _answer(self, request: Request, connection: Connection) -> None:
        path = _PREFIX.sub("", request.path)
        route = ROUTES.get(path) if request.method == "POST" else None
        with self._noted(request, route):
            try:
                reply, route = self._choose(request, path, route)
                steps = render(request, reply, route)
            except BaseException as exc:  # pytest.fail() raises no Exception
                self._failures.append(exc)
                reply = Reply(status=500, error={"message": f"The fake server failed: {exc!r}"})
                steps = render(request, reply, route)
            if reply.delay:
                await self._delay(reply.delay)
            if reply.cut != "connect":
                for seconds, data in steps:
                    if seconds:
                        await asyncio.sleep(seconds)
                    await connection.write(data)
            if reply.cut == "connect" or breaks_off(reply):
                connection.close()

    def _choose(self, request: Request, path: str, route: Route | None) -> tuple[Reply, Route | None]:
        if route is None:
            return self._stored.answer(request, path) or models(request, path) or _nowhere(request)
        reply = self._script.popleft() if self._script else self._respond(request)
        if path == "/responses":
            self._stored.keep(request, reply)
        return reply, route

    @contextmanager
    def _noted(self, request: Request, route: Route | None) -> Iterator[None]:
        with self._changed:
            self.requests.append(request)
            if route is not None:
                self.count += 1
                self._in_flight += 1
                self.peak = max(self.peak, self._in_flight)
            self._changed.notify_all()
        left = False
        try:
            yield
        except asyncio.CancelledError:
            left = not self._stopping.is_set()
            raise
        finally:
            with self._changed:
                if left:
                    self.disconnects.append(request)
                if route is not None:
                    self._in_flight -= 1
                self._changed.notify_all()

    async def _delay(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._released.wait(), seconds)

    def _end_delays(self) -> None:
        self._released.set()
        self._released = asyncio.Event()


def _nowhere(request: Request) -> tuple[Reply, None]:
    return Reply(status=404, error={"message": f"Invalid URL ({request.method} {request.path})"}), None

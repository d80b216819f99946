"""A total deadline over real sockets: every HTTP library that is installed, sync and async, against hostile servers."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import importlib
import importlib.util
import inspect
import re
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import openai
import pytest

from safe_llm.deadline import Deadline, clip_timeouts, current, install, within
from safe_llm.errors import DeadlineExceededError

SECONDS = 0.3
SLACK = 0.5
PACE = 0.04
"""Seconds between the drops of a dripping server."""
PATIENCE = 2.0
"""Seconds after which servers and clients give up by themselves: a broken deadline fails a test, it hangs none."""

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENT = b"9\r\ndata: 1\n\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

LIBRARIES = [importlib.import_module(name) for name in ("httpx2", "httpx") if importlib.util.find_spec(name)]
STACKS = [
    pytest.param((library, is_async), id=f"{library.__name__}-{'async' if is_async else 'sync'}")
    for library in LIBRARIES
    for is_async in (False, True)
]
Stack = tuple[ModuleType, bool]

# The servers ----------------------------------------------------------------------------------------------------------


class Peer:
    """The server's end of one connection, as a script sees it."""

    def __init__(self, connection: socket.socket, over: threading.Event) -> None:
        self.socket = connection
        self.over = over

    def request(self) -> bytes:
        """Reads up to the end of the headers and of a body whose length they give."""
        data = b""
        while b"\r\n\r\n" not in data:
            data += self._receive()
        head, _, body = data.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", head)
        while length and len(body) < int(length[1]):
            body += self._receive()
        return head + b"\r\n\r\n" + body

    def _receive(self) -> bytes:
        data = self.socket.recv(65_536)
        if not data:
            raise ConnectionError
        return data

    def drops(self, pace: float = PACE) -> Iterator[None]:
        """Comes back once in each pace, until the test is over or patience is."""
        end = time.monotonic() + PATIENCE
        while not self.over.wait(pace) and time.monotonic() < end:
            yield

    def drip(self, drop: bytes) -> None:
        for _ in self.drops():
            self.socket.sendall(drop)

    def hang(self) -> None:
        self.over.wait(PATIENCE)


Script = Callable[[Peer], None]


@contextlib.contextmanager
def serve(script: Script, path: str | None = None) -> Iterator[str]:
    """Runs the script in a thread for each connection to 127.0.0.1, or to a Unix socket. Gives host and port."""
    over = threading.Event()
    connections: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def play(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            script(Peer(connection, over))

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                connections.append(connection)
                threads.append(threading.Thread(target=play, args=(connection,)))
                threads[-1].start()

    if path is None:
        listener = socket.create_server(("127.0.0.1", 0))
    else:
        listener = socket.create_server(path, family=socket.AF_UNIX)
    acceptor = threading.Thread(target=accept)
    acceptor.start()
    try:
        yield path or f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        over.set()
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        acceptor.join()
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()


def answer(peer: Peer) -> None:
    while True:
        peer.request()
        peer.socket.sendall(OK)


def hang(peer: Peer) -> None:
    peer.request()
    peer.hang()


def drip_headers(peer: Peer) -> None:
    peer.request()
    peer.socket.sendall(b"HTTP/1.1 200 OK\r\n")
    peer.drip(b"x: y\r\n")


def drip_body(peer: Peer) -> None:
    peer.request()
    peer.socket.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    peer.drip(b"x")


def drip_events(peer: Peer) -> None:
    peer.request()
    peer.socket.sendall(HEAD)
    peer.drip(EVENT)


def flood_events(peer: Peer) -> None:
    peer.request()
    peer.socket.sendall(HEAD)
    for _ in peer.drops(pace=0):
        peer.socket.sendall(EVENT * 100)


def never_read(peer: Peer) -> None:
    peer.hang()


def read_slowly(peer: Peer) -> None:
    for _ in peer.drops():
        peer.socket.recv(500_000)


def drip_handshake(peer: Peer) -> None:
    peer.socket.sendall(b"\x16\x03\x03\x40\x00\x02")  # A handshake record of 16 KiB, of which a byte comes at a time.
    peer.drip(b"\x00")


def anonymous(protocol: int) -> ssl.SSLContext:
    """TLS that needs no certificate: real handshakes and records, without a key in the repository."""
    context = ssl.SSLContext(protocol)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("AECDH-AES256-SHA:@SECLEVEL=0")
    return context


def over_tls(script: Script) -> Script:
    def play(peer: Peer) -> None:
        with anonymous(ssl.PROTOCOL_TLS_SERVER).wrap_socket(peer.socket, server_side=True) as connection:
            script(Peer(connection, peer.over))

    return play


@contextlib.contextmanager
def black_hole(*hosts: str) -> Iterator[int]:
    """A port on which each host accepts nothing any more: a connection to it is neither made nor refused."""
    with contextlib.ExitStack() as stack:
        port = 0
        for host in hosts:
            listener = stack.enter_context(socket.create_server((host, port), backlog=0))
            port = listener.getsockname()[1]
            for _ in range(8):
                filler = stack.enter_context(socket.socket())
                filler.setblocking(False)
                filler.connect_ex((host, port))
        with socket.socket() as probe:
            probe.settimeout(0.1)
            try:
                probe.connect((hosts[0], port))
            except TimeoutError:
                pass
            else:
                pytest.skip("this system accepts connections beyond the backlog")
        yield port


def resolves_to(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Lets names under .test resolve to these addresses, or to none."""
    real = socket.getaddrinfo

    def resolve(host: Any, port: Any, *args: Any, **options: Any) -> Any:
        if not str(host if isinstance(host, str) else host.decode()).endswith(".test"):
            return real(host, port, *args, **options)
        if not addresses:
            raise socket.gaierror(socket.EAI_NONAME, "unknown name")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)


# The clients ----------------------------------------------------------------------------------------------------------


def in_loop(test: Callable[..., Any]) -> Callable[..., None]:
    """Runs an async test, which may use sync clients as well: it has the event loop to itself."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


async def done(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


@contextlib.asynccontextmanager
async def client_of(stack: Stack, **options: Any) -> AsyncIterator[Any]:
    library, is_async = stack
    client = (library.AsyncClient if is_async else library.Client)(
        **{"timeout": PATIENCE, "trust_env": False, "verify": False} | options
    )
    try:
        yield client
    finally:
        await done(client.aclose() if is_async else client.close())


async def send(client: Any, url: str, deadline: Deadline | None, content: bytes = b"") -> Any:
    request = client.build_request("POST", url, content=content)
    if deadline is not None:
        clip_timeouts(request, deadline)
    with within(deadline):
        return await done(client.send(request, stream=True))


async def fetch(client: Any, url: str, deadline: Deadline | None, content: bytes = b"", steps: Any = None) -> bytes:
    """Sends a request and reads the answer, each chunk in a step of its own; `steps` gets the chunks as they come."""
    chunks: list[bytes] = [] if steps is None else steps
    response = await send(client, url, deadline, content)
    is_async = hasattr(client, "aclose")
    iterator = response.aiter_bytes() if is_async else response.iter_bytes()
    try:
        while True:
            with within(deadline):
                chunk = await done(anext(iterator, None) if is_async else next(iterator, None))
            if chunk is None:
                return b"".join(chunks)
            chunks.append(chunk)
    finally:
        await done(response.aclose() if is_async else response.close())


@contextlib.contextmanager
def ends_in(seconds: float) -> Iterator[None]:
    start = time.monotonic()
    yield
    assert seconds - 0.01 <= time.monotonic() - start <= seconds + SLACK


async def assert_times_out(stack: Stack, url: str, error: str, content: bytes = b"", **options: Any) -> list[bytes]:
    """The call ends at its deadline with the library's own time-out of that name. Gives the chunks that had come."""
    steps: list[bytes] = []
    async with client_of(stack, **options) as client:
        assert install(client)
        with ends_in(SECONDS), pytest.raises(getattr(stack[0], error)):
            await fetch(client, url, Deadline(SECONDS), content, steps)
    return steps


# Every operation is bounded -------------------------------------------------------------------------------------------

stacks = pytest.mark.parametrize("stack", STACKS)


@stacks
@pytest.mark.parametrize("script", [hang, drip_headers])
@in_loop
async def test_headers_that_do_not_come_or_never_end_are_cut_off(stack: Stack, script: Script) -> None:
    with serve(script) as host:
        await assert_times_out(stack, f"http://{host}", "ReadTimeout")


@stacks
@pytest.mark.parametrize("script", [drip_body, drip_events, flood_events])
@in_loop
async def test_an_answer_that_never_ends_is_cut_off_however_fast_it_comes(stack: Stack, script: Script) -> None:
    with serve(script) as host:
        assert await assert_times_out(stack, f"http://{host}", "ReadTimeout")


@stacks
@pytest.mark.parametrize("script", [never_read, read_slowly])
@in_loop
async def test_a_request_that_the_server_does_not_take_in_is_cut_off(stack: Stack, script: Script) -> None:
    with serve(script) as host:
        await assert_times_out(stack, f"http://{host}", "WriteTimeout", content=bytes(64_000_000))


@stacks
@pytest.mark.parametrize("script", [hang, drip_handshake])
@in_loop
async def test_a_tls_handshake_that_hangs_or_drips_is_cut_off(stack: Stack, script: Script) -> None:
    with serve(script) as host:
        await assert_times_out(stack, f"https://{host}", "ConnectTimeout")


@stacks
@in_loop
async def test_an_answer_that_drips_over_tls_is_cut_off(stack: Stack) -> None:
    with serve(over_tls(drip_events)) as host:
        context = anonymous(ssl.PROTOCOL_TLS_CLIENT)
        assert await assert_times_out(stack, f"https://{host}", "ReadTimeout", verify=context)


@stacks
@in_loop
async def test_a_connection_that_is_never_made_is_cut_off(stack: Stack) -> None:
    with black_hole("127.0.0.1") as port:
        await assert_times_out(stack, f"http://127.0.0.1:{port}", "ConnectTimeout")


@stacks
@in_loop
async def test_the_addresses_of_a_name_share_the_deadline(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    with black_hole("127.0.0.1", "127.0.0.2") as port:
        resolves_to(monkeypatch, "127.0.0.1", "127.0.0.2")
        await assert_times_out(stack, f"http://two.test:{port}", "ConnectTimeout")


@stacks
@in_loop
async def test_a_full_pool_is_waited_for_no_longer_than_the_deadline(stack: Stack) -> None:
    limits = stack[0].Limits(max_connections=1)
    with serve(drip_events) as host:
        async with client_of(stack, limits=limits) as client:
            install(client)
            busy = await send(client, f"http://{host}", None)
            with ends_in(SECONDS), pytest.raises(stack[0].PoolTimeout):
                await fetch(client, f"http://{host}", Deadline(SECONDS))
            await done(busy.aclose() if stack[1] else busy.close())


@stacks
@in_loop
async def test_a_transport_that_retries_connecting_does_not_sleep_past_the_deadline(stack: Stack) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    transport = (stack[0].AsyncHTTPTransport if stack[1] else stack[0].HTTPTransport)(retries=3)
    await assert_times_out(stack, f"http://127.0.0.1:{port}", "ConnectTimeout", transport=transport)


@stacks
@in_loop
async def test_a_unix_socket_obeys_as_well(stack: Stack, tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    transport = (stack[0].AsyncHTTPTransport if stack[1] else stack[0].HTTPTransport)(uds=path)
    with serve(drip_headers, path):
        await assert_times_out(stack, "http://unix.test", "ReadTimeout", transport=transport)


@stacks
@in_loop
async def test_a_connection_that_was_open_before_install_obeys_as_well(stack: Stack) -> None:
    def answer_once_then_drip(peer: Peer) -> None:
        peer.request()
        peer.socket.sendall(OK)
        drip_headers(peer)

    with serve(answer_once_then_drip) as host:
        async with client_of(stack) as client:
            assert await fetch(client, f"http://{host}", None) == b"ok"
            assert install(client)
            with ends_in(SECONDS), pytest.raises(stack[0].ReadTimeout):
                await fetch(client, f"http://{host}", Deadline(SECONDS))


@stacks
@pytest.mark.parametrize("scheme", ["http", "https"])
@in_loop
async def test_a_proxy_named_by_the_client_obeys_as_well(stack: Stack, scheme: str) -> None:
    with serve(drip_headers) as host:
        await assert_times_out(stack, f"{scheme}://origin.test", "ReadTimeout", proxy=f"http://{host}")


@stacks
@in_loop
async def test_an_exhausted_deadline_leaves_no_socket_open_between_connecting_and_tls(stack: Stack) -> None:
    clock = Clock()

    def late(event: str, _: Any) -> Any:
        if event == "connection.connect_tcp.complete":
            clock.now += 10
        return asyncio.sleep(0) if stack[1] else None

    with serve(hang) as host:
        async with client_of(stack) as client:
            install(client)
            request = client.build_request("POST", f"https://{host}", extensions={"trace": late})
            with within(Deadline(5, clock)), pytest.raises(stack[0].ConnectTimeout):
                await done(client.send(request))
            gc.collect()  # A socket left open would warn here, and warnings are errors.


# And nothing else changes ---------------------------------------------------------------------------------------------


@stacks
@in_loop
async def test_without_a_deadline_a_slow_answer_arrives_whole(stack: Stack) -> None:
    def slow(peer: Peer) -> None:
        peer.request()
        peer.socket.sendall(HEAD)
        for _ in range(4):
            peer.over.wait(PACE)
            peer.socket.sendall(EVENT)
        peer.socket.sendall(b"0\r\n\r\n")

    with serve(slow) as host:
        async with client_of(stack) as client:
            install(client)
            assert await fetch(client, f"http://{host}", None) == b"data: 1\n\n" * 4


@stacks
@in_loop
async def test_the_clients_own_shorter_time_out_still_holds(stack: Stack) -> None:
    with serve(hang) as host:
        async with client_of(stack, timeout=0.1) as client:
            install(client)
            for deadline in (None, Deadline(5)):
                with ends_in(0.1), pytest.raises(stack[0].ReadTimeout):
                    await fetch(client, f"http://{host}", deadline)


@stacks
@in_loop
async def test_a_large_request_arrives_whole_under_a_deadline(stack: Stack) -> None:
    body = bytes(range(256)) * 4_001
    received: list[bytes] = []

    def keep(peer: Peer) -> None:
        received.append(peer.request())
        peer.socket.sendall(OK)

    for script in (keep, over_tls(keep)):
        with serve(script) as host:
            async with client_of(stack, verify=anonymous(ssl.PROTOCOL_TLS_CLIENT)) as client:
                install(client)
                scheme = "http" if script is keep else "https"
                assert await fetch(client, f"{scheme}://{host}", Deadline(10), body) == b"ok"
    assert [request.endswith(b"\r\n\r\n" + body) for request in received] == [True, True]


@stacks
@in_loop
async def test_a_client_goes_on_after_a_deadline_has_passed(stack: Stack) -> None:
    with serve(drip_headers) as slow, serve(answer) as quick:
        async with client_of(stack) as client:
            install(client)
            with pytest.raises(stack[0].ReadTimeout):
                await fetch(client, f"http://{slow}", Deadline(0.05))
            assert await fetch(client, f"http://{quick}", Deadline(5)) == b"ok"
            assert await fetch(client, f"http://{quick}", None) == b"ok"


@stacks
@in_loop
async def test_a_name_falls_back_to_its_next_address(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(answer) as host:
        resolves_to(monkeypatch, "127.0.0.2", "127.0.0.1")
        async with client_of(stack) as client:
            install(client)
            assert await fetch(client, f"http://two.test:{host.rpartition(':')[2]}", Deadline(5)) == b"ok"


@stacks
@in_loop
async def test_a_name_that_does_not_resolve_is_a_failed_connection(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolves_to(monkeypatch)
    async with client_of(stack) as client:
        install(client)
        with pytest.raises(stack[0].ConnectError):
            await fetch(client, "http://no.test", Deadline(5))


@stacks
@in_loop
async def test_the_steps_of_one_stream_may_run_in_different_threads_and_tasks(stack: Stack) -> None:
    async def step(iterator: Any) -> bytes:
        with within(deadline):
            return await (anext(iterator) if stack[1] else asyncio.to_thread(next, iterator))

    async def every_step(iterator: Any) -> None:
        while True:
            await asyncio.create_task(step(iterator))

    with serve(drip_events) as host:
        async with client_of(stack) as client:
            install(client)
            deadline = Deadline(SECONDS)
            with ends_in(SECONDS):
                response = await send(client, f"http://{host}", deadline)
                iterator = response.aiter_bytes() if stack[1] else response.iter_bytes()
                with pytest.raises(stack[0].ReadTimeout):
                    await every_step(iterator)


# install --------------------------------------------------------------------------------------------------------------


@stacks
@in_loop
async def test_install_reaches_the_default_client_of_every_library(stack: Stack) -> None:
    library, is_async = stack
    client = library.AsyncClient() if is_async else library.Client()
    assert install(client)
    await done(client.aclose() if is_async else client.close())


@pytest.mark.parametrize("name", ["OpenAI", "AsyncOpenAI"])
@in_loop
async def test_the_sdks_own_client_obeys(name: str) -> None:
    with serve(drip_headers) as host:
        client = getattr(openai, name)(api_key="k", base_url=f"http://{host}", max_retries=0)
        assert install(client._client)
        with ends_in(SECONDS), pytest.raises(openai.APITimeoutError), within(Deadline(SECONDS)):
            await done(client.models.list())
        await done(client.close())


@stacks
@in_loop
async def test_installing_twice_wraps_once(stack: Stack) -> None:
    async with client_of(stack) as client:
        install(client)
        backend = client._transport._pool._network_backend
        assert install(client)
        assert client._transport._pool._network_backend is backend


@stacks
@in_loop
async def test_install_reports_a_transport_that_it_cannot_reach(stack: Stack) -> None:
    library, _ = stack
    mock = library.MockTransport(lambda request: library.Response(200))
    async with client_of(stack, transport=mock) as client:
        assert not install(client)
    async with client_of(stack, mounts={"https://": mock, "http://": None}) as client:
        assert not install(client)
        del client._transport._pool._network_backend
        assert not install(client)
    assert not install(object())


# Deadline, within, clip_timeouts --------------------------------------------------------------------------------------


class Clock:
    """Stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_deadline_passes_when_the_given_clock_says_so() -> None:
    clock = Clock()
    deadline = Deadline(30, clock)
    clock.now += 29
    assert deadline.remaining() == pytest.approx(1)
    assert not deadline.expired
    clock.now += 2
    assert deadline.remaining() == 0
    assert deadline.expired


@stacks
@in_loop
async def test_a_clock_that_stands_still_keeps_no_socket_waiting(stack: Stack) -> None:
    with serve(drip_headers) as host:
        async with client_of(stack) as client:
            install(client)
            with ends_in(SECONDS), pytest.raises(stack[0].ReadTimeout):
                await fetch(client, f"http://{host}", Deadline(SECONDS, Clock()))


def test_the_deadline_that_was_set_last_is_in_force_until_its_block_ends() -> None:
    outer, inner = Deadline(1), Deadline(2)
    with within(outer):
        with within(inner):
            assert current.get() is inner
        with within(None):
            assert current.get() is None
        assert current.get() is outer
    assert current.get() is None


@stacks
def test_clipping_lowers_each_time_out_and_raises_none(stack: Stack) -> None:
    library, _ = stack
    given = {"connect": 5.0, "read": 600.0, "pool": None}
    request = library.Request("GET", "http://x.test", extensions={"timeout": given})
    clip_timeouts(request, Deadline(30))
    left = pytest.approx(30, abs=1)
    assert request.extensions["timeout"] == {"connect": 5.0, "read": left, "write": left, "pool": left}
    bare = library.Request("GET", "http://x.test")
    clip_timeouts(bare, Deadline(30))
    assert set(bare.extensions["timeout"]) == {"connect", "read", "write", "pool"}


@stacks
def test_a_request_with_no_time_left_is_refused(stack: Stack) -> None:
    request = stack[0].Request("GET", "http://x.test")
    with pytest.raises(DeadlineExceededError, match="of 0 s") as caught:
        clip_timeouts(request, Deadline(0))
    assert caught.value.request is request

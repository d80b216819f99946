"""The ASGI middleware in front of FastAPI and Starlette, by a real uvicorn."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import jwt
import pytest
from callers import Tokens, bearer, serving, until
from fastapi import BackgroundTasks, FastAPI, Request
from fastapi.responses import StreamingResponse
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import JSONResponse
from starlette.routing import Route

from safe_llm import (
    ConfigurationError,
    DeadlineExceededError,
    DeniedError,
    OutputRejectedError,
    RateLimitExceededError,
    SafeOpenAI,
    SwitchedOffError,
)
from safe_llm.identity import add, claim_of, current
from safe_llm.testing import FakeOpenAI, RecordingSink, Reply
from safe_llm.web import JWTVerifier, SafeLLMMiddleware

pytestmark = pytest.mark.anyio

ASKED: Any = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]}
BUSY = RateLimitExceededError("Too many.", limit="3 requests/minute", used=3, held=0, requested=1, retry_after=1.2)


async def done(result: Any) -> Any:
    return await result if hasattr(result, "__await__") else result


def chat_app(client: Any) -> FastAPI:
    """One plain and one streamed route, of the client's own colour."""
    app = FastAPI()

    if isinstance(client, SafeOpenAI):

        @app.post("/chat")
        def chat() -> str:
            return client.chat.completions.create(**ASKED).choices[0].message.content or ""

        @app.post("/stream")
        def stream() -> StreamingResponse:
            def words() -> Iterator[str]:
                for chunk in client.chat.completions.create(**ASKED, stream=True):
                    yield chunk.choices[0].delta.content or ""

            return StreamingResponse(words())

    else:

        @app.post("/chat")
        async def chat_async() -> str:
            return (await client.chat.completions.create(**ASKED)).choices[0].message.content or ""

        @app.post("/stream")
        async def stream_async() -> StreamingResponse:
            async def words() -> AsyncIterator[str]:
                async for chunk in await client.chat.completions.create(**ASKED, stream=True):
                    yield chunk.choices[0].delta.content or ""

            return StreamingResponse(words())

    return app


@pytest.fixture(params=["added", "outside"])
def wrapped(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Puts the middleware among the framework's own, or around the whole application."""

    def wrapped(app: Any, **options: Any) -> Any:
        if request.param == "added":
            app.add_middleware(SafeLLMMiddleware, **options)
            return app
        return SafeLLMMiddleware(app, **options)

    return wrapped


@contextlib.contextmanager
def calling(app: Any) -> Iterator[httpx.Client]:
    with serving(app) as url, httpx.Client(base_url=url, timeout=10) as http:
        yield http


def raising(error: BaseException) -> FastAPI:
    """Raises it plainly, in a sync endpoint, and in the first and the second step of a stream."""
    app = FastAPI()

    @app.get("/plain")
    async def plain() -> None:
        raise error

    @app.get("/sync")
    def sync() -> None:
        raise error

    @app.get("/first")
    async def first() -> StreamingResponse:
        async def nothing() -> AsyncIterator[str]:
            raise error
            yield

        return StreamingResponse(nothing())

    @app.get("/first_sync")
    def first_sync() -> StreamingResponse:
        def nothing() -> Iterator[str]:
            raise error
            yield

        return StreamingResponse(nothing())

    @app.get("/second")
    async def second() -> StreamingResponse:
        async def little() -> AsyncIterator[str]:
            yield "begun"
            raise error

        return StreamingResponse(little())

    @app.get("/group")
    async def group() -> None:
        raise ExceptionGroup("of a task group", [ValueError("another"), error])  # type: ignore[list-item]

    @app.get("/cause")
    async def cause() -> None:
        raise RuntimeError("a framework's own") from error

    return app


# Who is calling -------------------------------------------------------------------------------------------------------


def test_a_call_is_its_caller_s_streamed_or_not(make: Any, wrapped: Any, verifier: Tokens, sink: RecordingSink) -> None:
    client = make("9 requests/minute")
    with calling(wrapped(chat_app(client), verifier=verifier, client=client)) as http:
        for path in ("/chat", "/stream"):
            answer = http.post(path, headers=bearer("alice"))
            assert answer.status_code == 200
            assert "Hello from the fake server." in answer.text
    assert [record.user_id for record in sink.records] == ["alice", "alice"]
    assert {record.outcome for record in sink.records} == {"ok"}


@pytest.mark.parametrize(
    ("headers", "challenged"),
    [
        ([], "Bearer"),
        ([("Authorization", "Basic YWxpY2U6eA==")], "Bearer"),
        ([("Authorization", "Bearer forged-alice")], 'Bearer error="invalid_token"'),
        (
            [("Authorization", "Bearer user-alice"), ("authorization", "Bearer user-bob")],
            'Bearer error="invalid_token"',
        ),
        ([("X-User-Id", "alice"), ("Cookie", "access_token=user-alice")], "Bearer"),
    ],
)
def test_without_one_valid_token_nothing_of_the_application_runs(
    verifier: Tokens, headers: Any, challenged: str
) -> None:
    ran = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        ran.append(scope)

    with calling(SafeLLMMiddleware(app, verifier=verifier)) as http:
        answer = http.get("/?access_token=user-alice", headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == challenged
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == 401
    assert not ran


def test_an_exempt_path_needs_no_token_and_has_no_identity(verifier: Tokens, wrapped: Any) -> None:
    app = FastAPI()

    @app.get("/healthz")
    async def healthz(request: Request) -> Any:
        return request.state.identity

    with calling(wrapped(app, verifier=verifier, exempt=["/healthz"])) as http:
        assert http.get("/healthz", headers=bearer("alice")).json() is None
        assert http.get("/healthz/").status_code == http.get("/healthz/../x").status_code == 401
    assert verifier.asked == []


def test_the_application_finds_the_identity(verifier: Tokens, wrapped: Any) -> None:
    app = FastAPI()

    @app.get("/me")
    def me(request: Request) -> str:
        return f"{request.state.identity.user_id} {request.state.identity.verified}"

    with calling(wrapped(app, verifier=verifier)) as http:
        assert http.get("/me", headers=bearer("alice")).json() == "alice True"


def test_real_tokens_by_real_http(make: Any, sink: RecordingSink) -> None:
    """A genuine one passes; one that has expired, or is signed by another key, does not."""
    client = make("9 requests/day", identity={"verified": True})
    app = SafeLLMMiddleware(chat_app(client), verifier=JWTVerifier(secret="k" * 32), client=client)

    def token(key: str, seconds: float) -> dict[str, str]:
        claims = {"sub": "alice", "iat": time.time() - 60, "exp": time.time() + seconds}
        return {"Authorization": f"Bearer {jwt.encode(claims, key, 'HS256')}"}

    with calling(app) as http:
        assert http.post("/chat", headers=token("k" * 32, 600)).status_code == 200
        for wrong in (token("k" * 32, -30), token("x" * 32, 600)):
            answer = http.post("/chat", headers=wrong)
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, 'Bearer error="invalid_token"')
    assert [record.user_id for record in sink.records] == ["alice"]


def test_one_string_of_exempt_paths_is_refused(verifier: Tokens) -> None:
    with pytest.raises(ConfigurationError, match=r"exempt=\('/healthz',\)"):
        SafeLLMMiddleware(FastAPI(), verifier=verifier, exempt="/healthz")


def test_a_thousand_requests_of_fifty_users_at_once_are_each_their_own_user_s(
    make: Any, verifier: Tokens, server: FakeOpenAI, sink: RecordingSink
) -> None:
    """The answer of each request, and its record, name the user whose token it had."""
    client = make("1_000 requests/minute", time={"deadline_seconds": 80})
    app = FastAPI()

    def asked(name: str) -> Any:
        return {**ASKED, "messages": [{"role": "user", "content": name}]}

    if isinstance(client, SafeOpenAI):

        @app.post("/chat")
        def chat(name: str, request: Request) -> Any:
            client.chat.completions.create(**asked(name))
            return request.state.identity.user_id

    else:

        @app.post("/chat")
        async def chat_async(name: str, request: Request) -> Any:
            await client.chat.completions.create(**asked(name))
            return request.state.identity.user_id

    async def one(port: int, number: int) -> None:
        # By hand, since the pools of HTTP clients take a time that grows with the square of the requests at once.
        user = f"u{number % 50}"
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = f"Host: x\r\nAuthorization: Bearer user-{user}\r\nConnection: close\r\n\r\n"
        writer.write(f"POST /chat?name={user}-{number} HTTP/1.1\r\n{head}".encode())
        answer = await reader.read()
        writer.close()
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert answer.endswith(f'"{user}"'.encode())

    async def everyone(port: int) -> None:
        async with asyncio.timeout(90), asyncio.TaskGroup() as group:
            for number in range(1_000):
                group.create_task(one(port, number))

    with serving(SafeLLMMiddleware(app, verifier=verifier)) as url:
        asyncio.run(everyone(int(url.rpartition(":")[2])))
    assert len(sink.records) == 1_000
    said = {request.id: request.body["messages"][0]["content"].partition("-")[0] for request in server.requests}
    assert all(record.user_id == said[str(record.request_id)] for record in sink.records)


async def test_the_context_is_as_it_was_after_a_request(verifier: Tokens) -> None:
    """Servers may serve many requests from one context."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        add(claim_of(feature="left behind"))
        assert current().user == "alice"
        raise BUSY

    before = current()
    await in_process(SafeLLMMiddleware(app, verifier=verifier), headers=bearer("alice"))
    assert current() == before


async def in_process(app: Any, *, headers: Any = (), body: bytes = b"", **scope: Any) -> list[Any]:
    """What the application sends to one request, without a server."""
    raw = [(name.encode(), value.encode()) for name, value in dict(headers).items()]
    sent: list[Any] = []
    asked = [{"type": "http.request", "body": body}]
    never = asyncio.Event()

    async def receive() -> Any:
        if asked:
            return asked.pop()
        return await never.wait()

    async def send(message: Any) -> None:
        sent.append(message)

    await app({"type": "http", "method": "POST", "path": "/", "headers": raw, **scope}, receive, send)
    return sent


# Refusals -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/plain", "/sync", "/first", "/first_sync", "/group", "/cause"])
def test_a_denial_below_is_a_problem_with_its_headers(path: str, wrapped: Any, verifier: Tokens) -> None:
    with calling(wrapped(raising(BUSY), verifier=verifier)) as http:
        answer = http.get(path, headers=bearer("alice"))
    assert answer.status_code == 429
    assert answer.json() == BUSY.to_problem()
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["retry-after"] == "2"
    assert answer.headers["ratelimit"] == '"3 requests/minute";r=0;t=2'
    assert answer.headers["ratelimit-policy"] == '"3 requests/minute";q=3;w=60'


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (SwitchedOffError("Off.", retry_after=5), 503),
        (DeadlineExceededError(30), 504),
        (OutputRejectedError("No.", rule="secrets"), 502),
    ],
)
def test_other_refusals_have_their_status_too(error: Any, status: int, wrapped: Any, verifier: Tokens) -> None:
    with calling(wrapped(raising(error), verifier=verifier)) as http:
        answer = http.get("/plain", headers=bearer("alice"))
    assert (answer.status_code, answer.json()["status"]) == (status, status)
    assert answer.headers["content-type"] == "application/problem+json"


def test_an_answer_that_has_begun_is_broken_off_and_not_ended(wrapped: Any, verifier: Tokens) -> None:
    with calling(wrapped(raising(BUSY), verifier=verifier)) as http, pytest.raises(httpx.RemoteProtocolError):
        http.get("/second", headers=bearer("alice"))


def test_the_application_s_own_errors_and_answers_stay_what_they_are(wrapped: Any, verifier: Tokens) -> None:
    app = raising(KeyError("a bug"))

    @app.get("/handled")
    async def handled() -> Any:
        try:
            raise BUSY
        except DeniedError:
            return JSONResponse({"fallback": True}, 500)

    @app.exception_handler(SwitchedOffError)
    async def own(request: Any, error: Any) -> Any:
        return JSONResponse({"own": True}, 418)

    @app.get("/own")
    async def off() -> None:
        raise SwitchedOffError("Off.")

    with serving(wrapped(app, verifier=verifier)) as url:

        def get(path: str) -> httpx.Response:
            return httpx.get(url + path, headers=bearer("alice"))  # the server closes a connection after a failure

        assert get("/plain").status_code == get("/first").status_code == 500
        assert get("/handled").json() == {"fallback": True}
        assert get("/own").status_code == 418
        assert get("/nowhere").status_code == 404


def test_a_middleware_in_between_changes_nothing(verifier: Tokens) -> None:
    """Starlette's base class for middlewares runs what is below it in a task of its own."""
    app = raising(BUSY)

    async def pass_on(request: Any, call_next: Any) -> Any:
        return await call_next(request)

    app.add_middleware(BaseHTTPMiddleware, dispatch=pass_on)
    app.add_middleware(SafeLLMMiddleware, verifier=verifier)
    with calling(app) as http:
        assert http.get("/plain", headers=bearer("a")).status_code == 429


# RateLimit on answers -------------------------------------------------------------------------------------------------


def test_answers_tell_how_the_caller_s_limits_stand(make: Any, wrapped: Any, verifier: Tokens) -> None:
    client = make("3 requests/minute", "$1/day")
    with calling(wrapped(chat_app(client), verifier=verifier, client=client)) as http:
        for left in (2, 1, 0):
            answer = http.post("/chat", headers=bearer("alice"))
            assert f'"3 requests/minute";r={left};t=' in answer.headers["ratelimit"]
        assert answer.headers["ratelimit-policy"] == '"3 requests/minute";q=3;w=60, "$1/day";q=1000000;w=86400'
        assert '"3 requests/minute";r=2' in http.post("/stream", headers=bearer("bob")).headers["ratelimit"]
        refused = http.post("/chat", headers=bearer("alice"))
        assert refused.status_code == 429
        assert refused.headers["ratelimit"].startswith('"3 requests/minute";r=0;t=')
        assert 0 < int(refused.headers["retry-after"]) <= 61


def test_the_plan_of_the_token_is_the_one_whose_limits_are_told(make: Any, verifier: Tokens) -> None:
    client = make("3 requests/minute", plans={"default": {}, "pro": {"limits": ["50 requests/day"]}})
    with calling(SafeLLMMiddleware(chat_app(client), verifier=verifier, client=client)) as http:
        assert '"50 requests/day";r=49' in http.post("/chat", headers=bearer("alice.pro")).headers["ratelimit"]


def test_headers_that_the_application_sets_itself_are_left(make: Any, verifier: Tokens) -> None:
    async def answer(request: Any) -> Any:
        return JSONResponse({}, headers={"RateLimit": '"own";r=1'})

    app = SafeLLMMiddleware(Starlette(routes=[Route("/", answer)]), verifier=verifier, client=make("3 requests/day"))
    with calling(app) as http:
        assert http.get("/", headers=bearer("alice")).headers.get_list("ratelimit") == ['"own";r=1']


def test_a_store_that_is_away_costs_the_headers_and_not_the_answer(
    kind: Any, server: FakeOpenAI, verifier: Tokens, caplog: pytest.LogCaptureFixture
) -> None:
    """And is said once."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    policy = {"plans": {"default": {"limits": ["3 requests/day"]}}}
    client = kind(base_url=server.base_url, api_key="t", policy=policy, quota_store=f"redis://127.0.0.1:{port}")

    async def answer(request: Any) -> Any:
        return JSONResponse({"fine": True})

    app = SafeLLMMiddleware(Starlette(routes=[Route("/", answer)]), verifier=verifier, client=client)
    with caplog.at_level(logging.WARNING, "safe_llm"), calling(app) as http:
        for _ in range(3):
            got = http.get("/", headers=bearer("alice"))
            assert got.json() == {"fine": True}
            assert "ratelimit" not in got.headers
    assert sum("cannot be told in headers" in record.message for record in caplog.records) == 1


# The body -------------------------------------------------------------------------------------------------------------


def body_app(seen: list[int]) -> Any:
    async def measure(request: Any) -> Any:
        seen.append(len(await request.body()))
        return JSONResponse(seen[-1])

    return Starlette(routes=[Route("/", measure, methods=["GET", "POST"])])


def by_hand(url: str, head: str, *pieces: bytes, pause: float = 0) -> bytes:
    """What the server answers to a request of bytes; those after the head are sent while it may answer already."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(f"POST / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer user-a\r\n{head}\r\n\r\n".encode())
        with contextlib.suppress(OSError):  # the server has hung up
            for piece in pieces:
                connection.sendall(piece)
                time.sleep(pause)
        answer = b""
        with contextlib.suppress(ConnectionError):
            while data := connection.recv(65_536):
                answer += data
                if b"\r\n\r\n" in answer and b"onnection: close" not in answer:
                    break
        return answer


def test_a_body_up_to_the_limit_reaches_the_application_whole(verifier: Tokens) -> None:
    seen: list[int] = []
    with calling(SafeLLMMiddleware(body_app(seen), verifier=verifier, max_body_bytes=100_000)) as http:
        for size in (0, 1, 100_000):
            assert http.post("/", content=b"x" * size, headers=bearer("a")).json() == size
        chunks = (b"x" * 10_000 for _ in range(10))
        assert http.post("/", content=chunks, headers=bearer("a")).json() == 100_000
        assert http.get("/", headers=bearer("a")).json() == 0


def test_a_length_above_the_limit_is_refused_before_a_byte_is_read(verifier: Tokens) -> None:
    """Not a byte of it is sent."""
    seen: list[int] = []
    with serving(SafeLLMMiddleware(body_app(seen), verifier=verifier, max_body_bytes=1_000)) as url:
        answer = by_hand(url, "Content-Length: 1001")
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert b"100-continue" not in by_hand(url, "Expect: 100-continue\r\nContent-Length: 1001")
    assert b"application/problem+json" in answer
    assert not seen


def test_a_chunked_body_is_refused_at_the_first_byte_too_many(verifier: Tokens) -> None:
    """Although its end never comes."""
    seen: list[int] = []
    with serving(SafeLLMMiddleware(body_app(seen), verifier=verifier, max_body_bytes=1_000)) as url:
        answer = by_hand(url, "Transfer-Encoding: chunked", b"3e8\r\n" + b"x" * 1_000 + b"\r\n", b"1\r\nx\r\n")
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert not seen


@pytest.mark.parametrize("pieces", [[], [b"x"] * 20], ids=["silent", "dripping"])
def test_a_slow_body_is_refused_when_its_time_is_over(verifier: Tokens, pieces: list[bytes]) -> None:
    seen: list[int] = []
    with serving(SafeLLMMiddleware(body_app(seen), verifier=verifier, body_seconds=0.3)) as url:
        began = time.monotonic()
        answer = by_hand(url, "Content-Length: 100", *pieces, pause=0.05)
        assert time.monotonic() - began < 3
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert not seen


@pytest.mark.parametrize("head", ["Content-Length: 1\r\nContent-Length: 2", "Content-Length: x", "Content-Length: -1"])
def test_a_length_that_cannot_be_trusted_is_refused(verifier: Tokens, head: str) -> None:
    seen: list[int] = []
    with serving(SafeLLMMiddleware(body_app(seen), verifier=verifier)) as url:
        assert by_hand(url, head, b"xx").startswith(b"HTTP/1.1 400 ")
    assert not seen


def test_whoever_has_no_token_has_his_body_not_read(verifier: Tokens) -> None:
    with serving(SafeLLMMiddleware(body_app([]), verifier=verifier)) as url:
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=5) as connection:
            connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n")
            answer = b"".join(iter(lambda: connection.recv(65_536), b""))  # to the end: the connection is closed
    assert answer.startswith(b"HTTP/1.1 401 ")


# Leaving --------------------------------------------------------------------------------------------------------------


def test_a_client_that_leaves_stops_the_provider(
    make: Any, wrapped: Any, verifier: Tokens, server: FakeOpenAI, sink: RecordingSink
) -> None:
    """Within a second, although it is another second to the next chunk; and the call is charged at an estimate."""
    server.always(Reply(chunks=1_000, drip=0.8))
    client = make("9 requests/day")
    with serving(wrapped(chat_app(client), verifier=verifier, client=client)) as url:
        with httpx.stream("POST", f"{url}/stream", headers=bearer("alice"), timeout=10) as answer:
            next(answer.iter_bytes())
            began = time.monotonic()
        server.wait_until(lambda: len(server.disconnects) == 1)
        assert time.monotonic() - began < 0.5
        until(lambda: sink.records, 5)
    assert (sink.last.outcome, sink.last.usage_source, sink.last.user_id) == ("aborted", "estimated", "alice")


def test_a_stream_that_begins_after_the_client_has_left_is_cut_at_once(
    make: Any, verifier: Tokens, server: FakeOpenAI, sink: RecordingSink
) -> None:
    server.always(Reply(chunks=1_000, drip=0.2))
    client = make("9 requests/day")
    left, over = threading.Event(), threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        assert (await receive())["type"] == "http.disconnect"
        left.set()
        try:
            stream = await done(client.chat.completions.create(**ASKED, stream=True))
            with pytest.raises(ConnectionAbortedError):
                await (asyncio.to_thread(list, stream) if isinstance(client, SafeOpenAI) else anext(aiter(stream)))
        finally:
            over.set()

    with serving(SafeLLMMiddleware(app, verifier=verifier)) as url:
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer user-a\r\n\r\n")
            time.sleep(0.1)
        assert left.wait(5)
        assert over.wait(5)
        server.wait_until(lambda: len(server.disconnects) == 1)
    assert sink.last.outcome == "aborted"


def test_a_job_that_outlives_an_answer_keeps_its_stream(
    make: Any, verifier: Tokens, server: FakeOpenAI, sink: RecordingSink
) -> None:
    """Only a client that leaves before it has its whole answer cuts streams."""
    server.always(Reply("one two three four", drip=0.1))
    client = make("9 requests/day")
    app = FastAPI()

    def job() -> None:
        async def read() -> None:
            stream = await done(client.chat.completions.create(**ASKED, stream=True))
            if isinstance(client, SafeOpenAI):
                list(stream)
            else:
                [chunk async for chunk in stream]

        asyncio.run(read())

    @app.post("/start")
    async def start(background: BackgroundTasks) -> str:
        background.add_task(job)
        return "started"

    with serving(SafeLLMMiddleware(app, verifier=verifier)) as url:
        httpx.post(f"{url}/start", headers=bearer("alice"))  # the connection is closed when this returns
        until(lambda: sink.records)
    assert (sink.last.outcome, sink.last.user_id) == ("ok", "alice")


def test_a_stream_that_a_failed_request_has_left_open_is_ended(
    make: Any, verifier: Tokens, server: FakeOpenAI, sink: RecordingSink
) -> None:
    server.always(Reply(chunks=1_000, drip=0.1))
    client = make("9 requests/day")
    kept = []

    async def fail(request: Any) -> Any:
        kept.append(await done(client.chat.completions.create(**ASKED, stream=True)))
        raise KeyError("a bug")

    with calling(SafeLLMMiddleware(Starlette(routes=[Route("/", fail)]), verifier=verifier)) as http:
        assert http.get("/", headers=bearer("a")).status_code == 500
        server.wait_until(lambda: len(server.disconnects) == 1)
        until(lambda: sink.records)
    assert sink.last.outcome == "aborted"
    assert len(kept) == 1


# Other scopes ---------------------------------------------------------------------------------------------------------


async def test_lifespan_passes(verifier: Tokens) -> None:
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append((scope["type"], receive, send))

    scope, receive, send = {"type": "lifespan"}, object(), object()
    await SafeLLMMiddleware(app, verifier=verifier)(scope, receive, send)  # type: ignore[arg-type]
    assert seen == [("lifespan", receive, send)]


async def socket_to(app: Any, *, token: str | None, extensions: Any = None) -> list[Any]:
    headers = [] if token is None else [(b"authorization", f"Bearer {token}".encode())]
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "websocket", "path": "/", "headers": headers, "extensions": extensions}
    await app(scope, receive, send)
    return sent


async def test_a_websocket_without_a_token_is_refused_before_it_is_accepted(verifier: Tokens) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("it must not run")

    middleware = SafeLLMMiddleware(app, verifier=verifier)
    assert [(m["type"], m["code"]) for m in await socket_to(middleware, token=None)] == [("websocket.close", 1008)]
    start, body = await socket_to(middleware, token="forged", extensions={"websocket.http.response": {}})
    assert (start["type"], start["status"]) == ("websocket.http.response.start", 401)
    assert b"token_signature" in body["body"]


async def test_a_websocket_has_its_caller_and_is_closed_by_a_denial(verifier: Tokens) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["state"]["identity"].user_id == "alice"
        await send({"type": "websocket.accept"})
        raise BUSY

    sent = await socket_to(SafeLLMMiddleware(app, verifier=verifier), token="user-alice")
    assert sent[1:] == [{"type": "websocket.close", "code": 1008, "reason": "rate_limit_exceeded"}]

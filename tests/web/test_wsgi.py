"""The WSGI middleware in front of Flask, by real servers."""

from __future__ import annotations

import contextlib
import io
import socket
import threading
import time
import wsgiref.simple_server
from collections.abc import Callable, Iterator
from socketserver import ThreadingMixIn
from typing import Any

import flask
import httpx
import pytest
import werkzeug.serving
from callers import Tokens, bearer, until

from safe_llm import (
    AsyncSafeOpenAI,
    ConfigurationError,
    DeadlineExceededError,
    DeniedError,
    RateLimitExceededError,
    SafeOpenAI,
)
from safe_llm.identity import NOTHING, current
from safe_llm.testing import FakeOpenAI, RecordingSink, Reply
from safe_llm.web import SafeLLMWSGIMiddleware

ASKED: Any = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]}
BUSY = RateLimitExceededError("Too many.", limit="3 requests/minute", used=3, held=0, requested=1, retry_after=1.2)


class _Quiet(wsgiref.simple_server.WSGIRequestHandler):
    def log_message(self, *_: object) -> None: ...

    def get_stderr(self) -> Any:
        return io.StringIO()


class _Threads(ThreadingMixIn, wsgiref.simple_server.WSGIServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None: ...


class _QuietWerkzeug(werkzeug.serving.WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log(self, *_: object, **__: object) -> None: ...


def _wsgiref(app: Any) -> Any:
    return wsgiref.simple_server.make_server("127.0.0.1", 0, app, _Threads, _Quiet)


def _werkzeug(app: Any) -> Any:
    return werkzeug.serving.make_server("127.0.0.1", 0, app, threaded=True, request_handler=_QuietWerkzeug)


@pytest.fixture(params=[_wsgiref, _werkzeug], ids=["wsgiref", "werkzeug"])
def serving(request: pytest.FixtureRequest) -> Callable[..., Any]:
    @contextlib.contextmanager
    def serving(app: Any) -> Iterator[str]:
        server = request.param(app)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            server.server_close()
            thread.join(10)

    return serving


@pytest.fixture
def client(server: FakeOpenAI, sink: RecordingSink) -> SafeOpenAI:
    policy = {"plans": {"default": {"limits": ["3 requests/minute", "$1/day"]}}}
    return SafeOpenAI(base_url=server.base_url, api_key="test", policy=policy, sinks=[sink])


def application(client: SafeOpenAI | None = None, error: BaseException = BUSY) -> flask.Flask:
    app = flask.Flask(__name__)

    @app.post("/chat")
    def chat() -> str:
        assert client is not None
        return client.chat.completions.create(**ASKED).choices[0].message.content or ""

    @app.post("/stream")
    def stream() -> flask.Response:
        def words() -> Iterator[str]:
            assert client is not None
            for chunk in client.chat.completions.create(**ASKED, stream=True):
                yield chunk.choices[0].delta.content or ""

        return flask.Response(words())

    @app.get("/me")
    def me() -> str:
        identity = flask.request.environ["safe_llm.identity"]
        return f"{identity and identity.user_id} {current().user_id}"

    @app.post("/size")
    def size() -> str:
        return str(len(flask.request.get_data()))

    @app.get("/raise")
    def raise_() -> str:
        raise error

    @app.get("/cause")
    def cause() -> str:
        raise RuntimeError("a framework's own") from error

    @app.get("/first")
    def first() -> flask.Response:
        def nothing() -> Iterator[str]:
            raise error
            yield

        return flask.Response(nothing())

    @app.get("/second")
    def second() -> flask.Response:
        def little() -> Iterator[str]:
            yield "begun"
            raise error

        return flask.Response(little(), headers={"Content-Length": "100"})

    @app.get("/handled")
    def handled() -> Any:
        try:
            raise error
        except BaseException:
            return "own", 500

    return app


def wrapped(app: flask.Flask, **options: Any) -> flask.Flask:
    app.wsgi_app = SafeLLMWSGIMiddleware(app.wsgi_app, **{"verifier": Tokens(), **options})  # type: ignore[method-assign]
    return app


def test_a_call_is_its_caller_s_streamed_or_not(serving: Any, client: SafeOpenAI, sink: RecordingSink) -> None:
    with serving(wrapped(application(client), client=client)) as url:
        for path in ("/chat", "/stream"):
            answer = httpx.post(url + path, headers=bearer("alice"))
            assert (answer.status_code, answer.text) == (200, "Hello from the fake server.")
            assert '"3 requests/minute";r=' in answer.headers["ratelimit"]
            assert answer.headers["ratelimit-policy"] == '"3 requests/minute";q=3;w=60, "$1/day";q=1000000;w=86400'
        until(lambda: len(sink.records) == 2)
        assert (
            httpx.post(f"{url}/chat", headers=bearer("alice"))
            .headers["ratelimit"]
            .startswith('"3 requests/minute";r=0;t=')
        )
        refused = httpx.post(f"{url}/stream", headers=bearer("alice"))
    assert refused.status_code == 429
    assert refused.headers["content-type"] == "application/problem+json"
    assert 0 < int(refused.headers["retry-after"]) <= 61
    assert {record.user_id for record in sink.records} == {"alice"}


@pytest.mark.parametrize(
    ("headers", "challenged"),
    [
        ([], "Bearer"),
        ([("Authorization", "Basic YWxpY2U6eA==")], "Bearer"),
        ([("Authorization", "Bearer forged")], 'Bearer error="invalid_token"'),
        (
            [("Authorization", "Bearer user-alice"), ("authorization", "Bearer user-bob")],
            'Bearer error="invalid_token"',
        ),
    ],
)
def test_without_one_valid_token_nothing_of_the_application_runs(serving: Any, headers: Any, challenged: str) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        raise AssertionError("it must not run")

    with serving(SafeLLMWSGIMiddleware(app, verifier=Tokens())) as url:
        answer = httpx.get(url, headers=headers)
    assert (answer.status_code, answer.json()["status"]) == (401, 401)
    assert answer.headers["www-authenticate"] == challenged


def test_the_application_finds_the_identity_and_an_exempt_path_has_none(serving: Any) -> None:
    with serving(wrapped(application())) as url:
        assert httpx.get(f"{url}/me", headers=bearer("alice")).text == "alice alice"
    with serving(wrapped(application(), exempt=["/me"])) as url:
        assert httpx.get(f"{url}/me", headers=bearer("alice")).text == "None None"


@pytest.mark.parametrize("path", ["/raise", "/cause", "/first"])
def test_a_denial_below_is_a_problem_with_its_headers(serving: Any, path: str) -> None:
    with serving(wrapped(application())) as url:
        answer = httpx.get(url + path, headers=bearer("alice"))
    assert answer.status_code == 429
    assert answer.json() == BUSY.to_problem()
    assert answer.headers["retry-after"] == "2"
    assert answer.headers["ratelimit"] == '"3 requests/minute";r=0;t=2'


def test_a_deadline_is_a_504(serving: Any) -> None:
    with serving(wrapped(application(error=DeadlineExceededError(30)))) as url:
        assert httpx.get(f"{url}/raise", headers=bearer("alice")).status_code == 504


def test_the_application_s_own_errors_and_answers_stay_what_they_are(serving: Any) -> None:
    app = application(error=KeyError("a bug"))
    with serving(wrapped(app)) as url:
        assert httpx.get(f"{url}/raise", headers=bearer("alice")).status_code == 500
    app = application()
    app.register_error_handler(DeniedError, lambda error: ("own", 418))
    with serving(wrapped(app)) as url:
        assert httpx.get(f"{url}/handled", headers=bearer("alice")).text == "own"
        assert httpx.get(f"{url}/raise", headers=bearer("alice")).status_code == 418


def test_an_answer_that_has_begun_is_broken_off_and_not_ended(serving: Any) -> None:
    with serving(wrapped(application())) as url, pytest.raises(httpx.RemoteProtocolError):
        httpx.get(f"{url}/second", headers=bearer("alice"))


def test_a_client_that_leaves_stops_the_provider(
    serving: Any, client: SafeOpenAI, server: FakeOpenAI, sink: RecordingSink
) -> None:
    server.always(Reply(chunks=1_000, drip=0.05))
    with serving(wrapped(application(client), client=client)) as url:
        with httpx.stream("POST", f"{url}/stream", headers=bearer("alice")) as answer:
            next(answer.iter_bytes())
        server.wait_until(lambda: len(server.disconnects) == 1, 2)
        until(lambda: sink.records)
    assert (sink.last.outcome, sink.last.usage_source) == ("aborted", "estimated")


def test_a_body_is_read_up_to_the_limit(serving: Any) -> None:
    with serving(wrapped(application(), max_body_bytes=1_000)) as url:
        for size in (0, 1, 1_000):
            answer = httpx.post(f"{url}/size", content=b"x" * size, headers=bearer("alice"))
            assert answer.text == str(size)


def by_hand(url: str, head: str, *pieces: bytes, pause: float = 0) -> bytes:
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(f"POST /size HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer user-a\r\n{head}\r\n\r\n".encode())
        with contextlib.suppress(OSError):  # the server has hung up
            for piece in pieces:
                connection.sendall(piece)
                time.sleep(pause)
        with contextlib.suppress(OSError):
            return connection.recv(65_536)
        return b""


@pytest.mark.parametrize(
    ("head", "status"),
    [("Content-Length: 1001", b"413"), ("Content-Length: x", b"400"), ("Content-Length: -1", b"400")],
)
def test_a_length_above_the_limit_or_none_at_all_is_refused_before_a_byte_is_read(
    serving: Any, head: str, status: bytes
) -> None:
    with serving(wrapped(application(), max_body_bytes=1_000)) as url:
        assert by_hand(url, head).split()[1] == status


@pytest.mark.parametrize("pieces", [[], [b"x"] * 20], ids=["silent", "dripping"])
def test_a_slow_body_is_refused_when_its_time_is_over(serving: Any, pieces: list[bytes]) -> None:
    with serving(wrapped(application(), body_seconds=0.3)) as url:
        began = time.monotonic()
        assert by_hand(url, "Content-Length: 100", *pieces, pause=0.05).split()[1] == b"408"
        assert time.monotonic() - began < 3


def test_a_chunked_body_is_counted_as_it_comes() -> None:
    """By a server that can tell where it ends; another refuses it."""
    app = wrapped(application(), max_body_bytes=1_000, body_seconds=0.5)
    server = _werkzeug(app)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}"
        answer = httpx.post(f"{url}/size", content=iter([b"x" * 400, b"y" * 600]), headers=bearer("alice"))
        assert answer.text == "1000"
        whole = b"3e8\r\n" + b"x" * 1_000 + b"\r\n1\r\nx\r\n0\r\n\r\n"
        assert by_hand(url, "Transfer-Encoding: chunked", whole).split()[1] == b"413"
        assert by_hand(url, "Transfer-Encoding: chunked", b"5\r\nx").split()[1] == b"408"
    finally:
        server.shutdown()
        server.server_close()


def test_where_the_server_cannot_tell_the_end_of_a_chunked_body_a_length_is_asked_for() -> None:
    environ = {"HTTP_AUTHORIZATION": "Bearer user-a", "HTTP_TRANSFER_ENCODING": "chunked", "wsgi.input": None}
    said = []
    SafeLLMWSGIMiddleware(application(), verifier=Tokens())(environ, lambda *start: said.append(start))  # type: ignore[arg-type, func-returns-value]
    assert said[0][0] == "411 Length Required"


def test_the_server_s_own_context_stays_clean(client: SafeOpenAI) -> None:
    """A thread serves one user after the other; the steps of an answer are taken when the server likes."""
    seen = []

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        for _ in range(3):
            seen.append(current().user_id)
            yield b"x"

    middleware = SafeLLMWSGIMiddleware(app, verifier=Tokens())
    answers = [
        iter(middleware({"HTTP_AUTHORIZATION": f"Bearer user-{user}"}, lambda *_: lambda data: None))
        for user in ("alice", "bob")
    ]
    for _ in range(3):
        for answer in answers:
            assert next(answer) == b"x"
            assert current() == NOTHING
    assert sorted(seen) == ["alice"] * 3 + ["bob"] * 3


def test_what_an_application_writes_by_hand_is_sent() -> None:
    def app(environ: Any, start_response: Any) -> Any:
        write = start_response("200 OK", [("X-Own", "1")])
        write(b"one ")
        write(b"two ")
        return [b"three"]

    said: list[Any] = []
    middleware = SafeLLMWSGIMiddleware(app, verifier=Tokens())
    answer = middleware({"HTTP_AUTHORIZATION": "Bearer user-a"}, lambda *start: said.append(start))  # type: ignore[arg-type, func-returns-value]
    assert b"".join(answer) == b"one two three"
    assert said == [("200 OK", [("X-Own", "1")])]


def test_an_async_client_is_refused(server: FakeOpenAI) -> None:
    with pytest.raises(ConfigurationError, match="async client"):
        SafeLLMWSGIMiddleware(application(), verifier=Tokens(), client=AsyncSafeOpenAI(api_key="t"))

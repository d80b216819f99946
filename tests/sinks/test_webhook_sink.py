"""WebhookSink: alerts arrive once, signed, in bounded time, or are counted."""

from __future__ import annotations

import hmac
import json
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from test_jsonl_sink import ALERT, record

from safe_llm import WebhookSink
from safe_llm.errors import ConfigurationError
from safe_llm.sinks import Dispatcher, SinkStats
from safe_llm.sinks.webhook import UndeliveredError
from safe_llm.types import Alert

SECRET = "hunter2-hunter2"


class Receiver(ThreadingHTTPServer):
    """Answers with the statuses that it is given, one by one, and then with 200."""

    daemon_threads = True

    def __init__(self, *statuses: int, headers: dict[str, str] | None = None) -> None:
        self.statuses, self.answer_headers = list(statuses), headers or {}
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hooks/token-in-the-path?a=b"


class Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append((self.path, dict(self.headers), body))
        self.send_response(self.server.statuses.pop(0) if self.server.statuses else 200)
        for name, value in self.server.answer_headers.items():
            self.send_header(name, value)
        self.end_headers()

    do_GET = do_POST

    def log_message(self, *_: Any) -> None: ...


@contextmanager
def receiving(*statuses: int, **options: Any) -> Iterator[Receiver]:
    with Receiver(*statuses, **options) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join(30)


@contextmanager
def speaking(talk: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that says what `talk` says to each connection; its URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection, suppress(OSError):
                    talk(connection)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(30)


# What arrives ---------------------------------------------------------------------------------------------------------


def test_an_alert_arrives_as_json_signed_over_time_and_body() -> None:
    with receiving() as server:
        WebhookSink(server.url, secret=SECRET, headers={"Authorization": "Bearer x"}).emit(ALERT)
    ((path, headers, body),) = server.requests
    assert path == "/hooks/token-in-the-path?a=b"
    assert body.decode() == ALERT.model_dump_json()
    assert headers["Content-Type"] == "application/json"
    assert headers["Authorization"] == "Bearer x"
    assert headers["Host"] == f"127.0.0.1:{server.server_port}"
    timestamp = headers["Safe-LLM-Timestamp"]
    assert abs(time.time() - int(timestamp)) < 60
    expected = hmac.new(SECRET.encode(), timestamp.encode() + b"." + body, "sha256").hexdigest()
    assert headers["Safe-LLM-Signature"] == f"v1={expected}"
    assert WebhookSink.verify(SECRET, headers, body)


def test_what_is_not_genuine_or_not_new_is_not_verified() -> None:
    with receiving() as server:
        WebhookSink(server.url, secret=SECRET).emit(ALERT)
    ((_, headers, body),) = server.requests
    lower = {name.lower(): value for name, value in headers.items()}
    stale = str(int(headers["Safe-LLM-Timestamp"]) - 1000)
    assert WebhookSink.verify(SECRET.encode(), lower, body)
    assert not WebhookSink.verify(SECRET + "x", headers, body)
    assert not WebhookSink.verify(SECRET, headers, body + b" ")
    assert not WebhookSink.verify(SECRET, {}, body)
    for name, value in (
        ("timestamp", stale),
        ("timestamp", "²"),
        ("timestamp", ""),
        ("timestamp", "9" * 5000),
        ("signature", ""),
        ("signature", "é"),
        ("signature", "v1="),
    ):
        assert not WebhookSink.verify(SECRET, {**lower, f"safe-llm-{name}": value}, body)
    signed = hmac.new(SECRET.encode(), stale.encode() + b"." + body, "sha256").hexdigest()
    replayed = {**lower, "safe-llm-timestamp": stale, "safe-llm-signature": f"v1={signed}"}
    assert not WebhookSink.verify(SECRET, replayed, body)
    assert WebhookSink.verify(SECRET, replayed, body, tolerance=5000)


def test_without_a_secret_nothing_is_signed() -> None:
    with receiving() as server:
        WebhookSink(server.url).emit(ALERT)
    assert "Safe-LLM-Signature" not in server.requests[0][1]


def test_records_are_sent_where_they_are_wanted_and_only_there() -> None:
    with receiving() as server:
        WebhookSink(server.url).emit(record(1))
        WebhookSink(server.url, records=True).emit(record(2))
    ((_, headers, body),) = server.requests
    assert json.loads(body)["record_id"] == headers["Safe-LLM-Event-Id"] == "2"


def test_it_speaks_tls_and_refuses_a_certificate_that_it_does_not_trust(tls: tuple[str, str]) -> None:
    certificate, key = tls
    with receiving() as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        url = server.url.replace("http://127.0.0.1", "https://localhost")
        WebhookSink(url, tls=ssl.create_default_context(cafile=certificate)).emit(ALERT)
        with pytest.raises(UndeliveredError, match="SSLCertVerificationError"):
            WebhookSink(url, attempts=1).emit(ALERT)
    assert len(server.requests) == 1


# Failing --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_what_may_pass_is_tried_again_as_the_same_event(status: int) -> None:
    with receiving(status, status) as server:
        WebhookSink(server.url, secret=SECRET).emit(ALERT)
    assert len(server.requests) == 3
    assert len({headers["Safe-LLM-Event-Id"] for _, headers, _ in server.requests}) == 1
    assert all(WebhookSink.verify(SECRET, headers, body) for _, headers, body in server.requests)


@pytest.mark.parametrize("status", [301, 302, 307, 308, 400, 401, 404, 410])
def test_what_will_not_pass_is_not_tried_again_and_no_redirect_is_followed(status: int) -> None:
    with (
        receiving() as elsewhere,
        receiving(status, headers={"Location": elsewhere.url}) as server,
        pytest.raises(UndeliveredError, match=f"status {status}"),
    ):
        WebhookSink(server.url).emit(ALERT)
    assert len(server.requests) == 1
    assert elsewhere.requests == []


def test_attempts_are_bounded() -> None:
    with receiving(*[500] * 20) as server, pytest.raises(UndeliveredError, match="status 500"):
        WebhookSink(server.url, attempts=2).emit(ALERT)
    assert len(server.requests) == 2


def hang(connection: socket.socket) -> None:
    connection.recv(1)
    while connection.recv(65536):
        pass


def drip(connection: socket.socket) -> None:
    connection.recv(65536)
    while True:
        connection.sendall(b"x")
        time.sleep(0.02)


def answer_garbage(connection: socket.socket) -> None:
    connection.recv(65536)
    connection.sendall(b"\x00" * 100)


@pytest.mark.parametrize("talk", [hang, drip, answer_garbage])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_the_time_for_an_event_is_bounded_whatever_the_receiver_does(
    scheme: str, talk: Callable[[socket.socket], None]
) -> None:
    with speaking(talk) as url:
        began = time.monotonic()
        with pytest.raises(UndeliveredError):
            WebhookSink(url.replace("http", scheme), timeout=0.5, attempts=50).emit(ALERT)
        assert time.monotonic() - began < 3


def test_an_answer_that_is_there_but_does_not_end_is_an_answer() -> None:
    def accept(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        while True:
            connection.sendall(b"x")
            time.sleep(0.02)

    with speaking(accept) as url:
        began = time.monotonic()
        WebhookSink(url, timeout=0.5).emit(ALERT)
        assert time.monotonic() - began < 3


def test_a_receiver_that_is_not_there_is_tried_again_and_then_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}/"
    with pytest.raises(UndeliveredError, match="ConnectionRefusedError"):
        WebhookSink(url, timeout=0.3).emit(ALERT)


def test_nothing_that_is_said_quotes_path_secret_or_header(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with receiving(*[500] * 9) as server:
        sink = WebhookSink(server.url, secret=SECRET, headers={"X-Key": "header-key"}, timeout=0.3)
        dispatcher = Dispatcher([sink])
        dispatcher.emit(ALERT)
        assert dispatcher.close(30)
        with pytest.raises(UndeliveredError) as caught:
            sink.emit(ALERT)
    assert dispatcher.stats() == [SinkStats("WebhookSink", 0, 1, 0)]
    chain, error = [], caught.value
    while error is not None:
        chain.append(repr(error))
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)  # type: ignore[assignment]
    said = f"{sink!r} {sink} {caplog.text} {' '.join(chain)}"
    assert "127.0.0.1" in said
    assert not any(secret in said for secret in (SECRET, "token-in-the-path", "header-key", "a=b"))


@pytest.mark.parametrize(
    "url",
    [
        *("http://hooks.example.com/secret-path", "ftp://127.0.0.1/secret-path", "secret-path", "", "https://"),
        *("https://user:secret-path@example.com/", "https://example.com:99999/secret-path", "https://[secret-path"),
        *("https://example.com/secret-path\r\nX: y", "https://example.com/secret path", "https://exämple.com/secret-path"),
        *("http://127.0.0.1.example.com/secret-path", "http://0.0.0.0/secret-path", "http://192.168.0.1/secret-path"),
    ],
)  # fmt: skip
def test_a_url_that_is_wrong_or_not_secure_is_refused_without_quoting_it(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        WebhookSink(url)
    assert "secret" not in str(caught.value)
    assert "secret" not in repr(caught.value.__cause__)


@pytest.mark.parametrize("url", ["http://localhost:1/", "http://127.1.2.3/", "http://[::1]:80/", "https://example.com"])
def test_this_machine_itself_needs_no_tls(url: str) -> None:
    assert repr(WebhookSink(url)).startswith("WebhookSink('")


@pytest.mark.parametrize(
    "wrong",
    [
        {"secret": ""}, {"secret": b""}, {"timeout": 0}, {"timeout": float("nan")}, {"attempts": 0},
        {"headers": {"X": "a\r\nY: b"}}, {"headers": {"X": 1}}, {"headers": {"safe-llm-signature": "v1=x"}},
        {"headers": {"Host": "x"}},
    ],
)  # fmt: skip
def test_arguments_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        WebhookSink("https://example.com/", **wrong)


def test_the_same_alert_is_the_same_event_and_another_one_is_not() -> None:
    other = Alert(kind="debt", timestamp=ALERT.timestamp, message="another")
    with receiving() as server:
        for alert in (ALERT, ALERT, other):
            WebhookSink(server.url).emit(alert)
    first, again, second = (headers["Safe-LLM-Event-Id"] for _, headers, _ in server.requests)
    assert first == again != second

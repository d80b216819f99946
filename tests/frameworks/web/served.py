"""Real servers, and tokens, for the web frameworks."""

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

import uvicorn

from safe_llm import Identity, NotAuthenticatedError

ASKED: Any = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]}
POLICY: Any = {"plans": {"default": {"limits": ["2 requests/minute"]}}}
TOLD = '"2 requests/minute";r=1;t='


class Tokens:
    """A verifier: ``user-alice`` is alice."""

    def verify(self, token: str) -> Identity:
        kind, _, user = token.partition("-")
        if kind != "user":
            raise NotAuthenticatedError("The token is not one of ours.")
        return Identity(user, verified=True)


def bearer(user: str) -> dict[str, str]:
    return {"Authorization": f"Bearer user-{user}"}


def until(condition: Callable[[], object], seconds: float = 10) -> None:
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, "it did not come true in time"
        time.sleep(0.005)


@contextlib.contextmanager
def by_uvicorn(app: Any) -> Iterator[str]:
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off", ws="none"))
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    until(lambda: server.started)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = server.force_exit = True
        thread.join(10)
        listener.close()


class _Quiet(wsgiref.simple_server.WSGIRequestHandler):
    def log_message(self, *_: object) -> None: ...

    def get_stderr(self) -> Any:
        return io.StringIO()


class _Threads(ThreadingMixIn, wsgiref.simple_server.WSGIServer):
    daemon_threads = True


@contextlib.contextmanager
def by_wsgiref(app: Any) -> Iterator[str]:
    server = wsgiref.simple_server.make_server("127.0.0.1", 0, app, _Threads, _Quiet)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)

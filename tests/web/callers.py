"""What the tests of the web layer are called with: tokens, and real servers."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn

from safe_llm import Identity, NotAuthenticatedError

SECONDS = 10
"""What anything here may take."""


class Tokens:
    """A verifier: ``user-alice`` is alice, ``user-alice.pro`` on the plan pro; anything else proves nothing."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def verify(self, token: str) -> Identity:
        self.asked.append(token)
        kind, _, name = token.partition("-")
        if kind != "user" or not name:
            raise NotAuthenticatedError("The token is not one of ours.", code="token_signature")
        user, _, plan = name.partition(".")
        return Identity(user, plan=plan or None, verified=True)

    async def verify_async(self, token: str) -> Identity:
        return self.verify(token)


def bearer(user: str) -> dict[str, str]:
    return {"Authorization": f"Bearer user-{user}"}


@contextlib.contextmanager
def serving(app: Any, **options: Any) -> Iterator[str]:
    """A real uvicorn in a thread, on a free port; yields its URL."""
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off", ws="none", **options))
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    until(lambda: server.started)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        server.force_exit = True
        thread.join(SECONDS)
        listener.close()
        assert not thread.is_alive()


def until(condition: Callable[[], object], seconds: float = SECONDS) -> None:
    """Wait until it holds."""
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, "it did not come true in time"
        time.sleep(0.005)

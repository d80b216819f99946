"""A real uvicorn that a service is put behind, what is logged meanwhile, and a bounded wait."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, Self, TypeVar

import uvicorn

T = TypeVar("T")


class Host:
    """A uvicorn on a free port, in a thread of its own. What it serves is exchanged from one abuse to the next."""

    def __init__(self) -> None:
        self.app: Any = None
        logging.getLogger("uvicorn").addHandler(logging.NullHandler())  # else what it says at its end is printed
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        config = uvicorn.Config(
            self._front, interface="asgi3", lifespan="off", log_config=None, timeout_graceful_shutdown=1
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        within(5, lambda: self._server.started)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(10)

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Do something on the loop that serves."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        await self._server.serve(sockets=[self._socket])

    async def _front(self, scope: Any, receive: Any, send: Any) -> None:
        await self.app(scope, receive, send)


class Log(logging.Handler):
    """All that the services and their servers log meanwhile, as text."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[str] = []
        names = ("sprint", "safe_llm", "uvicorn.error", "uvicorn.access", "asyncio")
        self._levels = {logging.getLogger(name): logging.getLogger(name).level for name in names}

    def __enter__(self) -> Self:
        for logger in self._levels:
            logger.addHandler(self)
            logger.setLevel(logging.INFO)
        return self

    def __exit__(self, *_: object) -> None:
        for logger, level in self._levels.items():
            logger.removeHandler(self)
            logger.setLevel(level)

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


def within(seconds: float, condition: Callable[[], bool]) -> bool:
    """Whether something comes true in time."""
    ends = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > ends:
            return False
        time.sleep(0.01)
    return True

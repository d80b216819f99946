"""Connections to Postgres, sync and async: a pool for each process and event loop, and operations that end in time.

What sync and async share is written as generators. They yield whatever a method of psycopg has returned, which is the
result itself or a coroutine that will have it, and are told the result: see `Database.drive`.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine, Generator, Mapping
from dataclasses import dataclass
from math import ceil, inf
from time import monotonic
from typing import Any, ClassVar, TypeVar

import psycopg
import psycopg_pool

T = TypeVar("T")
Flow = Generator[Any, Any, T]

SLACK = 0.5
"""Seconds by which the client waits longer than it told the server to work: a server that lives answers by itself."""


class OverdueError(psycopg.OperationalError):
    """The server did not answer in time. What it was asked for may have been done."""


def _in_time(gen: Generator[Any, Any, T], connection: Any) -> Generator[Any, Any, T]:
    """What `gen` does; or, when the time of the connection is up, its end, and OverdueError.

    psycopg waits without an end for a server that hangs, but since 3.3 it wakes its generator ten times a second.
    """
    ends = monotonic() + connection.patience
    try:
        wanted = next(gen)
        while True:
            ready = yield wanted
            if not ready and monotonic() > ends:
                gen.close()
                connection.pgconn.finish()
                raise OverdueError(f"Postgres did not answer within {connection.patience:g} s.")
            wanted = gen.send(ready)
    except StopIteration as done:
        result: T = done.value
        return result


class Connection(psycopg.Connection[Any]):
    """One that gives up on a server that hangs."""

    patience = inf
    """Seconds that an operation may take."""

    def wait(self, gen: Any, *args: Any, **kwargs: Any) -> Any:
        return super().wait(_in_time(gen, self), *args, **kwargs)


class AsyncConnection(psycopg.AsyncConnection[Any]):
    """As `Connection`."""

    patience = inf

    async def wait(self, gen: Any, *args: Any, **kwargs: Any) -> Any:
        return await super().wait(_in_time(gen, self), *args, **kwargs)


class TaskPool:
    """The connections of one event loop, each made by the task that needs it.

    psycopg's own pool makes them in tasks of its own, which take being cancelled while they connect for an attempt that
    failed: a program that ends without closing its client would wait for them forever.
    """

    def __init__(self, kwargs: Mapping[str, Any], connection_class: Any, max_size: int, **_: object) -> None:
        self._parameters, self._class = kwargs, connection_class
        self._places = asyncio.Semaphore(max_size)
        self._idle: list[AsyncConnection] = []
        self._closed = False

    async def open(self, **_: object) -> None:
        """Nothing needs to be begun."""

    async def getconn(self, timeout: float) -> AsyncConnection:
        """An idle connection, or one that is made."""
        if not await _acquired(self._places, timeout):
            raise psycopg_pool.PoolTimeout("All connections to Postgres were busy for too long.")
        try:
            if self._closed:
                raise psycopg_pool.PoolClosed("The connections to Postgres were closed.")
            if self._idle:
                return self._idle.pop()
            connection: AsyncConnection = await self._class.connect(**self._parameters)
            connection._pool = self  # type: ignore[assignment]  # psycopg's mark of one that may end with the program
            return connection
        except BaseException:
            self._places.release()
            raise

    async def putconn(self, connection: AsyncConnection) -> None:
        """Give one back; it is kept if it is in order."""
        self._places.release()
        if self._closed or connection.closed or connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
            connection.pgconn.finish()
        else:
            self._idle.append(connection)

    async def close(self, _timeout: float) -> None:
        self.abandon()

    def abandon(self) -> None:
        """Close what is idle, at once and from any thread; what is in use is closed when it is given back."""
        self._closed = True
        while self._idle:
            self._idle.pop().pgconn.finish()

    def get_stats(self) -> dict[str, int]:
        """Connections are made by those who need them, so no failure is unseen."""
        return {}


@dataclass(slots=True)
class _Home:
    """What one process, or one event loop in it, has open."""

    lock: Any
    pool: Any = None


class Database:
    """The connections to one database.

    A pool lives as long as nothing goes wrong. Then it is thrown away, with all of its connections, for a server that
    was restarted has broken each of them. The next operation begins with a connection of its own, which tells at once
    what is wrong, and runs `prepare`.

    Args:
        parameters: libpq's.
        settings: of each session: name and value, as SQL writes it.
        timeout: seconds, for a connection and for an operation.
        max_connections: of each pool.
        prepare: is run on the first connection, and may raise its `patience`.
    """

    connection_class: ClassVar[Any] = Connection
    pool_class: ClassVar[Any] = psycopg_pool.ConnectionPool
    lock_class: ClassVar[Any] = threading.Lock

    def __init__(
        self,
        parameters: Mapping[str, Any],
        settings: Mapping[str, str],
        timeout: float,
        max_connections: int,
        prepare: Callable[[Any], Flow[None]],
    ) -> None:
        self._parameters = {
            "connect_timeout": ceil(timeout),
            "application_name": "safe_llm",
            **parameters,
            "autocommit": True,
        }
        self._settings = "; ".join(f"set {name} = {value}" for name, value in settings.items())
        self._timeout = timeout
        self._max_connections = max_connections
        self._prepare = prepare
        # Those of a process that has forked stay here, untouched: to close them would end the parent's sessions.
        self._homes: dict[object, _Home] = {}

    def drive(self, flow: Flow[T]) -> Any:
        """Run a flow to its end: its result, or a coroutine that will have it."""
        given = None
        try:
            while True:
                given = flow.send(given)
        except StopIteration as done:
            return done.value

    def call(self, statement: str, arguments: tuple[Any, ...]) -> Flow[Any]:
        """The one value that a statement answers with.

        It is tried again, once, where the connection broke, so it must be harmless to do it twice.
        """
        for again in (True, False):
            home = self._home()
            pool = home.pool or (yield from self._open(home))
            connection = None
            try:
                connection = yield pool.getconn(self._timeout)
                if connection.patience == inf:
                    connection.patience = self._timeout + SLACK
                    yield connection.execute(self._settings)
                cursor = yield connection.execute(statement, arguments, prepare=True)
                (answer,) = yield cursor.fetchone()
                return answer
            except psycopg.errors.QueryCanceled:
                raise  # It took too long, but the server is alive.
            except psycopg_pool.PoolTimeout:
                if pool.get_stats().get("connections_errors"):
                    yield from self._discard(home, pool)
                raise  # Otherwise all connections are busy.
            except psycopg.Error as error:
                yield from self._discard(home, pool)
                broken = isinstance(error, psycopg_pool.PoolClosed) or (connection is not None and connection.closed)
                if not (again and broken) or isinstance(error, OverdueError):
                    raise
            finally:
                if connection is not None:
                    yield pool.putconn(connection)
        raise AssertionError("unreachable")

    def close(self) -> Flow[None]:
        """Close the connections of this process and loop. Another operation opens new ones."""
        home = self._home()
        if home.pool is not None:
            yield from self._discard(home, home.pool)

    def _home(self) -> _Home:
        place = self._place()
        home = self._homes.get(place)
        if home is None:
            for old in filter(_is_over, list(self._homes)):
                left = self._homes.pop(old, None)
                if left is not None and left.pool is not None:
                    left.pool.abandon()
            home = self._homes.setdefault(place, _Home(self.lock_class()))
        return home

    def _open(self, home: _Home) -> Flow[Any]:
        if not (yield self._acquire(home.lock)):
            raise psycopg_pool.PoolTimeout("Postgres did not answer another attempt to connect either.")
        try:
            if home.pool is None:
                connection = yield self.connection_class.connect(**self._parameters)
                connection.patience = self._timeout + SLACK
                try:
                    yield from self._prepare(connection)
                finally:
                    yield connection.close()
                pool = self.pool_class(
                    kwargs=self._parameters,
                    connection_class=self.connection_class,
                    min_size=1,
                    max_size=self._max_connections,
                    num_workers=1,
                    reconnect_timeout=self._timeout,
                    open=False,
                    name="safe_llm",
                )
                try:
                    # With a connection to begin with, it need not grow at once.
                    yield pool.open(wait=True, timeout=self._timeout)
                except BaseException:
                    yield pool.close(SLACK)
                    raise
                home.pool = pool
            return home.pool
        finally:
            home.lock.release()

    def _discard(self, home: _Home, pool: Any) -> Flow[None]:
        if home.pool is pool:
            home.pool = None
        yield pool.close(SLACK)

    def _place(self) -> object:
        return os.getpid(), None

    def _acquire(self, lock: Any) -> Any:
        return lock.acquire(timeout=self._timeout)


class AsyncDatabase(Database):
    """As `Database`, on an event loop."""

    connection_class = AsyncConnection
    pool_class = TaskPool
    lock_class = asyncio.Lock

    def drive(self, flow: Flow[T]) -> Coroutine[Any, Any, T]:
        return _awaited(flow)

    def _place(self) -> object:
        return os.getpid(), asyncio.get_running_loop()

    def _acquire(self, lock: Any) -> Any:
        return _acquired(lock, self._timeout)


async def _awaited(flow: Flow[T]) -> T:
    resume, given = flow.send, None
    while True:
        try:
            waiting = resume(given)
        except StopIteration as done:
            result: T = done.value
            return result
        try:
            resume, given = flow.send, await waiting
        except BaseException as error:  # Cancellation too: the flow gives its connection back.
            resume, given = flow.throw, error


async def _acquired(lock: asyncio.Lock | asyncio.Semaphore, timeout: float) -> bool:
    try:
        async with asyncio.timeout(timeout):
            await lock.acquire()
    except TimeoutError:
        return False
    return True


def _is_over(place: Any) -> bool:
    process, loop = place
    return process == os.getpid() and loop is not None and loop.is_closed()

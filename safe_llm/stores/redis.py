"""The quota stores of any number of machines: counters in Redis or Valkey."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
from collections.abc import Callable, MutableMapping, Sequence
from functools import cache
from hashlib import sha1
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar
from weakref import WeakKeyDictionary

from ..errors import needing
from ..types import Charge, Refusal, Reservation, Tally
from .base import ClockedStore
from .keyvalue import check_actual, check_charges, refuse

if TYPE_CHECKING:
    import redis
    import redis.asyncio

T = TypeVar("T")

NAMESPACE = "safe_llm"

_encode = json.JSONEncoder(separators=(",", ":")).encode


class _Redis(ClockedStore):
    """What both stores are, but for waiting: keys, arguments and answers of the scripts in ``lua/``."""

    def __init__(
        self, client_or_url: Any, *, namespace: str | None = None, clock: Callable[[], float] | None = None
    ) -> None:
        with needing("redis", extra="redis", who="This quota store"):
            from . import _redis_url
        if clock is not None:
            self.clock = clock
        self._driver = _redis_url
        self._address = _redis_url.Address.parse(client_or_url) if isinstance(client_or_url, str) else None
        self._given = None if self._address is not None else client_or_url
        chosen = self._address.namespace if namespace is None and self._address is not None else namespace
        # The braces are a hash tag: they keep all keys of a namespace on one node of a cluster.
        self._prefix = f"{{{_redis_url.check_namespace(chosen or NAMESPACE)}}}"

    def _client(self, opened: MutableMapping[T, Any], place: T, driver: Any) -> Any:
        """The client that was given, or the one that has been opened for this place: a process or an event loop."""
        if self._address is None:
            return self._given
        client = opened.get(place)
        return opened.setdefault(place, self._address.open(driver)) if client is None else client

    def _now(self) -> str:
        # Where no clock was chosen, by the constructor or by `follow`, the script asks the server for the time.
        clock = self.__dict__.get("clock")
        return "" if clock is None else repr(float(clock()))

    def _counters(self, charges: Sequence[Charge]) -> list[str]:
        return [f"{self._prefix}:{_name(charge)}" for charge in charges]

    def _reservation(self, id: str) -> str:
        return f"{self._prefix}:reservation:{id}"

    def _reserving(self, id: str, charges: Sequence[Charge], ttl: float) -> _Question[Reservation | Refusal]:
        charges = tuple(charges)
        check_charges(charges)
        keys = [self._reservation(id), *self._counters(charges)]
        args = [self._now(), repr(float(ttl)), id, _encode(charges)]

        def read(answer: Any) -> Reservation | Refusal:
            if not isinstance(answer, list):
                return Reservation(id, charges, float(answer))
            was_reserved, *rest = answer
            return _before(id, *rest) if was_reserved else _refusal(charges, *rest)

        return _Question(_script("reserve"), keys, args, read)

    def _settling(self, reservation: Reservation, actual: Sequence[int]) -> _Question[bool]:
        id, charges, _ = reservation
        check_actual(charges, actual)
        # The settlement has a name, so that one which is sent again, because its answer got lost, is known again.
        args = [self._now(), secrets.token_hex(8), id, _encode(list(actual))]
        return _Question(_script("settle"), [self._reservation(id), *self._counters(charges)], args, bool)

    def _peeking(self, charges: Sequence[Charge]) -> _Question[Sequence[Tally]]:
        charges = tuple(charges)

        def read(answer: Any) -> Sequence[Tally]:
            numbers = iter(map(int, answer.split()))
            return [Tally(used, held) for used, held in zip(numbers, numbers, strict=True)]

        return _Question(_script("peek"), self._counters(charges), [self._now(), _encode(charges)], read)


class RedisQuotaStore(_Redis):
    """Counts in Redis 6.2 or later, or Valkey: exact among all processes and hosts that share the server.

    Each method is one script and one round trip. All keys lie under one hash tag, ``{safe_llm}``, and expire when the
    windows that they count have ended; the server needs ``maxmemory-policy noeviction``, for what it evicts is no
    longer counted. A connection that breaks is tried once more, which is safe: an operation that arrives twice counts
    once. Errors are redis-py's own.

    Leases follow the server's clock, which all share. Where a clock was chosen, here or by the client that uses the
    store, they follow that one.

    Args:
        client_or_url: a client of redis-py, also of a cluster or of a sentinel's master, which stays yours to
            configure and to close; or a URL, see `from_url`.
        namespace: letters, digits and ``_ . : -``. Stores of different namespaces share nothing.
        clock: UTC epoch seconds, for leases.

    Raises:
        ConfigurationError: redis-py is missing, or the URL or the namespace is wrong. Never quotes the URL: it may hold
            a password.
    """

    def __init__(
        self,
        client_or_url: redis.Redis | redis.RedisCluster | str,
        *,
        namespace: str | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        super().__init__(client_or_url, namespace=namespace, clock=clock)
        self._opened: dict[int, Any] = {}

    @classmethod
    def from_url(cls, url: str) -> RedisQuotaStore:
        """A store on the server that a URL names. Connections are made when they are first needed.

        - ``redis://user:password@host:6379/0``; with TLS ``rediss://``
        - ``redis://host:6379?cluster=true``: any node of a cluster
        - ``redis+sentinel://host:26379,host:26379/mymaster/0``: the master that sentinels know by that name

        Behind a ``?`` may stand ``namespace=NAME`` and redis-py's own options. Unless they say otherwise, connecting
        takes at most 1 second (``socket_connect_timeout=1``), an answer 2 (``socket_timeout=2``), and a process or
        event loop opens at most 20 connections (``max_connections=20``), for one of which a call waits at most 1 second
        (``timeout=1``). The last two are not for clusters and sentinels, whose pools are redis-py's own. Sentinels that
        want a password need a client object.
        """
        return cls(url)

    def reserve(self, id: str, charges: Sequence[Charge], ttl: float) -> Reservation | Refusal:
        return self._ask(self._reserving(id, charges, ttl))

    def settle(self, reservation: Reservation, actual: Sequence[int]) -> bool:
        return self._ask(self._settling(reservation, actual))

    def peek(self, charges: Sequence[Charge]) -> Sequence[Tally]:
        return self._ask(self._peeking(charges)) if charges else []

    def close(self) -> None:
        """Let go of the connections that this store has opened."""
        opened = self._opened.pop(os.getpid(), None)
        for client in self._driver.opened_with(opened) if opened is not None else ():
            client.close()

    def _ask(self, question: _Question[T]) -> T:
        # A process that was forked opens connections of its own.
        client = self._client(self._opened, os.getpid(), self._driver.redis)
        try:
            answer = client.execute_command(*question.by_hash)
        except self._driver.NoScriptError:
            answer = client.execute_command(*question.by_text)
        return question.read(answer)


class AsyncRedisQuotaStore(_Redis):
    """`RedisQuotaStore` with coroutines; it takes clients of ``redis.asyncio``.

    A store that was opened by a URL serves several event loops, with connections of its own for each; `close` closes
    those of the loop that it is called on. A client that was given serves the loop that it belongs to.
    """

    def __init__(
        self,
        client_or_url: redis.asyncio.Redis | redis.asyncio.RedisCluster | str,
        *,
        namespace: str | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        super().__init__(client_or_url, namespace=namespace, clock=clock)
        self._opened: WeakKeyDictionary[asyncio.AbstractEventLoop, Any] = WeakKeyDictionary()

    @classmethod
    def from_url(cls, url: str) -> AsyncRedisQuotaStore:
        """As `RedisQuotaStore.from_url`."""
        return cls(url)

    async def reserve(self, id: str, charges: Sequence[Charge], ttl: float) -> Reservation | Refusal:
        return await self._ask(self._reserving(id, charges, ttl))

    async def settle(self, reservation: Reservation, actual: Sequence[int]) -> bool:
        return await self._ask(self._settling(reservation, actual))

    async def peek(self, charges: Sequence[Charge]) -> Sequence[Tally]:
        return await self._ask(self._peeking(charges)) if charges else []

    async def close(self) -> None:
        """Let go of the connections that this store has opened on this event loop."""
        opened = self._opened.pop(asyncio.get_running_loop(), None)
        for client in self._driver.opened_with(opened) if opened is not None else ():
            await client.aclose()

    async def _ask(self, question: _Question[T]) -> T:
        client = self._client(self._opened, asyncio.get_running_loop(), self._driver.redis.asyncio)
        try:
            answer = await client.execute_command(*question.by_hash)
        except self._driver.NoScriptError:
            answer = await client.execute_command(*question.by_text)
        return question.read(answer)


# What is asked, and what is answered ---------------------------------------------------------------------------------


class _Script(NamedTuple):
    text: str
    sha: str


@cache
def _script(name: str) -> _Script:
    folder = files(__package__) / "lua"
    text = "".join((folder / f"{part}.lua").read_text("utf-8") for part in ("counters", name))
    return _Script(text, sha1(text.encode(), usedforsecurity=False).hexdigest())


class _Question(Generic[T]):
    """A script with its keys and arguments, and how to read what it answers."""

    __slots__ = ("_rest", "_script", "read")

    def __init__(self, script: _Script, keys: Sequence[str], args: Sequence[str], read: Callable[[Any], T]) -> None:
        self._script = script
        self._rest = (len(keys), *keys, *args)
        self.read = read

    @property
    def by_hash(self) -> tuple[Any, ...]:
        return "EVALSHA", self._script.sha, *self._rest

    @property
    def by_text(self) -> tuple[Any, ...]:
        """For a server that does not know the script yet, or not any more. It does from then on."""
        return "EVAL", self._script.text, *self._rest


def _name(charge: Charge) -> str:
    """What a charge's counter is called. The library's key comes last, so that none can pass for another."""
    key, _, _, kind, start, end = charge
    if kind == "fixed":
        return f"fixed:{start}-{end}:{key}"
    return f"sliding:{end - start}:{key}" if kind == "sliding" else f"held:{key}"


def _before(id: str, expires: Any, charges: Any) -> Reservation:
    return Reservation(id, tuple(Charge(*charge) for charge in json.loads(charges)), float(expires))


def _refusal(charges: Sequence[Charge], now: Any, *rows: Any) -> Refusal:
    tallies = [Tally(int(used), int(held)) for used, held, *_ in rows]
    leaving: dict[Charge, list[tuple[float, int]]] = {}
    for charge, (_, _, *going) in zip(charges, rows, strict=True):
        if going:
            leaving[charge] = [(float(when), int(amount)) for when, amount in zip(going[::2], going[1::2], strict=True)]
    refusal = refuse(charges, tallies, leaving.__getitem__, float(now))
    assert refusal is not None
    return refusal

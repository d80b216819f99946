"""Where a Redis is, as a URL says it, and how it is reached."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit

import redis
import redis.asyncio
from redis.backoff import NoBackoff
from redis.connection import BlockingConnectionPool, parse_url
from redis.exceptions import ConnectionError, NoScriptError

from ..errors import ConfigurationError

__all__ = ["Address", "NoScriptError", "check_namespace", "opened_with", "redis"]

_TIMES: dict[str, Any] = {"socket_connect_timeout": 1.0, "socket_timeout": 2.0}
"""Seconds. Where a server hangs, a call is denied soon."""

_POOL: dict[str, Any] = {"max_connections": 20, "timeout": 1.0}
"""An operation takes a fraction of a millisecond, so few connections serve thousands of calls. When all are busy, the
next call waits for one for so many seconds."""

_EXAMPLE = "One reads like redis://user:password@host:6379/0; RedisQuotaStore.from_url tells them all."


def check_namespace(name: str) -> str:
    """The name, if it can be one.

    Raises:
        ConfigurationError: it cannot.
    """
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_.:-]{1,64}", name):
        raise ConfigurationError("A Redis namespace is 1 to 64 letters, digits and _ . : - characters.")
    return name


@dataclass(frozen=True, slots=True)
class Address:
    """A URL that has been read."""

    url: str = field(repr=False)
    """What redis-py is told: user, password, database and options, and the node if there are no sentinels."""
    namespace: str | None
    cluster: bool
    service: str
    """What sentinels call the master."""
    sentinels: tuple[tuple[str, int], ...]

    @classmethod
    def parse(cls, url: str) -> Address:
        """Read a URL.

        Raises:
            ConfigurationError: what is wrong with it. Never quotes it: it may hold a password.
        """
        try:
            return cls._read(urlsplit(url))
        except ConfigurationError:
            raise
        except Exception as error:
            # It may be the password that cannot be read, and then the driver's message would quote it.
            option = re.search(r"unexpected keyword argument '(\w+)'", str(error))
            raise _wrong(f"has an unknown option {option[1]!r}" if option else "cannot be read") from None

    @classmethod
    def _read(cls, parts: SplitResult) -> Address:
        options = dict(parse_qsl(parts.query, strict_parsing=bool(parts.query)))
        namespace, cluster = options.pop("namespace", None), options.pop("cluster", "false").lower()
        login, at, node = parts.netloc.rpartition("@")
        service, database = "", parts.path.strip("/")
        sentinels: tuple[tuple[str, int], ...] = ()
        if parts.scheme.endswith("+sentinel"):
            sentinels, node = _sentinels(node), "sentinel"
            service, _, database = database.partition("/")
            if not service:
                raise _wrong("lacks the master's name, as in redis+sentinel://host:26379/mymaster")
        elif not parts.hostname:
            raise _wrong("names no host (in a password, / is written %2F, and @ %40)")
        if not re.fullmatch(r"[0-9]*", database):
            raise _wrong("has a database that is not a number")
        if cluster not in ("true", "false"):
            raise _wrong("says neither cluster=true nor cluster=false")
        scheme = "rediss" if parts.scheme.startswith("rediss") else "redis"
        url = SplitResult(scheme, f"{login}{at}{node}", database, urlencode(options), "").geturl()
        pool = BlockingConnectionPool.from_url(url)
        pool.connection_class(**pool.connection_kwargs)  # knows every option, and connects to nothing yet
        return cls(url, namespace, cluster == "true", service, sentinels)

    def open(self, driver: Any) -> Any:
        """A client, of `driver`: ``redis`` or ``redis.asyncio``.

        What breaks a connection may have eaten the answer alone, or the question as well; either way it is asked once
        more, at once. What took too long is not.
        """
        retry = driver.retry.Retry(NoBackoff(), 1, (ConnectionError,))
        if self.cluster:
            return driver.RedisCluster.from_url(self.url, retry=retry, **_TIMES)
        if self.sentinels:
            said: dict[str, Any] = parse_url(self.url)  # type: ignore[no-untyped-call]
            master = {**_TIMES, **said, "ssl": self.url.startswith("rediss"), "retry": retry}
            for name in ("host", "port", "connection_class"):
                master.pop(name, None)
            times = {name: value for name, value in master.items() if name in (*_TIMES, "retry")}
            return driver.sentinel.Sentinel(self.sentinels, sentinel_kwargs=times, **master).master_for(self.service)
        pool = driver.BlockingConnectionPool.from_url(self.url, retry=retry, **_TIMES, **_POOL)
        return driver.Redis.from_pool(pool)


def opened_with(client: Any) -> list[Any]:
    """A client that was opened, and the sentinels' clients that it asks: all are to be closed."""
    manager = getattr(getattr(client, "connection_pool", None), "sentinel_manager", None)
    return [client, *getattr(manager, "sentinels", ())]


def _sentinels(nodes: str) -> tuple[tuple[str, int], ...]:
    split = [urlsplit(f"//{node}") for node in nodes.split(",")]
    if not all(node.hostname for node in split):
        raise _wrong("names no host")
    return tuple((str(node.hostname), node.port or 26379) for node in split)


def _wrong(what: str) -> ConfigurationError:
    return ConfigurationError(f"The URL of the Redis quota store {what}. {_EXAMPLE}")

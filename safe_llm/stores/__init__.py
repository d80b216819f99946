"""Quota stores: where calls are counted.

A new backend is one file here and one line in `_STORES`; its class builds itself with ``from_url(url)``. A driver may
not be installed: it is imported when a store is made, under `needing`.
"""

from __future__ import annotations

import re
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ..errors import ConfigurationError, nearest
from ..types import Charge, Refusal, Reservation, Tally
from .base import AsyncQuotaStore, AwaitableQuotaStore, QuotaStore
from .keyvalue import KeyValueQuotaStore
from .memory import MemoryQuotaStore

if TYPE_CHECKING:
    from .postgres import AsyncPostgresQuotaStore, PostgresQuotaStore
    from .redis import AsyncRedisQuotaStore, RedisQuotaStore
    from .sqlite import SQLiteQuotaStore

__all__ = [
    "AsyncPostgresQuotaStore",
    "AsyncQuotaStore",
    "AsyncRedisQuotaStore",
    "AwaitableQuotaStore",
    "Charge",
    "KeyValueQuotaStore",
    "MemoryQuotaStore",
    "PostgresQuotaStore",
    "QuotaStore",
    "RedisQuotaStore",
    "Refusal",
    "Reservation",
    "SQLiteQuotaStore",
    "Tally",
    "open_async_store",
    "open_store",
]

# Scheme: module, class, and the class's async twin if it has one. Imported when one is first opened or named.
_STORES: dict[str, tuple[str, str, str | None]] = {
    "memory": ("memory", "MemoryQuotaStore", None),
    "sqlite": ("sqlite", "SQLiteQuotaStore", None),
    "redis": ("redis", "RedisQuotaStore", "AsyncRedisQuotaStore"),
    "rediss": ("redis", "RedisQuotaStore", "AsyncRedisQuotaStore"),
    "redis+sentinel": ("redis", "RedisQuotaStore", "AsyncRedisQuotaStore"),
    "rediss+sentinel": ("redis", "RedisQuotaStore", "AsyncRedisQuotaStore"),
    "postgresql": ("postgres", "PostgresQuotaStore", "AsyncPostgresQuotaStore"),
    "postgres": ("postgres", "PostgresQuotaStore", "AsyncPostgresQuotaStore"),
}

_LAZY = {name: module for module, *names in _STORES.values() for name in names if name and name not in globals()}

if not TYPE_CHECKING:  # To a type checker, any name would be one of this module.

    def __getattr__(name: str) -> Any:
        if name not in _LAZY:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return _load(_LAZY[name], name)


def open_store(url: str) -> QuotaStore:
    """The quota store that `url` names: ``memory://``, ``sqlite:///path``, ``redis://…`` or ``postgresql://…``, for
    example. The store's class tells what else may stand in it.

    Raises:
        ConfigurationError: the URL's scheme is unknown, the rest of it is wrong, or the store's driver is not
            installed. Never quotes the URL: it may hold a password.
    """
    module, name, _ = _find(url)
    store: QuotaStore = _load(module, name).from_url(url)
    return store


def open_async_store(url: str) -> AsyncQuotaStore:
    """As `open_store`, with coroutines. A store without an async twin is wrapped in `AwaitableQuotaStore`."""
    module, _, twin = _find(url)
    if twin is None:
        return AwaitableQuotaStore(open_store(url))
    store: AsyncQuotaStore = _load(module, twin).from_url(url)
    return store


def _find(url: str) -> tuple[str, str, str | None]:
    known = ", ".join(f"{scheme}://" for scheme in _STORES)
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", url)
    if match is None:
        raise ConfigurationError(f"A quota store is named by a URL that begins with one of: {known}")
    scheme = match[1].lower()
    if scheme not in _STORES:
        near = nearest(scheme, _STORES)
        hint = f" (did you mean {near}://?)" if near else ""
        raise ConfigurationError(f"There is no quota store for {scheme}://{hint}. There are: {known}")
    return _STORES[scheme]


def _load(module: str, name: str) -> Any:
    return getattr(import_module(f".{module}", __name__), name)

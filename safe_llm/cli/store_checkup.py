"""What ``safe-llm doctor`` looks at in the quota store: whether it answers, keeps its counters, and tells the time."""

from __future__ import annotations

import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any
from uuid import uuid4

from ..errors import ConfigurationError
from ..stores import open_store
from ..types import Charge, Reservation
from .checkup import Finding
from .console import one_line
from .running import NOT_SHARED, reason, shown_url, sqlite_file

_ROUNDS = 5
_SLOW = 0.05
"""Seconds. Each call waits for the store twice."""
_SKEW = 1.0
"""Seconds that clocks may differ: calls near the end of a window are then counted in the wrong one."""
_LARGE_SKEW = 30.0
"""Leases last so many seconds longer than the deadline of their call."""
_ROOM = 100_000_000
"""Bytes of a disk."""


def store(url: str | None) -> Iterator[Finding]:
    """All that can be told of a store. Nothing is left behind in it but a reservation of nothing, which it forgets."""
    if not url or url.lower().startswith("memory:"):
        yield Finding("warning", "store", f"{url or 'none is named: the application'} {NOT_SHARED}")
        return
    file = sqlite_file(url)
    if file is not None and not os.path.exists(file):
        yield _not_there(file)
        return
    try:
        opened = open_store(url)
    except ConfigurationError as error:
        yield Finding("failure", "store", one_line(error), "Mend the URL, or what it names.")
        return
    except Exception as error:
        yield _failed(url, error)
        return
    try:
        yield _round_trip(url, opened)
        for scheme, look in _MORE.items():
            if url.lower().startswith(scheme):
                yield from look(url, opened)
    except Exception as error:
        yield _failed(url, error)
    finally:
        opened.close()


def _failed(url: str, error: Exception) -> Finding:
    found = f"{shown_url(url)} cannot be used ({reason(error, url)})"
    return Finding("failure", "store", found, "Start it, or mend its URL, its password or the way to it.")


def _round_trip(url: str, opened: Any) -> Finding:
    took = []
    for _ in range(_ROUNDS):
        began = time.perf_counter()
        # What reserves may write; to look alone would not show that.
        nothing = Charge("doctor", 0, 1, "held", 0, 1)
        answer = opened.reserve(f"doctor/{uuid4()}", [nothing], 1.0)
        if isinstance(answer, Reservation):
            opened.settle(answer, [0])
        took.append((time.perf_counter() - began) / 2)
    each = median(took)
    found = f"{shown_url(url)} answers in {each * 1000:.1f} ms"
    if each > _SLOW:
        return Finding("warning", "store", found, "Every call waits for it twice: bring it nearer.")
    return Finding("ok", "store", found)


def _clock(now: Callable[[], float]) -> Finding:
    """How far the clock here is from the server's, which takes up to a whole round trip to tell."""
    before = time.time()
    there = now()
    after = time.time()
    off = (before + after) / 2 - there
    least = max(abs(off) - (after - before) / 2, 0.0)
    if least <= _SKEW:
        return Finding("ok", "clock", f"within {max(abs(off), 0.001):.3f} s of the store's server")
    status: Any = "failure" if least > _LARGE_SKEW else "warning"
    found = f"{abs(off):.1f} s {'before' if off > 0 else 'behind'} the store's server"
    return Finding(status, "clock", found, "Calls are counted in the wrong window: run NTP on both machines.")


# SQLite ---------------------------------------------------------------------------------------------------------------


def _not_there(file: str) -> Finding:
    folder = os.path.dirname(file)
    if not os.access(folder, os.W_OK):
        return Finding("failure", "store", f"{file} does not exist, nor can it be made", f"Make {folder} writable.")
    advice = (
        "The application makes it. If that runs already, its store is another file: paths from / have four slashes."
    )
    return Finding("warning", "store", f"{file} does not exist", advice)


def _sqlite(url: str, _: Any) -> Iterator[Finding]:
    file = str(sqlite_file(url))
    if os.name == "posix" and stat.S_IMODE(os.stat(file).st_mode) & 0o077:
        yield Finding("warning", "store's file", "others may read it, and it names users", f"chmod 600 {file}")
    free = shutil.disk_usage(os.path.dirname(file)).free
    if free < _ROOM:
        yield Finding("warning", "store's disk", f"{free:,} bytes are free", "Make room: a full disk denies calls.")
    else:
        yield Finding("ok", "store's disk", f"{free / 1e9:.1f} GB free; it serves the processes of this machine")
    yield Finding("ok", "clock", "the store's own: it is on this machine")


# Redis ----------------------------------------------------------------------------------------------------------------


def _redis(_: str, opened: Any) -> Iterator[Finding]:
    address, driver = opened._address, opened._driver
    client = address.open(driver.redis)
    try:

        def now() -> float:
            seconds, micros = client.time()
            return float(seconds) + float(micros) / 1e6

        now()  # connects
        yield _clock(now)
        try:
            about = {**client.info("server"), **client.info("memory"), **client.info("persistence")}
        except driver.redis.ResponseError:  # an account that may not ask
            yield Finding("warning", "redis", "this account may not use INFO", "Look at maxmemory-policy yourself.")
            return
        yield from _redis_settings(about)
    finally:
        for one in driver.opened_with(client):
            one.close()


def _redis_settings(about: dict[str, Any]) -> Iterator[Finding]:
    known = str(about.get("redis_version", "0"))
    if tuple(map(int, known.split(".")[:2])) < (6, 2):
        yield Finding("failure", "redis", f"version {known}", "Use Redis 6.2 or later, or Valkey.")
    else:
        yield Finding("ok", "redis", f"version {about.get('valkey_version', known)}")
    policy, most = about.get("maxmemory_policy"), int(about.get("maxmemory", 0))
    if policy != "noeviction" and most:
        found = f"maxmemory-policy is {policy}: what is evicted is no longer counted, and its limits are open"
        yield Finding("failure", "eviction", found, "CONFIG SET maxmemory-policy noeviction")
    elif policy != "noeviction":
        yield Finding("ok", "eviction", f"no maxmemory; before one is set, set maxmemory-policy, which is {policy}")
    else:
        yield Finding("ok", "eviction", "maxmemory-policy is noeviction")
    if about.get("aof_enabled"):
        yield Finding("ok", "durability", "the append-only file is on")
    else:
        found = "the append-only file is off: a restart forgets counters and kill switches since the last snapshot"
        yield Finding("warning", "durability", found, "CONFIG SET appendonly yes, and in its configuration")


# Postgres -------------------------------------------------------------------------------------------------------------

_ASK = """select json_build_object('now', extract(epoch from clock_timestamp()), 'version',
    current_setting('server_version'), 'fsync', current_setting('fsync'))"""


def _postgres(_: str, opened: Any) -> Iterator[Finding]:
    def ask() -> dict[str, Any]:
        found: dict[str, Any] = opened._database.drive(opened._database.call(_ASK, ()))
        return found

    about = ask()
    yield _clock(lambda: float(ask()["now"]))
    yield Finding("ok", "postgres", f"version {about['version']}")
    if about["fsync"] != "on":
        yield Finding("warning", "durability", "fsync is off: a crash of the server may lose it all", "Set fsync = on.")
    else:
        yield Finding("ok", "durability", "fsync is on")


_MORE: dict[str, Callable[[str, Any], Iterator[Finding]]] = {"sqlite": _sqlite, "redis": _redis, "postgres": _postgres}

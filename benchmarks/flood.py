"""Where a Redis itself ends: it is asked without a pause for what was written down before.

    python -m benchmarks.flood

A Python client takes longer for a request than Redis for the answer, so on a machine with few CPUs stores never keep it
busy (`ceilings.py`). Here many requests arrive at once, which spares it most of reading and writing, too.
"""

from __future__ import annotations

import socket
import time
from contextlib import closing
from uuid import uuid4

from safe_llm.stores import Charge, RedisQuotaStore, Reservation

from .backends import ACTUAL, charges
from .servers import redis_server

_RUNS = 5
_BATCHES, _PAIRS = 50, 50
_LINES = 3
"""Of the two answers to a pair that is admitted: how long the first is, the first, and the second."""


def batch(store: RedisQuotaStore, users: list[list[Charge]], actual: tuple[int, ...]) -> bytes:
    """Requests of pairs, in Redis's protocol."""
    words: list[bytes] = []
    for number in range(_PAIRS):
        of_call, id = tuple(users[number % len(users)]), uuid4().hex
        for question in (
            store._reserving(id, of_call, 60.0),
            store._settling(Reservation(id, of_call, 0.0), actual),
        ):
            words.append(b"*%d\r\n" % len(question.by_hash))
            said = (str(word).encode() for word in question.by_hash)
            words.extend(b"$%d\r\n%b\r\n" % (len(word), word) for word in said)
    return b"".join(words)


def flood(port: int, batches: list[bytes]) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        for asked in batches:
            connection.sendall(asked)
            answered = b""
            while answered.count(b"\r\n") < _PAIRS * _LINES:
                answered += connection.recv(65_536)
            assert answered.count(b":1\r\n") == _PAIRS, "not all were settled"


def measure(users: list[list[Charge]], actual: tuple[int, ...]) -> tuple[float, float, float]:
    """Of the fastest run: pairs a second, microseconds of CPU for each, and how much of the time it worked."""
    pairs, runs = _BATCHES * _PAIRS, []
    with redis_server() as server, server.client() as client, closing(RedisQuotaStore(server.url)) as store:
        answer = store.reserve("first", users[0], 60.0)  # The server learns the scripts.
        assert isinstance(answer, Reservation)
        store.settle(answer, actual)
        for _ in range(_RUNS):
            batches = [batch(store, users, actual) for _ in range(_BATCHES)]
            before, began = client.info("cpu"), time.perf_counter()
            flood(server.port, batches)
            seconds, after = time.perf_counter() - began, client.info("cpu")
            cpu = sum(after[name] - before[name] for name in ("used_cpu_user", "used_cpu_sys"))
            runs.append((pairs / seconds, cpu / pairs * 1e6, cpu / seconds))
    return max(runs)


def main() -> None:
    users = [charges(int(time.time()), uuid4().hex) for _ in range(_PAIRS)]
    for what, asked, actual in (
        ("six limits", users, ACTUAL),
        ("one limit that all share", [[users[0][3]]], ACTUAL[3:4]),
    ):
        speed, cpu, busy = measure(asked, actual)
        print(f"{what}: {speed:,.0f} pairs/s, {cpu:.0f} µs of CPU for each, busy for {busy:.0%} of the time")


if __name__ == "__main__":
    main()

"""What a call takes beside sinks that hang, fail or are flooded, and beside those that the library brings.

    python -m benchmarks.sinks [--turns N]

Each kind of sink has a client of its own. They take turns, in a new order each time, so that whatever slows the machine
slows all; a turn is ten calls one after the other, so that a call meets what the sink's thread still has to do for the
ones before it, and the next client does not. There is no network: with one, the same microseconds are a smaller part of
a call. On a machine with other work the lowest tenth says more than the median, for few of its calls were interrupted.

The goal is 1.05 for sinks that misbehave.
"""

from __future__ import annotations

import argparse
import gc
import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from safe_llm import JSONLinesSink, OpenTelemetrySink, PrometheusSink, SafeOpenAI, SQLiteSink
from safe_llm.sinks.base import ROOM
from safe_llm.types import Event

from . import provider
from .calls import POLICY

GOAL = 1.05
_WARMUP = 30
_CALLS = 10


def fail(event: Event) -> None:
    raise OSError("the disk is full")


@contextmanager
def sinks(folder: Path) -> Iterator[dict[str, list[Any]]]:
    """The sinks of each client, by what is shown for them."""
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    from prometheus_client import CollectorRegistry

    gate = threading.Event()

    def hang(event: Event) -> None:
        gate.wait()

    tracing = TracerProvider(shutdown_on_exit=False)
    tracing.add_span_processor(BatchSpanProcessor(InMemorySpanExporter()))
    metering = MeterProvider(shutdown_on_exit=False)
    yield {
        "no sink": [],
        "no sink, once more": [],
        "one that hangs": [hang],
        "one that hangs, its queue full": [hang],
        "one that fails": [fail],
        "three that fail": [fail, fail, fail],
        "JSONLinesSink": [JSONLinesSink(folder / "usage.jsonl")],
        "JSONLinesSink, rotating": [JSONLinesSink(folder / "rotated.jsonl", max_bytes=100_000)],
        "SQLiteSink": [SQLiteSink(folder / "usage.db")],
        "PrometheusSink": [PrometheusSink(CollectorRegistry())],
        "OpenTelemetrySink": [OpenTelemetrySink(tracer_provider=tracing, meter_provider=metering)],
    }
    gate.set()
    tracing.shutdown()
    metering.shutdown()


def fill(client: SafeOpenAI) -> None:
    """Let the queue of a sink that hangs run over."""
    create(client)
    outlet = client.guard._dispatcher._outlets[0]
    assert outlet.worker is not None
    for _ in range(ROOM):
        outlet.worker.put(bool)
    create(client)
    assert client.guard.sinks[0].dropped


def create(client: SafeOpenAI) -> float:
    """Seconds of one call."""
    messages: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]
    began = time.perf_counter()
    client.chat.completions.create(model=provider.MODEL, messages=messages, user_id="u1")
    return time.perf_counter() - began


def measured(clients: dict[str, SafeOpenAI], turns: int) -> dict[str, list[float]]:
    """Seconds of each client's calls."""
    for client in clients.values():
        for _ in range(_WARMUP):
            create(client)
    gc.collect()
    names = list(clients)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(turns):
        random.shuffle(names)
        for name in names:
            seconds[name] += [create(clients[name]) for _ in range(_CALLS)]
            clients[name].guard._dispatcher.flush(0 if "hangs" in name else 5)
    return seconds


def main(show: Callable[[str], object] = print) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=100)
    turns = parser.parse_args().turns
    with tempfile.TemporaryDirectory() as folder, sinks(Path(folder)) as kinds:
        clients = {name: provider.client(SafeOpenAI, policy=POLICY, sinks=made) for name, made in kinds.items()}
        fill(clients["one that hangs, its queue full"])
        seconds = measured(clients, turns)
        lost = {name: client.guard.sinks for name, client in clients.items()}
    for client in clients.values():
        client.close()
    base = seconds["no sink"]
    show(f"{'sink':32} {'median':>9} {'ratio':>6} {'lowest tenth':>13} {'ratio':>6}")
    for name, each in seconds.items():
        middle, low = median(each), quantiles(each, n=10)[0]
        dropped = sum(stats.dropped for stats in lost[name])
        told = f"  {dropped} dropped" if dropped else ""
        show(
            f"{name:32} {middle * 1e6:6.0f} µs {middle / median(base):6.3f} "
            f"{low * 1e6:10.0f} µs {low / quantiles(base, n=10)[0]:6.3f}{told}"
        )


if __name__ == "__main__":
    main()

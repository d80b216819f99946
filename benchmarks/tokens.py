"""Measures token counts against recorded requests.

    python benchmarks/tokens.py RECORDED.jsonl.gz

Each line is one request with the provider's own count: ``endpoint``, ``category``, ``model``, ``request`` (the JSON
that was sent) and ``prompt_tokens``. Prints, by category, the share of counts that are exact, of reservations below
the provider's count, and the median of reserved over billed; "exact" and "bytes" name the counter that was used.
"""

from __future__ import annotations

import gzip
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any, NamedTuple

from safe_llm import tokens


class Row(NamedTuple):
    billed: int
    counted: int
    reserved: int
    bound: int


def measure(record: dict[str, Any]) -> Row:
    body, model = record["request"], record["model"]
    exact = tokens.exact(model)
    if record["endpoint"] == "chat":
        counted = tokens.request_tokens(body, exact, model)
        reserved = tokens.bound_tokens(body, exact, model)
        bound = tokens.bound_tokens(body, tokens.upper_bound, model)
    elif record["endpoint"] == "responses":
        counted, bound = (_response_tokens(body, count, model) for count in (exact, tokens.upper_bound))
        reserved, bound = (tokens.with_margin(total) if "tools" in body else total for total in (counted, bound))
    else:
        value = body["input" if record["endpoint"] == "embeddings" else "prompt"]
        counted = reserved = tokens.input_tokens(value, exact)
        bound = tokens.input_tokens(value, tokens.upper_bound)
    return Row(record["prompt_tokens"], counted, reserved, bound)


def _response_tokens(body: dict[str, Any], count: tokens.Counter, model: str) -> int:
    given = body["input"]
    items = [{"role": "user", "content": given}] if isinstance(given, str) else given
    return tokens.response_overhead(body, count, model) + sum(tokens.item_tokens(item, count, model) for item in items)


def accuracy(path: str) -> None:
    rows: defaultdict[str, list[Row]] = defaultdict(list)
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for record in map(json.loads, lines):
            if record["endpoint"] in ("chat", "responses", "embeddings", "completions"):
                row = measure(record)
                rows[f"{record['endpoint']}: {record['category']}"].append(row)
                rows["all"].append(row)
    print(f"{'category':32} {'n':>5} {'exact':>7} {'under: exact':>13} {'bytes':>7} {'ratio: exact':>13} {'bytes':>7}")
    for category, group in sorted(rows.items(), key=lambda item: (item[0] == "all", item[0])):
        n = len(group)
        print(
            f"{category:32} {n:>5} {sum(row.counted == row.billed for row in group) / n:>7.1%}"
            f" {sum(row.reserved < row.billed for row in group) / n:>13.1%}"
            f" {sum(row.bound < row.billed for row in group) / n:>7.1%}"
            f" {median(row.reserved / row.billed for row in group):>13.2f}"
            f" {median(row.bound / row.billed for row in group):>7.2f}"
        )


def best_of(runs: int, call: Callable[[], object]) -> float:
    """Seconds of the fastest of several runs: the others were disturbed."""
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def speed() -> None:
    plain = {"messages": [{"role": "user", "content": "a sentence of words " * 200}]}
    many = {"messages": [{"role": "user", "content": "a short message"}] * 10_000}
    for name, count in (("bytes", tokens.upper_bound), ("exact", tokens.exact("gpt-4o"))):
        one = best_of(1_000, partial(tokens.bound_tokens, plain, count, "gpt-4o"))
        all_ = best_of(10, partial(tokens.bound_tokens, many, count, "gpt-4o"))
        print(f"{name}: one message of 4,000 characters {one * 1e6:.1f} µs, 10,000 short messages {all_ * 1e3:.1f} ms")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: tokens.py RECORDED.jsonl.gz")
    accuracy(sys.argv[1])
    speed()

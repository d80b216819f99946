"""Whether work takes time in proportion to its text. A tracer or a busy machine makes both lengths slower alike."""

from __future__ import annotations

import time
from collections.abc import Callable

MOST = 5.0
"""Seconds for a megabyte, however slow the machine; `make bench-checks` measures how many it is."""


def seconds(work: Callable[[str], object], text: str) -> float:
    """Processor time, at best of two: the machine may be busy with something else."""
    times = []
    for _ in range(2):
        began = time.process_time()
        work(text)
        times.append(time.process_time() - began)
    return min(times)


def assert_linear(work: Callable[[str], object], text: str) -> None:
    """Four times the text may take eight times as long: what grows with its square would take sixteen."""
    quarter, whole = seconds(work, text[: len(text) // 4]), seconds(work, text)
    assert whole < 8 * quarter + 0.2
    assert whole < MOST

"""What the guard costs beside the bare SDK, in this process and without a network.

    python -m benchmarks                        # the table; about two minutes
    python -m benchmarks --markdown             # the same, for the README
    python -m benchmarks --profile short        # where the time goes, in one kind of call

Bare and guarded calls take turns, and ratios are of their medians: ratios travel, absolute times do not. On a machine
that is busy with other things the middle half grows wide; run it again when it is not.
"""

from __future__ import annotations

import argparse
import cProfile
import os
import platform
import pstats
import re
from math import isnan
from pathlib import Path
from statistics import median

import openai

import safe_llm

from . import parts, stores
from .calls import Case, cases, interleaved
from .footprint import footprint
from .table import Row, aligned, markdown

_PROFILED = 1_000
"""Calls. So the profile's seconds can be read as milliseconds a call."""


def compare(*, as_markdown: bool) -> None:
    """Measure everything, and print the table."""
    with cases() as known:
        rows = [Row(case.what, _scaled(interleaved(case), 1e3), "ms", most=case.most) for case in known.values()]
    imported, memory, called = footprint()
    rows.append(Row("import", imported, "ms", beyond=True, most=40))
    if not isnan(called[0][0]):
        rows.append(Row("memory after the import", memory, "MB", beyond=True))
        rows.append(Row("memory after a first call", called, "MB", beyond=True, most=25))
    stored = stores.report()
    rows += stored.rows
    print(f"{_machine()}\n")
    print(markdown(rows) if as_markdown else aligned(rows))
    print(
        "\nMedians; bare and guarded by turns. Middle half: of the overheads of single turns.",
        f"Metering a stream: {median(parts.metering()) * 1e6:.1f} µs a chunk.",
        *stored.notes,
        sep="\n",
    )


def _scaled(seconds: list[tuple[float, float]], factor: float) -> list[tuple[float, float]]:
    return [(bare * factor, guarded * factor) for bare, guarded in seconds]


def _machine() -> str:
    return (
        f"Python {platform.python_version()}, openai {openai.__version__}, {os.cpu_count()} CPUs, "
        f"{platform.system()} {platform.machine()}"
    )


def profile(case: Case) -> None:
    """Print which functions of the package take how long by themselves, what they call in C included.

    Between the profiled calls stand bare ones, as in the measurement. A profiler makes small functions look dearer than
    they are: it shows where to look, not what can be won.
    """
    profiler = cProfile.Profile(builtins=False)
    for _ in range(_PROFILED // case.calls):
        case.bare()
        profiler.enable()
        case.guarded()
        profiler.disable()
    print(f"{case.what}: {_PROFILED:,} calls, so that 1 second below is 1 ms a call.")
    pstats.Stats(profiler).sort_stats("tottime").print_stats(re.escape(str(Path(safe_llm.__file__).parent)))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="What the guard costs.")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    parser.add_argument("--profile", choices=("short", "long", "stream", "async"), help="show where the time goes")
    given = parser.parse_args()
    if given.profile is None:
        compare(as_markdown=given.markdown)
        return
    with cases() as known:
        known[given.profile].guarded()
        profile(known[given.profile])


if __name__ == "__main__":
    main()

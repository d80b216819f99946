"""One process of `footprint`: imports a package, makes a first call, and prints what that took.

    python -m benchmarks.first_call openai OpenAI
    python -m benchmarks.first_call safe_llm SafeOpenAI

Prints three numbers: milliseconds of the import, and MB resident after the import and after the call.
"""

from __future__ import annotations

import importlib
import os
import sys
import time


def resident() -> float:
    """MB of this process in memory. Linux only; elsewhere it is not known."""
    # Not getrusage: its peak begins, on Linux, with that of the process that started this one.
    try:
        with open("/proc/self/statm") as pages:
            return int(pages.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except FileNotFoundError:
        return float("nan")


def main(package: str, name: str) -> None:
    start = time.perf_counter()
    module = importlib.import_module(package)
    took = time.perf_counter() - start
    imported = resident()

    from . import provider

    caller = {"user_id": "u1"} if package == "safe_llm" else {}
    client = provider.client(getattr(module, name))
    client.chat.completions.create(
        model=provider.MODEL, messages=[{"role": "user", "content": "What is the capital of France?"}], **caller
    )
    print(took * 1000, imported, resident())


if __name__ == "__main__":
    main(*sys.argv[1:])

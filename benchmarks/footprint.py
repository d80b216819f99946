"""What importing costs, and how much memory: each measured in a process of its own, bare and guarded by turns."""

from __future__ import annotations

import subprocess
import sys
from compileall import compile_dir
from pathlib import Path

import safe_llm

TURNS = 11


def footprint() -> tuple[list[tuple[float, float]], ...]:
    """Bare and guarded, turn by turn: milliseconds of the import, MB after it, and MB after a first call."""
    compile_dir(Path(safe_llm.__file__).parent, quiet=1)  # as installing does, whatever the environment says of it
    _first_call("safe_llm", "SafeOpenAI")
    turns = [(_first_call("openai", "OpenAI"), _first_call("safe_llm", "SafeOpenAI")) for _ in range(TURNS)]
    return tuple([(bare[n], guarded[n]) for bare, guarded in turns] for n in range(3))


def _first_call(package: str, name: str) -> list[float]:
    answer = subprocess.run(
        [sys.executable, "-m", "benchmarks.first_call", package, name],
        cwd=Path(__file__).parent.parent,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return [float(number) for number in answer.stdout.split()]

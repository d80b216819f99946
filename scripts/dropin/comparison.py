"""What two runs of the suite say of our client classes, and the list of legitimate differences."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

LEAST_SHARE = 0.995
"""Of the tests that pass with the SDK's classes, those listed as legitimate differences left out."""

LEAST_PASSING = 5_000
"""Tests that must pass with the SDK's classes; with fewer, the suite itself does not work here, and shows nothing."""

_LIST = Path(__file__).with_name("differences.toml")


class Comparison(NamedTuple):
    """The tests that pass with the SDK's classes, told apart by how they fare with ours."""

    same: list[str]
    listed: dict[str, list[str]]
    """Those that do not pass and are listed, by reason."""
    different: list[str]
    """Those that do not pass and are not listed."""
    stale: list[str]
    """What is listed in vain: tests that pass, and entries by which no test differs."""

    @property
    def passing(self) -> int:
        """How many pass with the SDK's classes."""
        return len(self.same) + len(self.different) + sum(map(len, self.listed.values()))

    @property
    def share(self) -> float:
        """Of those that are not listed, how many pass with ours."""
        return len(self.same) / max(len(self.same) + len(self.different), 1)

    @property
    def holds(self) -> bool:
        """Whether ours can stand in for the SDK's, and the list is true."""
        enough = self.passing >= LEAST_PASSING and self.share >= LEAST_SHARE
        return enough and not self.different and not self.stale

    def lines(self) -> list[str]:
        """All of it, to be read."""
        counts = [
            (f"{self.passing:,}", f"tests pass with the SDK's classes (at least {LEAST_PASSING:,}); of these"),
            (f"{len(self.same):,}", "pass with ours"),
            *((f"{len(tests):,}", f"differ as listed: {reason}") for reason, tests in self.listed.items()),
            (f"{len(self.different):,}", "differ and are not listed"),
            (f"{self.share:.2%}", f"of those that are not listed pass with ours (at least {LEAST_SHARE:.1%})"),
        ]
        return [
            *(f"{count:>8}  {what}" for count, what in counts),
            *(f"differs, and is not listed: {test}" for test in self.different),
            *(f"listed in vain: {what}" for what in self.stale),
        ]


def compare(theirs: Mapping[str, str], ours: Mapping[str, str], reasons: Mapping[str, str]) -> Comparison:
    """Compare the outcomes of two runs by test. `reasons` are those of the legitimate differences, by pattern."""
    found = Comparison([], {}, [], [])
    unused = set(reasons)
    for test in sorted(test for test, outcome in theirs.items() if outcome == "passed"):
        passed = ours.get(test) == "passed"
        pattern = next((pattern for pattern in reasons if _matches(pattern, test)), None)
        if passed:
            found.same.append(test)
            if pattern is not None:
                found.stale.append(f"{test} passes")
        elif pattern is None:
            found.different.append(test)
        else:
            found.listed.setdefault(reasons[pattern], []).append(test)
            unused.discard(pattern)
    found.stale.extend(f"no test differs by {pattern}" for pattern in sorted(unused))
    return found


def _matches(pattern: str, test: str) -> bool:
    """Whether a test's id is of the pattern, in which ``*`` stands for any text."""
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), test, re.DOTALL) is not None


def legitimate() -> dict[str, str]:
    """The reason of each listed difference, by its pattern."""
    entries = tomllib.loads(_LIST.read_text(encoding="utf-8"))["difference"]
    return {pattern: entry["reason"] for entry in entries for pattern in entry["tests"]}

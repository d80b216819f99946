"""The figures as a table, aligned or in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median, quantiles

HEADER = ("", "bare", "guarded", "overhead", "middle half", "target", "met")


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison. Its overhead is the ratio of the two medians, or, `beyond` the bare SDK, their difference."""

    what: str
    pairs: Sequence[tuple[float, float]]
    """Bare and guarded, in `unit`, turn by turn."""
    unit: str
    beyond: bool = False
    most: float | None = None
    """The largest overhead that is aimed at; None where nothing is."""

    def cells(self) -> tuple[str, ...]:
        """As they stand below `HEADER`. The middle half of the turns had an overhead between the two that are shown."""
        bare, guarded = (median(side) for side in zip(*self.pairs, strict=True))
        overhead = self._overhead(bare, guarded)
        low, _, high = quantiles([self._overhead(*pair) for pair in self.pairs], n=4)
        target, met = "–", "–"
        if self.most is not None:
            target = f"≤ {self.most:.0f} {self.unit}" if self.beyond else f"≤ {self.most:.2f}"
            met = "yes" if overhead <= self.most else "NO"
        return (
            self.what,
            f"{bare:.3g} {self.unit}",
            f"{guarded:.3g} {self.unit}",
            self._shown(overhead),
            f"{self._shown(low)} to {self._shown(high)}",
            target,
            met,
        )

    def _overhead(self, bare: float, guarded: float) -> float:
        return guarded - bare if self.beyond else guarded / bare

    def _shown(self, overhead: float) -> str:
        return f"{overhead:+.1f} {self.unit}" if self.beyond else f"× {overhead:.3f}"


def aligned(rows: Sequence[Row]) -> str:
    """For a terminal."""
    lines = [HEADER, *[row.cells() for row in rows]]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def markdown(rows: Sequence[Row]) -> str:
    """For the README."""
    lines = [HEADER, ("---", *["---:"] * (len(HEADER) - 1)), *[row.cells() for row in rows]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)

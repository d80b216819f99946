"""What a report cannot know, said as plainly as what it does."""

from __future__ import annotations

from collections.abc import Iterator

from .insights import Sentence
from .overview import Overview
from .sums import ERROR_PERCENT
from .words import counted, money, number

_PERCENTILES = (
    f"Percentiles are within {ERROR_PERCENT} % of a time that was measured, and leave out calls that were denied. "
    "All sums are exact."
)


def unknowns(overview: Overview, skipped: int) -> Iterator[Sentence]:
    """A sentence for each thing. `skipped` are lines that are no record and no alert."""
    sums, wrong = overview.sums, skipped + overview.unreadable
    if sums.unpriced:
        they = ": it is in no sum of money" if sums.unpriced == 1 else ": they are in no sum of money"
        yield "The price of ", counted(sums.unpriced, "call"), f" is not known{they}. More was spent than is shown."
    if sums.estimated:
        told = " was not told by the provider, after a time-out for example. It was estimated, and "
        rests = " of the spend rests on that."
        yield "The usage of ", counted(sums.estimated, "call"), told, money(sums.cost_estimated), rests
    if wrong:
        yield "", counted(wrong, "line"), " of the files could not be read as records. No figure has them."
    if overview.degraded:
        alone = " had limits counted by one process alone, because the quota store was away."
        yield "", counted(overview.degraded, "call"), alone
    if overview.merged_users:
        merged = " times the smallest were merged. Sums of all calls are exact; those of small users may be too low."
        yield "There were too many users to keep apart: ", number(overview.merged_users), merged
    yield (_PERCENTILES,)

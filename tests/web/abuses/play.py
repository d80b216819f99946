"""Plays abuses against both services, and tells what became of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from decimal import Decimal
from queue import SimpleQueue
from typing import NamedTuple

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .abuse import Abuse
from .host import Host, Log
from .stage import Hardened, Sprint, Target
from .tokens import Issuer


class Fate(NamedTuple):
    """What became of an abuse at one of the services."""

    through: str | None
    """What got through; None where nothing did."""
    answers: str
    cost: Decimal
    """USD: what the provider really served."""
    sent: int
    """Requests that reached the provider."""
    spared: bool
    """Whether somebody else was answered right after it."""


class Result(NamedTuple):
    abuse: Abuse
    sprint: Fate
    hardened: Fate


def play(abuses: Iterable[Abuse], lanes: int = 2) -> Iterator[Result]:
    """Play each against both services, each of them fresh. Most of it is waiting, so several are played at once."""
    hosts = [(Host(), Host()) for _ in range(lanes)]
    free: SimpleQueue[tuple[Host, Host]] = SimpleQueue()
    with ExitStack() as stack:
        log, issuer = stack.enter_context(Log()), Issuer()
        stack.enter_context(issuer)
        for pair in hosts:
            free.put((stack.enter_context(pair[0]), stack.enter_context(pair[1])))
        outer, inner = (stack.enter_context(ThreadPoolExecutor(count)) for count in (lanes, 2 * lanes))

        def one(abuse: Abuse) -> Result:
            pair = free.get()
            try:
                fates = [
                    inner.submit(_fate, kind(host, issuer, log, abuse.policy), abuse)
                    for kind, host in zip((Sprint, Hardened), pair, strict=True)
                ]
                return Result(abuse, *(fate.result() for fate in fates))
            finally:
                free.put(pair)

        yield from outer.map(one, abuses)


def _fate(target: Target, abuse: Abuse) -> Fate:
    with target:
        through = abuse.play(target)
        cost, sent = target.provider.bill, target.sent
        return Fate(through, target.said, cost, sent, target.serves_others())


# The table of the two -------------------------------------------------------------------------------------------------


def show(results: Sequence[Result], console: Console) -> None:
    """Each abuse on a line, then the two services row by row."""
    each = Table("row", "abuse", "sprint: got through", "hardened: answered", box=box.SIMPLE_HEAD)
    for result in results:
        hardened = result.hardened
        found = f"[red]GOT THROUGH: {escape(hardened.through)}" if hardened.through else escape(hardened.answers)
        sprint = escape(result.sprint.through) if result.sprint.through else "[green]nothing"
        each.add_row(result.abuse.row, escape(result.abuse.name), sprint, found)
    console.print(each)
    console.print(summary(results))


def summary(results: Sequence[Result]) -> Table:
    """Row by row: how many abuses, how many of them got through, and what the provider charges for it."""
    table = Table(
        "row", "abuses", "sprint", "hardened", "sprint costs", "hardened costs", box=box.SIMPLE_HEAD, show_footer=True
    )
    for column in table.columns[1:]:
        column.justify = "right"
    rows = list(dict.fromkeys(result.abuse.row for result in results))
    for row in rows:
        table.add_row(*_line(row, [result for result in results if result.abuse.row == row]))
    for column, text in zip(table.columns, _line("all", results), strict=True):
        column.footer = text
    return table


def _line(name: str, results: Sequence[Result]) -> tuple[str, ...]:
    through = [sum(fate.through is not None for fate in fates) for fates in _columns(results)]
    costs = [sum((fate.cost for fate in fates), Decimal(0)) for fates in _columns(results)]
    return name, str(len(results)), *map(str, through), *(f"${cost:.4f}" for cost in costs)


def _columns(results: Sequence[Result]) -> tuple[list[Fate], list[Fate]]:
    return [result.sprint for result in results], [result.hardened for result in results]

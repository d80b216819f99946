"""``safe-llm simulate``: another policy, tried on the calls of the past."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from ..errors import ConfigurationError
from ..policy import Policy
from ..reports import words
from ..reports.simulating import Denied, Simulation, moment, ranked
from ..types import usd
from .records import Files, as_json, expect_some, fail, opened, shown

_TOP = 20
_STEP = 2_000
_WIDTH = 120
"""Columns of a pipe, which has no width of its own."""


def simulate(
    files: Files,
    policy: Annotated[Path, typer.Option(metavar="NEW.toml", help="The policy to try.")],
    percentile: Annotated[
        list[float] | None,
        typer.Option(min=0, max=100, help="Suggest limits at this percentile; may be repeated.  [default: 95, 99]"),
    ] = None,
    top: Annotated[int, typer.Option(min=0, help="Show this many users, the dearest; 0 shows all.")] = _TOP,
    json: Annotated[
        bool, typer.Option("--json", help="Print JSON, with single calls that come out otherwise.")
    ] = False,
) -> None:
    """Replay records under another policy: who would have been denied, when and by which rule, and what it saves.

    Calls ask for room when they did and for what they did, so those that ran at once run at once again. Limits, plans,
    features, models and prices are decided anew; rules of input, output, time, checks and switches are not.

    Exits with 0; with 1 where a file cannot be read or no line of it is a record; with 2 where an option or the policy
    is wrong.
    """
    try:
        simulation = Simulation(Policy.from_file(policy), sorted(set(percentile or (95.0, 99.0))))
    except ConfigurationError as error:
        fail(str(error), 2)
    reading = opened(files)
    with shown(reading, "Reading") as records:
        simulation.read(records)
    _decide(simulation)
    expect_some(reading, simulation.calls, simulation.unreadable)
    if json:
        as_json({**simulation.as_json(), "skipped_lines": reading.skipped + simulation.unreadable})
        return
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _WIDTH
    _show(console, simulation, top, reading.skipped + simulation.unreadable)


def _decide(simulation: Simulation) -> None:
    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("Deciding", total=simulation.to_decide or 1)
        for number, _ in enumerate(simulation.decide()):
            if number % _STEP == 0:
                bar.update(task, completed=number)


def _show(console: Console, simulation: Simulation, top: int, skipped: int) -> None:
    if not simulation.calls:
        console.print("There are no records.")
        return
    console.print(
        f"{simulation.calls:,} calls from {_minute(simulation.first)} to {_minute(simulation.last)} UTC, "
        f"under policy {simulation.policy.version}\n"
    )
    console.print(_summary(simulation))
    if simulation.by_rule:
        console.print("\nWhat would have denied them:")
        console.print(_denied("rule", ranked(simulation.by_rule)))
        users = ranked(simulation.by_user)
        console.print("\nWho would have been denied:")
        console.print(_denied("user", users[: top or None]))
        if top and len(users) > top:
            console.print(f"and {len(users) - top:,} more users; --top 0 shows all")
    console.print("\nLimits that what was used would have stayed within, for one user:")
    console.print(_suggestions(simulation))
    for remark in simulation.remarks():
        console.print(f"- {remark}", markup=False)
    if skipped:
        console.print(f"- {skipped:,} lines are no records.", markup=False)


def _table(*columns: str, left: int = 1) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number < left else "right")
    return table


def _summary(simulation: Simulation) -> Table:
    new = simulation.newly_denied
    table = _table("", "calls", "cost")
    table.add_row(
        "let through, as recorded", _number(simulation.calls - simulation.recorded_denied), _usd(simulation.spent)
    )
    table.add_row("  would have been denied", _number(new.calls), f"-{_usd(simulation.saved)}")
    if simulation.newly_admitted:
        table.add_row(
            "  denied, would be let through", _number(simulation.newly_admitted), f"+{_usd(simulation.added)}"
        )
    table.add_row(
        "let through by this policy", _number(simulation.calls - simulation.denied), _usd(simulation.would_spend)
    )
    return table


def _denied(what: str, some: list[tuple[str | None, Denied]]) -> Table:
    table = _table(what, "calls", "users" if what == "rule" else "rule", "saved", "first", "last")
    for name, denied in some:
        (rule, _), *others = denied.rules.most_common()
        by = rule if not others else f"{rule} and {len(others)} more"
        table.add_row(
            Text("(others)" if name is None else words.visible(name)),
            _number(denied.calls),
            _number(len(denied.users)) if what == "rule" else Text(words.visible(by)),
            _usd(denied.nano),
            _minute(denied.first),
            _minute(denied.last),
        )
    return table


def _suggestions(simulation: Simulation) -> Table:
    found = simulation.suggestions()
    percentiles = list(found[0].amounts) if found else []
    table = _table("plan", "of", *[f"p{percentile:g}" for percentile in percentiles], left=2)
    for one in found:
        of = f"{one.seen:,} {'days of users' if one.window == 'day' else 'calls'}"
        name = "(none)" if one.plan is None else words.visible(one.plan)
        table.add_row(Text(name), of, *[one.sentence(percentile) for percentile in percentiles])
    return table


def _number(count: int) -> str:
    return f"{count:,}"


def _usd(nano: int) -> str:
    return words.money(usd(nano))


def _minute(microseconds: int) -> str:
    return moment(microseconds)[:16].replace("T", " ")

"""``safe-llm usage``: who spent what."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from ..errors import ConfigurationError
from ..reports import tables
from ..reports.usage import DIMENSIONS, Usage
from .records import Files, Since, Timezone, Until, as_json, calendar, expect_some, fail, opened, shown, span

_TOP = 20
_WIDTH = 120
"""Columns of a pipe, which has no width of its own."""


def usage(
    files: Files,
    by: Annotated[
        str, typer.Option(help=f"What to group by: any of {', '.join(DIMENSIONS)}, tag:NAME; several nest: user,day.")
    ] = "user",
    top: Annotated[
        int | None, typer.Option(help="Show this many groups of each level, the dearest; 0 shows all.", min=0)
    ] = None,
    timezone: Timezone = "UTC",
    since: Since = None,
    until: Until = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON; all groups, unless --top is given.")] = False,
) -> None:
    """Show who spent what: calls, tokens and cost by user, feature, model, plan, tag or day.

    Exits with 0; with 1 where a file cannot be read or no line of it is a record; with 2 where an option is wrong.
    """
    try:
        found = Usage(by, calendar(timezone), span(since, until))
    except ConfigurationError as error:
        fail(str(error), 2)
    reading = opened(files)
    with shown(reading, "Reading") as records:
        found.read(records)
    most = (None if json else _TOP) if top is None else top or None
    tree = found.tree(most)
    expect_some(reading, tree.sums.calls, found.unreadable)
    if json:
        as_json(tables.as_json(found, tree, reading.skipped))
        return
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _WIDTH
    console.print(tables.table(found, tree))
    for remark in tables.remarks(found, tree.sums, reading.skipped):
        console.print(remark, markup=False)

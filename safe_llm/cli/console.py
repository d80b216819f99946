"""How every command speaks: tables on a terminal, JSON for programs, and what went wrong in one line.

The exit codes of all commands: 0, it is done, or all is well; 1, it failed, or something was found that wants mending;
2, the command was used wrongly.
"""

from __future__ import annotations

from typing import Annotated, Any, NoReturn

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from ..reports.words import visible

FAILED = 1
MISUSED = 2

AsJSON = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]

_WIDTH = 120
"""Columns of a pipe, which has no width of its own."""


def fail(message: str, code: int) -> NoReturn:
    """End the command, with a reason on the standard error."""
    typer.echo(message, err=True)
    raise typer.Exit(code)


def remark(message: str) -> None:
    """Say something beside the result, on the standard error."""
    typer.echo(message, err=True)


def as_json(value: Any) -> None:
    """Print JSON, in ASCII: names of any kind arrive in any terminal and any pipe."""
    import json

    typer.echo(json.dumps(value, indent=2))


def console() -> Console:
    """The standard output. Nothing that is printed there is read as markup."""
    found = Console(highlight=False, markup=False)
    if not found.is_terminal:
        found.width = _WIDTH
    return found


def table(*headings: str, right: tuple[str, ...] = ()) -> Table:
    """An empty table of the look that all have. Columns named in `right` hold figures."""
    made = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for heading in headings:
        made.add_column(heading, justify="right" if heading in right else "left", overflow="fold")
    return made


def plain(text: str) -> str:
    """Text of somebody else, however long, that can do nothing but be read."""
    return "".join(map(visible, text))


def count(number: int, what: str) -> str:
    """``no records``, ``1 record``, ``2,000 records``."""
    return f"{number:,} {what}{'' if number == 1 else 's'}" if number else f"no {what}s"


def one_line(text: object) -> str:
    """A message in one line."""
    return " ".join(str(text).split())

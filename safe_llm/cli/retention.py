"""``safe-llm records``: what is kept of users, handed out, erased and pruned."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from rich.console import Console

from ..errors import ConfigurationError
from .console import FAILED, AsJSON, as_json, console, count, fail, one_line, plain, remark
from .records import Files

if TYPE_CHECKING:
    from ..reports.retention import Removed

T = TypeVar("T")

records = typer.Typer(no_args_is_help=True, help="Hand out, erase and prune usage records.")

_User = Annotated[str, typer.Argument(metavar="USER", help="A user_id, exactly.")]


@records.command()
def export(user: _User, files: Files) -> None:
    """Print all records of a user, and the alerts about that user, one JSON object a line.

    Exits with 0, also where there are none; with 1 where a file cannot be read.
    """
    import json

    from ..reports import retention

    number = 0
    with _failing():
        for row in retention.export(files, user):
            typer.echo(json.dumps(row))
            number += 1
    remark(f"{plain(user)}: {number:,} records and alerts.")


@records.command()
def erase(
    user: _User,
    files: Files,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json: AsJSON = False,
) -> None:
    """Remove all records of a user, and the alerts about that user; those who write meanwhile are not disturbed.

    Exits with 0, also where there are none; with 1 where a file cannot be changed, or the answer is no: then nothing
    is erased.
    """
    from ..reports import retention

    with _failing():
        if not yes:
            number = _busily("Counting", lambda: sum(1 for _ in retention.export(files, user)))
            where = ", ".join(plain(str(file)) for file in files)
            typer.confirm(f"Erase {number:,} records and alerts of {plain(user)} from {where}?", abort=True, err=True)
        removed = _busily("Erasing", lambda: retention.erase(files, user))
    _tell(f"of {plain(user)}", removed, json)


@records.command()
def prune(
    files: Files,
    days: Annotated[int, typer.Option(help="Remove what is older than so many days.", min=1)],
    json: AsJSON = False,
) -> None:
    """Remove the records and alerts of calls that began before a number of days. It does not ask: it is for cron.

    Exits with 0, also where there are none; with 1 where a file cannot be changed.
    """
    from datetime import UTC, datetime, timedelta

    from ..reports import retention

    before = datetime.now(UTC) - timedelta(days=days)
    with _failing():
        removed = _busily("Pruning", lambda: retention.prune(files, before))
    _tell(f"from before {before:%Y-%m-%d %H:%M} UTC", removed, json)


def _busily(what: str, work: Callable[[], T]) -> T:
    """Work that may take long, and is seen to go on where the standard error is a terminal."""
    err = Console(stderr=True)
    if not err.is_terminal:
        return work()
    with err.status(f"{what} …"):
        return work()


def _tell(which: str, removed: Removed, json: bool) -> None:
    if json:
        as_json(removed._asdict())
    else:
        console().print(
            f"Removed {count(removed.records, 'record')} and {count(removed.alerts, 'alert')} {which}".strip() + "."
        )


@contextmanager
def _failing() -> Iterator[None]:
    try:
        yield
    except ConfigurationError as error:
        fail(one_line(error), FAILED)

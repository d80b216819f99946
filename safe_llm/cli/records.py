"""What the commands that read records have in common: their arguments, a progress bar, and how they fail.

They exit with 0; with 1 where there is nothing to tell (a file that cannot be read, or no record in files that are not
empty); and with 2 where an argument is wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from ..errors import ConfigurationError
from ..reports.facts import Calendar
from ..reports.reading import Reading, Row, read
from ..reports.usage import Span
from ..reports.words import visible
from .console import as_json as as_json
from .console import fail as fail

_STEP = 2_000

Files = Annotated[
    list[Path],
    typer.Argument(metavar="FILE...", help="Records, as JSONLinesSink or SQLiteSink writes them; also gzipped."),
]
Timezone = Annotated[str, typer.Option(help="Where days turn over: an IANA name.", metavar="ZONE")]
Since = Annotated[datetime | None, typer.Option(help="The first day, such as 2026-11-26.", formats=["%Y-%m-%d"])]
Until = Annotated[datetime | None, typer.Option(help="The last day, included.", formats=["%Y-%m-%d"])]


def calendar(timezone: str) -> Calendar:
    """Exits with 2 where there is no such zone."""
    try:
        return Calendar(timezone)
    except ConfigurationError as error:
        fail(str(error), 2)


def span(since: datetime | None, until: datetime | None) -> Span:
    """Exits with 2 where the days are in the wrong order."""
    if since and until and until < since:
        fail(f"--until {until:%Y-%m-%d} lies before --since {since:%Y-%m-%d}: no day is left.", 2)
    return Span(*(day.date().isoformat() if day else None for day in (since, until)))


def opened(files: list[Path]) -> Reading:
    """The files, open. Exits with 1 where one cannot be."""
    try:
        return read(files)
    except ConfigurationError as error:
        fail(str(error), 1)


@contextmanager
def shown(reading: Reading, title: str) -> Iterator[Iterator[Row]]:
    """The records, with a bar on the standard error, where that is a terminal, that tells how far they are read."""
    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=reading.bytes_total or 1)

        def records() -> Iterator[Row]:
            for number, record in enumerate(reading):
                if number % _STEP == 0:
                    bar.update(task, completed=reading.bytes_read)
                yield record

        try:
            yield records()
        except ConfigurationError as error:
            bar.stop()
            fail(str(error), 1)
        finally:
            reading.close()


def expect_some(reading: Reading, found: int, unreadable: int) -> None:
    """Exit with 1 where files have content, but not one record or alert of ours."""
    wrong = reading.skipped + unreadable
    if wrong and not found and not reading.alerts:
        lines = "The only line" if wrong == 1 else f"None of the {wrong:,} lines"
        fail(f"{lines} can be read as a usage record. Name files that JSONLinesSink or SQLiteSink writes.", 1)


def listed(files: list[Path]) -> list[str]:
    """The names of the files, fit to be shown."""
    return [visible(str(file)) for file in files]

"""``safe-llm report``: what the records tell, as a page to look at."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from ..reports.overview import Overview
from ..reports.page import Report, render
from ..reports.steering import Steering
from .records import Files, Since, Timezone, Until, calendar, expect_some, fail, listed, opened, shown, span


def report(
    files: Files,
    output: Annotated[Path, typer.Option("--output", "-o", help="The page to write.", dir_okay=False)] = Path(
        "report.html"
    ),
    timezone: Timezone = "UTC",
    since: Since = None,
    until: Until = None,
) -> None:
    """Write one page with charts: spend, users, tokens, speed, denials, alerts. It opens offline, anywhere.

    Exits with 0; with 1 where a file cannot be read, no line of it is a record, or the page cannot be written; with 2
    where an option is wrong or the extra "report" is not installed.
    """
    for needed in ("jinja2", "plotly"):
        if find_spec(needed) is None:
            fail(f'The report needs {needed}, which is not installed: pip install "safe-llm[report]"', 2)
    if any(output.exists() and file.exists() and output.samefile(file) for file in files):
        fail(f"The page would overwrite the records in {output}. Name another file with -o.", 2)
    overview = Overview(calendar(timezone), span(since, until))
    reading = opened(files)
    with shown(reading, "Reading") as records:
        overview.read(records)
    expect_some(reading, overview.sums.calls, overview.unreadable)
    steering = Steering.of(reading.alerts, overview.calendar, overview.span)
    write(output, render(Report(overview, steering, listed(files), reading.skipped)))
    typer.echo(f"{output}: {overview.sums.calls:,} calls. Open it in a browser.")


def write(output: Path, page: str) -> None:
    """Put the page in its place whole: a reader sees the one before or this one. Exits with 1 where that fails."""
    part = output.with_name(f".{output.name}.{os.getpid()}.part")
    try:
        if output.exists() and not output.is_file():  # /dev/stdout, a pipe
            output.write_text(page, encoding="utf-8", newline="\n")
            return
        with part.open("x", encoding="utf-8", newline="\n") as file:
            file.write(page)
        part.replace(output)
    except OSError as error:
        part.unlink(missing_ok=True)
        fail(f"The page cannot be written to {output} ({error.strerror}). Name a file in a directory that exists.", 1)

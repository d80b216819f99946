"""``safe-llm policy``: what a policy says, and what it leaves open."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.padding import Padding

from ..errors import ConfigurationError
from ..policy import Policy
from .console import FAILED, MISUSED, AsJSON, as_json, console, count, fail, one_line, plain
from .explaining import Chapter, explained
from .holes import Hole, holes

policy = typer.Typer(no_args_is_help=True)


@policy.callback()
def commands() -> None:
    """Look at a policy before it is in force."""
    # Without a callback, typer would make the only command the whole group and drop its name.


@policy.command()
def check(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A policy, in TOML.")],
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 for notes, too.")] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Only what is left open, not what the policy says.")
    ] = False,
    json: AsJSON = False,
) -> None:
    """Explain a policy in plain sentences, and warn of holes in it.

    A warning is what lets somebody spend without bound, or a rule that cannot do what it was written for. A note is
    what is worth knowing, and may well be meant.

    Exits with 0 where there is no warning; with 1 where there is one; with 2 where the policy is not valid.
    """
    try:
        found = Policy.from_file(file)
        left_open = holes(found)
    except ConfigurationError as error:
        fail(one_line(error), MISUSED)
    chapters = explained(found)
    if json:
        _print_json(file, found, chapters, left_open)
    else:
        _print(file, found, [] if quiet else chapters, left_open)
    if any(strict or hole.level == "warning" for hole in left_open):
        raise typer.Exit(FAILED)


def _print_json(file: str, found: Policy, chapters: list[Chapter], left_open: list[Hole]) -> None:
    levels = {
        f"{level}s": [
            {"rule": hole.rule, "where": hole.where, "message": hole.message}
            for hole in left_open
            if hole.level == level
        ]
        for level in ("warning", "note")
    }
    explanation = [{"title": title, "sentences": sentences} for title, sentences in chapters]
    as_json({"file": file, "policy_version": found.version, "explanation": explanation, **levels})


def _print(file: str, found: Policy, chapters: list[Chapter], left_open: list[Hole]) -> None:
    out = console()
    for title, sentences in chapters:
        out.print(plain(title), style="bold")
        for sentence in sentences:
            out.print(Padding(plain(sentence), (0, 0, 0, 2), expand=False))
        out.print()
    for hole in left_open:
        out.print(f"{hole.level}: {plain(hole.where)}: {plain(hole.message)}", soft_wrap=True)
    warnings = sum(hole.level == "warning" for hole in left_open)
    counted = f"{count(warnings, 'warning')}, {count(len(left_open) - warnings, 'note')}"
    out.print(f"{plain(file)} is valid, version {found.version}: {counted}.", soft_wrap=True)

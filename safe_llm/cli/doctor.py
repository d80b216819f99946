"""``safe-llm doctor``: whether everything that safe_llm rests on is in order here."""

from __future__ import annotations

import typer

from .checkup import Finding, machine
from .console import FAILED, AsJSON, as_json, console, plain, table
from .running import PolicyFile, StoreURL
from .store_checkup import store as look_at_store

_COLOURS = {"ok": "green", "warning": "yellow", "failure": "bold red"}


def doctor(store: StoreURL = None, policy: PolicyFile = None, json: AsJSON = False) -> None:
    """Look at the store, its clock, rank files, prices, the SDK, the deadline, packages and settings.

    Exits with 0 where nothing fails, be there warnings or not; with 1 where something fails.
    """
    findings = [*look_at_store(store), *machine(policy)]
    if json:
        as_json({"findings": [finding._asdict() for finding in findings], "healthy": _healthy(findings)})
    else:
        _print(findings)
    if not _healthy(findings):
        raise typer.Exit(FAILED)


def _healthy(findings: list[Finding]) -> bool:
    return not any(finding.status == "failure" for finding in findings)


def _print(findings: list[Finding]) -> None:
    from rich.text import Text

    rows = table("", "", "found")
    for status, name, found, advice in findings:
        said = Text(plain(found))
        if advice:
            said.append(f"\n→ {plain(advice)}", style="" if status == "ok" else "bold")
        rows.add_row(Text(status, style=_COLOURS[status]), Text(plain(name)), said)
    console().print(rows)

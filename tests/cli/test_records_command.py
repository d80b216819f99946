"""``safe-llm records``: a user's records are handed out whole, erased whole, and nobody else's are touched."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from commands import CALL, in_a_process, invoke, told
from typer.testing import CliRunner

from safe_llm import JSONLinesSink, SafeOpenAI
from safe_llm.cli.app import app
from safe_llm.reports.reading import read
from safe_llm.sinks import SQLiteSink
from safe_llm.testing import FakeOpenAI

POLICY = {"plans": {"default": {"limits": ["2 requests/day", "$1/day"]}}}
"""Two calls reach 100 % of the first: an alert about the user."""


@pytest.fixture(params=[JSONLinesSink, SQLiteSink], ids=["lines", "sqlite"])
def file(request: pytest.FixtureRequest, tmp_path: Path, server: FakeOpenAI) -> str:
    """Records of two calls each of alice, bob and somebody whose name begins like alice's."""
    path = str(tmp_path / "usage")
    options: dict[str, Any] = {"api_key": "none", "base_url": server.base_url, "policy": POLICY}
    with SafeOpenAI(**options, sinks=[request.param(path)]) as client:
        for user in ("alice", "bob", "alice2"):
            for _ in range(2):
                client.chat.completions.create(**CALL, user_id=user)
    return path


def users(path: str) -> list[str]:
    reading = read(path)
    found = [record["user_id"] for record in reading]
    return sorted(found + [str(alert["scope"].get("user")) for alert in reading.alerts])


def test_export_hands_out_what_erase_removes(file: str) -> None:
    before = users(file)
    done = invoke("records", "export", "alice", file)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.exit_code == 0
    assert {row.get("user_id") or row["scope"]["user"] for row in rows} == {"alice"}
    assert sum("record_id" in row for row in rows) == 2
    assert done.stderr == f"alice: {len(rows)} records and alerts.\n"
    assert users(file) == before
    assert told("records", "erase", "alice", file, "--yes") == {"records": 2, "alerts": len(rows) - 2}
    assert users(file) == [user for user in before if user != "alice"]
    assert invoke("records", "export", "alice", file).stdout == ""


def test_erase_asks_with_a_number_and_a_no_erases_nothing(file: str) -> None:
    before = users(file)
    for answer in ("n\n", ""):
        done = CliRunner().invoke(app, ["records", "erase", "alice", file], input=answer)
        assert done.exit_code == 1
        assert "Removed" not in done.stdout
        assert f"Erase {before.count('alice')} records and alerts of alice from {file}?" in done.stderr
        assert users(file) == before
    done = CliRunner().invoke(app, ["records", "erase", "alice", file], input="y\n")
    assert done.exit_code == 0
    assert "Removed 2 records and " in done.stdout
    assert "alice" not in users(file)


def test_erase_without_a_terminal_and_without_yes_erases_nothing(file: str) -> None:
    before = users(file)
    assert in_a_process("records", "erase", "alice", file).returncode == 1
    assert users(file) == before


def test_a_user_without_records_is_no_failure(file: str) -> None:
    assert told("records", "erase", "carol", file, "--yes") == {"records": 0, "alerts": 0}


def test_prune_removes_what_is_old_and_keeps_the_rest(file: str, tmp_path: Path) -> None:
    before = users(file)
    assert told("records", "prune", "--days", "1", file) == {"records": 0, "alerts": 0}
    assert users(file) == before
    old = tmp_path / "old.jsonl"
    row = next(iter(read(file)))
    times = [(datetime.now(UTC) - timedelta(days=days)).isoformat() for days in (91, 89)]
    old.write_text("".join(json.dumps({**row, "timestamp": time}) + "\n" for time in times))
    done = invoke("records", "prune", "--days", "90", str(old))
    assert done.exit_code == 0
    assert done.stdout.startswith("Removed 1 record and no alerts from before ")
    assert [record["timestamp"] for record in read(str(old))] == times[1:]


@pytest.mark.parametrize("command", [["export", "alice"], ["erase", "alice", "--yes"], ["prune", "--days", "9"]])
def test_a_file_that_is_not_there_is_told_in_one_line(tmp_path: Path, command: list[str]) -> None:
    done = invoke("records", *command, str(tmp_path / "none.jsonl"))
    assert (done.exit_code, done.stdout) == (1, "")
    assert "none.jsonl" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("days", ["0", "-1", "x"])
def test_prune_does_not_take_an_age_that_is_none(file: str, days: str) -> None:
    before = users(file)
    assert invoke("records", "prune", f"--days={days}", file).exit_code == 2
    assert users(file) == before

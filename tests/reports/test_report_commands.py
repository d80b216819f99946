"""``safe-llm usage`` and ``safe-llm report``: what they print, write, and exit with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from made_records import HOSTILE, START, alert, denied, record
from typer.testing import CliRunner

from safe_llm.cli.app import app

COMMAND = [sys.executable, "-c", "from safe_llm.cli import main; main()"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(
        tmp_path / "usage.jsonl",
        [
            record(user_id="alice", cost_usd=Decimal("0.1")),
            record(user_id="alice", cost_usd=Decimal("0.2"), feature=None),
            record(user_id="bob", cost_usd=None, model="my-deployment"),
            record(user_id="bob", usage_source="estimated", cost_usd=Decimal(1)),
            denied(user_id="carol"),
            alert(),
        ],
    )


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def rows(output: str) -> list[list[str]]:
    return [line.split() for line in output.splitlines() if line.strip()]


# Usage ----------------------------------------------------------------------------------------------------------------


def test_usage_shows_who_spent_what(path: Path) -> None:
    done = run("usage", path)
    assert done.exit_code == 0
    assert rows(done.stdout)[2:6] == [
        ["bob", "2", "0", "200", "40", "≥", "$1.00"],
        ["alice", "2", "0", "200", "40", "$0.30"],
        ["carol", "1", "1", "0", "0", "$0.00"],
        ["all", "5", "1", "400", "80", "≥", "$1.30"],
    ]
    assert "1 call of unknown price: in no cost above." in done.stdout
    assert "1 call whose usage the provider did not tell: $1.00 of the cost rests on estimates." in done.stdout


def test_dimensions_nest(path: Path) -> None:
    done = run("usage", path, "--by", "user,day")
    assert "\nbob " in done.stdout
    assert "\n  2026-11-02 " in done.stdout


def test_usage_as_json_is_exact_and_nested(path: Path) -> None:
    done = run("usage", path, "--by", "feature,user", "--json")
    found = json.loads(done.stdout)
    assert found["by"] == ["feature", "user"]
    assert found["total"]["cost_usd"] == "1.3"
    assert (found["total"]["unpriced"], found["total"]["denied"], found["skipped_lines"]) == (1, 1, 0)
    inside = {(outer["feature"], inner["user"]): inner for outer in found["groups"] for inner in outer["groups"]}
    assert inside[None, "alice"]["cost_usd"] == "0.2"
    assert inside["chat", "bob"]["cost_usd"] == "1"


def test_top_leaves_the_rest_as_others(path: Path) -> None:
    assert "(2 others)" in run("usage", path, "--top", 1).stdout
    found = json.loads(run("usage", path, "--top", 1, "--json").stdout)
    assert (len(found["groups"]), found["others"]["groups"], found["others"]["calls"]) == (1, 2, 3)


def test_a_table_has_twenty_rows_and_json_has_all(tmp_path: Path) -> None:
    path = write(tmp_path / "usage.jsonl", [record(user_id=f"u{n}") for n in range(30)])
    assert "(10 others)" in run("usage", path).stdout
    assert "others" not in run("usage", path, "--top", 0).stdout
    found = json.loads(run("usage", path, "--json").stdout)
    assert (len(found["groups"]), found["others"]) == (30, None)


def test_names_cannot_paint_or_clear_a_terminal(tmp_path: Path) -> None:
    path = write(tmp_path / "usage.jsonl", [record(user_id=name) for name in HOSTILE])
    done = run("usage", path)
    assert "[red]red[/red] \\x1b[2J\\x07" in done.stdout
    assert not [char for char in done.stdout if not char.isprintable() and char != "\n"]
    found = json.loads(run("usage", path, "--json").stdout)
    assert {group["user"] for group in found["groups"]} == set(HOSTILE)


def test_days_are_those_of_the_time_zone(tmp_path: Path) -> None:
    path = write(tmp_path / "usage.jsonl", [record(START)])
    found = json.loads(run("usage", path, "--by", "day", "--timezone", "America/New_York", "--json").stdout)
    assert [group["day"] for group in found["groups"]] == ["2026-11-01"]
    assert found["timezone"] == "America/New_York"
    assert json.loads(run("usage", path, "--since", "2026-11-03", "--json").stdout)["total"]["calls"] == 0


# Report ---------------------------------------------------------------------------------------------------------------


def test_report_writes_a_page(path: Path, tmp_path: Path) -> None:
    output = tmp_path / "page.html"
    done = run("report", path, "-o", output)
    assert done.exit_code == 0, done.output
    assert "5 calls" in done.stdout
    page = output.read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert page.rstrip().endswith("</html>")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["page.html", "usage.jsonl"]


def test_a_page_is_for_whom_the_user_lets_new_files_be(path: Path, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        assert run("report", path, "-o", tmp_path / "page.html").exit_code == 0
    finally:
        os.umask(before)
    assert (tmp_path / "page.html").stat().st_mode & 0o777 == 0o640


def test_the_records_are_not_overwritten_by_the_page(path: Path) -> None:
    before = path.read_bytes()
    done = run("report", path, "-o", path)
    assert done.exit_code == 2
    assert "would overwrite the records" in done.stderr
    assert path.read_bytes() == before


def test_a_page_that_cannot_be_written_leaves_nothing_behind(path: Path, tmp_path: Path) -> None:
    done = run("report", path, "-o", tmp_path / "nowhere" / "page.html")
    assert done.exit_code == 1
    assert "cannot be written" in done.stderr


@pytest.mark.parametrize("missing", ["jinja2", "plotly"])
def test_without_the_extra_the_report_says_what_to_install(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    done = run("report", path, "-o", tmp_path / "page.html")
    assert done.exit_code == 2
    assert 'pip install "safe-llm[report]"' in done.stderr


# Both -----------------------------------------------------------------------------------------------------------------


def both(*arguments: object) -> list[Any]:
    page = Path(str(arguments[0])).with_suffix(".html")
    return [run("usage", *arguments), run("report", *arguments, "-o", page)]


def test_a_file_that_is_not_there_is_an_error_with_a_message(tmp_path: Path) -> None:
    for done in both(tmp_path / "none.jsonl"):
        assert done.exit_code == 1
        assert "There is no file" in done.stderr
        assert "Traceback" not in done.output


def test_a_file_of_something_else_is_an_error_with_a_message(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("one\ntwo\n")
    for done in both(path):
        assert done.exit_code == 1
        assert "None of the 2 lines can be read as a usage record." in done.stderr
    assert not path.with_suffix(".html").exists()


def test_an_empty_file_is_no_error(tmp_path: Path) -> None:
    for done in both(write(tmp_path / "usage.jsonl", [])):
        assert done.exit_code == 0, done.output


def test_alerts_alone_are_no_error(tmp_path: Path) -> None:
    for done in both(write(tmp_path / "usage.jsonl", [alert()])):
        assert done.exit_code == 0, done.output


def test_a_line_that_cannot_be_read_is_told(path: Path) -> None:
    with path.open("a") as file:
        file.write("{cut\n" + json.dumps(record() | {"cost_usd": "much"}) + "\n")
    assert "2 lines could not be read: in no figure above." in run("usage", path).stdout
    assert json.loads(run("usage", path, "--json").stdout)["skipped_lines"] == 2
    page = path.with_suffix(".html")
    assert run("report", path, "-o", page).exit_code == 0
    assert "2 lines</strong> of the files could not be read as records" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--timezone", "Mars/Olympus"], "There is no time zone 'Mars/Olympus'"),
        (["--since", "2026-11-05", "--until", "2026-11-04"], "lies before"),
        (["--since", "yesterday"], "yesterday"),
    ],
)
def test_a_wrong_option_is_a_usage_error(path: Path, arguments: list[str], says: str) -> None:
    for done in both(path, *arguments):
        assert done.exit_code == 2
        assert says in done.stderr


def test_an_unknown_dimension_is_a_usage_error(path: Path) -> None:
    done = run("usage", path, "--by", "users")
    assert done.exit_code == 2
    assert "user, feature, model, plan, tag, day or tag:NAME" in done.stderr


def test_a_pipe_gets_no_bar_and_no_colour(path: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "usage", str(path)], capture_output=True, encoding="utf-8", timeout=60, check=True,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    )  # fmt: skip
    assert done.stderr == ""
    assert "\x1b" not in done.stdout


def test_what_is_no_regular_file_is_written_to_as_it_is(path: Path) -> None:
    assert run("report", path, "-o", "/dev/null").exit_code == 0
    assert not Path("/dev/null").is_file()

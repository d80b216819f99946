"""What all commands have in common, and that the page about them is true."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
from commands import ROOT, in_a_process, invoke

from safe_llm import JSONLinesSink, Policy, SafeOpenAI
from safe_llm.cli import console
from safe_llm.cli.app import app

PAGE = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")


def commands(group: Any = None, name: str = "") -> dict[str, Any]:
    """Every command by its full name."""
    group = group or typer.main.get_command(app)
    found: dict[str, Any] = {}
    for own, command in group.commands.items():
        full = f"{name} {own}".strip()
        found |= commands(command, full) if hasattr(command, "commands") else {full: command}
    return found


EXAMPLES = [
    line
    for block in re.findall(r"^```sh\n(.*?)^```", PAGE, re.S | re.M)
    for line in block.splitlines()
    if any(line.startswith(f"safe-llm {name}") for name in commands())
]


@pytest.mark.parametrize("name", commands())
def test_the_help_of_each_command_tells_its_exit_codes_and_the_page_tells_of_the_command(name: str) -> None:
    assert "Exits with 0" in " ".join((commands()[name].help or "").split())
    assert f"safe-llm {name}" in PAGE


@pytest.mark.parametrize("name", [name for name in commands() if name not in ("demo", "report", "records export")])
def test_each_command_can_answer_in_json(name: str) -> None:
    assert any("--json" in option.opts for option in commands()[name].params)


def test_the_examples_of_the_page_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, application: SafeOpenAI, sqlite_url: str
) -> None:
    """In the order of the page; without the demonstration, which has tests of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    Path("policy.toml").write_text('[plans.pro]\nlimits = ["$5/day"]\n[features.document_analysis]\n')
    with SafeOpenAI(
        api_key="none",
        base_url=str(application.base_url),
        quota_store="memory://",
        sinks=[JSONLinesSink("usage.jsonl")],
    ) as client:
        client.chat.completions.create(
            model="gpt-4o", messages=[{"role": "user", "content": "Say hello."}], user_id="alice"
        )
    assert len(EXAMPLES) > 15
    for line in EXAMPLES:
        _, *arguments = shlex.split(line.partition(" > ")[0])
        if arguments != ["demo"]:
            done = invoke(*arguments, SAFE_LLM_QUOTA_STORE=sqlite_url, SAFE_LLM_POLICY="policy.toml")
            expected = 1 if "--strict" in arguments else 0
            assert done.exit_code == expected, (line, done.output)


def test_what_the_environment_holds_is_not_in_the_help() -> None:
    for name in commands():
        done = invoke(*name.split(), "--help", SAFE_LLM_QUOTA_STORE="redis://walter:hunter2@host")
        assert done.exit_code == 0
        assert "hunter2" not in done.output


def test_a_mistake_of_our_own_shows_no_password(sqlite_url: str) -> None:
    """A trace that shows local variables would."""
    code = "from safe_llm.cli import running; running.shown_url = None; from safe_llm.cli import main; main()"
    done = in_a_process("limits", "a", "--store", "redis://walter:hunter2@127.0.0.1:1/0", program=code)
    assert done.returncode == 1
    assert "TypeError" in done.stderr
    assert "hunter2" not in done.stdout + done.stderr


def test_an_unknown_command_and_an_unknown_option_are_wrong_use() -> None:
    assert invoke("limitz").exit_code == invoke("limits", "a", "--nope").exit_code == console.MISUSED == 2


def test_a_policy_that_the_check_calls_valid_is_one_for_a_client(tmp_path: Path) -> None:
    """And the reverse: both take the same files."""
    path = tmp_path / "policy.toml"
    path.write_text('[prices.a]\nsame_as = "b"\n[prices.b]\nsame_as = "a"\n')
    Policy.from_file(path)
    with pytest.raises(ValueError, match="circle"):
        SafeOpenAI(api_key="none", policy=path)
    done = invoke("policy", "check", str(path))
    assert done.exit_code == 2
    assert "circle" in done.stderr

"""``safe-llm limits``: what it shows is what the application counts, and it never shows anything else."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from commands import CALL, invoke, told

from safe_llm import SafeOpenAI
from safe_llm.cli.limits import _when
from safe_llm.testing import FakeOpenAI


def test_a_user_sees_what_the_application_has_counted(application: SafeOpenAI, sqlite_url: str) -> None:
    for _ in range(3):
        application.chat.completions.create(**CALL, user_id="alice")
    shown = told("limits", "alice", "--store", sqlite_url)
    counted = application.guard.usage(user_id="alice")
    assert [(row["limit"], row["scope"], str(row["used"])) for row in shown["limits"]] == [
        (status.limit, dict(status.scope), format(status.used, "f") if "$" in status.limit else str(status.used))
        for status in counted
    ]
    requests, *_, money = shown["limits"]
    assert (requests["used"], requests["held"], requests["remaining"]) == (3, 0, 7)
    assert Decimal(money["used"]) > 0
    assert Decimal(money["used"]) + Decimal(money["remaining"]) == 10
    assert isinstance(money["remaining"], str)
    assert "E" not in money["used"]
    assert (shown["plan"], shown["mode"], shown["switches"], shown["unlogged_switches"]) == (
        "default",
        "enforce",
        [],
        0,
    )


def test_another_user_has_used_nothing(application: SafeOpenAI, sqlite_url: str) -> None:
    application.chat.completions.create(**CALL, user_id="alice")
    assert {str(row["used"]) for row in told("limits", "bob", "--store", sqlite_url)["limits"]} == {"0"}


def test_calls_without_a_user_are_those_of_anonymous(application: SafeOpenAI, sqlite_url: str) -> None:
    application.chat.completions.create(**CALL)
    assert told("limits", "anonymous", "--store", sqlite_url)["limits"][0]["used"] == 1


def test_the_table_tells_limits_and_switches_with_who_when_and_why(application: SafeOpenAI, sqlite_url: str) -> None:
    application.chat.completions.create(**CALL, user_id="alice")
    application.guard.switch_off(feature="search", reason="leaks [bold]keys", by="dana")
    application.guard.switch_off(reason="fire", by="erin")
    done = invoke("limits", "alice", SAFE_LLM_QUOTA_STORE=sqlite_url)
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert any("10 requests/minute" in line and "user alice" in line and " 9 " in line for line in lines)
    assert any("$0.50/day" in line and re.search(r"in \d+ (h|min|s)", line) for line in lines)
    assert any("feature 'search'" in line and "dana" in line and "leaks [bold]keys" in line for line in lines)
    assert any("the whole application" in line and "erin" in line and "fire" in line for line in lines)


def test_a_policy_a_plan_and_a_feature_choose_the_limits(sqlite_url: str, tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text(
        'limits = ["$500/day"]\n[plans.pro]\nlimits = ["60 requests/minute per user, model"]\n'
        '[features.docs]\nlimits = ["7 requests/day per user", "2 requests/day per tag:team"]\n'
    )
    options = "--store", sqlite_url, "--policy", str(policy)
    shown = told("limits", "alice", "--plan", "pro", "--feature", "docs", "--tag", "team=a", "--model", "m", *options)
    assert [(row["limit"], row["scope"]) for row in shown["limits"]] == [
        ("$500/day", {}),
        ("60 requests/minute per user, model", {"model": "m", "user": "alice"}),
        ("7 requests/day per user", {"user": "alice"}),
        ("2 requests/day per tag:team", {"tag:team": "a"}),
    ]
    done = invoke("limits", "alice", "--plan", "pro", "--feature", "docs", *options)
    assert "Without --model, a limit per model shows the calls that name none." in done.stdout
    assert "Without --tag team=…" in done.stdout


def test_without_a_plan_it_says_whose_plan_it_took(sqlite_url: str) -> None:
    assert "where plan_for says otherwise, give --plan" in invoke("limits", "a", "--store", sqlite_url).stdout
    assert "give --plan" not in invoke("limits", "a", "--plan", "default", "--store", sqlite_url).stdout


def test_the_limits_of_the_defaults_are_not_taken_for_those_of_a_policy(sqlite_url: str, tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text("")
    assert "No policy is named" in invoke("limits", "a", "--store", sqlite_url).stderr
    assert told("limits", "a", "--store", sqlite_url)["policy"] is None
    assert invoke("limits", "a", "--store", sqlite_url, "--policy", str(policy)).stderr == ""
    assert told("limits", "a", "--store", sqlite_url, "--policy", str(policy))["policy"] == str(policy)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--plan", "defualt"], "did you mean 'default'?"),
        (["--tag", "team"], "NAME=VALUE"),
        (["--feature", " "], "feature must be"),
        (["--policy", "/nowhere.toml"], "cannot be read"),
    ],
)
def test_a_wrong_argument_is_told_in_one_line(sqlite_url: str, arguments: list[str], says: str) -> None:
    done = invoke("limits", "alice", "--store", sqlite_url, *arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("options", [[], ["--store", "memory://"], ["--store", "MEMORY://"]])
@pytest.mark.parametrize("command", [["limits", "alice"], ["switch", "off", "--all"], ["switch", "list"]])
def test_the_memory_of_another_process_cannot_be_seen_and_it_says_so(command: list[str], options: list[str]) -> None:
    done = invoke(*command, *options)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "no other process can look" in done.stderr
    assert "SAFE_LLM_QUOTA_STORE" in done.stderr


@pytest.mark.parametrize("command", [["limits", "alice"], ["switch", "off", "--all"], ["switch", "list"]])
def test_a_mistyped_file_is_no_new_empty_store(tmp_path: Path, command: list[str]) -> None:
    done = invoke(*command, "--store", f"sqlite:///{tmp_path}/quota.db")
    assert (done.exit_code, done.stdout) == (2, "")
    assert f"There is no quota store at '{tmp_path}/quota.db'" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("scheme", ["redis", "postgresql"])
@pytest.mark.parametrize("command", [["limits", "alice"], ["switch", "off", "--all"], ["switch", "list"]])
def test_a_store_that_is_away_fails_without_telling_its_password(command: list[str], scheme: str) -> None:
    done = invoke(*command, "--store", f"{scheme}://walter:hunter2@127.0.0.1:1/0")
    assert (done.exit_code, done.stdout) == (1, "")
    assert f"{scheme}://127.0.0.1:1/0 cannot be used" in done.stderr
    assert "hunter2" not in done.output
    assert "walter" not in done.output


def test_a_wrong_url_is_wrong_use_and_its_password_is_not_shown(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("a text" * 1000)
    for url in ("redix://:hunter2@host", "redis://:hun/ter2@host", "nonsense", f"sqlite:///{tmp_path}/text.db"):
        done = invoke("limits", "alice", "--store", url)
        assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert "ter2" not in done.stderr


def test_a_user_whom_nothing_limits_is_told_so(sqlite_url: str, tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text("[plans.default]\n")
    shown = invoke("limits", "alice", "--store", sqlite_url, "--policy", str(policy)).stdout
    assert "No limit holds for this user." in shown


def test_a_policy_that_goes_on_without_its_store_shows_no_made_up_figures(tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text('on_store_error = "allow"\n')
    done = invoke("limits", "alice", "--store", "redis://127.0.0.1:1/0", "--policy", str(policy))
    assert (done.exit_code, done.stdout) == (1, "")


def test_names_from_outside_cannot_do_anything_to_a_terminal(application: SafeOpenAI, sqlite_url: str) -> None:
    application.guard.switch_off(feature="x", reason="\x1b[2Jgone\nand [red]more", by="\u202eevil")
    shown = invoke("limits", "alice", "--store", sqlite_url).stdout
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert "\\x1b[2Jgone\\nand [red]more" in shown


def test_shadow_mode_is_told(sqlite_url: str, tmp_path: Path, server: FakeOpenAI) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text('mode = "shadow"\n')
    options = "--store", sqlite_url, "--policy", str(policy)
    assert "stops nothing" in invoke("limits", "alice", *options).stdout
    assert told("limits", "alice", *options)["mode"] == "shadow"
    assert server.count == 0


@pytest.mark.parametrize(
    ("seconds", "says"),
    [
        (0, "now"),
        (0.6, "in 1 s"),
        (119, "in 119 s"),
        (120, "in 2 min, 26 Nov 13:02"),
        (7_199, "in 119 min, 26 Nov 14:59"),
        (7_200, "in 2 h, 26 Nov 15:00"),
        (2 * 86_400, "in 2 d, 28 Nov 13:00"),
        (None, "as calls end"),
    ],
)
def test_when_a_limit_is_free_again_is_told_in_the_policys_zone(seconds: float | None, says: str) -> None:
    now = datetime(2026, 11, 26, 12, tzinfo=UTC)
    at = None if seconds is None else now + timedelta(seconds=seconds)
    assert _when(at, now, ZoneInfo("Europe/Berlin")) == says

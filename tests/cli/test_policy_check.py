"""``safe-llm policy check``: what it says of a policy holds, and each hole is found where it is and nowhere else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from commands import invoke

from safe_llm import Policy
from safe_llm.cli.explaining import CHECKS, explained
from safe_llm.cli.holes import holes

SOUND = """
[identity]
required = true
"""
"""Nothing is left open by it: the defaults are the safe ones."""


def written(folder: Path, text: str) -> str:
    path = folder / "policy.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def found(**values: Any) -> set[tuple[str, str, str]]:
    """What a policy leaves open beside the defaults."""
    usual = {hole for hole in holes(Policy()) if hole.rule == "anonymous_allowed"}
    return {(hole.level, hole.rule, hole.where) for hole in holes(Policy(**values)) if hole not in usual}


PLAN = {"limits": ["10 requests/minute", "$1/day"]}


@pytest.mark.parametrize(
    ("values", "level", "rule", "where"),
    [
        ({"mode": "shadow"}, "warning", "shadow_mode", "mode"),
        ({"on_store_error": "allow"}, "warning", "store_error_allows", "on_store_error"),
        ({"alert_at_percent": []}, "note", "no_alerts", "alert_at_percent"),
        ({"breaker": {"failures": "off"}}, "note", "breaker_off", "breaker.failures"),
        ({"routes": {"allow": ["*"]}}, "warning", "all_routes_open", "routes.allow"),
        ({"routes": {"allow": ["POST /batches"]}}, "note", "routes_open", "routes.allow"),
        (
            {"routes": {"hosted_tools": {"*": {"fee": "$1"}}}},
            "warning",
            "hosted_tool_unbounded",
            "routes.hosted_tools.*",
        ),
        ({"routes": {"hosted_tools": {"t": {}}}}, "warning", "hosted_tool_unbounded", "routes.hosted_tools.t"),
        ({"plans": {"free": {}}}, "warning", "no_limits", "plans.free.limits"),
        ({"plans": {"free": {"limits": ["9 requests/day"]}}}, "warning", "no_money_limit", "plans.free.limits"),
        ({"plans": {"free": {"limits": ["$9/day per app"]}}}, "warning", "no_user_limit", "plans.free.limits"),
        (
            {"plans": {"free": {"limits": ["$9/day per app", "9 requests/day"]}}},
            "note",
            "no_user_money_limit",
            "plans.free.limits",
        ),
        ({"limits": ["$0/day"]}, "note", "zero_limit", "limits"),
        ({"features": {"f": {"limits": ["0 requests/day"]}}}, "note", "zero_limit", "features.f.limits"),
        ({"plans": {"pro": {**PLAN, "features": ["docs"]}}}, "note", "feature_without_section", "plans.pro.features"),
        ({"time": {"deadline_seconds": "off"}}, "warning", "deadline_off", "time.deadline_seconds"),
        (
            {"features": {"f": {"time": {"deadline_seconds": "off"}}}},
            "warning",
            "deadline_off",
            "features.f.time.deadline_seconds",
        ),
        ({"output": {"default_max_tokens": "off"}}, "warning", "cap_off", "output.default_max_tokens"),
        (
            {"plans": {"pro": {**PLAN, "output": {"default_max_tokens": "off"}}}},
            "warning",
            "cap_off",
            "plans.pro.output.default_max_tokens",
        ),
        ({"checks": {"on_error": "allow"}}, "warning", "check_error_allows", "checks.on_error"),
        ({"output": {"on_budget": "downgrade"}}, "warning", "downgrade_to_nothing", "output.downgrade"),
        (
            {"output": {"on_budget": "downgrade", "downgrade": {"gpt-4o-mini": "gpt-4o"}}},
            "warning",
            "downgrade_is_dearer",
            "output.downgrade",
        ),
        (
            {"output": {"on_budget": "downgrade", "downgrade": {"gpt-4o": "nobody-knows"}}},
            "warning",
            "unpriced_model",
            "output.downgrade",
        ),
        ({"plans": {"pro": {**PLAN, "models": ["nobody-knows"]}}}, "warning", "unpriced_model", "plans.pro.models"),
        ({"prices": {"mine": {"same_as": "nobody-knows"}}}, "warning", "unpriced_model", "prices.mine.same_as"),
        *(({"checks": {name: "off"}}, "warning", "check_off", f"checks.{name}") for name in CHECKS),
    ],
)
def test_each_hole_is_found_where_it_is_and_nothing_else(
    values: dict[str, Any], level: str, rule: str, where: str
) -> None:
    assert found(**values) == {(level, rule, where)}


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"limits": ["$500/day"], "plans": {"free": {"limits": ["9 requests/day"]}}},
        {"plans": {"pro": {**PLAN, "models": ["gpt-4o*", "gpt-4o"]}}},
        {"plans": {"pro": {**PLAN, "models": ["mine"]}}, "prices": {"mine": {"same_as": "gpt-4o"}}},
        {"routes": {"hosted_tools": {"web_search": {"reserve_tokens": 20_000, "fee": "$0.01"}}}},
        {"output": {"on_budget": "downgrade", "downgrade": {"gpt-4o": "gpt-4o-mini"}}},
        {"output": {"on_budget": "shrink"}},
    ],
)
def test_what_is_sound_is_not_complained_of(values: dict[str, Any]) -> None:
    assert {hole for hole in found(**values) if hole[0] == "warning"} == set()


def test_a_section_that_no_plan_includes_and_a_misspelled_feature_are_found() -> None:
    values = {
        "plans": {"default": {**PLAN, "features": ["chat_suport"]}},
        "features": {"chat_support": {}},
    }
    assert found(**values) == {
        ("warning", "feature_in_no_plan", "features.chat_support"),
        ("warning", "feature_misspelled", "plans.default.features"),
    }


def test_features_of_similar_names_are_no_slip() -> None:
    values = {
        "plans": {"default": {**PLAN, "features": ["doc_search", "doc_summary"]}},
        "features": {"doc_search": {}},
    }
    assert found(**values) == {("note", "feature_without_section", "plans.default.features")}


def test_what_can_be_turned_off_is_a_check_and_nothing_else_is() -> None:
    assert {"injection", "role_markers", "hidden_text", "prompt_leak", "secrets", "links", "tool_calls"} <= set(CHECKS)
    assert not {"allowed_hosts", "on_error"} & set(CHECKS)


# What it says ---------------------------------------------------------------------------------------------------------


def said(**values: Any) -> dict[str, str]:
    return {title: "\n".join(sentences) for title, sentences in explained(Policy(**values))}


def test_the_defaults_are_told_in_sentences() -> None:
    chapters = said()
    assert list(chapters) == ["The application", "Plan default, the default"]
    plan = chapters["Plan default, the default"]
    assert (
        "Each user: at most 10 requests/minute, 100 requests/day, 50_000 tokens/day, $0.50/day and $10/month." in plan
    )
    assert "A user message may have 4,000 characters, a request 8,000 tokens" in plan
    assert "An answer may have 1,000 tokens, or as many as the call asks for, up to 4,000." in plan
    assert "A call ends within 30 s" in plan
    assert "Without the quota store, calls are denied." in chapters["The application"]


def test_a_plan_and_a_feature_tell_what_they_change() -> None:
    chapters = said(
        limits=["$500/day"],
        plans={
            "default": PLAN,
            "pro": {
                "limits": ["4 concurrent", "$9/month per app"],
                "output": {"max_tokens": 8_000},
                "features": ["docs"],
            },
        },
        features={
            "docs": {"limits": ["$50/day", "5 requests/minute per user"], "input": {"max_message_chars": 60_000}},
            "plain": {},
        },
    )
    assert "All calls together: at most $500/day." in chapters["The application"]
    assert "Each user: at most 4 concurrent.\nThe plan's users together: at most $9/month." in chapters["Plan pro"]
    assert "up to 8,000" in chapters["Plan pro"]
    assert "May use docs, or name no feature." in chapters["Plan pro"]
    docs = chapters["Feature docs"]
    assert "All its calls together: at most $50/day.\nEach user: at most 5 requests/minute." in docs
    assert "60,000 characters" in docs
    assert "An answer may" not in docs
    assert chapters["Feature plain"] == "Belongs to plan default.\nHas no rules of its own."


def test_what_is_off_or_open_is_told_too() -> None:
    chapters = said(
        mode="shadow",
        on_store_error="allow",
        timezone="Europe/Berlin",
        alert_at_percent=[],
        identity={"verified": True},
        breaker={"failures": "off"},
        output={"default_max_tokens": "off", "on_budget": "downgrade", "downgrade": {"gpt-4o": "gpt-4o-mini"}},
        time={"deadline_seconds": "off"},
        checks={"links": "off", "on_error": "allow", "allowed_hosts": ["example.org"]},
        routes={"allow": ["POST /batches"], "hosted_tools": {"web_search": {"reserve_tokens": 20_000, "fee": "$0.01"}}},
        features={"f": {"output": {"on_budget": "shrink"}}},
        plans={"default": {"features": ["x"]}},
    )
    everything = "\n".join(chapters.values())
    for words in (
        "Shadow mode",
        "Europe/Berlin",
        "No limit raises an alert.",
        "verified token",
        "each process counts its own",
        "sent all the same",
        "Open without a guard: POST /batches.",
        "web_search is allowed; reserved are 20,000 tokens and $0.01",
        "has none; one that is named is lowered to 4,000",
        "cheaper models answer: gpt-4o to gpt-4o-mini",
        "A call has no deadline.",
        "Not looked for: links.",
        "Links to example.org are no finding.",
        "A check that fails lets the call pass.",
        "The plan itself sets no limit.",
        "Belongs to no plan: nobody may use it.",
    ):
        assert words in everything
    assert "Routes that are not guarded are open, all of them" in said(routes={"allow": ["*"]})["The application"]
    assert "must name its user" in said(identity={"required": True})["The application"]


# The command ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "options", "code"),
    [
        (SOUND, [], 0),
        (SOUND, ["--strict"], 0),
        ("", [], 0),
        ("", ["--strict"], 1),
        ('mode = "shadow"', [], 1),
        ("plns = {}", [], 2),
        ("mode = [", [], 2),
        ('[prices.a]\nsame_as = "b"\n[prices.b]\nsame_as = "a"', [], 2),
    ],
)
def test_the_exit_code_tells_fine_warned_and_invalid_apart(
    tmp_path: Path, text: str, options: list[str], code: int
) -> None:
    done = invoke("policy", "check", written(tmp_path, text), *options)
    assert done.exit_code == code
    assert (done.stdout == "") is (code == 2)
    assert done.stderr.count("\n") == (code == 2)


def test_an_invalid_policy_is_told_with_the_nearest_right_key(tmp_path: Path) -> None:
    assert "did you mean 'plans'?" in invoke("policy", "check", written(tmp_path, "plns = {}")).stderr
    missing = invoke("policy", "check", str(tmp_path / "none.toml"))
    assert missing.exit_code == 2
    assert "No such file" in missing.stderr


def test_json_has_the_same_as_the_sentences(tmp_path: Path) -> None:
    file = written(tmp_path, 'mode = "shadow"\n')
    done = invoke("policy", "check", file, "--json")
    assert done.exit_code == 1
    told = json.loads(done.stdout)
    policy = Policy.from_file(file)
    assert told["policy_version"] == policy.version
    assert [(part["title"], part["sentences"]) for part in told["explanation"]] == [tuple(c) for c in explained(policy)]
    assert [hole["rule"] for hole in told["warnings"]] == ["shadow_mode"]
    assert [hole["rule"] for hole in told["notes"]] == ["anonymous_allowed"]


def test_quiet_tells_only_what_is_left_open(tmp_path: Path) -> None:
    done = invoke("policy", "check", "-q", written(tmp_path, 'mode = "shadow"\n'))
    first, second, last = done.stdout.splitlines()
    assert first.startswith("warning: mode:")
    assert second.startswith("note: identity.required:")
    assert last.endswith("1 warning, 1 note.")

"""``safe-llm simulate``: what another policy would have done, told in figures that can be checked by hand."""

from __future__ import annotations

import json
import random
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from benchmarks.traffic import World, traffic
from safe_llm import JSONLinesSink, Policy, RateLimitExceededError, SafeOpenAI
from safe_llm.cli.app import app
from safe_llm.reports import recorded as recorded_module
from safe_llm.reports.recorded import InOrder, Recorded, recorded
from safe_llm.reports.simulating import Simulation
from safe_llm.reports.suggesting import Suggesting
from safe_llm.testing import FakeOpenAI

START = datetime(2027, 1, 15, 8, tzinfo=UTC)
_numbers: Iterator[int] = iter(range(10**9))


def row(after: float = 0.0, **fields: Any) -> dict[str, Any]:
    """A record, by its JSON names, of a call that began so many seconds after 08:00 and took two."""
    return {
        "record_id": f"r{next(_numbers)}",
        "timestamp": (START + timedelta(seconds=after)).isoformat(),
        "user_id": "u1",
        "plan": "default",
        "endpoint": "chat.completions",
        "model": "gpt-4o-mini",
        "outcome": "ok",
        "attempts": 1,
        "usage_source": "provider",
        "input_tokens_estimated": 100,
        "output_tokens_estimated": 1_000,
        "input_tokens": 80,
        "output_tokens": 20,
        "total_tokens": 100,
        "cost_reserved_usd": "0.10",
        "cost_usd": "0.01",
        "latency_ms": 2_000,
        "reserved_ms": 1,
        **fields,
    }


def denied(code: str, after: float = 0.0, limit: str | None = None, **fields: Any) -> dict[str, Any]:
    """A record of a call that was denied."""
    gone = {"attempts": 0, "usage_source": "none", "input_tokens": 0, "output_tokens": 0, "total_tokens": 0}
    denial = {"code": code, "limit": limit, "scope": {"user": "u1"}, "retry_after": None}
    return row(after, **{**gone, "outcome": "denied", "denial": denial, "cost_usd": "0", "latency_ms": 0, **fields})


def simulated(rows: Sequence[dict[str, Any]], *limits: str, **policy: Any) -> Simulation:
    simulation = Simulation(Policy(**{"plans": {"default": {"limits": list(limits)}}, **policy}))
    simulation.read(rows)
    for _ in simulation.decide():
        pass
    return simulation


# Deciding -------------------------------------------------------------------------------------------------------------


def test_a_stricter_limit_denies_those_that_come_after_it_is_used_up_and_saves_their_cost() -> None:
    rows = [row(10 * n, cost_usd=f"0.0{n + 1}") for n in range(5)]
    told = simulated(rows, "3 requests/day").as_json()
    assert told["recorded"] == {"denied": 0, "cost_usd": "0.15"}
    assert told["simulated"] == {"denied": 2, "cost_usd": "0.06"}
    assert told["by_rule"] == [
        {
            "rule": "3 requests/day (plan:default)",
            "calls": 2,
            "users": 1,
            "saved_usd": "0.09",
            "first": "2027-01-15T08:00:30.001000Z",
            "last": "2027-01-15T08:00:40.001000Z",
            "rules": {"3 requests/day (plan:default)": 2},
        }
    ]
    assert [(change["record_id"], change["simulated"]["limit"]) for change in told["changes"]] == [
        (rows[3]["record_id"], "3 requests/day"),
        (rows[4]["record_id"], "3 requests/day"),
    ]


def test_what_runs_at_once_is_held_at_its_bound_and_what_is_over_counts_at_what_it_used() -> None:
    """A bound of $0.10, a cost of $0.01: under $0.15, two at once do not fit; one after the other, many do."""
    assert simulated([row(10 * n) for n in range(6)], "$0.15/day").denied == 0
    assert simulated([row(0.1 * n) for n in range(6)], "$0.15/day").denied == 5


@pytest.mark.parametrize(("gap", "fit"), [(0.5, 2), (1.0, 3), (1.9, 3), (2.5, 6)])
def test_calls_in_flight_are_those_that_had_not_ended(gap: float, fit: int) -> None:
    """Each takes two seconds, and one may be in flight."""
    simulation = simulated([row(gap * n) for n in range(6)], "1 concurrent")
    assert simulation.calls - simulation.denied == fit


def test_records_are_put_in_the_order_in_which_calls_began_whatever_the_order_of_files() -> None:
    rows = [row(n, user_id=f"u{n % 2}", cost_usd=f"0.0{n}") for n in range(8)]
    random.Random(1).shuffle(rows)
    simulation = simulated(rows, "3 requests/day per app")
    kept = sorted(r["timestamp"] for r in rows)[:3]
    assert sorted(r["timestamp"] for r in rows if r["record_id"] not in {c.call.id for c in simulation.changes}) == kept


def test_a_denial_by_a_limit_that_is_gone_is_let_through_and_charged_at_its_bound() -> None:
    rows = [row(0), denied("rate_limit_exceeded", 10, "1 requests/day"), row(20)]
    told = simulated(rows, "$0.20/day").as_json()
    assert told["newly_admitted"] == {"calls": 1, "most_usd": "0.1"}
    assert told["simulated"] == {"denied": 1, "cost_usd": "0.11"}, "it leaves too little for the next"


@pytest.mark.parametrize(
    "code", ["message_too_long", "injection_detected", "switched_off", "route_blocked", "plan_unknown"]
)
def test_a_denial_that_no_record_can_explain_stays(code: str) -> None:
    simulation = simulated([denied(code, reserved_ms=None), row(10)], "1 requests/day")
    assert (simulation.denied, simulation.kept, simulation.changed) == (1, {code: 1}, 0)


def test_plans_decide_about_features_and_models_anew() -> None:
    plans = {"default": {"features": ["chat"], "models": ["gpt-4o*"], "limits": []}}
    rows = [row(feature="chat"), row(feature="search"), row(feature="chat", model="gpt-5"), row(feature=None)]
    simulation = simulated(rows, plans=plans)
    assert simulation.newly_denied.rules == {"feature_not_allowed": 1, "model_not_allowed": 1}
    was_denied = denied("feature_not_allowed", reserved_ms=None, feature="chat", cost_reserved_usd=None)
    simulation = simulated([was_denied], "$1/day")
    assert (simulation.newly_admitted, simulation.of_unknown_size, simulation.denied) == (1, 1, 0)


def test_a_plan_that_is_gone_denies_and_a_call_without_a_plan_has_the_default_one() -> None:
    assert simulated([row(plan="gold")]).newly_denied.rules == {"plan_unknown": 1}
    assert simulated([row(plan=None), row(9, plan=None)], "1 requests/day").denied == 1


def test_a_user_can_be_demanded() -> None:
    rows = [row(user_id="anonymous"), row()]
    assert simulated(rows, identity={"required": True}).newly_denied.rules == {"not_authenticated": 1}


def test_a_model_whose_price_is_not_known_is_denied_under_money_unless_the_policy_names_one() -> None:
    rows = [row(model="our-own", cost_reserved_usd=None, cost_usd=None)]
    assert simulated(rows, "$1/day").newly_denied.rules == {"$1/day (plan:default)": 1}
    assert simulated(rows, "1 requests/day").denied == 0
    prices = {"our-own": {"input": "1000", "output": "10000"}}
    priced = simulated(rows, "$100/day", prices=prices)
    assert (priced.denied, priced.would_spend) == (0, 80 * 1_000_000 + 20 * 10_000_000)
    assert simulated(rows, "$10/day", prices=prices).denied == 1, "its bound is $10.10"


def test_recorded_costs_stand_unless_the_policy_prices_the_model_anew() -> None:
    prices = {"other": {"input": "1", "output": "1"}}
    assert simulated([row(price_version="older")], "$1/day", prices=prices).would_spend == 10_000_000
    prices = {"gpt-4o-mini": {"input": "0", "output": "0"}}
    assert simulated([row()], "$1/day", prices=prices).would_spend == 0


def test_a_bound_that_is_too_large_is_tried_again_at_what_the_input_really_was() -> None:
    rows = [row(10 * n, input_tokens_estimated=5_000) for n in range(2)]
    assert simulated(rows, "1_200 tokens/day").denied == 0
    assert simulated(rows, "1_000 tokens/day").denied == 2


def test_in_shadow_mode_what_was_sent_counts_as_sent_and_saves_what_it_cost() -> None:
    denial = {"code": "rate_limit_exceeded", "limit": "1 requests/day", "scope": {"user": "u1"}}
    rows = [row(0), row(10, denial=denial), row(20, denial=denial)]
    simulation = simulated(rows, "2 requests/day")
    assert (simulation.recorded_denied, simulation.denied, simulation.saved) == (0, 1, 10_000_000)


def test_windows_are_those_of_the_policy_s_time_zone() -> None:
    """08:00 UTC is midnight in Los Angeles."""
    rows = [row(-60), row(60)]
    assert simulated(rows, "1 requests/day").denied == 1
    assert simulated(rows, "1 requests/day", timezone="America/Los_Angeles").denied == 0


def test_a_record_of_an_older_version_is_reserved_at_the_cap_it_sent() -> None:
    old = {
        name: value
        for name, value in row(max_tokens=700).items()
        if name not in ("reserved_ms", "output_tokens_estimated")
    }
    assert simulated([old], "800 tokens/day").denied == 0
    assert simulated([old], "779 tokens/day").denied == 1, "80 of input, for that is what it was, and 700"


def test_what_did_not_get_to_the_limits_uses_nothing() -> None:
    broken = row(0, outcome="error", error="RuntimeError", attempts=0, reserved_ms=None, cost_usd="0", input_tokens=0)
    assert simulated([broken, row(10)], "1 requests/day").denied == 0


def test_lines_that_are_no_call_are_counted_and_left_out() -> None:
    rows = [row(), row(outcome="exploded"), row(timestamp="yesterday"), row(latency_ms="long")]
    simulation = simulated(rows)
    assert (simulation.calls, simulation.unreadable) == (1, 3)


def test_no_records_are_no_error() -> None:
    assert simulated([]).as_json()["first"] is None


# Order and memory -----------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 500), max_size=60))
def test_sorting_in_files_and_in_memory_comes_to_the_same(seconds: list[int]) -> None:
    before = recorded_module._RUN, recorded_module._CHUNK
    try:
        recorded_module._RUN, recorded_module._CHUNK = 7, 3
        calls = InOrder()
        for number, second in enumerate(seconds):
            call = recorded(row(second, tags={"team": "red"}), number)
            assert call is not None
            calls.add(call)
        found = list(calls)
    finally:
        recorded_module._RUN, recorded_module._CHUNK = before
    assert len(calls) == len(found) == len(seconds)
    assert [call.begin for call in found] == sorted(call.begin for call in found)
    assert all(isinstance(call, Recorded) and call.tags == (("team", "red"),) for call in found)


# Suggesting -----------------------------------------------------------------------------------------------------------


def test_suggestions_are_percentiles_of_what_users_used_in_a_day_rounded_up() -> None:
    rows = [row(86_400 * day, user_id=f"u{user}", cost_usd=f"{user}.001") for user in range(1, 101) for day in range(2)]
    told = simulated(rows).as_json()["suggestions"]
    by = {(one["metric"], one["window"]): (one["seen"], one["limits"]) for one in told}
    assert by["money", "day"] == (200, {"p95": "$96/day", "p99": "$100/day"})
    assert by["tokens", "day"] == (200, {"p95": "100 tokens/day", "p99": "100 tokens/day"})
    assert by["requests", "minute"] == (200, {"p95": "1 requests/minute", "p99": "1 requests/minute"})


def test_a_suggested_limit_denies_about_as_many_as_its_percentile_says() -> None:
    world = World(records=6_000, users=200, days=10, seed=2, abuser=None)
    rows = list(traffic(world))
    found = simulated(rows, plans={"free": {}, "pro": {}, "team": {}}, default_plan="free").suggestions()
    plans = {
        plan: {"limits": [one.sentence(95) for one in found if one.plan == plan and one.metric == "requests"]}
        for plan in ("free", "pro", "team")
    }
    simulation = simulated(rows, plans=plans, default_plan="free")
    assert 0 < simulation.newly_denied.calls < 0.12 * simulation.calls


@given(st.lists(st.integers(1, 10**12), min_size=1, max_size=200), st.floats(0, 100))
def test_a_suggestion_holds_for_at_least_its_share_and_is_hardly_more_than_needed(amounts: list[int], p: float) -> None:
    suggesting = Suggesting(Policy().calendar, [p])
    for number, nano in enumerate(amounts):
        money = Decimal(nano) / 10**9
        call = recorded(row(user_id=f"u{number}", cost_usd=f"{money:f}"), number)
        assert call is not None
        suggesting.add(call)
    at = next(one for one in suggesting.suggestions() if one.metric == "money").amounts[p]
    within = sum(amount <= at for amount in amounts)
    assert within >= p / 100 * len(amounts)
    assert any(amount <= at < 1.1 * amount + 1 for amount in amounts)


# The command ----------------------------------------------------------------------------------------------------------

POLICY = """
[plans.default]
limits = ["3 requests/day", "$1/day"]
"""


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "policy.toml"
    path.write_text(POLICY)
    return path


def run(*arguments: Any) -> Any:
    return CliRunner().invoke(app, ["simulate", *map(str, arguments)])


def written(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return path


def test_the_command_tells_that_the_policy_in_force_changes_nothing(
    server: FakeOpenAI, tmp_path: Path, policy: Path
) -> None:
    path = tmp_path / "usage.jsonl"
    with SafeOpenAI(base_url=server.base_url, api_key="test", policy=policy, sinks=[JSONLinesSink(path)]) as client:
        for _ in range(5):
            with suppress(RateLimitExceededError):
                client.chat.completions.create(
                    model="gpt-4o-mini", messages=[{"role": "user", "content": "Hello"}], user_id="u1"
                )
    ended = run("--policy", policy, "--json", path)
    assert ended.exit_code == 0
    told = json.loads(ended.stdout)
    assert told["same_policy"] == {"calls": 5, "differing": 0}
    assert (told["recorded"]["denied"], told["simulated"]["denied"], told["changes"]) == (2, 2, [])


def test_the_command_shows_tables_that_can_do_nothing_but_be_read(tmp_path: Path, policy: Path) -> None:
    path = written(tmp_path / "a.jsonl", [row(n, user_id="[red]eve\x1b[2J") for n in range(6)])
    ended = run("--policy", policy, path)
    assert ended.exit_code == 0
    assert "\x1b" not in ended.stdout
    assert "[red]eve\\x1b[2J" in ended.stdout
    assert "3 requests/day (plan:default)" in ended.stdout
    assert "-$0.03" in ended.stdout


def test_percentiles_can_be_chosen_and_suggestions_are_limits_that_a_policy_takes(tmp_path: Path, policy: Path) -> None:
    path = written(tmp_path / "a.jsonl", [row(n, user_id=f"u{n % 3}") for n in range(9)])
    ended = run("--policy", policy, "--percentile", 50, "--percentile", 99.9, "--json", path)
    sentences = [one for each in json.loads(ended.stdout)["suggestions"] for one in each["limits"].items()]
    assert {name for name, _ in sentences} == {"p50", "p99.9"}
    for _, sentence in sentences:
        Policy(**tomllib.loads(f'[plans.default]\nlimits = ["{sentence}"]'))


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--policy", "missing.toml", "usage.jsonl"], 2, "missing.toml"),
        (["--policy", "wrong.toml", "usage.jsonl"], 2, "limit"),
        (["--policy", "policy.toml", "missing.jsonl"], 1, "missing.jsonl"),
        (["--policy", "policy.toml", "wrong.toml"], 1, "can be read as a usage record"),
        (["usage.jsonl"], 2, "--policy"),
        (["--policy", "policy.toml", "--percentile", "101", "usage.jsonl"], 2, "percentile"),
    ],
)
def test_what_is_wrong_is_told_by_the_exit_code_and_in_words(
    tmp_path: Path, policy: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "usage.jsonl", [row()])
    (tmp_path / "wrong.toml").write_text('[plans.default]\nlimits = ["many requests/day"]\n')
    ended = run(*arguments)
    assert ended.exit_code == code
    assert said in ended.stderr.replace("\n", " ")


def test_an_empty_file_is_no_error(tmp_path: Path, policy: Path) -> None:
    ended = run("--policy", policy, written(tmp_path / "empty.jsonl", []))
    assert (ended.exit_code, ended.stdout.strip()) == (0, "There are no records.")

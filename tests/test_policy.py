"""The policy: what its TOML says, what its defaults are, and what is wrong with a wrong one."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from safe_llm.errors import ConfigurationError
from safe_llm.policy import HostedTool, Policy, Rules

DEFAULTS = """
mode = "enforce"
timezone = "UTC"
default_plan = "default"
limits = []
alert_at_percent = [80, 100]
on_store_error = "deny"

[identity]
required = false
verified = false
send_safety_identifier = false
plan_seconds = 60

[breaker]
failures = 10
seconds = 30

[input]
max_message_chars = 4_000
max_turns = 10
max_context_tokens = 8_000
max_images = 4
max_request_bytes = 1_048_576
max_inline_bytes = 8_388_608
overflow = "trim"

[output]
default_max_tokens = 1_000
max_tokens = 4_000
on_budget = "deny"
min_tokens = 64
downgrade = {}

[time]
deadline_seconds = 30

[checks]
injection = "flag"
role_markers = "deny"
hidden_text = "deny"
prompt_leak = "deny"
secrets = "redact"
links = "flag"
allowed_hosts = []
tool_calls = "flag"
on_error = "deny"

[plans.default]
features = ["*"]
limits = ["10 requests/minute", "100 requests/day", "50_000 tokens/day", "$0.50/day", "$10/month"]

[routes]
allow = []
hosted_tools = {}
"""
"""The checklist's numbers, as the documentation writes them."""

EVERY_KEY = """
mode = "shadow"
timezone = "Europe/Berlin"
default_plan = "free"
limits = ["$500/day", "100 concurrent per app", "1_000 requests/minute per tag:team, model"]
alert_at_percent = [50, 80, 100]
on_store_error = "allow"

[identity]
required = true
verified = true
send_safety_identifier = true
plan_seconds = 5

[breaker]
failures = "off"
seconds = 5

[input]
max_message_chars = 4_001
max_turns = 11
max_context_tokens = 8_001
max_images = 0
max_request_bytes = 1_048_577
max_inline_bytes = 8_388_609
overflow = "deny"

[output]
default_max_tokens = "off"
max_tokens = 4_001
on_budget = "downgrade"
min_tokens = 65
downgrade = { "gpt-4o" = "gpt-4o-mini" }

[time]
deadline_seconds = "off"

[checks]
injection = "deny"
role_markers = "flag"
hidden_text = "off"
prompt_leak = "redact"
secrets = "off"
links = "deny"
allowed_hosts = ["example.com"]
tool_calls = "redact"
on_error = "allow"

[plans.free]
limits = ["0 requests/day"]

[plans.pro]
features = ["chat_support", "document_analysis", "code_review"]
models = ["gpt-4o", "gpt-4o-mini", "o4*"]
limits = ["60 requests/minute", "1_000_000 tokens/day", "$5/day", "$100/month", "4 concurrent"]
input = { max_turns = 20 }
output = { max_tokens = 8_000 }
time = { deadline_seconds = 60.5 }
checks = { injection = "off" }

[features.document_analysis]
limits = ["$50/day", "5 requests/minute per user"]
input = { max_message_chars = 60_000, max_context_tokens = 32_000 }
output = { default_max_tokens = 2_000 }
time = { deadline_seconds = 120 }
checks = { links = "off" }

[routes]
allow = ["POST /batches", "*"]
hosted_tools = { web_search = { reserve_tokens = 20_000, fee = "$0.01" }, "*" = {} }

[prices."my-azure-deployment"]
input = "2.50"
cached_input = "1.25"
output = "10.00"

[prices.another]
same_as = "gpt-4o"
"""


def policy(toml: str) -> Policy:
    return Policy(**tomllib.loads(toml))


def keys(model: type[BaseModel]) -> set[str]:
    return set(model.model_fields)


# Reading --------------------------------------------------------------------------------------------------------------


def test_the_defaults_are_the_checklists_numbers() -> None:
    assert Policy().model_dump() == policy(DEFAULTS).model_dump()
    assert Policy().rules("default", None) == policy(DEFAULTS).rules("default", None)
    assert keys(Policy) - tomllib.loads(DEFAULTS).keys() == {"features", "prices"}


@pytest.mark.parametrize("section", ["identity", "input", "output", "time", "checks", "routes"])
def test_the_defaults_are_written_out_in_full(section: str) -> None:
    assert keys(type(getattr(Policy(), section))) == tomllib.loads(DEFAULTS)[section].keys()


def test_every_key_loads_and_keeps_its_value() -> None:
    values, loaded = tomllib.loads(EVERY_KEY), json.loads(policy(EVERY_KEY).model_dump_json(exclude_unset=True))
    assert values.keys() == keys(Policy)
    assert loaded == values


def test_a_policy_survives_json() -> None:
    """It holds for plans and features, too, which override what they set and nothing else."""
    for before in (Policy(), policy(EVERY_KEY), policy("[input]\nmax_turns = 3\n[features.f]\n[plans.default]")):
        after = Policy(**json.loads(before.model_dump_json()))
        assert after == before
        assert after.version == before.version
        for plan in before.plans:
            for feature in (None, *before.features):
                assert after.rules(plan, feature) == before.rules(plan, feature)


def test_a_policy_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Policy().mode = "shadow"  # type: ignore[misc]  # the mistake that is meant


def test_every_source_of_a_client_is_understood(tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_text(EVERY_KEY, encoding="utf-8")
    expected = policy(EVERY_KEY)
    assert Policy.of(None) == Policy()
    assert Policy.of(expected) is expected
    assert Policy.of(tomllib.loads(EVERY_KEY)) == Policy.of(file) == Policy.of(str(file)) == expected


def test_another_source_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="not int"):
        Policy.of(7)  # type: ignore[arg-type]  # the mistake that is meant


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "cannot be read: No such file"),
        (b"mode = ", "is not valid TOML"),
        (b"mode = '\xff'", "is not valid TOML"),
        (b"mood = 'shadow'", "Unknown key 'mood': did you mean 'mode'?"),
    ],
)
def test_an_error_in_a_file_names_the_file(tmp_path: Path, content: bytes | None, problem: str) -> None:
    file = tmp_path / "policy.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigurationError) as caught:
        Policy.from_file(file)
    assert str(file) in str(caught.value)
    assert problem in str(caught.value)


def test_a_folder_is_no_policy(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        Policy.from_file(tmp_path)


# Mistakes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("toml", "key", "nearest"),
    [
        ("tmezone = 'UTC'", "tmezone", "timezone"),
        ("[inptu]\nmax_turns = 3", "inptu", "input"),
        ("[identity]\nverifed = true", "identity.verifed", "verified"),
        ("[input]\nmax_turn = 3", "input.max_turn", "max_turns"),
        ("[output]\nmax_token = 3", "output.max_token", "max_tokens"),
        ("[time]\ndeadline = 3", "time.deadline", "deadline_seconds"),
        ("[checks]\ninjections = 'off'", "checks.injections", "injection"),
        ("[plans.pro]\nlimit = []", "plans.pro.limit", "limits"),
        ("[plans.pro.input]\nmax_image = 3", "plans.pro.input.max_image", "max_images"),
        ("[features.docs]\nlimit = []", "features.docs.limit", "limits"),
        ("[features.docs.output]\nmin_token = 3", "features.docs.output.min_token", "min_tokens"),
        ("[routes]\nallowed = []", "routes.allowed", "allow"),
        ("[routes.hosted_tools.web_search]\nfees = '$1'", "routes.hosted_tools.web_search.fees", "fee"),
        ("[prices.mine]\nimput = '1'\noutput = '1'", "prices.mine.imput", "input"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_right_one(toml: str, key: str, nearest: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        policy(toml)
    assert f"Unknown key {key!r}: did you mean {nearest!r}?" in str(caught.value)


@pytest.mark.parametrize("toml", ["xyz = 1", "[input]\nxyz = 1", "[plans.pro]\nxyz = 1", "[plans.pro.time]\nxyz = 1"])
def test_an_unknown_key_that_is_near_to_none_is_named_alone(toml: str) -> None:
    with pytest.raises(ConfigurationError, match=r"Unknown key '[a-z.]*xyz'\.$"):
        policy(toml)


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(ConfigurationError) as caught:
        policy("mode = 'off'\n[input]\nmax_turns = 0\nmax_imges = 1\n[plans.pro]\nlimits = ['10 requests']")
    for key in ("mode", "input.max_turns", "input.max_imges", "plans.pro.limits.0"):
        assert key in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[("mode", value) for value in ("off", "Enforce", 1)],
        *[("timezone", value) for value in ("", "Mars/Olympus", "../../etc/passwd", "Europe", "Europe/", 1)],
        *[("default_plan", value) for value in ("", "gold", "x" * 257)],
        *[("limits", value) for value in ("$5/day", ["ten requests"], [5], {"a": 1})],
        *[("alert_at_percent", value) for value in ([0], [1_001], [80.5], ["80"], 80)],
        *[("on_store_error", value) for value in ("fail", True)],
        *[("identity.required", value) for value in (2, "perhaps")],
        *[("input.max_turns", value) for value in (0, -1, 1.0, "10", True, None)],
        *[("input.max_images", value) for value in (-1, 1.5, True)],
        ("input.overflow", "cut"),
        *[("output.default_max_tokens", value) for value in (0, "on", 1.5, True)],
        *[("output.max_tokens", value) for value in (0, "off")],
        ("output.on_budget", "allow"),
        *[("output.downgrade", value) for value in ({"": "a"}, {"a": ""}, {"a": 1}, "gpt-4o-mini")],
        *[("time.deadline_seconds", value) for value in (0, -1, "on", float("nan"), float("inf"), 86_401)],
        *[("checks.injection", value) for value in ("redact", "on", True)],
        *[("checks.secrets", value) for value in ("allow", None)],
        ("checks.allowed_hosts", "example.com"),
        *[("routes.allow", value) for value in ("*", ["/batches"], ["post /batches"], ["POST batches"], [""])],
        *[("routes.hosted_tools", {"web": {"fee": value}}) for value in ("0.01", "$", "$-1", "$1e3", "$1\n", 1)],
        ("routes.hosted_tools", {"web": {"reserve_tokens": -1}}),
        *[
            ("prices", {"mine": value})
            for value in ({}, {"input": "1"}, {"input": 0.1, "output": "1"}, {"input": "-1"})
        ],
        ("plans", {"": {}}),
        ("plans", []),
    ],
)
def test_a_wrong_value_is_refused_and_its_key_named(key: str, value: object) -> None:
    section, _, name = key.rpartition(".")
    with pytest.raises(ConfigurationError) as caught:
        Policy(**({section: {name: value}} if section else {name: value}))
    assert str(caught.value).startswith("The policy is not valid. ")
    assert name in str(caught.value)


def test_a_default_plan_that_does_not_exist_is_named_with_the_nearest_right_one() -> None:
    with pytest.raises(ConfigurationError, match=r"'fre' is not among \[plans\] \(did you mean 'free'\?\)"):
        policy("default_plan = 'fre'\n[plans.free]")


@pytest.mark.parametrize(
    ("place", "limits"),
    [
        ("limits", ["10 requests/minute", "20 requests/minute"]),
        ("limits", ["$1/day per user, feature", "$2/day per feature, user"]),
        ("limits", ["1 concurrent", "2 concurrent per app"]),
        ("plans", ["10 requests/minute", "20 requests/minute per user"]),
        ("features", ["10 requests/minute", "20 requests/minute per feature"]),
    ],
)
def test_two_limits_of_one_place_that_would_count_the_same_thing_twice_are_refused(
    place: str, limits: list[str]
) -> None:
    with pytest.raises(ConfigurationError, match="count the same thing"):
        Policy(**{place: limits if place == "limits" else {"one": {"limits": limits}}})


def test_limits_that_differ_in_window_metric_or_dimension_stand_side_by_side() -> None:
    limits = ["1 requests/minute", "1 requests/hour", "1 tokens/minute", "1 requests/minute per user"]
    assert [str(limit) for limit in Policy(limits=limits).limits] == limits


# Merging --------------------------------------------------------------------------------------------------------------


def test_sections_merge_key_by_key_top_then_plan_then_feature() -> None:
    merged = policy(
        """
        [input]
        max_turns = 1
        max_images = 1
        max_message_chars = 1
        [plans.pro.input]
        max_images = 2
        max_message_chars = 2
        [features.docs.input]
        max_message_chars = 3
        """
    )

    def found(plan: str, feature: str | None) -> tuple[int, int, int]:
        rules = merged.rules(plan, feature).input
        return rules.max_turns, rules.max_images, rules.max_message_chars

    assert found("default", None) == (1, 1, 1)
    assert found("pro", None) == (1, 2, 2)
    assert found("default", "docs") == (1, 1, 3)
    assert found("pro", "docs") == (1, 2, 3)
    assert merged.rules("pro", "docs").input.max_context_tokens == 8_000


def test_a_plan_that_writes_a_default_out_overrides_the_top_with_it() -> None:
    merged = policy("[output]\nmax_tokens = 100\n[plans.pro.output]\nmax_tokens = 4_000")
    assert merged.rules("pro", None).output.max_tokens == 4_000
    assert merged.rules("default", None).output.max_tokens == 100


@pytest.mark.parametrize(
    ("section", "key", "top", "plan", "feature"),
    [
        ("output", "on_budget", "deny", "shrink", "downgrade"),
        ("time", "deadline_seconds", 10, "off", 20),
        ("checks", "links", "flag", "deny", "off"),
    ],
)
def test_every_section_can_be_overridden(section: str, key: str, top: Any, plan: Any, feature: Any) -> None:
    merged = Policy(
        **{section: {key: top}}, plans={"pro": {section: {key: plan}}}, features={"docs": {section: {key: feature}}}
    )

    def found(*names: Any) -> Any:
        return getattr(getattr(merged.rules(*names), section), key)

    assert (found("default", None), found("pro", None), found("pro", "docs")) == (top, plan, feature)


def places(rules: Rules) -> list[tuple[str, str, tuple[str, ...]]]:
    return [(str(placed.limit), placed.place, placed.per) for placed in rules.limits]


def test_a_call_meets_the_limits_of_the_application_its_plan_and_its_feature_in_this_order() -> None:
    rules = policy(
        """
        limits = ["$500/day"]
        [plans.pro]
        limits = ["$5/day", "$50/day per app"]
        [features.docs]
        limits = ["$50/day", "5 requests/minute per user"]
        """
    ).rules("pro", "docs")
    assert places(rules) == [
        ("$500/day", "app", ("app",)),
        ("$5/day", "plan:pro", ("user",)),
        ("$50/day per app", "plan:pro", ("app",)),
        ("$50/day", "feature:docs", ("feature",)),
        ("5 requests/minute per user", "feature:docs", ("user",)),
    ]


def test_a_feature_that_the_policy_does_not_name_has_the_rules_of_the_plan_and_takes_no_memory() -> None:
    default = Policy()
    for number in range(1_000):
        assert default.rules("default", f"feature {number}") is default.rules("default", None)


def test_there_are_no_rules_of_a_plan_that_does_not_exist() -> None:
    with pytest.raises(KeyError):
        Policy().rules("gold", None)


def test_the_plan_default_exists_unless_another_one_is_the_default() -> None:
    assert set(policy("[plans.pro]").plans) == {"default", "pro"}
    assert set(policy("default_plan = 'pro'\n[plans.pro]").plans) == {"pro"}
    assert policy("[plans.default]").plans["default"].limits == ()


@pytest.mark.parametrize(
    ("feature", "allowed"), [("chat", True), ("Chat", False), ("chat_support", False), ("*", False), (None, True)]
)
def test_features_match_exactly_and_a_call_without_one_is_always_allowed(feature: str | None, allowed: bool) -> None:
    plan = policy("[plans.pro]\nfeatures = ['chat']").plans["pro"]
    assert plan.allows_feature(feature) is allowed
    assert Policy().plans["default"].allows_feature(feature)


@pytest.mark.parametrize(
    ("model", "allowed"),
    [("gpt-4o", True), ("gpt-4o-mini", False), ("o4", True), ("o4-mini", True), ("o", False), ("GPT-4o", False)],
)
def test_models_match_exactly_or_by_a_prefix_with_a_star(model: str, allowed: bool) -> None:
    plan = policy("[plans.pro]\nmodels = ['gpt-4o', 'o4*']").plans["pro"]
    assert plan.allows_model(model) is allowed
    assert Policy().plans["default"].allows_model(model)


def test_an_empty_list_allows_nothing() -> None:
    plan = policy("[plans.pro]\nfeatures = []\nmodels = []").plans["pro"]
    assert not plan.allows_feature("chat")
    assert not plan.allows_model("gpt-4o")


def test_the_widest_input_is_what_some_caller_may_send() -> None:
    """A place that does not speak of it does not widen it."""
    widest = policy(
        """
        [input]
        max_request_bytes = 100
        max_inline_bytes = 100
        [plans.pro.input]
        max_request_bytes = 300
        [features.docs.input]
        max_request_bytes = 200
        """
    ).widest_input
    assert (widest.max_request_bytes, widest.max_inline_bytes) == (300, 100)


# The version ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "toml",
    [
        "mode = 'shadow'",
        "timezone = 'Europe/Berlin'",
        "limits = ['$1/day']",
        "[input]\nmax_turns = 11",
        "[plans.pro]",
        "[plans.default]",
        "[features.docs]",
        "[features.docs.input]\nmax_turns = 10",
        "[routes]\nallow = ['*']",
        "[prices.mine]\nsame_as = 'gpt-4o'",
    ],
)
def test_the_version_changes_with_any_rule(toml: str) -> None:
    changed = policy(toml)
    assert changed.version != Policy().version
    assert changed.version == policy(toml).version


def test_a_plan_that_repeats_a_default_is_another_version_than_one_that_is_silent() -> None:
    top = "[input]\nmax_turns = 3\n"
    assert policy(top + "[plans.pro]").version != policy(top + "[plans.pro.input]\nmax_turns = 10").version


def test_the_version_is_twelve_hex_digits() -> None:
    assert len(Policy().version) == 12
    int(Policy().version, 16)


# Fees -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fee", "nano"), [("$0", 0), ("$0.01", 10_000_000), ("$0.000000001", 1), ("$999999.999999999", 999_999_999_999_999)]
)
def test_a_fee_is_exact_to_the_nano_usd(fee: str, nano: int, exact_decimals: None) -> None:
    assert HostedTool(fee=fee).fee_nano == nano


@pytest.fixture
def exact_decimals() -> Any:
    """A program may have set any precision for its own decimals."""
    from decimal import localcontext

    with localcontext(prec=3):
        yield

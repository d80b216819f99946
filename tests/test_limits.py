"""Limits: the sentence, the windows that a moment falls into, and the counters that follow from both."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from decimal import Decimal, localcontext
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from safe_llm.errors import ConfigurationError
from safe_llm.limits import LARGEST, SLICES, Calendar, Limit, Metric, PlacedLimit, Unit, Window
from safe_llm.types import NANO, usd

COUNTED: list[Metric] = ["requests", "tokens", "input_tokens", "output_tokens"]
WINDOWS: list[Unit] = ["minute", "hour", "day", "week", "month"]
DIMENSIONS = ["user", "feature", "model", "plan", "session", "prompt", "app", "tag:team", "tag:a-b.c"]
CALENDAR: list[Unit] = ["day", "week", "month"]

# The sentence ---------------------------------------------------------------------------------------------------------

dimensions = st.lists(st.sampled_from(DIMENSIONS), unique=True, max_size=4)
amounts = st.integers(0, LARGEST)


@st.composite
def limits(draw: st.DrawFn) -> Limit:
    """Any limit, with its sentence written as an operator might."""
    amount, per = draw(amounts), tuple(draw(dimensions))
    dimension = f" per {', '.join(per)}" if per else ""
    metric: Metric = draw(st.sampled_from([*COUNTED, "money", "concurrent"]))
    if metric == "concurrent":
        return Limit(amount, "concurrent", None, per, f"{amount} concurrent{dimension}")
    window = draw(st.sampled_from(WINDOWS))
    said = f"${usd(amount):f}" if metric == "money" else f"{amount:_} {metric}"
    return Limit(amount, metric, window, per, f"{said}/{window}{dimension}")


@given(limits())
def test_a_sentence_is_read_exactly_and_reads_the_same_again(limit: Limit) -> None:
    assert Limit.parse(limit.text) == limit
    assert Limit.parse(str(limit)) == limit


@pytest.mark.parametrize(
    ("sentence", "amount", "metric", "window", "per"),
    [
        ("10 requests/minute", 10, "requests", "minute", ()),
        ("1 request/day", 1, "requests", "day", ()),
        ("1 token/day", 1, "tokens", "day", ()),
        ("50_000 tokens/day per user", 50_000, "tokens", "day", ("user",)),
        ("$0.50/day", NANO // 2, "money", "day", ()),
        ("$1_000.25/month", 1_000 * NANO + NANO // 4, "money", "month", ()),
        ("$0.000000001/week", 1, "money", "week", ()),
        ("4 concurrent", 4, "concurrent", None, ()),
        ("4 concurrent per user , tag:team", 4, "concurrent", None, ("user", "tag:team")),
        ("5 requests/minute per user, prompt", 5, "requests", "minute", ("user", "prompt")),
        ("  5   requests / minute   per   user  ", 5, "requests", "minute", ("user",)),
        ("0 requests/hour", 0, "requests", "hour", ()),
        ("$0/day", 0, "money", "day", ()),
    ],
)
def test_sentences_read_as_they_sound(
    sentence: str, amount: int, metric: str, window: str | None, per: tuple[str, ...]
) -> None:
    limit = Limit.parse(sentence)
    assert (limit.amount, limit.metric, limit.window, limit.per) == (amount, metric, window, per)
    assert limit.text == sentence.strip()


@given(amounts, st.integers(1, 40))
def test_money_is_exact_whatever_precision_the_program_has_set(nano: int, precision: int) -> None:
    with localcontext(prec=precision):
        limit = Limit.parse(f"${usd(nano):f}/day")
        assert limit.amount == nano
        assert limit.shown(nano) == usd(nano)


@pytest.mark.parametrize("digits", ["0.0000000001", "0.1000000001", "1." + "0" * 40 + "1", "0.1234567899"])
def test_money_finer_than_a_nano_usd_is_refused_and_never_rounded(digits: str) -> None:
    with pytest.raises(ConfigurationError, match="finer than a nano-USD"):
        Limit.parse(f"${digits}/day")


def test_zeros_behind_the_ninth_decimal_are_no_finer_amount() -> None:
    assert Limit.parse("$0.10000000000000000000000000000000000/day").amount == NANO // 10


@pytest.mark.parametrize(
    ("sentence", "problem"),
    [
        ("", "cannot be read"),
        ("requests/minute", "cannot be read"),
        ("ten requests/minute", "cannot be read"),
        ("-1 requests/minute", "cannot be read"),
        ("1.5 requests/minute", "cannot be read"),
        ("1e3 requests/minute", "cannot be read"),
        ("1__0 requests/minute", "cannot be read"),
        ("10requests/minute", "cannot be read"),
        ("١٠ requests/minute", "cannot be read"),
        ("$-1/day", "cannot be read"),
        ("$.50/day", "cannot be read"),
        ("€1/day", "cannot be read"),
        ("$1 USD/day", "cannot be read"),
        ("10 requests/minute extra", "cannot be read"),
        ("10 requests/minute per", "cannot be read"),
        ("10 requests/minute\nper", "cannot be read"),
        ("1 requests/day" + " " * 500, "cannot be read"),
        ("10 requests", "lacks a window"),
        ("$5", "lacks a window"),
        ("5 requests per user", "lacks a window"),
        ("10 requests/minutes", "unknown window 'minutes' (did you mean 'minute'?)"),
        ("10 requests/fortnight", "unknown window 'fortnight'."),
        ("10 request_s/minute", "unknown metric 'request_s' (did you mean 'requests'?)"),
        ("10 calls/minute", "unknown metric 'calls'"),
        ("4 concurrent/minute", "calls in flight have none"),
        ("10 requests/minute per usr", "unknown dimension 'usr' (did you mean 'user'?)"),
        ("10 requests/minute per user,", "unknown dimension ''"),
        ("10 requests/minute per tag:", "unknown dimension 'tag:'"),
        ("10 requests/minute per tag:a b", "unknown dimension 'tag:a b'"),
        ("10 requests/minute per user, user", "names a dimension twice"),
        (f"{LARGEST + 1} tokens/day", "larger than 9_007_199_254_740_992"),
        ("$9007199.254740993/day", "larger than $9007199.254740992"),
    ],
)
def test_an_error_says_what_is_wrong_and_how_a_limit_reads(sentence: str, problem: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Limit.parse(sentence)
    assert problem in str(caught.value)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("value", [None, 5, 0.5, Decimal(5), ["10 requests/minute"]])
def test_only_a_string_is_a_sentence(value: object) -> None:
    with pytest.raises(ConfigurationError, match="must be a sentence"):
        Limit.parse(value)  # type: ignore[arg-type]  # the mistake that is meant


def test_the_largest_amounts_are_read() -> None:
    assert Limit.parse(f"{LARGEST} tokens/day").amount == Limit.parse("$9007199.254740992/day").amount == LARGEST


# Windows --------------------------------------------------------------------------------------------------------------

ZONES = [
    *("UTC", "Europe/Berlin", "America/Sao_Paulo", "America/New_York", "Pacific/Apia", "Pacific/Kiritimati"),
    *("Asia/Kathmandu", "Australia/Lord_Howe", "Africa/Cairo", "America/Havana", "Asia/Beirut", "America/St_Johns"),
]
"""Among them midnights that do not exist (São Paulo, Cairo, Beirut) or exist twice (Havana), a day that was left out
(Apia), half an hour of summer time (Lord Howe), and midnights that came twice because the clock went back from 00:01 to
23:01 (St. John's until 2011)."""

moments = st.integers(
    int(datetime(1990, 1, 1, tzinfo=UTC).timestamp()), int(datetime(2037, 1, 1, tzinfo=UTC).timestamp())
)


def calendar(zone: str = "UTC") -> Calendar:
    return Calendar(ZoneInfo(zone))


def at(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


@given(st.sampled_from(ZONES), st.sampled_from(WINDOWS), moments, st.floats(0, 0.999999))
@example("America/Sao_Paulo", "day", int(at("2018-11-04T02:59:59Z")), 0.5)  # the last second before the gap
@example("America/Sao_Paulo", "day", int(at("2018-11-04T03:00:00Z")), 0.0)
@example("Pacific/Apia", "day", int(at("2011-12-30T09:59:59Z")), 0.5)
@example("Pacific/Apia", "day", int(at("2011-12-30T10:00:00Z")), 0.0)
@example("America/Havana", "day", int(at("2025-11-02T05:30:00Z")), 0.0)  # the second half past midnight
@example("America/St_Johns", "day", int(at("2010-11-07T02:59:00Z")), 0.0)  # already the 7th again, for an hour the 6th
@example("UTC", "day", int(at("2027-01-01T23:59:59Z")), 0.9999998)  # rounds up to the next day in microseconds
def test_every_moment_lies_in_exactly_its_window(zone: str, unit: Unit, second: int, fraction: float) -> None:
    """It lies in it, and the windows before and after begin and end where it does."""
    here, now = calendar(zone), second + fraction
    window = here.window(unit, now)
    size = 1 if window.kind == "fixed" else (window.end - window.start) // SLICES
    assert window.start <= now < window.end
    if window.kind == "sliding":
        assert window.end - size <= now
        assert here.window(unit, window.end) == Window("sliding", window.start + size, window.end + size)
    else:
        after, before = here.window(unit, window.end), here.window(unit, window.start - 1)
        assert after.start == window.end
        assert before.end == window.start
        assert calendar(zone).window(unit, window.start) == calendar(zone).window(unit, window.end - 1) == window


@given(moments, st.sampled_from([("minute", 1), ("hour", 60)]))
def test_minutes_and_hours_slide_in_61_slices(second: int, unit: tuple[Unit, int]) -> None:
    name, size = unit
    kind, start, end = calendar().window(name, second)
    assert kind == "sliding"
    assert end - start == 61 * size
    assert start % size == end % size == 0
    assert end - size <= second < end


@given(st.sampled_from(ZONES), moments)
def test_a_day_begins_at_the_first_moment_of_its_date_and_ends_at_the_first_of_the_next(zone: str, second: int) -> None:
    start, end = calendar(zone).window("day", second)[1:]
    first, last = (datetime.fromtimestamp(moment, ZoneInfo(zone)) for moment in (start, end - 1))
    assert first.date() == last.date() or zone == "America/St_Johns"
    assert datetime.fromtimestamp(start - 1, ZoneInfo(zone)).date() != first.date() or zone == "America/St_Johns"


@given(st.sampled_from(ZONES), moments)
def test_weeks_begin_on_monday_and_months_on_the_first(zone: str, second: int) -> None:
    week, month = (calendar(zone).window(unit, second) for unit in CALENDAR[1:])
    monday, first = (datetime.fromtimestamp(window.start, ZoneInfo(zone)) for window in (week, month))
    assert monday.weekday() == 0
    assert first.day == 1
    assert week.end - week.start in range(6 * 86_400, 8 * 86_400)
    assert month.end - month.start in range(27 * 86_400, 32 * 86_400)


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("UTC", "2027-03-28T12:00Z", 24),
        ("Europe/Berlin", "2027-03-28T12:00Z", 23),
        ("Europe/Berlin", "2027-10-31T12:00Z", 25),
        ("America/Sao_Paulo", "2018-11-04T12:00Z", 23),
        ("America/Sao_Paulo", "2018-02-17T12:00Z", 25),
        ("Australia/Lord_Howe", "2027-04-03T23:00Z", 24.5),
        ("Pacific/Apia", "2011-12-30T09:00Z", 24),
        ("Pacific/Apia", "2011-12-30T11:00Z", 24),
    ],
)
def test_a_day_has_as_many_hours_as_the_clock_on_the_wall(zone: str, day: str, hours: float) -> None:
    window = calendar(zone).window("day", at(day))
    assert (window.end - window.start) / 3600 == hours


def test_the_day_that_apia_left_out_has_no_window() -> None:
    """There, 29 December 2011 was followed by the 31st."""
    before = calendar("Pacific/Apia").window("day", at("2011-12-30T09:59Z"))
    after = calendar("Pacific/Apia").window("day", before.end)
    assert datetime.fromtimestamp(before.start, ZoneInfo("Pacific/Apia")).day == 29
    assert datetime.fromtimestamp(after.start, ZoneInfo("Pacific/Apia")).day == 31


@pytest.mark.parametrize("unit", CALENDAR)
def test_the_last_moment_before_a_window_belongs_to_the_one_before(unit: Unit) -> None:
    here = calendar("Europe/Berlin")
    turn = here.window(unit, at("2027-06-15T12:00Z")).end
    assert here.window(unit, math.nextafter(turn, 0)).end == turn
    assert here.window(unit, turn).start == turn


@given(st.sampled_from(ZONES), st.lists(moments, max_size=20))
def test_a_calendar_that_is_asked_again_answers_as_a_new_one(zone: str, seconds: list[int]) -> None:
    """It remembers its last window, and clocks may go back."""
    here = calendar(zone)
    for second in seconds:
        for unit in CALENDAR:
            assert here.window(unit, second) == calendar(zone).window(unit, second)


def test_a_year_of_days_adds_up_to_the_year() -> None:
    here, moment = calendar("Europe/Berlin"), at("2027-01-01T00:00+01:00")
    days = 0
    while moment < at("2028-01-01T00:00+01:00"):
        window = here.window("day", moment)
        assert window.start == moment
        moment, days = window.end, days + 1
    assert days == 365


# Counters -------------------------------------------------------------------------------------------------------------

NOON = at("2027-06-15T12:00Z")
DAY = calendar().window("day", NOON)


def placed(sentence: str, place: str = "app") -> PlacedLimit:
    return PlacedLimit.at(place, Limit.parse(sentence))


@pytest.mark.parametrize(
    ("place", "sentence", "per"),
    [
        ("app", "1 requests/day", ("app",)),
        ("plan:pro", "1 requests/day", ("user",)),
        ("feature:docs", "1 requests/day", ("feature",)),
        ("plan:pro", "1 requests/day per app", ("app",)),
        ("feature:docs", "1 requests/day per user, model", ("model", "user")),
    ],
)
def test_a_limit_that_names_no_dimension_counts_what_is_usual_where_it_stands(
    place: str, sentence: str, per: tuple[str, ...]
) -> None:
    assert sorted(placed(sentence, place).per) == sorted(per)


def test_a_charge_carries_the_amount_the_limit_and_the_window() -> None:
    charge = placed("$5/day", "plan:pro").charge(7, {"user": "u1"}, DAY, NOON)
    assert charge[1:] == (7, 5 * NANO, "fixed", DAY.start, DAY.end)


def test_calls_in_flight_have_no_window() -> None:
    charge = placed("4 concurrent", "plan:pro").charge(1, {"user": "u1"}, None, NOON)
    assert (charge.amount, charge.limit, charge.kind) == (1, 4, "held")
    assert charge.end > charge.start


@pytest.mark.parametrize("unit", WINDOWS)
def test_another_amount_keeps_the_counter_and_anything_else_changes_it(unit: Unit) -> None:
    def key(sentence: str, place: str = "plan:pro", **values: str) -> str:
        window = calendar().window(unit, NOON)
        return placed(sentence, place).charge(1, {"user": "u1", **values}, window, NOON).key

    base = key(f"10 requests/{unit}")
    assert key(f"20 requests/{unit}") == key(f"10 requests/{unit} per user") == base
    others = {
        key(f"10 tokens/{unit}"),
        key(f"10 requests/{'day' if unit != 'day' else 'week'}"),
        key(f"10 requests/{unit} per user, model"),
        key(f"10 requests/{unit}", "plan:free"),
        key(f"10 requests/{unit}", "feature:pro"),
        key(f"10 requests/{unit}", user="u2"),
    }
    assert len(others | {base}) == 7


names = st.one_of(st.none(), st.text(st.sampled_from("a1:/-~+|"), min_size=1, max_size=6))


@given(st.tuples(names, names), st.tuples(names, names))
def test_no_value_can_pass_for_another(
    left: tuple[str | None, str | None], right: tuple[str | None, str | None]
) -> None:
    """Not even with the separators of a key in it; a value that is lacking is one of its own."""
    limit = placed("1 requests/day per user, session")
    keys = [limit.charge(1, {"user": user, "session": session}, DAY, NOON).key for user, session in (left, right)]
    assert (keys[0] == keys[1]) == (left == right)


def test_the_order_of_the_dimensions_makes_no_other_counter() -> None:
    values = {"user": "u1", "model": "m"}
    keys = {
        placed(sentence).charge(1, values, DAY, NOON).key
        for sentence in ("1 requests/day per user, model", "1 requests/day per model, user")
    }
    assert len(keys) == 1


def test_an_error_shows_the_dimensions_by_name_and_what_is_lacking_as_empty() -> None:
    values = {"user": "u1", "session": None, "tag:team": "blue"}
    limit = placed("1 requests/day per user, session, tag:team, tag:other")
    assert limit.scope(values) == {"user": "u1", "session": "", "tag:team": "blue", "tag:other": ""}
    assert placed("1 requests/day").scope(values) == {}


def test_amounts_are_shown_as_users_read_them() -> None:
    assert placed("$5/day").limit.shown(NANO // 2) == Decimal("0.5")
    assert placed("5 tokens/day").limit.shown(5) == 5


def test_a_moment_far_away_has_a_window_too() -> None:
    far = datetime(2100, 2, 28, tzinfo=UTC) + timedelta(hours=25)
    window = calendar().window("month", far.timestamp())
    assert datetime.fromtimestamp(window.start, UTC) == datetime(2100, 3, 1, tzinfo=UTC)

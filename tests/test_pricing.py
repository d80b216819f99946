"""Usage to money: the built-in table, the policy's prices, and the arithmetic."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from decimal import ROUND_CEILING, Decimal, localcontext
from typing import Any

import genai_prices
import pytest
from genai_prices.data import providers
from genai_prices.data_snapshot import DataSnapshot, set_custom_snapshot
from genai_prices.types import ModelInfo, StartDateConstraint, TieredPrices
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from safe_llm.errors import ConfigurationError
from safe_llm.pricing import PriceBook, PriceEntry, Rates
from safe_llm.types import NANO, Usage

TABLE = next(provider for provider in providers if provider.id == "openai")
NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
TIERS = [None, "auto", "default", "scale", "flex", "priority", "fast", "batch"]

book = PriceBook()


def cost(model: str, tier: str | None = None, at: float | None = None, **tokens: int) -> int | None:
    rates = book.rates(model, tier, at=at)
    return None if rates is None else rates.cost(Usage(**tokens))


# The built-in table ---------------------------------------------------------------------------------------------------


def test_gpt_4o_costs_what_its_price_list_says() -> None:
    """800 plain at 2,500 nano-USD, 200 cached at 1,250, 300 out at 10,000, of which the reasoning is a part."""
    nano = cost("gpt-4o", input_tokens=1000, cached_input_tokens=200, output_tokens=300, reasoning_tokens=100)
    assert nano == 5_250_000


def test_gpt_4o_mini_costs_what_its_price_list_says() -> None:
    """600 plain at 150 nano-USD, 400 cached at 75, 500 out at 600."""
    assert cost("gpt-4o-mini", input_tokens=1000, cached_input_tokens=400, output_tokens=500) == 420_000


def test_fractions_of_a_nano_usd_are_kept_until_the_end() -> None:
    """gpt-5.4-mini on flex: $0.0375 per million cached tokens is 37.5 nano-USD each."""
    assert cost("gpt-5.4-mini", "flex", input_tokens=1, cached_input_tokens=1) == 38
    assert cost("gpt-5.4-mini", "flex", input_tokens=2, cached_input_tokens=2) == 75


def test_a_long_context_pays_the_dearer_rates_for_all_of_its_tokens() -> None:
    """gpt-5.4: $2.50 and $15 up to 272,000 input tokens, $5 and $22.50 above."""
    assert cost("gpt-5.4", input_tokens=272_000, output_tokens=10) == 272_000 * 2_500 + 10 * 15_000
    assert cost("gpt-5.4", input_tokens=272_001, output_tokens=10) == 272_001 * 5_000 + 10 * 22_500


@pytest.mark.parametrize(
    ("tier", "nano"),
    [
        *[(tier, 1_250) for tier in (None, "", "auto", "default", "scale", "one that does not exist", "x" * 10_000)],
        ("flex", 625),
        ("priority", 2_500),
        ("fast", 2_500),
        ("batch", 625),
    ],
)
def test_a_service_tier_has_its_own_price_and_an_unlisted_one_the_standard_price(tier: str | None, nano: int) -> None:
    assert cost("gpt-5", tier, input_tokens=1) == nano


def test_a_tier_that_the_model_does_not_have_costs_the_standard_price() -> None:
    assert cost("gpt-4-32k", "flex", input_tokens=1) == cost("gpt-4-32k", input_tokens=1) == 60_000


def test_a_price_holds_from_its_utc_date_on() -> None:
    """o3 fell from $10 to $2 on 10 June 2025."""
    assert cost("o3", at=datetime(2025, 6, 9, 23, tzinfo=UTC).timestamp(), input_tokens=1) == 10_000
    assert cost("o3", at=datetime(2025, 6, 10, tzinfo=UTC).timestamp(), input_tokens=1) == 2_000


def test_without_a_time_the_newest_price_holds() -> None:
    assert cost("o3", input_tokens=1) == 2_000


def test_embeddings_have_a_price_for_input_and_none_for_output() -> None:
    assert cost("text-embedding-3-small", input_tokens=1_000) == 20_000
    assert cost("text-embedding-3-small", input_tokens=1_000, output_tokens=1) is None


def test_audio_is_charged_at_its_own_rate() -> None:
    """gpt-audio: text $2.50 and $10, audio $32 and $64."""
    nano = cost("gpt-audio", input_tokens=100, input_audio_tokens=60, output_tokens=50, output_audio_tokens=20)
    assert nano == 40 * 2_500 + 60 * 32_000 + 30 * 10_000 + 20 * 64_000


def test_audio_without_a_known_rate_makes_the_cost_unknown() -> None:
    """The table has the text rates of gpt-4o-audio-preview only."""
    assert cost("gpt-4o-audio-preview", input_tokens=100, output_tokens=10) == 350_000
    assert cost("gpt-4o-audio-preview", input_tokens=100, input_audio_tokens=1) is None
    assert cost("gpt-4o-audio-preview", output_tokens=10, output_audio_tokens=1) is None


def test_image_models_are_charged_at_the_dearer_of_text_and_image() -> None:
    """gpt-image-1.5: text $5 and $10, images $8 and $32."""
    assert cost("gpt-image-1.5", input_tokens=10, output_tokens=10) == 10 * 8_000 + 10 * 32_000


@pytest.mark.parametrize("name", ["openai/gpt-4o", "GPT-4o", "gpt-4o-2024-11-20"])
def test_other_spellings_of_a_model_have_its_price(name: str) -> None:
    assert book.rates(name) == book.rates("gpt-4o") is not None


@pytest.mark.parametrize(
    "name",
    [
        "ft:gpt-4o-mini-2024-07-18:acme::abc",
        "FT:gpt-3.5-turbo:acme::abc",
        "openai/ft:gpt-4o-2024-08-06:acme::abc",
        "my-azure-deployment",
        "claude-sonnet-4-5",
        "azure/gpt-4o",
        "omni-moderation-latest",
        "",
        "gpt-4.5-preview-" + "x" * 1_000,  # the table matches this one by prefix; a name that long is nobody's
    ],
)
def test_a_model_without_a_price_per_token_is_unknown_and_not_free(name: str) -> None:
    assert book.rates(name) is None


def test_prices_that_the_process_fetched_elsewhere_are_not_used() -> None:
    set_custom_snapshot(DataSnapshot(providers=[], from_auto_update=True))
    try:
        assert cost("gpt-4.1", at=datetime(2026, 11, 1, 7, tzinfo=UTC).timestamp(), input_tokens=1) == 2_000
    finally:
        set_custom_snapshot(None)


def test_the_table_is_loaded_by_the_first_lookup_and_not_before() -> None:
    program = """if True:
        import sys
        from safe_llm.pricing import PriceBook, PriceEntry
        book = PriceBook({"mine": PriceEntry(input="1", output="2")})
        assert book.version and book.rates("mine")
        assert "genai_prices" not in sys.modules
        assert book.rates("gpt-4o")
        assert "genai_prices" in sys.modules
    """
    subprocess.run([sys.executable, "-c", program], check=True)


def samples(info: ModelInfo, tier: str | None) -> list[dict[str, int]]:
    """Usage in genai-prices' words: short and long, with every kind of token that the model has a rate for."""
    prices = info.get_prices(NOW, {"service_tier": tier} if tier else None)
    found = []
    for tokens in (1_234, 300_001):
        usage = {"input_tokens": tokens}
        if prices.output_mtok is not None:
            usage |= {"output_tokens": 777}
        if prices.input_audio_mtok is not None:
            usage |= {"input_audio_tokens": 101}
        if prices.output_audio_mtok is not None:
            usage |= {"output_audio_tokens": 55}
        if prices.cache_read_mtok is not None:
            usage |= {"cache_read_tokens": 1_001, "cache_audio_read_tokens": 0}
        if prices.input_image_mtok is not None:
            text = usage.get("input_audio_tokens", 0)
            usage |= {"input_image_tokens": tokens - text, "cache_image_read_tokens": usage.get("cache_read_tokens", 0)}
        if prices.output_image_mtok is not None:
            usage |= {"output_image_tokens": 777}
        found.append(usage)
    return found


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("info", TABLE.models, ids=lambda info: info.id)
def test_every_model_of_the_table_costs_what_genai_prices_computes(info: ModelInfo, tier: str | None) -> None:
    rates = book.rates(info.id, tier, at=NOW.timestamp())
    prices = info.get_prices(NOW)
    if prices.input_mtok is None and (prices.audio_hours or prices.input_mchars) is not None:
        return  # billed by another measure than tokens: below
    if prices.input_mtok is None or info.id.startswith("ft:"):
        assert rates is None
        return
    assert rates is not None
    context = {"processing": "batch"} if tier == "batch" else {"service_tier": tier} if tier else None
    for usage in samples(info, tier):
        theirs = genai_prices.calc_price(
            genai_prices.Usage(**usage),
            info.id,
            provider_id="openai",
            genai_request_timestamp=NOW,
            price_context=context,
        )
        ours = Usage(
            input_tokens=usage["input_tokens"],
            output_tokens=usage.get("output_tokens", 0),
            cached_input_tokens=usage.get("cache_read_tokens", 0),
            input_audio_tokens=usage.get("input_audio_tokens", 0),
            output_audio_tokens=usage.get("output_audio_tokens", 0),
        )
        exact = theirs.total_price * NANO
        nano = rates.cost(ours)
        assert nano == exact.to_integral_value(ROUND_CEILING)
        bound = rates.bound(ours.input_tokens, ours.output_tokens)
        assert nano is not None
        assert bound is not None
        assert nano <= bound


def test_the_table_keeps_to_what_this_module_takes_for_granted() -> None:
    """No kind of price that it does not know, none by the time of day, no long context or fast tier that is cheaper."""
    known = {
        "input_mtok",
        "output_mtok",
        "cache_read_mtok",
        "cache_write_mtok",
        "input_audio_mtok",
        "output_audio_mtok",
    }
    known |= {"input_image_mtok", "output_image_mtok", "cache_image_read_mtok", "cache_audio_read_mtok"}
    by_other_units = {
        "web_searches_kcount",
        "storage_searches_kcount",
        "audio_hours",
        "input_audio_hours",
        "input_mchars",
    }
    for info in TABLE.models:
        dated: list[Any] = info.prices if isinstance(info.prices, list) else []
        for entry in [*dated, *(info.price_variants or [])]:
            assert entry.constraint is None or isinstance(entry.constraint, StartDateConstraint)
        for tier in TIERS:
            prices = info.get_prices(NOW, {"service_tier": tier} if tier else None)
            assert vars(prices).keys() <= known | by_other_units
            for price in vars(prices).values():
                if isinstance(price, TieredPrices):
                    steps = [price.base, *(step.price for step in price.tiers)]
                    assert steps == sorted(steps)
        for tokens in (1_000, 300_000):
            for tier in ("priority", "fast"):
                standard = cost(info.id, input_tokens=tokens, output_tokens=10)
                fast = cost(info.id, tier, input_tokens=tokens, output_tokens=10)
                assert (standard is None) == (fast is None)
                assert standard is None or fast is None or standard <= fast


# The policy's prices --------------------------------------------------------------------------------------------------

MINE = PriceEntry(input="2.50", cached_input="1.25", output=10)


def test_an_entry_prices_a_name_that_the_table_does_not_know() -> None:
    rates = PriceBook({"my-azure-deployment": MINE}).rates("my-azure-deployment")
    assert rates is not None
    assert rates.cost(Usage(input_tokens=1000, cached_input_tokens=200, output_tokens=300)) == 5_250_000


def test_an_entry_replaces_the_built_in_price_as_a_whole() -> None:
    """No tier, long context or audio rate is left of it."""
    own = PriceBook({"gpt-5.4": MINE, "gpt-audio": MINE})
    assert own.rates("gpt-5.4", "priority") == own.rates("gpt-5.4") == own.rates("openai/gpt-5.4")
    rates = own.rates("gpt-5.4")
    assert rates is not None
    assert rates.cost(Usage(input_tokens=300_000)) == 300_000 * 2_500
    audio = own.rates("gpt-audio")
    assert audio is not None
    assert audio.cost(Usage(input_tokens=1, input_audio_tokens=1)) is None


def test_an_entry_prices_a_fine_tuned_model() -> None:
    assert PriceBook({"ft:gpt-4o:acme::abc": MINE}).rates("ft:gpt-4o:acme::abc") is not None


def test_cached_input_costs_as_much_as_input_unless_it_is_given() -> None:
    rates = PriceBook({"m": PriceEntry(input="1", output="2")}).rates("m")
    assert rates == Rates(input=NANO, cached_input=NANO, output=2 * NANO)


def test_an_entry_of_zero_is_free() -> None:
    rates = PriceBook({"local": PriceEntry(input=0, output=0)}).rates("local")
    assert rates is not None
    assert rates.cost(Usage(input_tokens=9, output_tokens=9)) == 0


def test_same_as_takes_over_a_built_in_price_with_its_tiers() -> None:
    own = PriceBook({"mine": PriceEntry(same_as="gpt-5.4")})
    assert own.rates("mine") == book.rates("gpt-5.4") is not None
    assert own.rates("mine", "priority") == book.rates("gpt-5.4", "priority") != book.rates("gpt-5.4")


def test_same_as_leads_through_other_entries() -> None:
    own = PriceBook({"a": PriceEntry(same_as="openai/b"), "b": PriceEntry(same_as="c"), "c": MINE})
    assert own.rates("a") == own.rates("b") == own.rates("c") is not None


@pytest.mark.parametrize("target", ["nobody-knows", "ft:gpt-4o-2024-08-06:acme::abc"])
def test_same_as_an_unpriced_model_is_unpriced(target: str) -> None:
    assert PriceBook({"mine": PriceEntry(same_as=target)}).rates("mine") is None


@pytest.mark.parametrize(
    "entries",
    [{"gpt-4o": "gpt-4o"}, {"gpt-4o": "openai/gpt-4o"}, {"a": "b", "b": "a"}, {"z": "a", "a": "b", "b": "a"}],
)
def test_same_as_in_a_circle_is_a_configuration_error_that_shows_it(entries: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match=r'circle, ".+" -> "'):
        PriceBook({name: PriceEntry(same_as=target) for name, target in entries.items()})


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"input": "1"},
        {"output": "1"},
        {"cached_input": "1"},
        {"input": "1", "output": "1", "same_as": "gpt-4o"},
        {"cached_input": "1", "same_as": "gpt-4o"},
        {"same_as": ""},
        {"input": "-1", "output": "1"},
        {"input": "NaN", "output": "1"},
        {"input": "Infinity", "output": "1"},
        {"input": "1e99999999", "output": "1"},
        {"input": "0.0000000001", "output": "1"},
        {"input": "much", "output": "1"},
        {"input": "1", "output": "1", "inptu": "1"},
    ],
)
def test_an_entry_that_is_not_a_price_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        PriceEntry(**values)


@pytest.mark.parametrize("number", [0.15, 2.0, True])
def test_a_float_is_refused_with_the_advice_to_quote_it(number: object) -> None:
    with pytest.raises(ValidationError, match="in quotes"):
        PriceEntry(input=number, output="1")


def test_a_price_is_exact_whatever_decimal_context_the_program_has_set() -> None:
    with localcontext(prec=2):
        rates = PriceBook({"m": PriceEntry(input="1.234567891", output="1")}).rates("m")
    assert rates is not None
    assert rates.input == 1_234_567_891


def test_the_version_names_the_table_and_changes_with_the_figures_of_the_entries() -> None:
    table = f"genai-prices {genai_prices.__version__}"
    versions = [
        PriceBook({"m": PriceEntry(input=figure, output="10")}).version for figure in ("2.5", "2.50", "2.51")
    ] + [PriceBook({"m": PriceEntry(same_as="gpt-4o")}).version]
    assert book.version == table
    assert versions[0] == versions[1]
    assert len(set(versions)) == 3
    assert all(one.startswith(table + "+") for one in versions)


def test_the_version_does_not_depend_on_the_order_of_the_entries() -> None:
    other = PriceEntry(same_as="gpt-4o")
    assert PriceBook({"a": MINE, "b": other}).version == PriceBook({"b": other, "a": MINE}).version


# The arithmetic -------------------------------------------------------------------------------------------------------

tokens = st.integers(0, 3_000_000)
anything = st.integers(-10_000, 3_000_000)
rate = st.integers(0, 10**12)


@st.composite
def some_rates(draw: st.DrawFn) -> Rates:
    """Cached at most as dear as plain, plain as audio, and a long context never cheaper than a short one."""
    cached, plain, seen, audio = sorted(draw(st.tuples(rate, rate, rate, rate)))
    text, drawn, speech = sorted(draw(st.tuples(rate, rate, rate)))

    def times(factor: int, *long: tuple[int, Rates]) -> Rates:
        heard, spoken, image, drawing = (factor * one for one in (audio, speech, seen, drawn))
        rest = {"input_audio": heard, "output_audio": spoken, "input_image": image, "output_image": drawing}
        return Rates(factor * plain, factor * cached, factor * text, **rest, long=long)

    return times(1, (draw(tokens), times(2))) if draw(st.booleans()) else times(1)


def usages(number: st.SearchStrategy[int]) -> st.SearchStrategy[Usage]:
    told = st.none() | number
    return st.builds(Usage, *[number] * 7, told, told, st.just(0))


@given(some_rates(), usages(anything))
def test_no_usage_however_inconsistent_costs_less_than_nothing_or_more_than_the_bound(
    rates: Rates, usage: Usage
) -> None:
    nano, bound = rates.cost(usage), rates.bound(usage.input_tokens, usage.output_tokens)
    assert nano is not None
    assert bound is not None
    assert 0 <= nano <= bound


@given(some_rates(), usages(anything), st.sampled_from(["input", "output", "input_audio", "output_audio"]), tokens)
def test_more_tokens_never_cost_less(rates: Rates, usage: Usage, kind: str, more: int) -> None:
    values = {name: getattr(usage, name) for name in Usage._fields}
    values[f"{kind}_tokens"] += more
    less, greater = rates.cost(usage), rates.cost(Usage(**values))
    assert less is not None
    assert greater is not None
    assert less <= greater


@given(some_rates(), usages(anything))
def test_cached_tokens_never_raise_the_cost(rates: Rates, usage: Usage) -> None:
    values = {name: getattr(usage, name) for name in Usage._fields}
    with_cache, without = rates.cost(usage), rates.cost(Usage(**{**values, "cached_input_tokens": 0}))
    assert with_cache is not None
    assert without is not None
    assert with_cache <= without


@given(st.tuples(*[st.decimals(0, 1000, places=9)] * 3), tokens, tokens, tokens)
def test_the_cost_is_the_decimal_computation_rounded_up_once(
    prices: tuple[Decimal, ...], plain: int, cached: int, output: int
) -> None:
    entry = PriceEntry(input=prices[0], cached_input=prices[1], output=prices[2])
    rates = PriceBook({"m": entry}).rates("m")
    assert rates is not None
    with localcontext(prec=60):
        exact = (plain * prices[0] + cached * prices[1] + output * prices[2]) * 1_000
    nano = rates.cost(Usage(input_tokens=plain + cached, cached_input_tokens=cached, output_tokens=output))
    assert nano == exact.to_integral_value(ROUND_CEILING)


def test_tokens_that_may_be_both_audio_and_cached_are_charged_as_audio() -> None:
    rates = Rates(input=2_000_000, cached_input=1_000_000, output=None, input_audio=5_000_000)
    assert rates.cost(Usage(input_tokens=10, cached_input_tokens=9, input_audio_tokens=6)) == 6 * 5 + 4 * 1


def test_images_cost_their_own_rate_where_they_are_told_from_text_and_the_dearer_one_where_not() -> None:
    """gpt-image-1.5: text $5 and images $8 per million of input, text $10 and images $32 of output."""
    rates = book.rates("gpt-image-1.5")
    assert rates is not None
    usage = Usage(input_tokens=100, output_tokens=50, input_image_tokens=60, output_image_tokens=50)
    assert rates.cost(usage) == 40 * 5_000 + 60 * 8_000 + 50 * 32_000
    assert rates.cost(usage._replace(input_image_tokens=None)) == 100 * 8_000 + 50 * 32_000
    assert rates.cost(usage._replace(input_image_tokens=0, output_image_tokens=0)) == 100 * 5_000 + 50 * 10_000


@pytest.mark.parametrize(("seconds", "nano"), [(3_600, 360_000_000), (60, 6_000_000), (1, 100_000)])
def test_a_recording_is_billed_by_its_length(seconds: int, nano: int) -> None:
    """whisper-1 is $0.36 an hour; without a length it is not known what is billed."""
    rates = book.rates("whisper-1")
    assert rates is not None
    assert rates.cost(Usage(audio_seconds=seconds)) == rates.bound(50, 50, seconds) == nano
    assert rates.cost(Usage(input_tokens=50)) is None
    assert rates.bound(50, 50) is None


def test_a_length_has_no_price_where_tokens_are_billed() -> None:
    rates = book.rates("gpt-4o-transcribe")
    assert rates is not None
    assert rates.cost(Usage(audio_seconds=60)) is None


def test_spoken_text_is_billed_by_the_letter_which_stands_for_a_token() -> None:
    """tts-1 is $15 per million letters."""
    rates = book.rates("tts-1")
    assert rates is not None
    assert rates.cost(Usage(input_tokens=100)) == rates.bound(100, 0) == 100 * 15_000


def test_of_several_long_contexts_the_longest_that_is_exceeded_holds() -> None:
    longer, longest = Rates(2_000_000, 2_000_000, 0), Rates(3_000_000, 3_000_000, 0)
    rates = Rates(1_000_000, 1_000_000, 0, long=((10, longer), (20, longest)))
    assert [rates.cost(Usage(input_tokens=tokens)) for tokens in (10, 20, 21)] == [10, 40, 63]


def test_the_bound_takes_the_dearest_kind_of_each_side() -> None:
    """gpt-audio by its audio rates; gpt-6-sol by its price for writing to the cache, 1.25 times plain input."""
    audio, caching, reading = (book.rates(name) for name in ("gpt-audio", "gpt-6-sol", "text-embedding-3-small"))
    assert audio is not None
    assert caching is not None
    assert reading is not None
    assert audio.bound(10, 10) == 10 * 32_000 + 10 * 64_000
    assert caching.bound(10, 10) == 10 * 2_500 + 10 * 10_000
    assert caching.bound(272_001, 0) == 272_001 * 5_000
    assert reading.bound(10, 0) == 200
    assert reading.bound(10, 1) is None

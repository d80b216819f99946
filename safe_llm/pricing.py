"""Usage to money, exactly.

The built-in prices are the OpenAI section of genai-prices, as its release ships them: they change when that package is
upgraded, never while a program runs. The policy's ``[prices]`` replace them. A price that neither knows is None, which
is never the same as zero.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import astuple, dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from .errors import ConfigurationError
from .types import NANO, Usage

if TYPE_CHECKING:
    from genai_prices.types import ModelPrice, TieredPrices

_MILLION = 1_000_000
_HOUR = 3600
_PREFIX = "openai/"
_LONGEST_NAME = 256
"""Characters. Names come from outside, and are kept in a cache."""


@dataclass(frozen=True, slots=True)
class Rates:
    """What one model's tokens cost, in nano-USD per MILLION tokens: fractions of a nano-USD per token stay exact.

    None is a rate that is not known, or the same as that of text. Where a `Usage` does not tell images from text, all
    of it counts at the dearer rate.
    """

    input: int
    cached_input: int
    output: int | None
    """None for models that only read, such as embeddings."""
    cache_write: int | None = None
    """For input that the provider writes to its cache, where it charges more for that; None: as plain input."""
    input_audio: int | None = None
    output_audio: int | None = None
    input_image: int | None = None
    output_image: int | None = None
    hour: int | None = None
    """nano-USD per hour of a recording, for models that are billed by its length alone."""
    by_letter: bool = False
    """`input` is of letters, and each stands for a token."""
    long: tuple[tuple[int, Rates], ...] = ()
    """Ascending (tokens, rates): a call with more input tokens than that pays those rates for all of its tokens."""

    def cost(self, usage: Usage) -> int | None:
        """nano-USD, rounded up once to a whole one; None if there are tokens of a kind whose rate is not known.

        Cached and audio tokens are part of the input, reasoning and audio tokens part of the output: nothing is added
        twice. A part larger than its whole is cut to it, and a negative number is 0, so no cost is ever negative.
        Tokens that may be both audio and cached are charged as audio, the dearer.
        """
        if self.hour is not None:
            return self._by_length(usage.audio_seconds)
        if usage.audio_seconds:
            return None
        input_tokens, output_tokens = max(usage.input_tokens, 0), max(usage.output_tokens, 0)
        heard = _part(usage.input_audio_tokens, input_tokens)
        cached = _part(usage.cached_input_tokens, input_tokens - heard)
        written = _part(usage.cache_write_tokens, input_tokens - heard - cached)
        spoken = _part(usage.output_audio_tokens, output_tokens)
        rates = self._for(input_tokens)
        text, written_text = input_tokens - heard - cached - written, output_tokens - spoken
        seen = _image_part(usage.input_image_tokens, text, rates.input, rates.input_image)
        drawn = _image_part(usage.output_image_tokens, written_text, rates.output, rates.output_image)
        return _total(
            (text - seen, rates.input),
            (seen, rates.input_image),
            (cached, rates.cached_input),
            (written, rates.input if rates.cache_write is None else rates.cache_write),
            (heard, rates.input_audio),
            (written_text - drawn, rates.output),
            (drawn, rates.output_image),
            (spoken, rates.output_audio),
        )

    def bound(self, input_tokens: int, output_tokens: int, audio_seconds: int = 0) -> int | None:
        """The most nano-USD that a call of at most so many tokens costs, whichever of them are cached, audio or images;
        or one with a recording of so many seconds, where those are what is billed.

        Each token is charged at the dearest rate that is known for its side. So where a call can carry audio,
        look first whether `input_audio` and `output_audio` are known.
        """
        if self.hour is not None:
            return self._by_length(audio_seconds)
        rates = self._for(input_tokens)
        sides = (
            (rates.input, rates.cached_input, rates.cache_write, rates.input_audio, rates.input_image),
            (rates.output, rates.output_audio, rates.output_image),
        )
        dearest = [max((rate for rate in side if rate is not None), default=None) for side in sides]
        return _total((max(input_tokens, 0), dearest[0]), (max(output_tokens, 0), dearest[1]))

    def _by_length(self, seconds: int) -> int | None:
        """None without a length: then it is not known what is billed."""
        return -(-seconds * (self.hour or 0) // _HOUR) if seconds else None

    def _for(self, input_tokens: int) -> Rates:
        return next((rates for above, rates in reversed(self.long) if input_tokens > above), self)


def _part(tokens: int, whole: int) -> int:
    return min(max(tokens, 0), whole)


def _image_part(told: int | None, whole: int, text: int | None, image: int | None) -> int:
    """The tokens to charge at the rate of images: those that are images, or, where that is not told, the dearer way."""
    if image is None:
        return 0
    if told is not None:
        return _part(told, whole)
    return whole if text is None or image > text else 0


def _total(*charges: tuple[int, int | None]) -> int | None:
    total = 0
    for tokens, rate in charges:
        if tokens and rate is None:
            return None
        total += tokens * (rate or 0)
    return -(-total // _MILLION)


# What the operator writes ---------------------------------------------------------------------------------------------


def _exact(value: object) -> object:
    if isinstance(value, bool | float):
        raise ValueError('write the price in quotes, such as "0.15": a bare fraction is a float, which is not exact')
    return value


Price = Annotated[Decimal, BeforeValidator(_exact), Field(ge=0, max_digits=18, decimal_places=9)]
"""USD per million tokens: a string or an int, with at most nine decimals."""


class PriceEntry(BaseModel):
    """``[prices."NAME"]``: USD per million tokens, or the name of a model that costs the same.

    It replaces the built-in price of that name as a whole: with figures of its own, there is no other price for
    service tiers, long contexts or audio.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    input: Price | None = None
    """USD per million input tokens: quoted, or a whole number."""
    cached_input: Price | None = None
    """The price of `input`, if it is not given."""
    output: Price | None = None
    """USD per million output tokens; embeddings have 0."""
    same_as: Annotated[str, Field(min_length=1, max_length=_LONGEST_NAME)] | None = None
    """Another entry, or a model with a built-in price: then its tiers hold too."""

    @model_validator(mode="after")
    def _one_way(self) -> PriceEntry:
        if self.same_as is None:
            complete = self.input is not None and self.output is not None
        else:
            complete = self.input is None and self.cached_input is None and self.output is None
        if not complete:
            raise ValueError("give either both input and output (embeddings: output = 0), or same_as alone")
        return self


def _nano(usd_per_million: Decimal) -> int:
    # Integers, for Decimal's own arithmetic rounds to whatever context the program has set.
    numerator, denominator = usd_per_million.as_integer_ratio()
    return -(-numerator * NANO // denominator)


def _key(name: str, entries: Mapping[str, object]) -> str:
    return name if name in entries else name.removeprefix(_PREFIX)


def _resolved(name: str, entries: Mapping[str, PriceEntry]) -> Rates | str:
    """An entry's own rates, or the name that `same_as` leads to, to be looked up in the table."""
    path: list[str] = []
    while (key := _key(name, entries)) in entries:
        if key in path:
            circle = " -> ".join(f'"{step}"' for step in [*path, key])
            raise ConfigurationError(
                f"[prices]: same_as goes in a circle, {circle}. Give one of them input and output."
            )
        path.append(key)
        entry = entries[key]
        if entry.input is not None and entry.output is not None:
            cached = entry.input if entry.cached_input is None else entry.cached_input
            return Rates(_nano(entry.input), _nano(cached), _nano(entry.output))
        assert entry.same_as is not None  # PriceEntry sees to it that there is one or the other
        name = entry.same_as
    return key


class PriceBook:
    """The prices in force: the operator's, then the built-in ones.

    Args:
        overrides: the policy's ``prices``, by the name as it is sent or as a response gives it.

    Raises:
        ConfigurationError: entries whose ``same_as`` lead back to themselves.
    """

    version: str
    """Of the table, with a digest of the overrides if there are any: ``genai-prices 0.2.3+5f1c0a9be2d7``."""

    def __init__(self, overrides: Mapping[str, PriceEntry] | None = None) -> None:
        entries = overrides or {}
        self._overrides = {name: _resolved(name, entries) for name in entries}
        self.version = f"genai-prices {version('genai-prices')}"
        if self._overrides:
            figures = {
                name: astuple(price) if isinstance(price, Rates) else price for name, price in self._overrides.items()
            }
            self.version += "+" + hashlib.sha256(json.dumps(figures, sort_keys=True).encode()).hexdigest()[:12]

    def rates(self, model: str, tier: str | None = None, *, at: float | None = None) -> Rates | None:
        """The model's rates, or None where they are not known.

        ``openai/NAME`` is NAME. Fine-tuned models (``ft:…``) have no built-in price, nor have names that OpenAI does
        not use, such as most Azure deployments: those need an entry.

        Args:
            model: as sent, or as the response names it.
            tier: the ``service_tier`` that the RESPONSE reports, or "batch". A request may ask for a cheaper one than
                it gets, and must not be held to its price. A tier that the table does not list for the model costs
                the standard price, never less; so do "default", "auto" and "scale".
            at: UTC epoch seconds, for prices that change on a date; by the hour. None is the table's newest price,
                even if its date is still to come.
        """
        if len(model) > _LONGEST_NAME:
            return None
        key = _key(model, self._overrides)
        found = self._overrides.get(key, key)
        if isinstance(found, Rates):
            return found
        # Cutting the tier keeps the cache's keys small; no tier is as long as that.
        return _built_in(found, (tier or "default")[:_LONGEST_NAME], None if at is None else int(at // _HOUR))


# The built-in table ---------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1024)
def _built_in(model: str, tier: str, hour: int | None) -> Rates | None:
    if model.lower().startswith("ft:"):
        # The table has a few by prefix, some at the price of the model that was tuned: not a price to rely on.
        return None
    # Loading the table takes about 0.2 s. It is read directly, because genai_prices.calc_price would use whatever
    # an auto-update elsewhere in the process has fetched, and remembers every unknown name for good.
    from genai_prices.data import providers

    openai = next(provider for provider in providers if provider.id == "openai")
    found = openai.find_model(model)
    if found is None:
        return None
    when = datetime.max if hour is None else datetime.fromtimestamp(hour * _HOUR, UTC)
    context = {"processing": "batch"} if tier == "batch" else {"service_tier": tier}
    return _rates(found.get_prices(when, context))


def _rates(prices: ModelPrice) -> Rates | None:
    if prices.input_mtok is None:
        if prices.audio_hours is not None:
            return Rates(0, 0, 0, hour=_nano(_at(prices.audio_hours, 0)))
        if prices.input_mchars is not None:
            letter = _nano(_at(prices.input_mchars, 0))
            return Rates(letter, letter, 0, by_letter=True)
        return None  # moderation has no price at all: not free
    starts = {tier.start for price in vars(prices).values() for tier in getattr(price, "tiers", ())}
    return replace(_band(prices, 0), long=tuple((start, _band(prices, start + 1)) for start in sorted(starts)))


def _band(prices: ModelPrice, input_tokens: int) -> Rates:
    def rates(*keys: str) -> list[int]:
        known = (price for key in keys if (price := getattr(prices, key)) is not None)
        return [_nano(_at(price, input_tokens)) for price in known]

    plain = max(rates("input_mtok"))
    return Rates(
        input=plain,
        cached_input=max(rates("cache_read_mtok", "cache_image_read_mtok"), default=plain),
        output=max(rates("output_mtok"), default=None),
        cache_write=max(rates("cache_write_mtok"), default=None),
        input_audio=max(rates("input_audio_mtok"), default=None),
        output_audio=max(rates("output_audio_mtok"), default=None),
        input_image=max(rates("input_image_mtok"), default=None),
        output_image=max(rates("output_image_mtok"), default=None),
    )


def _at(price: Decimal | TieredPrices, input_tokens: int) -> Decimal:
    if isinstance(price, Decimal):
        return price
    return next((tier.price for tier in reversed(price.tiers) if input_tokens > tier.start), price.base)

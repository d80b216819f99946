"""Input tokens of a call: bounded first, and counted only where a decision needs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from . import history, tokens
from .effects import Flow, compute
from .endpoints.reading import too_large
from .types import Admission, Call

if TYPE_CHECKING:
    from .policy import InputRules

_NO_BUDGET = 2**53


def bound(call: Call) -> int:
    """The most input tokens that the call can have. Costs microseconds."""
    return _total(call, tokens.upper_bound)


def count(call: Call) -> int:
    """The input tokens of the call, with a margin where the provider's own rendering cannot be known."""
    return _total(call, tokens.exact(call.model))


def trim(admission: Admission, rules: InputRules) -> Flow[list[Mapping[str, Any]]]:
    """Find the messages to keep, and note on the admission what the input comes to.

    Raises:
        InputRejectedError: what must stay does not fit, or the policy does not trim.
    """
    call = admission.call
    before = call.messages or []
    measure = call.endpoint.measure
    recent = history.trim(
        before,
        max_turns=rules.max_turns,
        budget=_NO_BUDGET,
        measure=lambda message, _left: measure(call, message, tokens.upper_bound),
    )
    kept, total = recent, call.endpoint.overhead(call, tokens.upper_bound) + recent.tokens
    if total > rules.max_context_tokens:
        kept, total = yield from compute(lambda: _trim_exactly(call, recent.messages, rules.max_context_tokens))
        admission.counted = True
        if not kept.fits or total > rules.max_context_tokens:
            without = " even without its older turns" if before else ""
            raise too_large(
                f"The request has more than {rules.max_context_tokens:_} input tokens{without} "
                "([input] max_context_tokens).",
                "context_too_long",
            )
    admission.input_tokens = _margined(call, total)
    admission.trimmed = len(before) - len(kept.messages)
    if admission.trimmed and rules.overflow == "deny":
        raise too_large(
            f"The history is too long by {admission.trimmed} messages ([input] max_turns = {rules.max_turns}, "
            f"max_context_tokens = {rules.max_context_tokens:_}, overflow = deny).",
            "context_too_long",
        )
    return kept.messages


def _trim_exactly(call: Call, messages: Sequence[Mapping[str, Any]], most: int) -> tuple[history.Trimmed, int]:
    """Trim to an exact count, which is of the whole request."""
    overhead = call.endpoint.overhead(call, tokens.exact_up_to(call.model, most))
    kept = history.trim(
        messages,
        max_turns=len(messages),
        budget=most - overhead,
        measure=lambda message, left: call.endpoint.measure(call, message, tokens.exact_up_to(call.model, left)),
    )
    return kept, overhead + kept.tokens


def _total(call: Call, counter: Callable[[str], int]) -> int:
    measure = call.endpoint.measure
    total = call.endpoint.overhead(call, counter)
    return _margined(call, total + sum([measure(call, message, counter) for message in call.messages or ()]))


def _margined(call: Call, counted: int) -> int:
    return counted if call.endpoint.plain(call) else tokens.with_margin(counted)

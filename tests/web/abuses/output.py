"""How much may come back."""

from __future__ import annotations

from typing import Any

from safe_llm.testing import Reply

from .abuse import Row, sent_or_crashed, told
from .stage import Target

row = Row("Output size")

MOST = 4_000
"""Tokens of one answer."""


def talkative(target: Target) -> None:
    """A model that goes on for as long as it may, up to what the real ones do."""
    target.provider.always(Reply(chunks=16_384))


def larger(target: Target) -> str | None:
    """Got through if the provider served, or was asked for, more than one answer may have."""
    most = max((usage.output_tokens for _, usage in target.provider.served()), default=0)
    if most > MOST:
        return f"{most:,} output tokens served"
    return told(target, "max_completion_tokens", "max_tokens", least=MOST) or told(target, "n", "best_of", least=1)


@row("no cap")
def no_cap(target: Target) -> str | None:
    talkative(target)
    target.ask("Tell me all you know.")
    return larger(target)


@row("max_completion_tokens = 10^9")
def huge_cap(target: Target) -> str | None:
    talkative(target)
    target.ask("Tell me all you know.", max_completion_tokens=10**9)
    return larger(target)


@row("max_tokens = 10^9")
def huge_old_cap(target: Target) -> str | None:
    talkative(target)
    target.ask("Tell me all you know.", max_tokens=10**9)
    return larger(target)


@row("a small cap beside a huge one")
def two_caps(target: Target) -> str | None:
    target.ask("Tell me all you know.", max_completion_tokens=10, max_tokens=10**9)
    return larger(target)


@row("a huge cap in extra_body")
def cap_in_extra_body(target: Target) -> str | None:
    talkative(target)
    target.ask("Tell me all.", max_completion_tokens=10, extra_body={"max_completion_tokens": 10**9})
    return larger(target)


@row("a huge cap, streamed")
def huge_cap_streamed(target: Target) -> str | None:
    target.provider.always(Reply(chunks=5_000))
    target.stream(max_completion_tokens=10**9)
    return larger(target)


@row("n = 128")
def many_answers(target: Target) -> str | None:
    target.provider.always(Reply(chunks=500))
    target.ask(n=128)
    return larger(target)


@row("n = 128 in extra_body")
def many_answers_in_extra_body(target: Target) -> str | None:
    target.provider.always(Reply(chunks=500))
    target.ask(extra_body={"n": 128, "best_of": 128})
    return larger(target)


@row("caps below zero, in fractions, as text, as a truth value")
def odd_caps(target: Target) -> str | None:
    caps: list[Any] = [-1, 0, 1.5, "10", True, [10], {}]
    for cap in caps:
        target.ask(max_completion_tokens=cap)
    return sent_or_crashed(target)


@row("a prediction of 20,000 words, billed as output")
def prediction(target: Target) -> str | None:
    target.ask(prediction={"type": "content", "content": "word " * 20_000})
    return told(target, "prediction")


@row("a spoken answer")
def audio(target: Target) -> str | None:
    target.ask(modalities=["text", "audio"], audio={"voice": "alloy", "format": "wav"})
    return told(target, "modalities", "audio")

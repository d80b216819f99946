"""Where text comes from: marking what is not trusted, and a token that gives a leaked system prompt away."""

from __future__ import annotations

from secrets import token_hex

CANARY_PREFIX = "safe-llm-canary-"
CANARY_PATTERN = rf"{CANARY_PREFIX}[0-9a-f]{{16}}"
"""A regular expression: what `canary` returns, wherever it stands in a text."""


def canary() -> str:
    """A random token for a system prompt. Where an answer holds it, the check ``prompt_leak`` knows of the leak.

    Make it once per prompt rather than once per call, so that the provider's cache of prompts goes on working.
    """
    return CANARY_PREFIX + token_hex(8)

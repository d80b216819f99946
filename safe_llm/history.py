"""Trimming a conversation that has grown too long: the messages of chat completions, or the items of Responses.

System and developer messages and the whole last turn are kept unchanged; older turns go whole, oldest first. A turn
starts at a user message. A tool's result is never parted from the call that asked for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Message = Mapping[str, Any]

_PINNED = ("system", "developer")


@dataclass(frozen=True, slots=True)
class Trimmed:
    """What is left of a history."""

    messages: list[Message] = field(repr=False)
    """The kept messages themselves, in their order, in a list of its own."""
    dropped: int
    """How many messages were left out."""
    tokens: int
    """Of the kept messages, as `measure` counts them. Meaningless where `fits` is false."""
    fits: bool
    """False where what must stay is larger than the budget by itself."""


def turns(messages: Sequence[Message]) -> list[list[int]]:
    """Positions of the messages of each turn, oldest first, without those of system and developer messages.

    Turns that a tool call and its result span are one.
    """
    found: list[list[int]] = []
    asked_at: dict[str, int] = {}
    for position, message in enumerate(messages):
        role = message.get("role")
        if role in _PINNED:
            continue
        if role == "user" or not found:
            found.append([])
        found[-1].append(position)
        answered = _answered_id(message)
        if answered is not None:
            asked, later = asked_at.get(answered, position), []
            while found[-1][0] > asked:
                later.append(found.pop())
            for turn in reversed(later):
                found[-1].extend(turn)
        else:
            asked_at.update(dict.fromkeys(_call_ids(message), position))
    return found


def _answered_id(message: Message) -> str | None:
    """The call that a message answers; None where it answers none."""
    if message.get("role") == "tool":
        return str(message.get("tool_call_id"))
    kind = message.get("type")
    if kind == "mcp_approval_response":
        return str(message.get("approval_request_id"))
    return str(message.get("call_id")) if isinstance(kind, str) and kind.endswith("_output") else None


def _call_ids(message: Message) -> list[str]:
    """The calls that a message makes. An item of Responses is one call; some name it by ``call_id``, some by ``id``."""
    calls = message.get("tool_calls")
    if isinstance(calls, list):
        return [str(call.get("id")) for call in calls if isinstance(call, Mapping)]
    return [str(message[name]) for name in ("call_id", "id") if message.get(name) is not None]


def trim(
    messages: Sequence[Message], *, max_turns: int, budget: int, measure: Callable[[Message, int], int]
) -> Trimmed:
    """Keep the most recent turns that fit.

    Args:
        messages: the history; never changed.
        max_turns: how many turns to keep at most.
        budget: how many tokens the kept messages may have.
        measure: tokens of a message. It may stop counting once it has passed its second argument, which is what is
            left of the budget. Called once for each message that is looked at, newest turns first.
    """
    kept = [position for position, message in enumerate(messages) if message.get("role") in _PINNED]
    used = 0
    for position in kept:
        used += measure(messages[position], budget - used)
        if used > budget:
            return Trimmed(list(messages), 0, used, fits=False)
    recent = turns(messages)[::-1]
    for turn in recent[:max_turns]:
        size = 0
        for position in turn:
            size += measure(messages[position], budget - used - size)
            if used + size > budget:
                break
        if used + size > budget:
            if turn is recent[0]:
                return Trimmed(list(messages), 0, used + size, fits=False)
            break
        used += size
        kept += turn
    kept.sort()
    return Trimmed([messages[position] for position in kept], len(messages) - len(kept), used, fits=True)

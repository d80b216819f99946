"""What an abuse is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .stage import Target

Play = Callable[[Target], str | None]
"""Does it to a service, and says what got through: the provider's word or the books', not the service's. None: nothing
did."""


@dataclass(frozen=True, slots=True)
class Abuse:
    row: str
    """Of the README's table."""
    name: str
    play: Play
    policy: Mapping[str, Any] = field(default_factory=dict)
    """What the hardened route's policy says otherwise, so that a large limit is met by few calls."""
    spares: bool = True
    """Whoever else calls is served right after it; False where it is all callers that are stopped."""
    exactly: int | None = None
    """How many of its requests the hardened route sends: what is agreed, not one more, and not one less."""

    @property
    def id(self) -> str:
        return f"{self.row}: {self.name}"


class Row:
    """Collects the abuses of one row: ``@row("a name")`` above the function that plays it."""

    def __init__(self, name: str, policy: Mapping[str, Any] | None = None) -> None:
        self.name = name
        self.policy = policy or {}
        """Of all abuses that have none of their own."""
        self.abuses: list[Abuse] = []

    def __call__(self, name: str, **rest: Any) -> Callable[[Play], Play]:
        def collect(play: Play) -> Play:
            self.abuses.append(Abuse(self.name, name, play, **{"policy": self.policy, **rest}))
            return play

        return collect


def sent(target: Target) -> str | None:
    """Got through if anything reached the provider."""
    return f"{target.sent} sent to the provider" if target.sent else None


def sent_or_crashed(target: Target) -> str | None:
    """Got through if anything reached the provider, or if the service fell over it."""
    return sent(target) or ("the service fails with a 500" if target.crashed else None)


def told(target: Target, *names: str, least: float = 0) -> str | None:
    """Got through if the provider was told one of these fields; of numbers, one greater than `least`."""
    for body in target.provider.asked:
        for name in names:
            value = body.get(name)
            is_small = type(value) is int and 0 < value <= least
            if value is not None and not is_small:
                return f"the provider was told {name} = {str(value)[:30]}"
    return None


def billed(target: Target, user: str) -> str | None:
    """Got through if this user is charged in the books."""
    tokens = target.charged().get(user, 0)
    return f"{tokens} tokens charged to {user}" if tokens else None


def more_than(target: Target, most: int) -> str | None:
    """Got through if more requests reached the provider."""
    return f"{target.sent} sent to the provider, {most} are agreed" if target.sent > most else None

"""The checks of what goes in: ``injection``, ``role_markers`` and ``hidden_text``, over all parts of a call.

Each looks at one text and knows nothing of the others, so what was found in a text is remembered by its hash: the next
turn of a conversation looks at what is new in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NamedTuple

from ..types import Finding, Part
from .hidden import has_hidden_text
from .injection import THRESHOLD, score
from .markers import has_role_markers
from .normalizing import shapes

if TYPE_CHECKING:
    from ..policy import CheckRules

_REMEMBERED = 12_288
"""Texts in each of two generations: some 200 bytes each."""
_LONG = 16_384
"""Characters that are looked at without leaving the event loop: some milliseconds."""
_FROM_OUTSIDE = frozenset({"tool", "function", "document"})
"""Roles whose text nobody asked to give instructions."""
_WEIGHTS = {"assistant": 0.8} | dict.fromkeys(_FROM_OUTSIDE, 1.3)
"""How much a score counts by where the text comes from, as a power of what speaks against it."""
_HIGH = 0.8


class Hit(NamedTuple):
    """What was found in one text, wherever it stands."""

    rule: str
    severity: str
    score: float | None


class InputChecks:
    """Looks at the parts of calls, and remembers what it has seen. No text is kept."""

    def __init__(self) -> None:
        self._young: dict[tuple[bytes, str], tuple[Hit, ...]] = {}
        self._old: dict[tuple[bytes, str], tuple[Hit, ...]] = {}

    def takes_long(self, parts: Sequence[Part]) -> bool:
        """Whether there is so much text that looking at it should not hold up others."""
        return sum([len(part.text) for part in parts if not part.trusted]) > _LONG

    def inspect(self, parts: Iterable[Part], rules: CheckRules) -> tuple[Finding, ...]:
        """What the checks that the rules turn on find. The application's own words are not looked at."""
        actions: dict[str, Any] = {
            "injection": rules.injection,
            "role_markers": rules.role_markers,
            "hidden_text": rules.hidden_text,
        }
        found: dict[tuple[str, str], Hit] = {}
        for part in _and_joined([part for part in parts if not part.trusted]):
            for hit in self._hits(part):
                if actions[hit.rule] != "off":
                    place = hit.rule, part.where
                    found[place] = max(found.get(place, hit), hit, key=lambda hit: hit.score or 0.0)
        return tuple(
            [Finding(rule, hit.severity, where, hit.score, actions[rule]) for (rule, where), hit in found.items()]
        )

    def _hits(self, part: Part) -> tuple[Hit, ...]:
        key = blake2b(part.text.encode()).digest()[:16], part.role
        hits = self._young.get(key)
        if hits is None:
            hits = self._old.get(key)
            if hits is None:
                hits = tuple(_look(part))
            if len(self._young) >= _REMEMBERED:
                self._old, self._young = self._young, {}
            self._young[key] = hits
        return hits


def _and_joined(parts: list[Part]) -> list[Part]:
    """The parts, and those of one message as a model reads them, one after the other: an attack may be cut in two."""
    if len({part.where for part in parts}) == len(parts):
        return parts
    together: dict[str, list[Part]] = {}
    for part in parts:
        together.setdefault(part.where, []).append(part)
    for where, pieces in together.items():
        if len(pieces) > 1:
            role = next((piece.role for piece in pieces if piece.role in _FROM_OUTSIDE), pieces[0].role)
            texts = [piece.text for piece in pieces]
            parts += [Part(role, glue.join(texts), False, where) for glue in ("", " ")]
    return parts


def _look(part: Part) -> Iterable[Hit]:
    shaped = shapes(part.text)
    if part.role != "assistant" and has_role_markers(shaped):
        yield Hit("role_markers", "high", None)
    if has_hidden_text(part.text):
        yield Hit("hidden_text", "high", None)
    found = 1 - (1 - score(part.text, shaped)) ** _WEIGHTS.get(part.role, 1.0)
    if found >= THRESHOLD:
        yield Hit("injection", "high" if found >= _HIGH else "medium", round(found, 2))

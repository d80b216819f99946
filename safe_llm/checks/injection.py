"""How much a text reads like an attempt to take a model over: a score from 0 to 1.

Rules are about meanings, not wordings: a text becomes one letter for each word (`vocabulary`), and a rule is a sequence
of meanings with gaps. The strongest rule of each family counts, and what several families say adds up. This stops what
is written without care, and flags what deserves a look; it is no wall. ``make bench-checks`` measures it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from .noise import has_odd_tail, is_repetition
from .normalizing import BREAK, readings, words_of
from .vocabulary import OTHER, apart, class_of, spelled

THRESHOLD = 0.5
"""A text that scores less is not worth telling."""
_NOISE = 0.5
"""Weight of what no person writes."""
_IMAGE = re.compile(r"[!i]\[[^\]\n]{0,64}\]\(https?://[^)\s]{0,128}[?&=/][^)\s]{0,64}[\[{<$]")
"""A picture whose address is to be filled in: it carries what it is filled with to whoever serves it."""
_WINDOW, _STEP = 400, 350
"""Words that are looked at together: what is said pages apart does not add up."""

RULES = (
    # The instructions so far are to be dropped.
    ("override", 0.75, "ignore|drop .3 prior .2 rule|talk|promptword"),
    ("override", 0.55, "ignore .3 promptword|vendor"),
    ("override", 0.4, "ignore .3 rule"),
    ("override", 0.55, "ignore .1 all .2 rule"),
    ("override", 0.75, "ignore .3 rule|talk .2 prior"),
    ("override", 0.55, "ignore .2 everything .1 prior|asked"),
    ("override", 0.55, "ignore .2 everything .5 leak|give|respond"),
    ("override", 0.55, "ignore .2 prior .3 leak|give|respond"),
    ("override", 0.5, "ignore .1 wholly"),
    ("override", 0.4, "ignore .1 everything"),
    ("override", 0.42, "ignore .1 you .1 talk"),
    ("override", 0.4, "ignore .3 prior"),
    ("override", 0.55, "prior .2 rule|talk|promptword .4 ignore"),
    ("override", 0.55, "rule|promptword .1 prior .4 ignore"),
    ("override", 0.55, "ignore .3 talk .2 prior|asked"),
    ("override", 0.5, "not .1 follow .3 prior .2 rule|talk"),
    ("override", 0.35, "not .2 prior .1 rule"),
    ("override", 0.55, "not .1 follow .3 rule|promptword .3 asked|prior"),
    ("override", 0.45, "disable .3 you .2 limits|moral|policies"),
    ("override", 0.35, "disable .2 limits|moral"),
    ("renewal", 0.4, "override .1 fresh .1 rule|talk"),
    ("renewal", 0.4, "fresh .1 override .1 rule|talk"),
    ("renewal", 0.42, "you .1 newer .1 rule|talk"),
    ("renewal", 0.35, "you .1 fresh .1 rule|talk"),
    ("renewal", 0.3, "newer .1 rule|talk"),
    ("renewal", 0.2, "fresh .1 rule|promptword"),
    ("boundary", 0.2, "end .1 document"),
    # The system prompt is to be told.
    ("leak", 0.65, "leak .4 prior|system .2 promptword"),
    ("leak", 0.55, "leak|give .3 you .2 promptword"),
    ("leak", 0.5, "leak .3 system .1 talk"),
    ("leak", 0.65, "leak|give .3 you .2 prior|system .1 promptword|talk"),
    ("leak", 0.45, "leak|give .3 you .1 config"),
    ("leak", 0.3, "leak|give .3 you .2 rule"),
    ("leak", 0.5, "leak .3 everything .1 above"),
    ("leak", 0.45, "leak .3 talk .1 above"),
    ("leak", 0.3, "leak .3 everything|talk .1 prior"),
    ("leak", 0.42, "leak|give .3 secret"),
    ("leak", 0.65, "leak .4 systemprompt"),
    ("leak", 0.3, "system .1 promptword"),
    ("leak", 0.5, "leak .3 you .3 secret"),
    ("verbatim", 0.2, "leak .4 exactly"),
    # Another persona, without rules.
    ("persona", 0.35, "newly .3 you .2 are|become"),
    ("persona", 0.35, "you .1 are .1 newly"),
    ("persona", 0.1, "become"),
    ("named", 0.7, "do anythingword newly"),
    ("named", 0.45, "developer mode"),
    ("named", 0.25, "enable .4 mode"),
    ("named", 0.3, "persona"),
    ("evil", 0.2, "evil"),
    ("evil", 0.3, "evil|opposite .5 chatbot"),
    ("stay", 0.25, "stay .2 character"),
    ("free", 0.3, "free"),
    ("free", 0.5, "free .3 chatbot|respond|you"),
    ("unbound", 0.55, "not .2 bound .4 limits"),
    ("unbound", 0.3, "not .2 limits|policies"),
    ("unbound", 0.5, "not .1 limits .1 chatbot"),
    ("moral", 0.35, "not .3 moral"),
    ("moral", 0.35, "ignore .5 moral|limits"),
    ("moral", 0.3, "violate .2 moral|limits|policies"),
    ("vendor", 0.45, "vendor .3 policies"),
    ("refusal", 0.3, "not .2 refuse"),
    ("bad", 0.4, "bad .1 bad .1 bad"),
    ("double", 0.3, "both .6 respond .6 normal"),
    ("double", 0.2, "both .4 respond"),
    ("chatbot", 0.1, "chatbot"),
    # Text that turns to the model, where it should be read only.
    ("planted", 0.45, "include .3 you .1 respond"),
    ("planted", 0.42, "compose .4 you .1 respond"),
    ("planted", 0.42, "you .1 respond .4 include"),
    ("address", 0.25, "address .3 machine"),
    ("address", 0.35, "condition .2 are .2 machine"),
    ("planted", 0.4, "condition you .2 asked .9 fresh"),
    ("conceal", 0.5, "not .1 tell .3 user"),
    ("repeat", 0.3, "leak .9 times"),
    ("send", 0.35, "send .4 secret"),
    ("encode", 0.25, "encode .9 follow"),
    ("encode", 0.35, "you .3 encode"),
)


class Rule(NamedTuple):
    """One sequence of meanings."""

    name: str
    weight: float
    pattern: re.Pattern[str]
    needs: tuple[frozenset[str], ...]
    """Letters of which a text must have one each: a look that is much cheaper than the pattern."""


def _compiled(family: str, weight: float, said: str) -> Rule:
    """A rule's words as a regular expression over letters: ``a|b`` is either, ``.3`` up to three words between."""
    parts, needs = [], []
    for part in said.split():
        if part[0] == ".":
            parts.append(f"[^{BREAK}]{{0,{part[1:]}}}")
        else:
            letters = class_of(*part.split("|"))
            parts.append(f"[{letters}]")
            needs.append(frozenset(letters))
    return Rule(f"{family}: {said}", weight, re.compile("".join(parts)), tuple(needs))


_rules = [_compiled(*rule) for rule in RULES]


def explain(text: str) -> dict[str, float]:
    """What speaks for an attack in the most telling part of a text: the rules that hold, and their weights."""
    return max((dict(found) for found in _windows(text, None)), key=_combined, default={})


def score(text: str, shaped: str | None = None) -> float:
    """How much a text reads like an attack, from 0 to 1. Its shapes are given where they are known."""
    return max(map(_combined, map(dict, _windows(text, shaped))), default=0.0)


def _combined(weights: dict[str, float]) -> float:
    strongest: dict[str, float] = {}
    for rule, weight in weights.items():
        family = rule.partition(":")[0]
        strongest[family] = max(weight, strongest.get(family, 0.0))
    rest = 1.0
    for weight in strongest.values():
        rest *= 1 - weight
    return 1 - rest


def _windows(text: str, shaped: str | None) -> Iterator[list[tuple[str, float]]]:
    odd = [("noise: an odd tail", _NOISE)] if has_odd_tail(text) else []
    for number, (read, words) in enumerate(readings(text, shaped)):
        apart_read = apart(read, words)
        letters = spelled(words if apart_read is read else words_of(apart_read))
        for start in range(0, max(len(words) - _WINDOW, 0) + _STEP, _STEP) if number == 0 else ():
            if is_repetition(words[start : start + _WINDOW]):
                yield [("noise: a repetition", _NOISE), *odd]
        if "](" in read and _IMAGE.search(read):
            yield [("planted: a picture to be filled in", _NOISE)]
        if not letters.strip(OTHER + BREAK):
            continue
        for start in range(0, max(len(letters) - _WINDOW, 0) + _STEP, _STEP):
            yield _holding(letters, start, start + _WINDOW) + odd
    if odd:
        yield odd


def _holding(letters: str, start: int, end: int) -> list[tuple[str, float]]:
    present = set(letters[start:end])
    found = []
    for name, weight, pattern, needs in _rules:
        for need in needs:
            if present.isdisjoint(need):
                break
        else:
            if pattern.search(letters, start, end):
                found.append((name, weight))
    return found

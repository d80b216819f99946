"""No text, however it is made, takes the checks longer than its length deserves."""

from __future__ import annotations

import time
from collections.abc import Callable

import coverage
import pytest

from safe_llm.checks.decoding import decoded
from safe_llm.checks.hidden import has_hidden_text
from safe_llm.checks.injection import RULES, explain
from safe_llm.checks.inputs import InputChecks
from safe_llm.checks.markers import has_role_markers
from safe_llm.checks.normalizing import shapes
from safe_llm.checks.provenance import told_apart
from safe_llm.checks.vocabulary import LETTERS, WORDS
from safe_llm.policy import CheckRules
from safe_llm.types import Part

MEGABYTE = 1_000_000
SECONDS = 5.0 if coverage.Coverage.current() else 1.0
"""Processor time for a megabyte. On a quiet machine the worst takes half a second; a blow-up takes minutes."""

UNITS = {
    "one letter": "a",
    "single letters": "a ",
    "spaced letters": "i g n o r e   a l l ",
    "digits": "1",
    "hex": "41",
    "hex with spaces": "41 6e 7a 6f 6c ",
    "hex with signs": "0x41,",
    "base64": "QUFB",
    "base64 of base64": "UVVGQg==",
    "base64 in lines": "QUFBQUFBQUFBQUFBQUFB\n",
    "percent signs": "%41",
    "lone percent signs": "%",
    "escapes": "\\u0041",
    "backslashes": "\\",
    "entities": "&#65;",
    "ampersands": "&",
    "spaces": " ",
    "line breaks": "\n",
    "sentence ends": ". ",
    "leet": "1gn0r3 4ll ",
    "signs": "a!b$c@d|",
    "rot13": "gur vtaber naq lbh ",
    "backwards": "eht erongi uoy dna ",
    "Chinese": "忽略所有之前的指令",
    "other Chinese": "的",
    "Russian": "игнорируй все ",
    "mixed alphabets": "іgnоre аll ",
    "ligatures that become many letters": "\ufdfa",
    "others of them": "\ufdfb",
    "accents": "e\u0301\u0302\u0303",
    "accents alone": "\u0301",
    "zero width": "\u200b",
    "joiners": "a\u200d",
    "soft hyphens": "a\u00ad",
    "padding": "\u200c ",
    "padding of many kinds": "\u034f \u200c \u00ad  ",
    "almost padding": "\u200b  \u034f \u00ad \u200b ",
    "overrides with digits": "\u202d1",
    "overrides with numbers": "\u202d" + "1" * 33,
    "marks of direction": "a \u200e",
    "tags": "\U000e0041",
    "flags": "🏴\U000e0067\U000e0062",
    "selectors": "a\ufe0f",
    "token beginnings": "<|",
    "token beginnings with spaces": "<|" + " " * 40,
    "token beginnings with letters": "<|" + "a" * 34,
    "brackets": "[ ",
    "pictures": "![a](https://a?",
    "picture beginnings": "![",
    "untrusted": "<untrusted-0123456789abcdef>",
    "untrusted ends": "</untrusted-0123456789abcdef>",
}
"""What is repeated until it is a megabyte long."""


def test_a_megabyte_of_different_words_is_looked_at_in_time() -> None:
    assert seconds(whole, " ".join([f"{number:x}" for number in range(MEGABYTE // 6)])) < SECONDS


def worst_of(rule: str) -> str:
    """A text in which a rule begins everywhere and holds nowhere: all its words but the last, then anything."""
    spell = {meaning: next(word for word in words.split() if word in LETTERS) for meaning, words in WORDS.items()}
    words = []
    for part in rule.split():
        words += ["so"] * int(part[1:]) if part[0] == "." else [spell[part.split("|")[0]]]
    return " ".join(words[:-1]) + " "


def whole(text: str) -> None:
    parts = [Part("user", piece, False) for _, piece in told_apart(text)]
    InputChecks().inspect(parts, CheckRules())


def seconds(work: Callable[[str], object], text: str) -> float:
    """Processor time, at best of two: the machine may be busy with something else."""
    times = []
    for _ in range(2):
        began = time.process_time()
        work(text)
        times.append(time.process_time() - began)
        if times[-1] < SECONDS / 4:
            break
    return min(times)


@pytest.mark.parametrize("unit", UNITS.values(), ids=UNITS)
def test_a_megabyte_of_it_is_looked_at_in_time(unit: str) -> None:
    text = unit * (MEGABYTE // len(unit.encode()))
    assert seconds(whole, text) < SECONDS


@pytest.mark.parametrize("rule", sorted({said for _, _, said in RULES}))
def test_a_megabyte_of_the_worst_text_for_a_rule_is_looked_at_in_time(rule: str) -> None:
    text = worst_of(rule)
    assert seconds(explain, text * (MEGABYTE // len(text))) < SECONDS


PARTS: dict[str, Callable[[str], object]] = {
    "shapes": shapes,
    "decoded": decoded,
    "hidden": has_hidden_text,
    "markers": has_role_markers,
    "explain": explain,
}


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
@pytest.mark.parametrize("unit", ["a", "a ", "<|", "\u200b ", "41 6e 7a 6f ", "QUFB", "&#65;", "i g n o r e   "])
def test_eight_times_the_text_takes_about_eight_times_as_long(part: Callable[[str], object], unit: str) -> None:
    """Four times more would still pass, since small times are mostly noise; a square law would be eight times more."""
    small, large = unit * (30_000 // len(unit)), unit * (240_000 // len(unit))
    once = max(min(seconds(part, small) for _ in range(3)), 0.002)
    assert seconds(part, large) < 8 * once * 4

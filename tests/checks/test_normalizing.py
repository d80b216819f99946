"""What holds for every text: it is read without an error, the same words in every dress, and in bounded ways."""

from __future__ import annotations

import unicodedata
from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safe_llm.checks.decoding import decoded
from safe_llm.checks.injection import score
from safe_llm.checks.inputs import InputChecks
from safe_llm.checks.normalizing import plain, readings, words_of
from safe_llm.policy import CheckRules
from safe_llm.types import Part

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)
ODD = st.text(
    st.sampled_from("a1 .<|>[]%\\u0&#;=\n\u200b\u200d\u202e\U000e0041é忽игно/+-_*~@$!'\x00\ufdfa"), max_size=120
)


@given(TEXTS | ODD)
def test_every_text_can_be_looked_at(text: str) -> None:
    assert 0 <= score(text) <= 1
    InputChecks().inspect([Part("tool", text, False)], CheckRules())


@given(TEXTS | ODD)
def test_all_readings_together_are_at_most_a_few_times_as_long(text: str) -> None:
    found = [read for read, _ in readings(text)]
    assert len(set(found)) == len(found)
    assert sum(map(len, found)) <= 6 * len(plain(text)) + 3 * 4_096


@given(st.text(st.sampled_from("abcdefghij klmnop. xyz"), max_size=80))
def test_invisible_characters_change_no_reading(text: str) -> None:
    assert plain("\u200b".join(text)) == plain(text)


@given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=80))
def test_what_only_looks_different_is_read_the_same(text: str) -> None:
    wide = "".join([chr(ord(letter) + 0xFEE0) if letter != " " else "\u3000" for letter in text])
    assert plain(wide) == plain(text)


@given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=24, max_size=80))
def test_what_is_encoded_is_read_too(text: str) -> None:
    letters = "".join([letter if letter.isalpha() else " " for letter in text]) + " some words"
    assert letters in decoded(b64encode(letters.encode()).decode())
    assert letters in decoded(letters.encode().hex())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don't  STOP, me-now!", ["don't", "stop", "me", "now"]),
        ("Über ÉLÈVE Ångström", ["uber", "eleve", "angstrom"]),
        ("ﬁle № ①", ["file", "no", "1"]),
        ("İstanbul ISPARTA ı", ["istanbul", "isparta", "i"]),
        ("Łódź Øre", ["lodz", "ore"]),
        ("мой йод", ["мои", "иод"]),
        ("각 한국", ["각", "한국"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("سَلام", ["سلام"]),
        ("𝐛𝐨𝐥𝐝 𝓼𝓬𝓻𝓲𝓹𝓽", ["bold", "script"]),
    ],
)
def test_words_are_those_that_a_reader_reads(text: str, words: list[str]) -> None:
    assert words_of(plain(text)) == [unicodedata.normalize("NFC", word) for word in words]


@pytest.mark.parametrize(
    "text",
    [
        "AAAAAAAAAAAAAAAAAAAAAAAA",
        "deadbeefdeadbeefdeadbeef",
        "0123456789012345678901234567",
        "internationalizationalism",
        "x" * 400,
    ],
)
def test_what_does_not_decode_to_text_stays_as_it_is(text: str) -> None:
    assert decoded(text) == text

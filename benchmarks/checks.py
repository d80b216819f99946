"""Measures the input checks against labelled texts.

    python benchmarks/checks.py LABELLED.jsonl.gz

Each line is one text: ``text``, ``label`` (1: an attack), ``source``, ``kind`` and ``lang``. Prints, by kind and by
source, the share that ``injection`` tells at the shipped threshold: recall of attacks, false positives of the benign.
Texts of the kind "indirect", and the benign of the same sources, are looked at as what a tool returned, all others as a
user's words. Then the same for disguised copies of both, and how long a message of 4,000 characters takes.
"""

from __future__ import annotations

import codecs
import gzip
import json
import sys
import time
from base64 import b64encode
from collections import defaultdict
from collections.abc import Callable
from statistics import median
from typing import NamedTuple

from safe_llm.checks.inputs import InputChecks
from safe_llm.policy import CheckRules
from safe_llm.types import Part

_EVERY = 5
"""Of so many texts one is disguised, in each way."""
_TRIES = 3
"""Looks at one message, each by checks that have not seen it: the fastest was disturbed the least."""
_LONGEST = 4_000
"""Characters of a disguised text."""

_HOMOGLYPHS = str.maketrans("aceiopxy", "асеіорху")
_LEET = str.maketrans("aeiost", "431057")
_FULLWIDTH = {code: code + 0xFEE0 for code in range(0x21, 0x7F)}

DISGUISES: dict[str, Callable[[str], str]] = {
    "zero-width": lambda text: "\u200b".join(text),
    "homoglyph": lambda text: text.translate(_HOMOGLYPHS),
    "fullwidth": lambda text: text.translate(_FULLWIDTH),
    "tag characters": lambda text: "".join([chr(0xE0000 + ord(c)) if " " <= c <= "~" else c for c in text]),
    "base64": lambda text: b64encode(text.encode()).decode(),
    "hex": lambda text: text.encode().hex(),
    "rot13": lambda text: codecs.encode(text, "rot13"),
    "spaced": " ".join,
    "leet": lambda text: text.lower().translate(_LEET),
}
"""How a text is hidden from a filter that reads only what is written."""


class Text(NamedTuple):
    text: str
    is_attack: bool
    source: str
    kind: str


def read(path: str) -> list[Text]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [Text(r["text"], r["label"] == 1, r["source"], r["kind"]) for r in map(json.loads, lines)]


class Telling:
    """The shipped checks, asked about one text at a time."""

    def __init__(self, texts: list[Text]) -> None:
        self.checks, self.rules = InputChecks(), CheckRules()
        self.outside = {text.source for text in texts if text.kind == "indirect"}

    def finds(self, text: Text, rules: tuple[str, ...] = ("injection",)) -> bool:
        role = "tool" if text.source in self.outside else "user"
        found = self.checks.inspect([Part(role, text.text, trusted=False)], self.rules)
        return any(finding.rule in rules for finding in found)


Shares = dict[tuple[str, str], list[bool]]


def shares(texts: list[Text], finds: Callable[[Text], bool]) -> Shares:
    found: defaultdict[tuple[str, str], list[bool]] = defaultdict(list)
    for text in texts:
        told = finds(text)
        found[text.kind, "all"].append(told)
        found[text.kind, text.source].append(told)
    return found


def as_told(texts: list[Text], telling: Telling) -> None:
    injection = shares(texts, telling.finds)
    denied = shares(texts, lambda text: telling.finds(text, ("role_markers", "hidden_text")))
    print(f"{'kind':12} {'source':26} {'n':>6} {'injection':>10} {'markers or hidden':>18}")
    for (kind, source), told in sorted(
        injection.items(), key=lambda item: (item[0][0], item[0][1] != "all", item[0][1])
    ):
        others = denied[kind, source]
        print(f"{kind:12} {source:26} {len(told):>6} {_share(told):>10} {_share(others):>18}")


def disguised(texts: list[Text], telling: Telling) -> None:
    some = [text._replace(text=text.text[:_LONGEST]) for text in texts[::_EVERY]]
    kinds = sorted({text.kind for text in some})
    print(f"\n{'disguised':16}", *(f"{kind:>12}" for kind in kinds), f"{'of the clean recall':>20}")
    clean = shares(some, telling.finds)
    caught = [text for text in some if text.is_attack and telling.finds(text)]
    print(f"{'(clean)':16}", *(f"{_share(clean[kind, 'all']):>12}" for kind in kinds))
    for name, disguise in DISGUISES.items():
        copies = shares([text._replace(text=disguise(text.text)) for text in some], telling.finds)
        again = [telling.finds(text._replace(text=disguise(text.text))) for text in caught]
        print(f"{name:16}", *(f"{_share(copies[kind, 'all']):>12}" for kind in kinds), f"{_share(again):>20}")


def speed(texts: list[Text], rules: CheckRules) -> None:
    joined: defaultdict[str, str] = defaultdict(str)
    for text in texts:
        joined[text.kind] += text.text + "\n"
    print()
    for kind, whole in sorted(joined.items()):
        messages = [whole[start : start + 4_000] for start in range(0, min(len(whole), 800_000), 4_000)]
        times = [min(_seconds(message, rules) for _ in range(_TRIES)) for message in messages]
        print(f"a message of 4,000 characters, {kind}: median {median(times) * 1e3:.2f} ms of {len(times)}")


def _seconds(message: str, rules: CheckRules) -> float:
    checks, part = InputChecks(), Part("user", message, trusted=False)
    began = time.perf_counter()
    checks.inspect([part], rules)
    return time.perf_counter() - began


def _share(told: list[bool]) -> str:
    return f"{sum(told) / len(told):.1%}" if told else "–"


def main(path: str) -> None:
    texts = read(path)
    telling = Telling(texts)
    as_told(texts, telling)
    disguised(texts, telling)
    speed(texts, telling.rules)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: checks.py LABELLED.jsonl.gz")
    main(sys.argv[1])

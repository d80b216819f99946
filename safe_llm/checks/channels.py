"""One text of an answer, such as the content of a choice, as it comes in pieces: what is found in it, and how much of
it may be shown already."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import TYPE_CHECKING

from .leaks import INVISIBLE
from .spans import LONGEST_END, Rule, Shapes, Tail, without

if TYPE_CHECKING:
    from .events import Key
    from .leaks import Overlap

Found = Callable[[str], None]
"""Told the name of a rule for each match; raises where that is to end the answer."""

_BEHIND = 16
"""Characters that rules may look back at."""
_MOST_SPANS = 64
"""Of those that were shown already, no more are kept."""


_LETTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789")
_OF_SCHEMES = frozenset(":/")
_LONGEST_WORD, _MOST_WORDS = 24, 8_192
_NONE: set[str] = set()


@lru_cache(maxsize=16)
def _quiet_words(rules: tuple[Rule, ...]) -> set[str]:
    """Pieces of text in which these rules find nothing, and nothing begins, behind another character than those of the
    schemes of URLs; with a mark in front where a letter or digit stands before. What rules of shapes say depends on no
    more than that."""
    return set() if all(isinstance(rule, Shapes) for rule in rules) else _NONE


class _Looking:
    """One rule's way through a text: up to where it has decided, and the match that it is still in."""

    __slots__ = ("_rule", "_seen", "_span", "_tail", "decided")

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self._tail: Tail | None = None
        self._seen = ""
        """The end of the match so far."""
        self._span: list[int] = []
        self.decided = 0

    @property
    def is_inside(self) -> bool:
        """Whether a match goes on in what follows."""
        return self._tail is not None

    def look(self, text: str, base: int, final: bool) -> list[list[int]]:
        """Look at what has not been decided of a text that begins at `base`; the matches that begin there."""
        if self._tail is not None and not self._grow(text, base):
            return []
        found, decided = self._rule.scan(text, self.decided - base, final)
        self.decided = base + decided
        if not found:
            return []
        spans = [[base + begin, base + end] for begin, end, _ in found]
        self._tail = found[-1].tail
        if self._tail is not None:
            self._span, self._seen = spans[-1], text[found[-1].begin : found[-1].end][-LONGEST_END:]
            self.decided = spans[-1][1]
        return spans

    def _grow(self, text: str, base: int) -> bool:
        """Go on with a match; whether it is over."""
        assert self._tail is not None
        start = self.decided - base
        end, is_over = self._tail.end(text, start, self._seen)
        self._seen = (self._seen + text[start:end])[-LONGEST_END:]
        self.decided = self._span[1] = base + end
        if is_over:
            self._tail = None
        return is_over


class Channel:
    """One text. Positions count its characters from its beginning."""

    __slots__ = (
        *("_base", "_found", "_leaks", "_looking", "_matches", "_overlap", "_skipped", "_text"),
        *("_pending", "_quiet", "_words", "barrier", "end", "kept", "safe"),
    )

    def __init__(self, rules: Sequence[Rule], overlap: Overlap | None, found: Found, *, keeps: bool) -> None:
        """`keeps`: all of the text is wanted at its end."""
        self._looking = [(rule.name, _Looking(rule)) for rule in rules]
        self._quiet = [rule.is_quiet for rule in rules]
        self._words = _quiet_words(tuple(rules))
        self._pending = False
        """Whether a rule has not decided all so far: not so in nearly all texts, which are looked at faster."""
        self.barrier: Key | None = None
        """What must be over before any of it is shown."""
        self._overlap = overlap
        self._found = found
        self._text = ""
        """The text from `_base` on, without what cannot be seen."""
        self._base = 0
        self._skipped: list[tuple[int, int]] = []
        """Where, in the text without it, something was left out that cannot be seen, and how much up to there."""
        self._matches: list[list[int]] = []
        """In the text without what cannot be seen."""
        self._leaks: list[list[int]] = []
        self.end = 0
        self.safe = 0
        """What stands before may be shown, but for the spans."""
        self.kept: list[str] | None = [] if keeps else None

    @property
    def whole(self) -> str:
        """All of the text, where it is kept."""
        return "".join(self.kept or ())

    @property
    def spans(self) -> list[list[int]]:
        """What is to be left out, in order."""
        if not self._skipped:
            return sorted(self._matches + self._leaks)
        seen = [[self._place(begin), self._place(end - 1) + 1] for begin, end in self._matches]
        return sorted(seen + self._leaks)

    @property
    def has_spans(self) -> bool:
        """Whether there is anything to leave out."""
        return bool(self._matches or self._leaks)

    def cut(self, text: str, begin: int) -> str:
        """A piece of the text without what is to be left out. Pieces are asked for in order."""
        shown = without(text, begin, self.spans)
        if len(self._matches) > _MOST_SPANS:
            self._matches = [span for span in self._matches if span[1] >= begin - self._hidden()]
        return shown

    def _hidden(self) -> int:
        return self._skipped[-1][1] if self._skipped else 0

    def replace(self) -> None:
        """Leave all of it out."""
        self._matches, self._leaks = [], [[0, self.end]]

    def passes(self, text: str) -> bool:
        """Take a piece if all so far is decided and shown as it is, and this is, too; whether it was taken."""
        if self._pending or self._matches or self._leaks or self.safe != self.end:
            return False
        letters = None if self._overlap is None else self._overlap.quiet(text)
        if letters is None and self._overlap is not None:
            return False
        if self._looking and not self._passes(text):
            return False
        if letters:
            assert self._overlap is not None
            self._overlap.go_on(letters, text, self.end)
        self.end = self.safe = self.end + len(text)
        if self.kept is not None:
            self.kept.append(text)
        return True

    def add(self, text: str, *, final: bool = False) -> int:
        """The text goes on; where the piece begins. `final`: it is all that comes, so that all is decided."""
        begin = self.end
        self.end += len(text)
        if self.kept is not None:
            self.kept.append(text)
        safe = self.end
        found: list[tuple[int, str]] = []
        if self._overlap is not None:
            leaks, safe = self._overlap.feed(text, begin)
            if leaks:
                leaks[0][0] = max(leaks[0][0], self.safe)
                self._leaks += leaks
                found += [(leak[0], "prompt_leak") for leak in leaks]
        if self._looking:
            safe = min(safe, self._scan(text, found, final=final))
        if found:
            self._tell(found, safe)
        self.safe = max(self.safe, safe)  # of a run that is noticed now, the beginning may have been shown
        return begin

    def close(self) -> None:
        """No more will come: all is decided."""
        found: list[tuple[int, str]] = []
        if self._pending:
            self._scan("", found, final=True)
        self._tell(found, self.end)
        self.safe = self.end

    def _tell(self, found: list[tuple[int, str]], safe: int) -> None:
        """Tell of matches, by where they begin: if that ends the answer, what stands before may still be shown."""
        for begin, name in sorted(found):
            self.safe = max(self.safe, min(safe, begin))
            self._found(name)

    def _scan(self, new: str, found: list[tuple[int, str]], *, final: bool) -> int:
        if not self._pending and not final and self._passes(new):
            return self.end
        if not new.isascii() and INVISIBLE.search(new):
            new = self._leave_out(new)
        start = len(self._text)
        text = self._text = self._text + new
        base = self._base
        end = decided = base + len(text)
        if not self._pending:
            for _, looking in self._looking:
                looking.decided = base + start
        for name, looking in self._looking:
            for span in looking.look(text, base, final):
                self._matches.append(span)
                found.append((self._place(span[0]), name))
            decided = min(decided, looking.decided)
        keep = decided - base - _BEHIND
        if keep > _BEHIND:
            self._text, self._base = text[keep:], base + keep
        self._pending = decided < end or any(looking.is_inside for _, looking in self._looking)
        if decided == end:
            return self.end
        return decided if not self._skipped else self._place(decided - 1) + 1

    def _passes(self, new: str) -> bool:
        """Whether in what comes, where all so far is decided, there is nothing for any rule, as nearly always. Answers
        are made of the same words, so those are remembered."""
        behind = self._text[-1:]
        known = self._words if behind not in _OF_SCHEMES else _NONE
        word = new if behind not in _LETTERS else f"\0{new}"
        if word not in known:
            if not new.isascii() and INVISIBLE.search(new):
                return False
            text, start = self._text + new, len(self._text)
            for is_quiet in self._quiet:
                if not is_quiet(text, start):
                    return False
            if known is not _NONE and len(new) <= _LONGEST_WORD and len(known) < _MOST_WORDS:
                known.add(word)
        text = (self._text + new)[-_BEHIND:]
        self._base += len(self._text) + len(new) - len(text)
        self._text = text
        return True

    def _leave_out(self, new: str) -> str:
        """The text without what cannot be seen."""
        position = self._base + len(self._text)
        left, out, done = self._skipped[-1][1] if self._skipped else 0, [], 0
        for hidden in INVISIBLE.finditer(new):
            out.append(new[done : hidden.start()])
            position += hidden.start() - done
            left += hidden.end() - hidden.start()
            done = hidden.end()
            self._skipped.append((position, left))
        return "".join([*out, new[done:]])

    def _place(self, position: int) -> int:
        """Where in the text a character stands."""
        index = bisect_right(self._skipped, position, key=itemgetter(0))
        return position + (self._skipped[index - 1][1] if index else 0)

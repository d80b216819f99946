"""Which rules look at an answer, what they found in it, and what follows from that."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import OutputRejectedError
from ..types import Admission, Check, Finding
from .channels import Channel
from .events import Key, Piece
from .leaks import Overlap, Wording, canary_rules, folded, wording
from .links import Links
from .patterns import Pattern, Windowed
from .secrets import secret_rules
from .spans import Rule
from .tool_calls import Offer

if TYPE_CHECKING:
    from ..policy import CheckRules

_SEVERITY = {"secrets": "high", "prompt_leak": "high", "links": "medium", "tool_calls": "medium"}
_MOST_FINDINGS = 32
"""Of one rule on one record."""
PIECES = "pieces"
"""The view of an answer in pieces; others have the names of their events."""


class Entry:
    """One event that waits."""

    __slots__ = ("barriers", "changed", "item", "raw", "slots")

    def __init__(self, raw: bytes, item: Any) -> None:
        self.raw = raw
        self.item = item
        self.slots: list[tuple[Channel, int, Piece]] = []
        """The pieces of texts that it holds, and where in them each begins."""
        self.changed = False
        self.barriers: frozenset[Key] = frozenset()
        """What must be over before it is shown."""

    @property
    def waits(self) -> bool:
        """Whether what follows may make something of it that is forbidden."""
        for channel, begin, piece in self.slots:  # noqa: SIM110  # any() takes three times as long, for every event
            if begin + len(piece.text) > channel.safe:
                return True
        return False


class Whole(NamedTuple):
    """A text that came whole."""

    view: str
    piece: Piece
    entry: Entry


class Verdicts:
    """The rules of one answer."""

    def __init__(self, admission: Admission, rules: CheckRules, checks: Sequence[Check], *, watches: bool) -> None:
        self._admission = admission
        self._rules = rules
        self.watches = watches
        self._counts: dict[str, Counter[str]] = {}
        """How often each rule found something, by the view of the answer: a stream of Responses tells all more than
        once, in pieces, and then whole."""
        self._view = ""
        self._others: list[Finding] = []
        """What the application's own checks found."""
        self._channels: dict[Key, Channel] = {}
        self._wholes: list[Whole] = []
        self._folded: bytes | None = None
        self._concluded = False
        self._choose(checks)

    # Which rules ------------------------------------------------------------------------------------------------------

    def _choose(self, checks: Sequence[Check]) -> None:
        rules = self._rules
        self._actions: dict[str, str] = {
            "secrets": rules.secrets,
            "prompt_leak": rules.prompt_leak,
            "links": rules.links,
            "tool_calls": rules.tool_calls,
        }
        self._enforced: list[Rule] = []
        self._noted: list[Rule] = []
        self._leak: Wording | None = None
        self._noted_leak: Wording | None = None
        self._waiting: list[Check] = []
        if rules.secrets != "off":
            self._add("secrets", *secret_rules())
        if rules.links != "off":
            self._add("links", Links(rules.allowed_hosts))
        if rules.prompt_leak != "off":
            self._add("prompt_leak", *canary_rules())
            call = self._admission.call
            trusted = tuple(part.text for part in call.endpoint.parts(call) if part.trusted)
            prompts = wording(trusted) if trusted else None
            if prompts is not None and prompts.blocks:
                if self._enforces("prompt_leak"):
                    self._leak = prompts
                else:
                    self._noted_leak = prompts
        for check in checks:
            self._add_own(check)
        # What was offered to a response that is only retrieved is not known.
        judges = rules.tool_calls != "off" and self._admission.corrects is None
        self._offer = Offer(self._admission.call.body) if judges else None
        self._holds_calls = self._offer is not None and self._enforces("tool_calls")
        self._keeps = bool(self._noted or self._noted_leak or self._waiting)

    def _add(self, name: str, *rules: Rule) -> None:
        (self._enforced if self._enforces(name) else self._noted).extend(rules)

    def _add_own(self, check: Check) -> None:
        window = getattr(check, "window", None)
        if isinstance(check, Pattern):
            self._actions[check.name] = check.action
            self._add(check.name, check)
        elif isinstance(window, int) and not self.watches and not iscoroutinefunction(check.inspect):
            self._enforced.append(Windowed(check, window, self._takes_out))
        else:
            self._waiting.append(check)

    @property
    def looks(self) -> bool:
        """Whether there is anything to look for."""
        return bool(self._enforced or self._keeps or self._leak or self._offer)

    def _enforces(self, name: str) -> bool:
        return not self.watches and self._actions[name] in ("deny", "redact")

    def _takes_out(self, check: Check, text: str) -> bool:
        """Run a check with a window; whether the text is to be taken out."""
        raise NotImplementedError

    # What was found ---------------------------------------------------------------------------------------------------

    def _channel(self, *, keeps: bool) -> Channel:
        overlap = None if self._leak is None else Overlap(self._leak, self._said)
        return Channel(self._enforced, overlap, self._found, keeps=keeps)

    def _said(self) -> bytes:
        """The folded words of everybody but the application."""
        if self._folded is None:
            call = self._admission.call
            self._folded = b"\0".join(folded(part.text) for part in call.endpoint.parts(call) if not part.trusted)
        return self._folded

    def _found(self, name: str) -> None:
        """A rule found something.

        Raises:
            OutputRejectedError: the answer ends here.
        """
        if not name:
            return  # a check of the application's own, which was obeyed already
        self._counts.setdefault(self._view, Counter())[name] += 1
        action = self._actions[name]
        if not self.watches and (action == "deny" or (name == "tool_calls" and action == "redact")):
            raise rejected(name, "found what it denies")

    def findings(self) -> tuple[Finding, ...]:
        """All that was found, once the call is over. What is only noted is looked for now."""
        if not self._concluded:
            self._concluded = True
            self._note()
        if not any(self._counts.values()):  # as nearly always
            return tuple(self._others)
        found: list[Finding] = []
        for name, action in self._actions.items():
            count = max((counts[name] for counts in self._counts.values()), default=0)
            severity = _SEVERITY.get(name, "high")
            found += [Finding(name, severity, "output", action=action)] * min(count, _MOST_FINDINGS)  # type: ignore[arg-type]
        return (*found, *self._others)

    def _note(self) -> None:
        if not self._noted and self._noted_leak is None:
            return
        texts = [(PIECES, channel.whole) for channel in self._channels.values()]
        texts += [(view, piece.text) for view, piece, _ in self._wholes]
        known: dict[str, Counter[str]] = {}
        for view, text in texts:
            counts = self._counts.setdefault(view, Counter())
            if text not in known:
                own = known[text] = Counter[str]()
                overlap = None if self._noted_leak is None else Overlap(self._noted_leak, self._said)
                channel = Channel(self._noted, overlap, partial(_count, own), keeps=False)
                channel.add(text, final=True)
                channel.close()
            counts.update(known[text])


def _count(counts: Counter[str], name: str) -> None:
    counts[name] += 1


def rejected(rule: str, why: str, cause: Exception | None = None) -> OutputRejectedError:
    error = OutputRejectedError(
        f"The answer is rejected: the output check {rule!r} {why}. It was paid for and recorded; ask again, or change "
        "what [checks] says.",
        rule=rule,
    )
    error.__cause__ = cause
    return error

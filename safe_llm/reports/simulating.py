"""What another policy would have done to the calls of the past: who is denied, when, by which rule, what it saves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from ..policy import Policy
from ..types import plain, usd
from .recorded import Decision, InOrder, Recorded, recorded
from .replaying import Replay, Verdict
from .suggesting import PERCENTILES, Suggesting, Suggestion

MOST_USERS = 100_000
"""Users that are told apart; the calls of others are counted together, as those of no user."""
MOST_CHANGES = 1_000
"""Single calls that are told of."""


@dataclass(slots=True)
class Denied:
    """Calls of one kind that the policy would have denied and that were let through, and what they cost."""

    calls: int = 0
    nano: int = 0
    first: int = 0
    """Microseconds of UTC, as is `last`."""
    last: int = 0
    rules: Counter[str] = field(default_factory=Counter)
    """Calls by rule: the limit's sentence and place, or the code where no limit denies."""
    users: set[str] = field(default_factory=set)

    def add(self, verdict: Verdict) -> None:
        call = verdict.call
        self.first = min(self.first, call.begin) if self.calls else call.begin
        self.last = max(self.last, call.begin)
        self.calls += 1
        self.nano += call.cost_used or 0
        self.rules[rule_of(verdict)] += 1
        if len(self.users) < MOST_USERS:
            self.users.add(call.user)


@dataclass(slots=True)
class Change:
    """One call that comes out otherwise than it is recorded."""

    call: Recorded
    now: Decision | None


class Simulation:
    """The records of the past under the policy: `read` them, let it `decide`, then look."""

    def __init__(self, policy: Policy, percentiles: Sequence[float] = PERCENTILES) -> None:
        self.policy = policy
        self.unreadable = 0
        self.to_decide = 0
        self.calls = self.recorded_denied = self.denied = 0
        self.first = self.last = 0
        """Microseconds of UTC."""
        self.spent = self.would_spend = self.saved = self.added = 0
        """nano-USD. What is added is the bound of calls that were denied and are let through now."""
        self.unpriced = 0
        """Calls that were sent at a price that is not known: they are in no sum."""
        self.newly_denied = Denied()
        self.by_rule: dict[str, Denied] = {}
        self.by_user: dict[str | None, Denied] = {}
        self.newly_admitted = 0
        self.of_unknown_size = 0
        """Of those, the ones that had been denied before they were estimated: they count as requests alone."""
        self.kept: Counter[str] = Counter()
        """Denials that are not decided anew, by code."""
        self.in_force = self.differing = 0
        """Records that were made under this very policy, and those of them that come out otherwise."""
        self.changed = 0
        self.changes: list[Change] = []
        self._calls = InOrder()
        self._suggesting = Suggesting(policy.calendar, percentiles)

    def read(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Take the records, as files have them, and put them in their order."""
        for order, row in enumerate(rows):
            call = recorded(row, order)
            if call is None:
                self.unreadable += 1
            else:
                self._calls.add(call)
        self.to_decide = len(self._calls)

    def decide(self) -> Iterator[Verdict]:
        """Decide about each of them. It must be iterated to its end."""
        for verdict in Replay(self.policy).run(self._calls):
            self._add(verdict)
            yield verdict

    def _add(self, verdict: Verdict) -> None:
        call, denial = verdict.call, verdict.denial
        self._suggesting.add(call)
        self.first = min(self.first, call.begin) if self.calls else call.begin
        self.last = max(self.last, call.begin)
        self.calls += 1
        self.recorded_denied += not call.sent
        self.denied += denial is not None
        if call.sent:
            self.spent += call.cost_used or 0
            self.unpriced += call.cost_used is None
        if denial is None:
            self.would_spend += verdict.cost or 0
        if verdict.kept and denial is not None:
            self.kept[denial[0]] += 1
        if call.sent and denial is not None:
            self._deny(verdict)
        elif not call.sent and denial is None:
            self.newly_admitted += 1
            self.added += verdict.cost or 0
            self.of_unknown_size += call.denial is not None and call.denial[0] in (
                "feature_not_allowed",
                "model_not_allowed",
            )
        self._compare(verdict)

    def _deny(self, verdict: Verdict) -> None:
        user = verdict.call.user
        who = user if user in self.by_user or len(self.by_user) < MOST_USERS else None
        self.saved += verdict.call.cost_used or 0
        self.newly_denied.add(verdict)
        self.by_rule.setdefault(rule_of(verdict), Denied()).add(verdict)
        self.by_user.setdefault(who, Denied()).add(verdict)

    def _compare(self, verdict: Verdict) -> None:
        call = verdict.call
        differs = call.denial != verdict.denial
        if call.policy_version == self.policy.version:
            self.in_force += 1
            self.differing += differs
        if differs:
            self.changed += 1
            if len(self.changes) < MOST_CHANGES:
                self.changes.append(Change(call, verdict.denial))

    def suggestions(self) -> list[Suggestion]:
        """Limits to choose from, by plan."""
        return list(self._suggesting.suggestions())

    def remarks(self) -> list[str]:
        """What the figures rest on, and what they leave out."""
        said = [
            "What a policy says about input, output, time, checks, switches and verified identities is not replayed: a "
            "call keeps its size, and what such a rule denied stays denied.",
            "Counters begin empty at the first record.",
        ]
        if self.newly_admitted:
            said.append("A call that was denied and is let through is charged at what would have been reserved for it.")
        if self.of_unknown_size:
            said.append(
                f"{self.of_unknown_size:,} of them were denied before they were estimated, and count as requests alone."
            )
        if self.unpriced:
            said.append(f"{self.unpriced:,} calls at a price that is not known are in no sum of money.")
        if self.differing:
            said.append(
                f"{self.differing:,} of {self.in_force:,} records that were made under this very policy come out "
                "otherwise: the records before them may be missing, or those of another process."
            )
        return said

    def as_json(self) -> dict[str, Any]:
        """All of it, for programs: money as text, times in UTC."""
        return {
            "policy_version": self.policy.version,
            "calls": self.calls,
            "unreadable": self.unreadable,
            "first": moment(self.first) if self.calls else None,
            "last": moment(self.last) if self.calls else None,
            "recorded": {"denied": self.recorded_denied, "cost_usd": money(self.spent)},
            "simulated": {"denied": self.denied, "cost_usd": money(self.would_spend)},
            "newly_denied": _denied(self.newly_denied),
            "by_rule": [{"rule": rule, **_denied(some)} for rule, some in ranked(self.by_rule)],
            "by_user": [{"user": user, **_denied(some)} for user, some in ranked(self.by_user)],
            "newly_admitted": {"calls": self.newly_admitted, "most_usd": money(self.added)},
            "kept_denials": dict(self.kept.most_common()),
            "same_policy": {"calls": self.in_force, "differing": self.differing},
            "changes": [_change(change) for change in self.changes],
            "changes_left_out": self.changed - len(self.changes),
            "suggestions": [
                {
                    "plan": one.plan,
                    "metric": one.metric,
                    "window": one.window,
                    "seen": one.seen,
                    "limits": {f"p{percentile:g}": one.sentence(percentile) for percentile in one.amounts},
                }
                for one in self.suggestions()
            ],
            "remarks": self.remarks(),
        }


def rule_of(verdict: Verdict) -> str:
    """What denies: a limit with its place, or the code."""
    assert verdict.denial is not None
    code, limit, _ = verdict.denial
    return code if limit is None or verdict.place is None else f"{limit} ({verdict.place})"


def ranked(some: Mapping[Any, Denied]) -> list[tuple[Any, Denied]]:
    """The dearest first, then those with most calls."""
    return sorted(some.items(), key=lambda item: (-item[1].nano, -item[1].calls, str(item[0])))


def money(nano: int) -> str:
    """USD with all its digits."""
    return plain(usd(nano))


def moment(microseconds: int) -> str:
    """UTC, as records have it."""
    seconds, rest = divmod(microseconds, 1_000_000)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest).isoformat().replace("+00:00", "Z")


def _denied(some: Denied) -> dict[str, Any]:
    return {
        "calls": some.calls,
        "users": len(some.users),
        "saved_usd": money(some.nano),
        "first": moment(some.first) if some.calls else None,
        "last": moment(some.last) if some.calls else None,
        "rules": dict(some.rules.most_common()),
    }


def _change(change: Change) -> dict[str, Any]:
    call = change.call
    return {
        "record_id": call.id,
        "timestamp": moment(call.begin),
        "user": call.user,
        "feature": call.feature,
        "plan": call.plan,
        "model": call.model or None,
        "cost_usd": None if call.cost_used is None else money(call.cost_used),
        "recorded": _decision(call.denial),
        "simulated": _decision(change.now),
    }


def _decision(decision: Decision | None) -> dict[str, Any] | None:
    """None where the call is let through."""
    if decision is None:
        return None
    code, limit, scope = decision
    return {"code": code, "limit": limit, "scope": dict(scope)}

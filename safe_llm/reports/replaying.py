"""Recorded calls decided about once more, under any policy: the real limits and a real store, on a clock of their own.

Each call asks for room when it did, for what was reserved for it, and gives back when it ended what it did not use. So
calls that ran at once run at once again. What a policy says about input, output, time, checks, switches and verified
identities is not decided anew, for that takes what no record holds: a call that was denied by one of these stays
denied. A call that was denied and is now let through uses what was reserved for it, and takes no time.

Not told from others: a call that was counted by a process alone while the store was away, and a background response,
which is charged at its estimate, whatever it was corrected to later.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from heapq import heappop, heappush
from typing import NamedTuple

from ..accounting import Amounts, Made, charges, values_of
from ..identity import ANONYMOUS, Claim
from ..limits import PlacedLimit
from ..policy import Policy, Rules
from ..pricing import PriceBook
from ..stores import MemoryQuotaStore
from ..types import Refusal, Reservation, Usage
from .recorded import LIMIT_CODES, PLAN_CODES, Decision, Recorded

SLACK = 2_000_000
"""Microseconds by which the store may have seen calls in another order than their records tell."""
_MOST_WAITING = 512
_AHEAD, _MOST_AHEAD = 500_000, 64
"""Microseconds, and calls, by which a denial may have come before calls that began earlier: asking took them longer."""
_LEASE = 60.0
"""Seconds, beyond the call's own: the replay settles every call, so that no lease ends by itself."""
_BY_SIZE = ("tokens", "input_tokens", "money")
"""Metrics of limits that a smaller input may fit in."""


class Verdict(NamedTuple):
    """What becomes of one call under the policy."""

    call: Recorded
    denial: Decision | None
    """None where it is let through."""
    place: str | None = None
    """Where the limit stands that denies it: ``app``, ``plan:NAME`` or ``feature:NAME``."""
    kept: bool = False
    """The decision is the recorded one, because a record does not hold what it was made of."""
    cost: int | None = 0
    """nano-USD, at the policy's prices, of a call that is let through; None where no price is known."""


class _Size(NamedTuple):
    input: int
    output: int
    cost: int | None
    """nano-USD; None where no price is known."""

    def amounts(self, instead: int | None = None) -> Amounts:
        return Amounts(Usage(self.input, self.output), instead if self.cost is None else self.cost)


class _Asked(NamedTuple):
    """A call with what it takes under the policy."""

    call: Recorded
    rules: Rules
    values: Mapping[str, str | None]
    reserved: _Size
    used: _Size


_Answer = tuple[Made, Reservation | Refusal]


class Replay:
    """Decides about calls, which come in the order in which they began.

    Where a record was made under this very policy, its own decision tells in which order the store saw calls that were
    made within `SLACK` of each other: a record's times are taken beside the store, not in it. Any such order will do; a
    decision to which none of them leads differs from the record, and is found.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._prices = PriceBook(policy.prices)
        self._now = 0
        self._store = MemoryQuotaStore(clock=lambda: self._now / 1e6)
        self._ids = 0
        # A heap of calls in flight: when they end, and what they will have used then.
        self._open: list[tuple[int, int, int, Reservation, list[int]]] = []
        # Those that have ended a moment ago, so that the store may not have known of it yet.
        self._ended: deque[tuple[int, int, int, Reservation, list[int]]] = deque()
        # Those that came out otherwise than recorded, so far.
        self._waiting: list[_Asked] = []
        # Those that are to come, and which of these were decided before their turn.
        self._coming: deque[Recorded] = deque()
        self._early: set[int] = set()

    def run(self, calls: Iterable[Recorded]) -> Iterator[Verdict]:
        """A verdict on each call, nearly in their order."""
        coming = self._coming
        for call in calls:
            coming.append(call)
            while coming[0].begin < call.begin - _AHEAD or len(coming) > _MOST_AHEAD:
                yield from self._next(coming.popleft())
        while coming:
            yield from self._next(coming.popleft())
        for asked in self._waiting:
            yield self._anew(asked)

    def _next(self, call: Recorded) -> Iterator[Verdict]:
        if id(call) in self._early:
            self._early.discard(id(call))
            return
        yield from self._advance(call.begin, call.first)
        found = self._by_plan(call)
        if isinstance(found, Verdict):
            yield found
        elif self._is_in_force(call):
            if call.denial is None:
                yield from self._denied_before()
            yield from self._as_recorded(found)
        else:
            yield self._anew(found)

    def _denied_before(self) -> Iterator[Verdict]:
        """Denials to come that hold already: they change nothing, and soon they might not hold any more."""
        for call in self._coming:
            if call.denial is not None and id(call) not in self._early and self._is_in_force(call):
                asked = self._by_plan(call)
                found = asked if isinstance(asked, Verdict) else self._if_denied(asked)
                if found is not None:
                    self._early.add(id(call))
                    yield found

    def _if_denied(self, asked: _Asked) -> Verdict | None:
        made, answer = self._ask(asked)
        if not isinstance(answer, Refusal):
            self._store.settle(answer, [0] * len(made))
            return None
        found = self._verdict(asked, made, answer)
        return found if found.denial == asked.call.denial else None

    def _advance(self, now: int, step: int) -> Iterator[Verdict]:
        self._now = max(self._now, now)
        while self._open and self._open[0][:2] < (now, step):
            self._ended.append(heappop(self._open))
        while self._ended and self._ended[0][0] < now - SLACK:
            self._settle_oldest()
        while self._waiting and (self._waiting[0].call.begin < now - SLACK or len(self._waiting) > _MOST_WAITING):
            yield self._anew(self._waiting.pop(0))

    def _is_in_force(self, call: Recorded) -> bool:
        return call.policy_version == self.policy.version and (call.denial is None or call.denial[0] in LIMIT_CODES)

    # Without the limits -----------------------------------------------------------------------------------------------

    def _by_plan(self, call: Recorded) -> Verdict | _Asked:
        policy, name = self.policy, call.plan or self.policy.default_plan
        code = None if call.denial is None else call.denial[0]
        if not call.limited or (code is not None and code not in LIMIT_CODES and code not in PLAN_CODES):
            return Verdict(call, call.denial, kept=True, cost=call.cost_used)
        if policy.identity.required and call.user == ANONYMOUS:
            return Verdict(call, ("not_authenticated", None, ()))
        if name not in policy.plans:
            return Verdict(call, ("plan_unknown", None, ()))
        rules, scope = policy.rules(name, call.feature), {"user": call.user, "plan": name}
        if not rules.plan.allows_feature(call.feature):
            return Verdict(call, _denial("feature_not_allowed", None, {**scope, "feature": str(call.feature)}))
        if not rules.plan.allows_model(call.model):
            return Verdict(call, _denial("model_not_allowed", None, {**scope, "model": call.model}))
        reserved, used = self._sizes(call, code)
        if reserved.cost is None:
            for placed in rules.limits:
                if placed.limit.metric == "money":
                    return Verdict(call, ("unpriced_model", placed.limit.text, ()), placed.place)
        claim = Claim(call.user, call.feature, call.session, tags=dict(call.tags))
        values = values_of(claim, plan=name, model=call.model, prompt_hash=call.prompt)
        return _Asked(call, rules, values, reserved, used)

    def _sizes(self, call: Recorded, code: str | None) -> tuple[_Size, _Size]:
        """What is reserved for the call, and what it uses. Costs are the recorded ones unless the prices are others."""
        used = _Size(call.input_used, call.output_used, call.cost_used)
        reserved = _Size(call.input_reserved, call.output_reserved, call.cost_reserved)
        if code in ("feature_not_allowed", "model_not_allowed"):  # it was not estimated
            reserved = used if call.sent else _Size(0, 0, 0)
        elif self._is_priced_anew(call):
            rates = self._prices.rates(call.model)
            usage = Usage(call.input_used, call.output_used, call.cached_used)
            reserved = reserved._replace(cost=None if rates is None else rates.bound(reserved.input, reserved.output))
            used = used._replace(cost=None if rates is None else rates.cost(usage))
        return reserved, used if call.sent else reserved

    def _is_priced_anew(self, call: Recorded) -> bool:
        if call.price_version == self._prices.version:
            return False
        named = call.model in self.policy.prices
        return named or call.cost_reserved is None or self._prices.rates(call.model) is None

    # By the limits ----------------------------------------------------------------------------------------------------

    def _anew(self, asked: _Asked) -> Verdict:
        """Decide; as the guard does, a second time where the input turns out to be smaller than its bound."""
        while self._ended:
            self._settle_oldest()
        made, answer = self._ask(asked)
        call = asked.call
        is_smaller = call.told and call.input_used < asked.reserved.input
        if isinstance(answer, Refusal) and is_smaller and made[answer.position][0].limit.metric in _BY_SIZE:
            made, answer = self._ask(asked._replace(reserved=self._counted(asked)))
        return self._verdict(asked, made, answer)

    def _counted(self, asked: _Asked) -> _Size:
        """What would have been reserved for the input as it turned out; fees are as they were."""
        (bound, output, cost), given = asked.reserved, asked.call.input_used
        rates = self._prices.rates(asked.call.model)
        if rates is not None and cost is not None:
            most, less = rates.bound(bound, output), rates.bound(given, output)
            cost -= 0 if most is None or less is None else min(most - less, cost)
        return _Size(given, output, cost)

    def _as_recorded(self, asked: _Asked) -> Iterator[Verdict]:
        """Decide as the record says, if some order of the calls around it allows for that; else it waits for more."""
        self._waiting.append(asked)
        before = None
        while self._waiting and len(self._waiting) != before:
            before = len(self._waiting)
            waiting, self._waiting = self._waiting, []
            for one in waiting:
                found = self._try(one)
                if found is None:
                    self._waiting.append(one)
                else:
                    yield found

    def _try(self, asked: _Asked) -> Verdict | None:
        """The verdict, if it can be the recorded one."""
        wanted = asked.call.denial
        while True:
            made, answer = self._ask(asked)
            if isinstance(answer, Refusal):
                found = self._verdict(asked, made, answer)
                if found.denial == wanted:
                    return found
                if self._settle_one(made[answer.position][1].key):
                    continue
            elif wanted is None:
                return self._verdict(asked, made, answer)
            else:
                self._store.settle(answer, [0] * len(made))
            return None

    def _settle_one(self, key: str) -> bool:
        """Settle the oldest of the calls that have just ended and count there; whether there is one."""
        for position, (_, _, _, reservation, actual) in enumerate(self._ended):
            for charge, used in zip(reservation.charges, actual, strict=True):
                if charge.key == key and (used < charge.amount or charge.kind == "held"):
                    self._store.settle(reservation, actual)
                    del self._ended[position]
                    return True
        return False

    def _ask(self, asked: _Asked) -> _Answer:
        call = asked.call
        made = charges(
            asked.rules.limits, self.policy.calendar, call.begin / 1e6, asked.values, asked.reserved.amounts()
        )
        self._ids += 1
        lease = max(call.end - self._now, 0) / 1e6 + _LEASE
        return made, self._store.reserve(str(self._ids), [charge for _, charge in made], lease)

    def _verdict(self, asked: _Asked, made: Made, answer: Reservation | Refusal) -> Verdict:
        call = asked.call
        if isinstance(answer, Refusal):
            placed = made[answer.position][0]
            return Verdict(call, _refusal(placed, asked.values), placed.place)
        used = asked.used.amounts(instead=asked.reserved.cost)
        actual = [used.of(placed.limit.metric) for placed, _ in made]
        heappush(self._open, (call.end, call.last, self._ids, answer, actual))
        return Verdict(call, None, cost=asked.used.cost)

    def _settle_oldest(self) -> None:
        _, _, _, reservation, actual = self._ended.popleft()
        self._store.settle(reservation, actual)


def _refusal(placed: PlacedLimit, values: Mapping[str, str | None]) -> Decision:
    code = "budget_exceeded" if placed.limit.metric == "money" else "rate_limit_exceeded"
    return _denial(code, placed.limit.text, placed.scope(values))


def _denial(code: str, limit: str | None, scope: Mapping[str, str]) -> Decision:
    return code, limit, tuple(sorted(scope.items()))

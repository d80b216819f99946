"""Traffic of a made-up application: usage records as a sink would have written them, as many as wanted.

    python -m benchmarks.traffic -n 1_000_000 -o traffic.jsonl          # about half a minute
    python -m benchmarks.traffic --days 60 --users 500 --abuser new     # to the standard output

Few users make most of the calls (Pareto); a user comes in sessions, has busy days and quiet ones, a working day and a
weekend. Features differ in model, size and pace. Calls are denied, fail, time out and are left early; daily limits are
counted as they would be. One user turns abuser: on the day that begins after 70 % of the time, at 14:00 UTC, he starts
to call every few seconds for six hours. A seed gives the same records again.

Records come in the order in which calls end, as a sink sees them; `timestamp` is when they began.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from heapq import heappop, heappush
from itertools import accumulate, count, islice
from math import log
from random import Random
from typing import Any, NamedTuple

from pydantic_core import to_json

from safe_llm.pricing import PriceBook
from safe_llm.types import NANO, Usage, usd

HOUR, DAY = 3_600, 86_400
ABUSER, NEWCOMER = "user-abuser", "user-newcomer"
"""Who turns abuser: one who has called modestly for weeks, or one who has never called before."""

_HOURS = (1, 1, 1, 1, 1, 2, 4, 8, 14, 18, 20, 18, 14, 17, 19, 18, 15, 12, 9, 7, 6, 5, 3, 2)
"""How busy each hour of a working day is, in the user's own time."""
_WEEKDAYS = (1.0, 1.1, 1.1, 1.05, 0.9, 0.35, 0.3)
_ZONES = (0, 0, 0, 1, 1, 2, -5, -5, -8)
"""Hours that users' clocks are ahead of UTC."""
_CALLS, _GAP = 4.0, 100.0
"""Calls of a session, and seconds between them, on average."""
_ABUSE_GAP, _ABUSE_HOURS = 12.0, 6


class Feature(NamedTuple):
    """One feature of the application: what its calls are like. Sizes are medians, in tokens."""

    name: str | None
    share: float
    models: tuple[str, ...]
    given: float
    written: float
    cap: int | None
    streams: float = 0.0
    """The part of its calls that are streamed."""
    endpoint: str = "chat.completions"


FEATURES = (
    Feature("chat_support", 45, ("gpt-4o-mini", "gpt-4o-mini", "gpt-4o"), 900, 220, 1_000, 0.9),
    Feature("document_analysis", 14, ("gpt-4o", "gpt-4.1"), 4_200, 520, 2_000, 0.2, "responses"),
    Feature("code_review", 10, ("gpt-4.1", "gpt-5"), 2_600, 700, 4_000, 0.6),
    Feature("search", 22, ("text-embedding-3-small",), 60, 0, None, 0.0, "embeddings"),
    Feature(None, 9, ("gpt-4o-mini",), 300, 90, 1_000),
)
_PACE = {"gpt-4o-mini": (380, 90), "gpt-4o": (520, 70), "gpt-4.1": (560, 75), "gpt-5": (1_900, 60)}
"""Milliseconds to the first token, and tokens a second after it: medians."""

PLANS = {"free": ("$0.20/day", 100), "pro": ("$5/day", 1_000), "team": ("$50/day", 10_000)}
"""Each user's money and requests a day."""


@dataclass(frozen=True)
class World:
    """What is simulated."""

    records: int = 1_000_000
    users: int = 5_000
    days: int = 30
    seed: int = 1
    start: float = 1_798_761_600.0
    """UTC epoch seconds of a midnight: Friday, 1 January 2027."""
    abuser: str | None = ABUSER

    @property
    def abuse_begins(self) -> float:
        """UTC epoch seconds."""
        return self.start + int(self.days * 0.7) * DAY + 14 * HOUR

    @cached_property
    def population(self) -> list[User]:
        rng = Random(self.seed)
        weights = [min(rng.paretovariate(1.2), 200.0) for _ in range(self.users)]
        ranked = sorted(weights)
        dear, dearest = ranked[int(self.users * 0.82)], ranked[int(self.users * 0.97)]
        people = []
        for number, weight in enumerate(weights):
            plan = "team" if weight > dearest else "pro" if weight > dear else "free"
            people.append(User(f"user-{number:05d}", plan, weight, rng.choice(_ZONES)))
        if self.abuser == ABUSER:
            people[self.users // 2] = User(ABUSER, "free", ranked[self.users // 2], 0)
        return people


class User(NamedTuple):
    name: str
    plan: str
    weight: float
    """How often he comes, compared to others."""
    zone: int


class Begun(NamedTuple):
    """One call as it begins."""

    at: float
    user: User
    feature: Feature
    session: str
    size: float
    """How much larger its input is than usual."""


def traffic(world: World) -> Iterator[dict[str, Any]]:
    """The records, ready for JSON: `UsageRecord.model_validate` takes each."""
    return islice(_ended(world), world.records)


def lines(world: World) -> Iterator[bytes]:
    """The records as lines of JSON, without the line's end."""
    return map(to_json, traffic(world))


def _ended(world: World) -> Iterator[dict[str, Any]]:
    """Records in the order in which their calls end."""
    desk, order = _Desk(world), count()
    open_calls: list[tuple[float, int, dict[str, Any]]] = []
    for call in _begun(world):
        while open_calls and open_calls[0][0] <= call.at:
            yield heappop(open_calls)[2]
        record = desk.record(call)
        heappush(open_calls, (call.at + record["latency_ms"] / 1000, next(order), record))


def _begun(world: World) -> Iterator[Begun]:
    """Calls in the order in which they begin. It never ends: after the days come more of the same."""
    rng = Random(world.seed + 1)
    people, later = world.population, []
    a_day = world.records / world.days / _CALLS / (sum(_WEEKDAYS) / 7)
    shares = list(accumulate(feature.share for feature in FEATURES))
    hours = list(accumulate(_HOURS))
    for day in count():
        midnight = world.start + day * DAY
        busy = a_day * _WEEKDAYS[int(midnight // DAY + 3) % 7]  # 1 January 1970 was a Thursday
        # Some are away that day, and some are in a hurry.
        moods = list(accumulate(user.weight * rng.gammavariate(0.8, 1.25) for user in people))
        begun = later
        for number, user in enumerate(rng.choices(people, cum_weights=moods, k=max(1, int(busy + rng.random())))):
            hour = rng.choices(range(24), cum_weights=hours)[0]
            at = midnight + ((hour - user.zone) % 24 + rng.random()) * HOUR
            feature = rng.choices(FEATURES, cum_weights=shares)[0]
            session = f"{day:x}-{number:x}"
            for _ in range(1 + int(-log(1 - rng.random()) * (_CALLS - 0.5))):
                begun.append(Begun(at, user, feature, session, 1.0))
                at += rng.expovariate(1 / _GAP)
        if world.abuser and midnight <= world.abuse_begins < midnight + DAY:
            begun += _abuse(world, rng)
        begun.sort(key=lambda call: call.at)
        tomorrow = midnight + DAY
        later = [call for call in begun if call.at >= tomorrow]
        yield from begun[: len(begun) - len(later)]


def _abuse(world: World, rng: Random) -> Iterator[Begun]:
    user = User(str(world.abuser), "free", 1.0, 0)
    at = world.abuse_begins
    while at < world.abuse_begins + _ABUSE_HOURS * HOUR:
        yield Begun(at, user, FEATURES[0], "abuse", 2.5)
        at += rng.expovariate(1 / _ABUSE_GAP)


class _Desk:
    """Decides about calls and makes up how they end."""

    def __init__(self, world: World) -> None:
        self.rng = Random(world.seed + 2)
        self.rates = {model: PriceBook({}).rates(model) for feature in FEATURES for model in feature.models}
        self.limits = {plan: (int(float(money[1:-4]) * NANO), most) for plan, (money, most) in PLANS.items()}
        self.used: dict[str, tuple[int, int, int]] = {}
        """Day, nano-USD and requests, by user."""

    def record(self, call: Begun) -> dict[str, Any]:
        rng, feature, user = self.rng, call.feature, call.user
        model = rng.choice(feature.models)
        given = max(8, int(rng.lognormvariate(log(feature.given * call.size), 0.6)))
        estimated = int(given * rng.uniform(1.0, 1.9)) + 12
        cost = self._cost(model, estimated, feature.cap or 0)
        record = {
            "record_id": f"{rng.getrandbits(128):032x}",
            "timestamp": datetime.fromtimestamp(call.at, UTC).isoformat().replace("+00:00", "Z"),
            "user_id": user.name,
            "feature": feature.name,
            "session_id": call.session,
            "plan": user.plan,
            "tags": {"region": "eu" if user.zone >= 0 else "us"},
            "endpoint": feature.endpoint,
            "model": model,
            "response_model": None,
            "request_id": None,
            "stream": rng.random() < feature.streams,
            "outcome": "ok",
            "denial": None,
            "error": None,
            "attempts": 0,
            "prompt_hash": f"{rng.getrandbits(256):064x}",
            "input_tokens_estimated": estimated,
            "budget_action": None,
            "requested_model": None,
            "shadow": None,
            "output_tokens_estimated": feature.cap or 0,
            "input_tokens": 0,
            "cached_input_tokens": 0,
            "output_tokens": 0,
            "reasoning_tokens": 0,
            "total_tokens": 0,
            "usage_source": "none",
            "cost_reserved_usd": str(usd(cost)),
            "cost_usd": "0",
            "price_version": "traffic",
            "max_tokens": None,
            "trimmed_messages": 0,
            "latency_ms": round(rng.uniform(0.2, 0.9), 3),
            "first_token_ms": None,
            "reserved_ms": round(rng.uniform(0.1, 0.2), 3),
            "steps": None,
            "findings": [],
            "policy_version": "traffic",
            "degraded": False,
        }
        denial = self._denial(call, model, cost)
        if denial:
            record["outcome"], record["denial"] = "denied", denial
            if denial["limit"] is None:
                record["reserved_ms"] = None
        else:
            self._send(record, call, model, given)
        return record

    def _denial(self, call: Begun, model: str, cost: int) -> dict[str, Any] | None:
        user, day = call.user, int(call.at // DAY)
        last, money, requests = self.used.get(user.name, (day, 0, 0))
        if last != day:
            money = requests = 0
        most, calls = self.limits[user.plan]
        scope, wait = {"user": user.name}, round((day + 1) * DAY - call.at, 3)
        chance = self.rng.random()
        if user.plan == "free" and model == "gpt-5":
            return _denied("model_not_allowed", scope=scope | {"plan": "free", "model": model})
        if chance < 0.004:
            return _denied("message_too_long")
        if chance < 0.005:
            return _denied("injection_detected")
        if requests >= calls:
            return _denied("rate_limit_exceeded", f"{calls} requests/day", scope, wait)
        if money + cost > most:
            return _denied("budget_exceeded", PLANS[user.plan][0], scope, wait)
        self.used[user.name] = day, money, requests + 1
        return None

    def _send(self, record: dict[str, Any], call: Begun, model: str, given: int) -> None:
        rng, feature, chance = self.rng, call.feature, self.rng.random()
        first, pace = _PACE.get(model, (120, 1.0))
        first = rng.lognormvariate(log(first), 0.45)
        written = min(int(rng.lognormvariate(log(feature.written or 1), 0.7)), feature.cap or 0)
        latency = first + written / pace * rng.uniform(700, 1_500)
        record["attempts"] = 1 if rng.random() > 0.01 else rng.randint(2, 3)
        record["max_tokens"] = feature.cap
        record["response_model"] = model
        record["request_id"] = f"req_{rng.getrandbits(96):024x}"
        if chance < 0.006:
            error = "RateLimitError" if chance < 0.003 else "InternalServerError"
            record.update(outcome="error", error=error, attempts=3, response_model=None, latency_ms=round(first * 4, 3))
            return
        if latency > 30_000:
            latency, written = 30_000 + rng.random() * 9, int(written * 30_000 / latency)
            record.update(outcome="timeout", error="DeadlineExceededError", usage_source="estimated")
        elif record["stream"] and chance < 0.02:
            part = rng.random()
            latency, written = first + (latency - first) * part, int(written * part)
            record.update(outcome="aborted", usage_source="estimated")
        else:
            record["usage_source"] = "provider"
        cached = given // 2 if given > 1_024 and rng.random() < 0.3 else 0
        reasoning = int(written * 0.6) if model == "gpt-5" else 0
        cost = self._cost(model, given, written, cached)
        day, money, requests = self.used[call.user.name]
        self.used[call.user.name] = day, money + cost, requests
        record.update(
            input_tokens=given,
            cached_input_tokens=cached,
            output_tokens=written,
            reasoning_tokens=reasoning,
            total_tokens=given + written,
            cost_usd=str(usd(cost)),
            latency_ms=round(latency, 3),
            first_token_ms=round(first, 3) if record["stream"] else None,
        )

    def _cost(self, model: str, given: int, written: int, cached: int = 0) -> int:
        rates = self.rates[model]
        assert rates
        return rates.cost(Usage(given, written, cached)) or 0


def _denied(
    code: str, limit: str | None = None, scope: dict[str, str] | None = None, wait: float | None = None
) -> dict[str, Any]:
    return {"code": code, "limit": limit, "scope": scope or {}, "retry_after": wait}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", "--records", type=int, default=World.records)
    parser.add_argument("-o", "--output", type=argparse.FileType("wb"), default=sys.stdout.buffer, metavar="FILE")
    parser.add_argument("--users", type=int, default=World.users)
    parser.add_argument("--days", type=int, default=World.days)
    parser.add_argument("--seed", type=int, default=World.seed)
    parser.add_argument("--abuser", choices=("known", "new", "none"), default="known")
    args = parser.parse_args()
    abuser = {"known": ABUSER, "new": NEWCOMER, "none": None}[args.abuser]
    world = World(args.records, args.users, args.days, args.seed, abuser=abuser)
    with args.output as file:
        for line in lines(world):
            file.write(line + b"\n")


if __name__ == "__main__":
    main()

"""A sink of your own: what each feature has cost, from the records of the calls."""

from __future__ import annotations

from collections import defaultdict
from decimal import Decimal

from safe_llm import Alert, SafeOpenAI, UsageRecord
from safe_llm.testing import FakeOpenAI


class CostByFeature:
    """Sums up costs. It runs in a thread of its own: a slow or failing sink holds up no call."""

    def __init__(self) -> None:
        self.costs: defaultdict[str | None, Decimal] = defaultdict(Decimal)
        self.unknown = 0

    def emit(self, event: UsageRecord | Alert) -> None:
        if isinstance(event, Alert):
            print(f"Alert: {event.message}")
        elif event.cost_usd is None:
            self.unknown += 1
        else:
            self.costs[event.feature] += event.cost_usd


def main() -> None:
    sink = CostByFeature()
    with (
        FakeOpenAI() as server,
        SafeOpenAI(base_url=server.base_url, api_key="none", sinks=[sink]) as client,
    ):
        for feature in ("chat", "chat", "summary"):
            client.chat.completions.create(
                model="gpt-4o-mini",
                messages=[{"role": "user", "content": "Say hello."}],
                user_id="alice",
                feature=feature,
            )
    # Closing the client has delivered what was still queued.
    for name, cost in sink.costs.items():
        print(f"{name}: ${cost:f}")
    print(f"of unknown cost: {sink.unknown}")


if __name__ == "__main__":
    main()

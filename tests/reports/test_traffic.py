"""The made-up traffic: what the report, the simulation and the alerts are tried on."""

from __future__ import annotations

import json
from collections import Counter
from datetime import datetime
from itertools import pairwise

from benchmarks.traffic import ABUSER, HOUR, NEWCOMER, PLANS, World, lines, traffic
from safe_llm.types import UsageRecord

WORLD = World(records=6_000, users=200, days=10, seed=7)


def test_every_line_is_a_record_just_as_a_sink_writes_it() -> None:
    for line in lines(WORLD):
        assert json.loads(UsageRecord.model_validate_json(line).model_dump_json()) == json.loads(line)


def test_a_seed_gives_the_same_records_again_and_another_seed_others() -> None:
    once, again, other = (list(lines(World(records=500, users=200, days=10, seed=seed))) for seed in (7, 7, 8))
    assert once == again
    assert once != other


def test_records_come_in_the_order_in_which_calls_end() -> None:
    ends = [datetime.fromisoformat(r["timestamp"]).timestamp() + r["latency_ms"] / 1000 for r in traffic(WORLD)]
    assert all(one <= other + 1e-3 for one, other in pairwise(ends))


def test_it_has_what_happens_in_an_application() -> None:
    records = [UsageRecord.model_validate(record) for record in traffic(WORLD)]
    assert len(records) == WORLD.records
    assert {record.outcome for record in records} == {"ok", "denied", "error", "timeout", "aborted"}
    assert {record.plan for record in records} == set(PLANS)
    codes = {record.denial.code for record in records if record.denial}
    assert codes >= {"budget_exceeded", "message_too_long", "model_not_allowed"}
    users = Counter(record.user_id for record in records if record.user_id != ABUSER)
    busiest = sum(calls for _, calls in users.most_common(len(users) // 10))
    assert busiest > 0.4 * users.total(), "a tenth of the users makes much of the calls"


def test_the_abuser_begins_when_the_world_says_so() -> None:
    for abuser, before in ((ABUSER, 1), (NEWCOMER, 0)):
        world = World(records=6_000, users=200, days=10, seed=7, abuser=abuser)
        times = [
            datetime.fromisoformat(record["timestamp"]).timestamp() - world.abuse_begins
            for record in traffic(world)
            if record["user_id"] == abuser
        ]
        assert sum(0 <= time < HOUR for time in times) > 200
        assert (sum(time < 0 for time in times) > 0) is bool(before)

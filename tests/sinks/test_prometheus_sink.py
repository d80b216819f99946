"""PrometheusSink: what a real scrape shows."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from calls import POLICY, all_kinds, done
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from safe_llm import PrometheusSink
from safe_llm.sinks import Dispatcher
from safe_llm.testing import FakeOpenAI, RecordingSink
from safe_llm.types import Alert, UsageRecord

pytestmark = pytest.mark.anyio

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
Scrape = Callable[[], list[Sample]]


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def scrape(registry: CollectorRegistry) -> Iterator[Scrape]:
    """Asks the client's own HTTP server, and reads the answer with its own parser."""
    server, thread = start_http_server(0, "127.0.0.1", registry)

    def scraped() -> list[Sample]:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/metrics", timeout=30) as answer:
            families = text_string_to_metric_families(answer.read().decode())
        return [sample for family in families for sample in family.samples if not sample.name.endswith("_created")]

    yield scraped
    server.shutdown()
    server.server_close()
    thread.join(30)


def record(**fields: Any) -> UsageRecord:
    values = {"record_id": "r1", "timestamp": NOW, "user_id": "ann", "endpoint": "chat.completions", "outcome": "ok"}
    return UsageRecord.model_validate({**values, **fields})


def values(samples: list[Sample], name: str) -> dict[tuple[str, ...], float]:
    """Label values, in the order of their names, to the sample's value."""
    found = [sample for sample in samples if sample.name == name]
    return {tuple(value for _, value in sorted(sample.labels.items())): sample.value for sample in found}


async def test_a_scrape_shows_the_figures_that_the_records_show(
    kind: Any, server: FakeOpenAI, sink: RecordingSink, registry: CollectorRegistry, scrape: Scrape
) -> None:
    client = kind(base_url=server.base_url, api_key="k", policy=POLICY, sinks=[sink, PrometheusSink(registry)])
    await all_kinds(client, server)
    await done(client.close())
    samples, records = scrape(), sink.records

    calls = Counter((each.feature or "", each.model or "", each.outcome) for each in records)
    assert {outcome for *_, outcome in calls} == {"ok", "error", "denied"}
    assert values(samples, "safe_llm_requests_total") == calls
    assert values(samples, "safe_llm_request_duration_seconds_count") == calls
    tokens: Counter[tuple[str, ...]] = Counter()
    costs: dict[tuple[str, ...], Decimal] = {}
    seconds: dict[tuple[str, ...], float] = {}
    for each in records:
        call = (each.feature or "", each.model or "")
        if each.usage_source != "none":
            tokens["input", *call] += each.input_tokens
            tokens["output", *call] += each.output_tokens
        if each.cost_usd:
            costs[call] = costs.get(call, Decimal()) + each.cost_usd
        seconds[*call, each.outcome] = seconds.get((*call, each.outcome), 0) + each.latency_ms / 1000
    assert values(samples, "safe_llm_tokens_total") == tokens
    assert sum(tokens.values()) == sum(each.total_tokens for each in records)
    assert values(samples, "safe_llm_cost_usd_total") == pytest.approx({call: float(costs[call]) for call in costs})
    assert values(samples, "safe_llm_request_duration_seconds_sum") == pytest.approx(seconds)


def test_alerts_are_counted_by_kind(registry: CollectorRegistry, scrape: Scrape) -> None:
    sink = PrometheusSink(registry)
    for kind in ("debt", "anomaly", "debt"):
        sink.emit(Alert(kind=kind, timestamp=NOW, message="m", scope={"user": "ann"}))  # type: ignore[arg-type]
    assert values(scrape(), "safe_llm_alerts_total") == {("debt",): 2, ("anomaly",): 1}


def test_no_label_names_a_user_a_session_a_tag_or_a_request(registry: CollectorRegistry, scrape: Scrape) -> None:
    PrometheusSink(registry).emit(
        record(user_id="SECRET", session_id="SECRET", tags={"SECRET": "SECRET"}, request_id="SECRET", cost_usd="1")
    )
    assert "SECRET" not in str(scrape())


def test_an_inventor_of_names_is_bounded_and_leaves_room_for_what_succeeds(
    registry: CollectorRegistry, scrape: Scrape
) -> None:
    sink = PrometheusSink(registry, max_values=10)
    for number in range(1000):
        sink.emit(record(model=f"m{number}", feature=f"f{number}", outcome="denied"))
    for number in range(1000):
        sink.emit(record(model=f"real{number % 3}", feature="chat"))
    counted = values(scrape(), "safe_llm_requests_total")
    assert len(counted) == 6 + 3
    assert counted["other", "other", "denied"] == 995
    assert {call: n for call, n in counted.items() if call[2] == "ok"} == {
        ("chat", "real0", "ok"): 334,
        ("chat", "real1", "ok"): 333,
        ("chat", "real2", "ok"): 333,
    }


def test_hostile_names_do_not_break_the_scrape(registry: CollectorRegistry, scrape: Scrape) -> None:
    feature = 'a"} 1\n# HELP x\\ \u2028é'
    PrometheusSink(registry).emit(record(feature=feature))
    assert values(scrape(), "safe_llm_requests_total") == {(feature, "", "ok"): 1}


def test_sinks_of_several_clients_share_one_registry(registry: CollectorRegistry, scrape: Scrape) -> None:
    for dispatcher in [Dispatcher([PrometheusSink(registry)]) for _ in range(3)]:
        dispatcher.emit(record(feature="chat", model="m"))
        assert dispatcher.close(30)
    assert values(scrape(), "safe_llm_requests_total") == {("chat", "m", "ok"): 3}


def test_it_counts_together_over_processes_where_the_client_does(tmp_path: Path) -> None:
    script = """
from datetime import datetime, UTC
from safe_llm.sinks import Dispatcher, PrometheusSink
from safe_llm.types import UsageRecord
dispatcher = Dispatcher([PrometheusSink()])
for _ in range(500):
    dispatcher.emit(UsageRecord(record_id="1", timestamp=datetime.now(UTC), user_id="u", endpoint="chat", outcome="ok"))
"""
    total = """
from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector
registry = CollectorRegistry()
MultiProcessCollector(registry)
print(registry.get_sample_value("safe_llm_requests_total", {"feature": "", "model": "", "outcome": "ok"}))
"""
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    writers = [subprocess.Popen([sys.executable, "-c", script], env=environment) for _ in range(2)]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    shown = subprocess.run(
        [sys.executable, "-c", total], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert float(shown.stdout) == 1000

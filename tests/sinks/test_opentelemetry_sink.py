"""OpenTelemetrySink: spans and metrics of the GenAI conventions, as OpenTelemetry's own SDK collects them."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextvars import Context
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from calls import POLICY, all_kinds, ask, done, read
from opentelemetry import context as otel_context
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from safe_llm import AsyncSafeOpenAI, OpenTelemetrySink, SafeOpenAI
from safe_llm.sinks import Dispatcher
from safe_llm.testing import FakeOpenAI, RecordingSink, Reply
from safe_llm.types import Alert, Denial, Finding, UsageRecord

pytestmark = pytest.mark.anyio

NOW = datetime(2026, 11, 23, 12, 0, 0, 123457, tzinfo=UTC)


class Telemetry:
    """An SDK that keeps what it is given, and a sink that gives it."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.tracing = TracerProvider(shutdown_on_exit=False)
        self.tracing.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.reader = InMemoryMetricReader()
        self.metering = MeterProvider([self.reader], shutdown_on_exit=False)
        self.tracer = self.tracing.get_tracer("the application")
        self.sink = OpenTelemetrySink(tracer_provider=self.tracing, meter_provider=self.metering)

    @property
    def spans(self) -> list[ReadableSpan]:
        """Ours, without the application's."""
        return [span for span in self.exporter.get_finished_spans() if span.instrumentation_scope.name == "safe_llm"]

    def points(self) -> dict[str, list[Any]]:
        """The data points of each metric."""
        data = self.reader.get_metrics_data()
        found = [m for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics] if data else []
        return {metric.name: list(metric.data.data_points) for metric in found}


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    telemetry = Telemetry()
    yield telemetry
    telemetry.tracing.shutdown()
    telemetry.metering.shutdown()


def record(**fields: Any) -> UsageRecord:
    values = {"record_id": "r1", "timestamp": NOW, "user_id": "ann", "endpoint": "chat.completions", "outcome": "ok"}
    return UsageRecord.model_validate({**values, **fields})


# What the records show ------------------------------------------------------------------------------------------------


async def test_spans_and_metrics_show_the_figures_that_the_records_show(
    kind: Any, server: FakeOpenAI, sink: RecordingSink, telemetry: Telemetry
) -> None:
    client = kind(base_url=server.base_url, api_key="k", policy=POLICY, sinks=[sink, telemetry.sink])
    await all_kinds(client, server)
    await done(client.close())

    records = sink.records
    assert {record.outcome for record in records} == {"ok", "error", "denied"}
    spans = {span.attributes["safe_llm.record_id"]: span.attributes for span in telemetry.spans}
    assert len(spans) == len(records) == 7
    for each in records:
        shown = spans[each.record_id]
        assert shown.get("safe_llm.cost_usd") == (None if each.cost_usd is None else float(each.cost_usd))
        tokens = (each.input_tokens, each.output_tokens, each.cached_input_tokens, each.reasoning_tokens)
        names = ("input_tokens", "output_tokens", "cache_read.input_tokens", "reasoning.output_tokens")
        known = each.usage_source != "none"
        assert tuple(shown.get(f"gen_ai.usage.{name}") for name in names) == (tokens if known else (None,) * 4)

    points = telemetry.points()
    used: Counter[tuple[Any, ...]] = Counter()
    for each in records:
        if each.usage_source != "none":
            used[each.model, each.feature, "input"] += each.input_tokens
            used[each.model, each.feature, "output"] += each.output_tokens
    shown_usage: Counter[tuple[Any, ...]] = Counter()
    for point in points["gen_ai.client.token.usage"]:
        labels = point.attributes
        key = (labels["gen_ai.request.model"], labels.get("safe_llm.feature"), labels["gen_ai.token.type"])
        shown_usage[key] += point.sum
    assert shown_usage == used
    cost = sum((each.cost_usd for each in records if each.cost_usd), Decimal())
    assert sum(point.value for point in points["safe_llm.cost"]) == pytest.approx(float(cost), rel=1e-12)
    durations = points["gen_ai.client.operation.duration"]
    assert sum(point.count for point in durations) == len(records)
    assert sum(point.sum for point in durations) == pytest.approx(sum(each.latency_ms for each in records) / 1000)
    (first,) = points["gen_ai.client.operation.time_to_first_chunk"]
    assert first.sum == next(each.first_token_ms for each in records if each.stream) / 1000


def test_a_span_has_the_attributes_of_the_conventions(telemetry: Telemetry) -> None:
    telemetry.sink.emit(
        record(
            model="gpt-4o-mini", response_model="gpt-4o-mini-2024-07-18", max_tokens=100, session_id="s1", stream=True,
            input_tokens=10, cached_input_tokens=4, output_tokens=5, reasoning_tokens=2, usage_source="provider",
            cost_usd="0.000000001", latency_ms=1500.25, first_token_ms=300.0, feature="chat", plan="pro",
            tags={"team": "a"}, request_id="req_1", attempts=2, findings=(Finding("injection", "low", "messages[0]"),),
        )
    )  # fmt: skip
    (span,) = telemetry.spans
    assert (span.name, span.kind, span.parent) == ("chat gpt-4o-mini", SpanKind.CLIENT, None)
    assert span.status.status_code is StatusCode.UNSET
    assert span.start_time == int(NOW.replace(microsecond=0).timestamp()) * 10**9 + 123_457_000
    assert span.end_time - span.start_time == 1_500_250_000
    assert dict(span.attributes) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "openai.api.type": "chat_completions",
        "gen_ai.request.model": "gpt-4o-mini",
        "gen_ai.request.max_tokens": 100,
        "gen_ai.request.stream": True,
        "gen_ai.response.model": "gpt-4o-mini-2024-07-18",
        "gen_ai.response.time_to_first_chunk": 0.3,
        "gen_ai.conversation.id": "s1",
        "gen_ai.usage.input_tokens": 10,
        "gen_ai.usage.output_tokens": 5,
        "gen_ai.usage.cache_read.input_tokens": 4,
        "gen_ai.usage.reasoning.output_tokens": 2,
        "safe_llm.record_id": "r1",
        "safe_llm.request_id": "req_1",
        "safe_llm.user_id": "ann",
        "safe_llm.feature": "chat",
        "safe_llm.plan": "pro",
        "safe_llm.outcome": "ok",
        "safe_llm.attempts": 2,
        "safe_llm.usage_source": "provider",
        "safe_llm.cost_usd": 1e-9,
        "safe_llm.findings": ("injection",),
        "safe_llm.tag.team": "a",
    }


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"outcome": "ok"}, None),
        ({"outcome": "aborted"}, None),
        ({"outcome": "error", "error": "RateLimitError"}, "RateLimitError"),
        ({"outcome": "timeout", "error": "DeadlineExceededError"}, "DeadlineExceededError"),
        ({"outcome": "timeout"}, "timeout"),
        ({"outcome": "blocked"}, "blocked"),
        ({"outcome": "denied", "denial": Denial(code="budget_exceeded", limit="$1/day")}, "budget_exceeded"),
        ({"outcome": "ok", "denial": Denial(code="budget_exceeded")}, None),  # shadow mode
    ],
)
def test_what_went_wrong_is_told_by_span_and_metric_alike(
    telemetry: Telemetry, fields: dict[str, Any], error: str | None
) -> None:
    telemetry.sink.emit(record(**fields))
    (span,) = telemetry.spans
    (point,) = telemetry.points()["gen_ai.client.operation.duration"]
    assert span.attributes.get("error.type") == point.attributes.get("error.type") == error
    assert (span.status.status_code is StatusCode.ERROR) == (error is not None)


def test_metrics_name_no_user_and_an_inventor_of_names_is_bounded(telemetry: Telemetry) -> None:
    for number in range(300):
        made_up = {"model": f"m{number}", "feature": f"f{number}", "user_id": f"u{number}", "outcome": "denied"}
        telemetry.sink.emit(record(**made_up, session_id=f"s{number}", tags={"t": f"t{number}"}, plan=f"p{number}"))
    telemetry.sink.emit(record(model="real", feature="real", usage_source="provider", cost_usd="1"))
    telemetry.sink.emit(Alert(kind="debt", timestamp=NOW, message="m", scope={"user": "ann"}))
    points = telemetry.points()
    assert len(points["gen_ai.client.operation.duration"]) < 60
    assert points["safe_llm.alerts"][0].attributes == {"safe_llm.alert.kind": "debt"}
    shown = [point.attributes for each in points.values() for point in each]
    assert not any(str(value).startswith(("u", "s", "t", "p")) for labels in shown for value in labels.values())
    (cost,) = points["safe_llm.cost"]
    assert cost.attributes["gen_ai.request.model"] == cost.attributes["safe_llm.feature"] == "real"


# The caller's trace ---------------------------------------------------------------------------------------------------


async def test_a_call_continues_the_trace_that_it_was_made_in(
    kind: Any, server: FakeOpenAI, telemetry: Telemetry
) -> None:
    client = kind(base_url=server.base_url, api_key="k", sinks=[telemetry.sink])
    with telemetry.tracer.start_as_current_span("handler") as handler:
        await done(client.chat.completions.create(**ask()))
    await done(client.chat.completions.create(**ask()))
    await done(client.close())
    inside, outside = telemetry.spans
    assert inside.parent == handler.get_span_context()
    assert inside.context.trace_id == handler.get_span_context().trace_id
    assert outside.parent is None


async def test_a_stream_belongs_to_the_span_that_it_was_begun_in_wherever_it_is_read(
    kind: Any, server: FakeOpenAI, telemetry: Telemetry
) -> None:
    client = kind(base_url=server.base_url, api_key="k", sinks=[telemetry.sink])
    with telemetry.tracer.start_as_current_span("handler") as handler:
        stream = await done(client.chat.completions.create(**ask(stream=True)))
    with telemetry.tracer.start_as_current_span("another"):
        if kind is AsyncSafeOpenAI:
            await asyncio.create_task(read(stream), context=Context())
        else:
            reader = threading.Thread(target=lambda: list(stream))
            reader.start()
            await asyncio.to_thread(reader.join, 30)
    await done(client.close())
    (span,) = telemetry.spans
    assert span.parent == handler.get_span_context()
    assert span.attributes["safe_llm.outcome"] == "ok"


@pytest.mark.parametrize("ending", ["dropped", "closed"])
async def test_a_stream_that_nobody_reads_to_its_end_belongs_to_its_span_too(
    kind: Any, server: FakeOpenAI, telemetry: Telemetry, ending: str
) -> None:
    server.script(Reply(chunks=50, drip=0.01))
    client = kind(base_url=server.base_url, api_key="k", sinks=[telemetry.sink])
    with telemetry.tracer.start_as_current_span("handler") as handler:
        stream = await done(client.chat.completions.create(**ask(stream=True)))
    if ending == "closed":
        await done(stream.close())
    del stream
    gc.collect()
    await asyncio.sleep(0.05)
    await done(client.close())
    (span,) = telemetry.spans
    assert span.parent == handler.get_span_context()
    assert span.attributes["safe_llm.outcome"] == "aborted"


async def test_concurrent_calls_each_continue_their_own_trace(server: FakeOpenAI, telemetry: Telemetry) -> None:
    client = AsyncSafeOpenAI(base_url=server.base_url, api_key="k", sinks=[telemetry.sink], policy={"limits": []})
    free = client.with_options()

    async def handle(number: int) -> tuple[str, int]:
        with telemetry.tracer.start_as_current_span("handler") as handler:
            stream = await free.chat.completions.create(**ask(stream=True), user_id=f"u{number}")
            await asyncio.sleep(0)
            await read(stream)
            return f"u{number}", handler.get_span_context().span_id

    parents = dict(await asyncio.gather(*(handle(number) for number in range(40))))
    await client.close()
    shown = {span.attributes["safe_llm.user_id"]: span.parent.span_id for span in telemetry.spans}
    assert shown == parents


def test_the_sink_leaves_no_span_and_no_context_behind(telemetry: Telemetry) -> None:
    before = otel_context.get_current()
    telemetry.sink.emit(record(), telemetry.sink.capture())
    assert otel_context.get_current() == before


# Delivering -----------------------------------------------------------------------------------------------------------


class Hanging(SpanExporter):
    def __init__(self) -> None:
        self.gate = threading.Event()

    def export(self, spans: Any) -> SpanExportResult:
        assert self.gate.wait(30)
        return SpanExportResult.SUCCESS


def test_an_exporter_that_hangs_holds_up_no_call(server: FakeOpenAI, sink: RecordingSink) -> None:
    exporter, tracing = Hanging(), TracerProvider(shutdown_on_exit=False)
    tracing.add_span_processor(SimpleSpanProcessor(exporter))
    client = SafeOpenAI(base_url=server.base_url, api_key="k", sinks=[OpenTelemetrySink(tracer_provider=tracing), sink])
    try:
        for _ in range(3):
            client.chat.completions.create(**ask())
        assert len(sink.records) == 3
    finally:
        exporter.gate.set()
    client.close()
    assert client.guard.sinks[0].delivered == 3


def test_close_delivers_what_the_provider_still_batches(telemetry: Telemetry) -> None:
    exporter, tracing = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    tracing.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=3_600_000))
    dispatcher = Dispatcher([OpenTelemetrySink(tracer_provider=tracing)])
    dispatcher.emit(record())
    assert dispatcher.close(30)
    assert len(exporter.get_finished_spans()) == 1
    tracing.shutdown()


def test_nothing_is_lost_at_exit_although_the_providers_shut_themselves_down_there() -> None:
    script = """
from datetime import datetime, UTC
from safe_llm.sinks import Dispatcher, OpenTelemetrySink
from safe_llm.types import UsageRecord
dispatcher = Dispatcher([OpenTelemetrySink()])
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter
provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(ConsoleSpanExporter(formatter=lambda span: span.name + "\\n")))
trace.set_tracer_provider(provider)
for _ in range(1000):
    dispatcher.emit(UsageRecord(record_id="1", timestamp=datetime.now(UTC), user_id="u", endpoint="chat", outcome="ok"))
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert ended.stderr == ""
    assert ended.stdout.split() == ["chat"] * 1000


def test_what_the_sink_takes_in_the_thread_of_the_call_is_little(telemetry: Telemetry) -> None:
    """The context is looked up, and no more: the span is made elsewhere."""
    with telemetry.tracer.start_as_current_span("handler"):
        began = datetime.now()
        for _ in range(10_000):
            telemetry.sink.capture()
        assert datetime.now() - began < timedelta(microseconds=20) * 10_000

"""Events as spans and metrics of OpenTelemetry, by its GenAI conventions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import needing
from ..types import Alert, Event, UsageRecord
from ._labels import Labels

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

_OPERATIONS = {
    "chat.completions": "chat",
    "responses": "chat",
    "completions": "text_completion",
    "embeddings": "embeddings",
}
"""The conventions' name for an endpoint; the others have none there, and keep ours."""

_API_TYPES = {"chat.completions": "chat_completions", "responses": "responses"}

# The conventions ask for these bounds.
_SECONDS = tuple(0.01 * 2**power for power in range(14))
_TOKENS = tuple(4**power for power in range(14))

_MOST_VALUES = 100
_FLUSH_MS = 3000


class OpenTelemetrySink:
    """A span for each call, denied ones included, as a child of the span that was current when the call was made.

    Its attributes are those of the GenAI conventions, with what they have no name for under ``safe_llm.``: the user,
    feature, plan, outcome, denial and cost, among others. Of prompt and answer there is nothing. Metrics:
    ``gen_ai.client.token.usage``, ``gen_ai.client.operation.duration``, ``gen_ai.client.operation.time_to_first_chunk``
    (streams), ``safe_llm.cost`` (USD) and ``safe_llm.alerts``. None of them names a user; beyond 100 features, models
    or plans, the others together are "other".

    Args:
        tracer_provider, meter_provider: the global ones where nothing is said, also where they are set later.
        provider_name: the conventions' ``gen_ai.provider.name``: "azure.ai.openai" for Azure.

    Raises:
        ConfigurationError: the package opentelemetry-api is not installed.
    """

    def __init__(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        provider_name: str = "openai",
    ) -> None:
        with needing("opentelemetry-api", extra="otel", who="OpenTelemetrySink"):
            from opentelemetry import context, metrics, trace
        self._providers = (tracer_provider, meter_provider)
        self._provider_name = provider_name
        self._current = context.get_current
        self._trace = trace
        self._tracer = trace.get_tracer("safe_llm", tracer_provider=tracer_provider)
        meter = metrics.get_meter("safe_llm", meter_provider=meter_provider)
        self._tokens = meter.create_histogram(
            "gen_ai.client.token.usage",
            unit="{token}",
            description="Number of input and output tokens used.",
            explicit_bucket_boundaries_advisory=_TOKENS,
        )
        self._duration, self._first_chunk = (
            meter.create_histogram(
                f"gen_ai.client.operation.{name}",
                unit="s",
                description=description,
                explicit_bucket_boundaries_advisory=_SECONDS,
            )
            for name, description in (
                ("duration", "GenAI operation duration."),
                ("time_to_first_chunk", "Time to the first chunk of a streamed answer."),
            )
        )
        self._cost = meter.create_counter("safe_llm.cost", unit="USD", description="What calls cost.")
        self._alerts = meter.create_counter("safe_llm.alerts", unit="{alert}", description="Alerts.")
        self._features, self._models, self._answering = (Labels(_MOST_VALUES) for _ in range(3))

    def capture(self) -> Context:
        """The caller's trace, in the thread of the call."""
        context: Context = self._current()
        return context

    def emit(self, event: Event, captured: Context | None = None) -> None:
        """`captured`: what `capture` returned; the current context where nothing is said."""
        if isinstance(event, Alert):
            self._alerts.add(1, {"safe_llm.alert.kind": event.kind})
        else:
            self._measure(event, self._span(event, captured))

    def close(self) -> None:
        """Deliver what the providers still hold, in a few seconds."""
        from opentelemetry import metrics, trace

        given = self._providers
        for provider in (given[0] or trace.get_tracer_provider(), given[1] or metrics.get_meter_provider()):
            if flush := getattr(provider, "force_flush", None):
                flush(_FLUSH_MS)

    def _span(self, record: UsageRecord, parent: Context | None) -> Context:
        """End a span of this call; the context with it."""
        trace = self._trace
        began = round(record.timestamp.timestamp() * 1e6) * 1000  # a float of nanoseconds would not be exact
        attributes = {**self._common(record), **_details(record)}
        span = self._tracer.start_span(
            " ".join(str(attributes[name]) for name in _NAME if name in attributes),
            context=parent,
            kind=trace.SpanKind.CLIENT,
            start_time=began,
            attributes=attributes,
        )
        if error := _error(record):
            span.set_attribute("error.type", error)
            span.set_status(trace.StatusCode.ERROR)
        span.end(began + round(record.latency_ms * 1e6))
        context: Context = trace.set_span_in_context(span, parent)
        return context

    def _measure(self, record: UsageRecord, context: Context) -> None:
        labels = self._common(record)
        for name, known, value in (
            ("gen_ai.request.model", self._models, record.model),
            ("gen_ai.response.model", self._answering, record.response_model),
            ("safe_llm.feature", self._features, record.feature),
        ):
            if value:
                labels[name] = known.of(value, record)
        if record.usage_source != "none":
            for kind, tokens in (("input", record.input_tokens), ("output", record.output_tokens)):
                self._tokens.record(tokens, {**labels, "gen_ai.token.type": kind}, context)
        if record.cost_usd:
            self._cost.add(float(record.cost_usd), labels, context)
        if record.stream and record.first_token_ms is not None:
            self._first_chunk.record(record.first_token_ms / 1000, labels, context)
        error = _error(record)
        self._duration.record(record.latency_ms / 1000, {**labels, "error.type": error} if error else labels, context)

    def _common(self, record: UsageRecord) -> dict[str, Any]:
        common = {
            "gen_ai.operation.name": _OPERATIONS.get(record.endpoint, record.endpoint),
            "gen_ai.provider.name": self._provider_name,
        }
        if record.endpoint in _API_TYPES:
            common["openai.api.type"] = _API_TYPES[record.endpoint]
        return common


_NAME = ("gen_ai.operation.name", "gen_ai.request.model")


def _error(record: UsageRecord) -> str | None:
    """What went wrong with a call, in few words. A stream that its reader left is none."""
    match record.outcome:
        case "ok" | "aborted":
            return None
        case "denied" if record.denial:
            return record.denial.code
        case "error" | "timeout" if record.error:
            return record.error
    return record.outcome


def _details(record: UsageRecord) -> dict[str, Any]:
    """What only the span tells."""
    known = record.usage_source != "none"
    denial = record.denial
    details = {
        "gen_ai.request.model": record.model,
        "gen_ai.request.max_tokens": record.max_tokens,
        "gen_ai.request.stream": record.stream,
        "gen_ai.response.model": record.response_model,
        "gen_ai.response.time_to_first_chunk": None
        if record.first_token_ms is None or not record.stream
        else record.first_token_ms / 1000,
        "gen_ai.conversation.id": record.session_id,
        "gen_ai.usage.input_tokens": record.input_tokens if known else None,
        "gen_ai.usage.output_tokens": record.output_tokens if known else None,
        "gen_ai.usage.cache_read.input_tokens": record.cached_input_tokens if known else None,
        "gen_ai.usage.reasoning.output_tokens": record.reasoning_tokens if known else None,
        "safe_llm.record_id": record.record_id,
        "safe_llm.request_id": record.request_id,
        "safe_llm.user_id": record.user_id,
        "safe_llm.feature": record.feature,
        "safe_llm.plan": record.plan,
        "safe_llm.outcome": record.outcome,
        "safe_llm.attempts": record.attempts,
        "safe_llm.usage_source": record.usage_source,
        "safe_llm.cost_usd": None if record.cost_usd is None else float(record.cost_usd),
        "safe_llm.denial.code": denial and denial.code,
        "safe_llm.denial.limit": denial and denial.limit,
        "safe_llm.findings": tuple(finding.rule for finding in record.findings) or None,
        "safe_llm.degraded": record.degraded or None,
        **{f"safe_llm.tag.{name}": value for name, value in record.tags.items()},
    }
    return {name: value for name, value in details.items() if value is not None}

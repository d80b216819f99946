"""Events as metrics that Prometheus scrapes."""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from ..errors import needing
from ..types import Alert, Event, UsageRecord
from ._labels import Labels

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

_SECONDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0)


class PrometheusSink:
    """Counts calls in metrics of `prometheus_client`, for the application's own endpoint to show.

    ==================================== ===============================
    ``safe_llm_requests_total``          feature, model, outcome
    ``safe_llm_tokens_total``            feature, model, direction: "input" (includes cached) or "output"
    ``safe_llm_cost_usd_total``          feature, model; calls without a known price are not in it
    ``safe_llm_request_duration_seconds`` feature, model, outcome; a histogram
    ``safe_llm_alerts_total``            kind
    ==================================== ===============================

    No label names a user. A label is empty where the call has no such thing. Several sinks on one registry share the
    metrics, and the first one's bound. Where `prometheus_client` runs in its multi-process mode, so does this.

    Args:
        registry: where the metrics are registered; the client's default one where nothing is said.
        max_values: how many features, and how many models, are told apart; all others together are "other".

    Raises:
        ConfigurationError: the package prometheus-client is not installed.
    """

    def __init__(self, registry: CollectorRegistry | None = None, *, max_values: int = 100) -> None:
        with needing("prometheus-client", extra="prometheus", who="PrometheusSink"):
            import prometheus_client
        registry = prometheus_client.REGISTRY if registry is None else registry
        with _MAKING:
            if registry not in _metrics:
                _metrics[registry] = _Metrics(registry, max_values)
            self._metrics = _metrics[registry]

    def emit(self, event: Event) -> None:
        if isinstance(event, Alert):
            self._metrics.alerts.labels(event.kind).inc()
        else:
            self._count(event)

    def _count(self, record: UsageRecord) -> None:
        metrics = self._metrics
        feature, model = metrics.features.of(record.feature, record), metrics.models.of(record.model, record)
        metrics.requests.labels(feature, model, record.outcome).inc()
        metrics.duration.labels(feature, model, record.outcome).observe(record.latency_ms / 1000)
        if record.usage_source != "none":
            metrics.tokens.labels(feature, model, "input").inc(record.input_tokens)
            metrics.tokens.labels(feature, model, "output").inc(record.output_tokens)
        if record.cost_usd:
            metrics.cost.labels(feature, model).inc(float(record.cost_usd))


class _Metrics:
    def __init__(self, registry: CollectorRegistry, max_values: int) -> None:
        from prometheus_client import Counter, Histogram

        self.features, self.models = Labels(max_values), Labels(max_values)
        call = ("feature", "model")
        self.requests = Counter(
            "safe_llm_requests", "Calls, denied ones included.", (*call, "outcome"), registry=registry
        )
        self.tokens = Counter("safe_llm_tokens", "Tokens of calls.", (*call, "direction"), registry=registry)
        self.cost = Counter("safe_llm_cost_usd", "What calls cost, in USD.", call, registry=registry)
        self.duration = Histogram(
            "safe_llm_request_duration_seconds",
            "From the beginning of a call to its end, the whole stream included.",
            (*call, "outcome"),
            registry=registry,
            buckets=_SECONDS,
        )
        self.alerts = Counter("safe_llm_alerts", "Alerts.", ("kind",), registry=registry)


_MAKING = Lock()
_metrics: WeakKeyDictionary[CollectorRegistry, _Metrics] = WeakKeyDictionary()

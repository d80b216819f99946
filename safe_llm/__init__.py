"""safe_llm: a drop-in replacement for the OpenAI client that makes an LLM route as hard as the API around it.

::

    from safe_llm import SafeOpenAI

    client = SafeOpenAI()
    client.chat.completions.create(model="gpt-4o-mini", messages=[...], user_id="u1", feature="chat_support")
"""

from typing import TYPE_CHECKING

from .checks.provenance import canary, untrusted
from .client import AsyncSafeAzureOpenAI, AsyncSafeOpenAI, SafeAzureOpenAI, SafeOpenAI
from .errors import (
    BudgetExceededError,
    ConfigurationError,
    DeadlineExceededError,
    DeniedError,
    FeatureNotAllowedError,
    InjectionDetectedError,
    InputRejectedError,
    LimitExceededError,
    NotAuthenticatedError,
    OutputRejectedError,
    RateLimitExceededError,
    RouteBlockedError,
    SafeLLMError,
    StoreUnavailableError,
    SwitchedOffError,
    UnpricedModelError,
)
from .identity import Identity, identify
from .limits import Limit
from .policy import Feature, Plan, Policy
from .sinks import JSONLinesSink, LoggingSink
from .stores import (
    AsyncQuotaStore,
    KeyValueQuotaStore,
    MemoryQuotaStore,
    QuotaStore,
    open_async_store,
    open_store,
)
from .types import (
    Alert,
    Charge,
    Check,
    Clock,
    Content,
    Denial,
    Finding,
    LimitStatus,
    Part,
    Quote,
    Refusal,
    Reservation,
    Sink,
    Tally,
    Usage,
    UsageRecord,
)

if TYPE_CHECKING:
    from .sinks import OpenTelemetrySink, PrometheusSink, SQLiteSink, WebhookSink
    from .stores import (
        AsyncPostgresQuotaStore,
        AsyncRedisQuotaStore,
        PostgresQuotaStore,
        RedisQuotaStore,
        SQLiteQuotaStore,
    )
else:
    from ._lazy import __getattr__ as __getattr__

__version__ = "0.1.0"

__all__ = [
    "Alert",
    "AsyncPostgresQuotaStore",
    "AsyncQuotaStore",
    "AsyncRedisQuotaStore",
    "AsyncSafeAzureOpenAI",
    "AsyncSafeOpenAI",
    "BudgetExceededError",
    "Charge",
    "Check",
    "Clock",
    "ConfigurationError",
    "Content",
    "DeadlineExceededError",
    "Denial",
    "DeniedError",
    "Feature",
    "FeatureNotAllowedError",
    "Finding",
    "Identity",
    "InjectionDetectedError",
    "InputRejectedError",
    "JSONLinesSink",
    "KeyValueQuotaStore",
    "Limit",
    "LimitExceededError",
    "LimitStatus",
    "LoggingSink",
    "MemoryQuotaStore",
    "NotAuthenticatedError",
    "OpenTelemetrySink",
    "OutputRejectedError",
    "Part",
    "Plan",
    "Policy",
    "PostgresQuotaStore",
    "PrometheusSink",
    "QuotaStore",
    "Quote",
    "RateLimitExceededError",
    "RedisQuotaStore",
    "Refusal",
    "Reservation",
    "RouteBlockedError",
    "SQLiteQuotaStore",
    "SQLiteSink",
    "SafeAzureOpenAI",
    "SafeLLMError",
    "SafeOpenAI",
    "Sink",
    "StoreUnavailableError",
    "SwitchedOffError",
    "Tally",
    "UnpricedModelError",
    "Usage",
    "UsageRecord",
    "WebhookSink",
    "canary",
    "identify",
    "open_async_store",
    "open_store",
    "untrusted",
]

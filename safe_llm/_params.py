"""The parameters of guarded methods, for type checkers only: the SDK's own, and who is calling."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from os import PathLike
from typing import Any, Generic, Required, TypeVar

import httpx
from openai import NotGiven
from openai._types import Body, Headers, Query
from openai.types.chat.completion_create_params import (
    CompletionCreateParamsBase,
    CompletionCreateParamsNonStreaming,
    CompletionCreateParamsStreaming,
)
from typing_extensions import TypedDict

from .policy import Policy
from .sinks import SinkLike
from .stores import AsyncQuotaStore, QuotaStore
from .types import Check, Clock

FormatT = TypeVar("FormatT")


class Extra(TypedDict, total=False):
    """What every guarded method takes beside its own parameters. The first four are never sent to the provider."""

    user_id: str | None
    feature: str | None
    session_id: str | None
    tags: Mapping[str, str] | None
    extra_headers: Headers | None
    extra_query: Query | None
    extra_body: Body | None
    timeout: float | httpx.Timeout | NotGiven | None


class CreateParams(CompletionCreateParamsNonStreaming, Extra, total=False):
    """``create``."""


class StreamingParams(CompletionCreateParamsStreaming, Extra, total=False):
    """``create`` with ``stream=True``."""


class BothParams(CompletionCreateParamsBase, Extra, total=False):
    """``create`` with a ``stream`` that is only known at run time."""

    stream: Required[bool]


class ParseParams(CompletionCreateParamsBase, Extra, Generic[FormatT], total=False):
    """``parse`` and ``stream``."""

    response_format: type[FormatT]  # type: ignore[misc]  # pyright: ignore[reportIncompatibleVariableOverride]


class ClientOptions(TypedDict, total=False):
    """What the SDK's clients take. An option that the installed SDK does not know is a TypeError, as it is there."""

    api_key: str | Callable[[], Any] | None
    admin_api_key: str | None
    workload_identity: Any
    organization: str | None
    project: str | None
    webhook_secret: str | None
    provider: Any
    base_url: Any
    data_residency: Any
    websocket_base_url: Any
    timeout: Any
    max_retries: int
    default_headers: Mapping[str, str] | None
    default_query: Mapping[str, object] | None
    http_client: Any
    _strict_response_validation: bool
    _enforce_credentials: bool


class AzureOptions(ClientOptions, total=False):
    """What the SDK's Azure clients take."""

    azure_endpoint: str | None
    azure_deployment: str | None
    api_version: str | None
    azure_ad_token: str | None
    azure_ad_token_provider: Callable[[], Any] | None


class GuardOptions(TypedDict, total=False):
    """What the clients take beside the SDK's own options."""

    policy: Policy | Mapping[str, Any] | str | PathLike[str] | None
    sinks: Sequence[SinkLike] | None
    checks: Sequence[Check] | None
    hash_key: bytes | str | None
    clock: Clock | None


class SyncOptions(GuardOptions, total=False):
    """Of a sync client."""

    quota_store: QuotaStore | str | None
    plan_for: Callable[[str], str | None] | Mapping[str, str] | None


class AsyncOptions(GuardOptions, total=False):
    """Of an async client, which may be given coroutines."""

    quota_store: QuotaStore | AsyncQuotaStore | str | None
    plan_for: Callable[[str], str | Awaitable[str | None] | None] | Mapping[str, str] | None


class SafeOptions(ClientOptions, SyncOptions, total=False):
    """Of `SafeOpenAI`."""


class AsyncSafeOptions(ClientOptions, AsyncOptions, total=False):
    """Of `AsyncSafeOpenAI`."""


class SafeAzureOptions(AzureOptions, SyncOptions, total=False):
    """Of `SafeAzureOpenAI`."""


class AsyncSafeAzureOptions(AzureOptions, AsyncOptions, total=False):
    """Of `AsyncSafeAzureOpenAI`."""

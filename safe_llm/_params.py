"""The parameters of guarded methods, for type checkers only: the SDK's own, and who is calling."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from os import PathLike
from typing import Any, Generic, Literal, Required, TypeVar

import httpx
from openai import NotGiven
from openai._types import Body, FileTypes, Headers, Query
from openai.types import AudioResponseFormat, EmbeddingCreateParams, ImageCreateVariationParams
from openai.types.audio import SpeechCreateParams, TranscriptionInclude
from openai.types.chat.completion_create_params import (
    CompletionCreateParamsBase,
    CompletionCreateParamsNonStreaming,
    CompletionCreateParamsStreaming,
)
from openai.types.completion_create_params import CompletionCreateParamsBase as LegacyParamsBase
from openai.types.completion_create_params import CompletionCreateParamsNonStreaming as LegacyParamsNonStreaming
from openai.types.completion_create_params import CompletionCreateParamsStreaming as LegacyParamsStreaming
from openai.types.image_edit_params import ImageEditParamsBase, ImageEditParamsNonStreaming, ImageEditParamsStreaming
from openai.types.image_generate_params import (
    ImageGenerateParamsBase,
    ImageGenerateParamsNonStreaming,
    ImageGenerateParamsStreaming,
)
from openai.types.responses import ResponseCompactParams
from openai.types.responses.response_create_params import (
    ResponseCreateParamsBase,
    ResponseCreateParamsNonStreaming,
    ResponseCreateParamsStreaming,
)
from openai.types.responses.tool_param import ParseableToolParam
from typing_extensions import TypedDict

from .identity import Verifier
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


class ChatParams(CompletionCreateParamsNonStreaming, Extra, total=False):
    """``chat.completions.create``."""


class ChatStreamingParams(CompletionCreateParamsStreaming, Extra, total=False):
    """The same with ``stream=True``."""


class ChatBothParams(CompletionCreateParamsBase, Extra, total=False):
    """The same with a ``stream`` that is only known at run time."""

    stream: Required[bool]


class ChatParseParams(CompletionCreateParamsBase, Extra, Generic[FormatT], total=False):
    """``parse`` and ``stream``."""

    response_format: type[FormatT]  # type: ignore[misc]  # pyright: ignore[reportIncompatibleVariableOverride]


class ResponseParams(ResponseCreateParamsNonStreaming, Extra, total=False):
    """``responses.create``."""


class ResponseStreamingParams(ResponseCreateParamsStreaming, Extra, total=False):
    """The same with ``stream=True``."""


class ResponseBothParams(ResponseCreateParamsBase, Extra, total=False):
    """The same with a ``stream`` that is only known at run time."""

    stream: Required[bool]


class ResponseParseParams(ResponseCreateParamsBase, Extra, Generic[FormatT], total=False):
    """``responses.parse``."""

    text_format: type[FormatT]
    stream: bool | None
    tools: Iterable[ParseableToolParam]  # type: ignore[misc]  # pyright: ignore[reportIncompatibleVariableOverride]


class ResponseStreamParams(ResponseCreateParamsBase, Extra, Generic[FormatT], total=False):
    """``responses.stream``, of a new response or of one that exists."""

    response_id: str
    starting_after: int
    text_format: type[FormatT]
    tools: Iterable[ParseableToolParam]  # type: ignore[misc]  # pyright: ignore[reportIncompatibleVariableOverride]


class CompactParams(ResponseCompactParams, Extra, total=False):
    """``responses.compact``."""


class EmbeddingParams(EmbeddingCreateParams, Extra, total=False):
    """``embeddings.create``."""


class CompletionParams(LegacyParamsNonStreaming, Extra, total=False):
    """``completions.create``."""


class CompletionStreamingParams(LegacyParamsStreaming, Extra, total=False):
    """The same with ``stream=True``."""


class CompletionBothParams(LegacyParamsBase, Extra, total=False):
    """The same with a ``stream`` that is only known at run time."""

    stream: Required[bool]


class ImageParams(ImageGenerateParamsNonStreaming, Extra, total=False):
    """``images.generate``."""


class ImageStreamingParams(ImageGenerateParamsStreaming, Extra, total=False):
    """The same with ``stream=True``."""


class ImageBothParams(ImageGenerateParamsBase, Extra, total=False):
    """The same with a ``stream`` that is only known at run time."""

    stream: Required[bool]


class ImageEditParams(ImageEditParamsNonStreaming, Extra, total=False):
    """``images.edit``."""


class ImageEditStreamingParams(ImageEditParamsStreaming, Extra, total=False):
    """The same with ``stream=True``."""


class ImageEditBothParams(ImageEditParamsBase, Extra, total=False):
    """The same with a ``stream`` that is only known at run time."""

    stream: Required[bool]


class ImageVariationParams(ImageCreateVariationParams, Extra, total=False):
    """``images.create_variation``."""


class TranscriptionBase(Extra, total=False):
    """``audio.transcriptions.create`` but for what the answer's type depends on."""

    file: Required[FileTypes]
    model: Required[str]
    chunking_strategy: Any
    include: list[TranscriptionInclude]
    keywords: Sequence[str]
    known_speaker_names: Sequence[str]
    known_speaker_references: Sequence[str]
    language: str
    languages: Sequence[str]
    prompt: str
    temperature: float
    timestamp_granularities: list[Literal["word", "segment"]]


class TranscriptionParams(TranscriptionBase, total=False):
    """Not streamed."""

    stream: Literal[False] | None


class TranscriptionStreamingParams(TranscriptionBase, total=False):
    """With ``stream=True``."""

    response_format: AudioResponseFormat
    stream: Required[Literal[True]]


class TranscriptionBothParams(TranscriptionBase, total=False):
    """With a ``stream`` or a format that is only known at run time."""

    response_format: AudioResponseFormat
    stream: bool | None


class TranslationParams(Extra, total=False):
    """``audio.translations.create`` but for the format, on which the answer's type depends."""

    file: Required[FileTypes]
    model: Required[str]
    prompt: str
    temperature: float


class SpeechParams(SpeechCreateParams, Extra, total=False):
    """``audio.speech.create``."""


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
    verifier: Verifier | None
    shadow_policy: Policy | Mapping[str, Any] | str | PathLike[str] | None


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

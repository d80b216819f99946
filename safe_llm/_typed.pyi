"""What type checkers see of the facades that `resources.py` makes: the SDK's methods, with who is calling.

Read by type checkers alone. Async twins differ by ``async`` and the stream's class.
"""

# mypy: disable-error-code="override"
# The parameters of a guarded method are the SDK's own, and four more; unpacked, they no longer take `omit`.
from __future__ import annotations

from typing import Literal, overload

from openai import AsyncStream, Stream
from openai._legacy_response import HttpxBinaryResponseContent
from openai.lib.streaming.chat import AsyncChatCompletionStreamManager, ChatCompletionStreamManager
from openai.lib.streaming.responses import AsyncResponseStreamManager, ResponseStreamManager
from openai.resources.audio import (
    AsyncAudio,
    AsyncSpeech,
    AsyncTranscriptions,
    AsyncTranslations,
    Audio,
    Speech,
    Transcriptions,
    Translations,
)
from openai.resources.chat import AsyncChat, AsyncCompletions, Chat, Completions
from openai.resources.completions import AsyncCompletions as AsyncLegacyCompletions
from openai.resources.completions import Completions as LegacyCompletions
from openai.resources.embeddings import AsyncEmbeddings, Embeddings
from openai.resources.images import AsyncImages, Images
from openai.resources.responses import AsyncResponses, Responses
from openai.types import (
    Completion,
    CreateEmbeddingResponse,
    ImageEditStreamEvent,
    ImageGenStreamEvent,
    ImagesResponse,
)
from openai.types.audio import (
    Transcription,
    TranscriptionDiarized,
    TranscriptionStreamEvent,
    TranscriptionVerbose,
    Translation,
    TranslationVerbose,
)
from openai.types.chat import ChatCompletion, ChatCompletionChunk, ParsedChatCompletion
from openai.types.responses import CompactedResponse, ParsedResponse, Response, ResponseStreamEvent
from typing_extensions import Unpack

from . import _params as p
from ._params import FormatT

AnyTranscription = Transcription | TranscriptionVerbose | TranscriptionDiarized | str
AnyTranslation = Translation | TranslationVerbose | str

class SafeCompletions(Completions):
    @overload
    def create(self, **params: Unpack[p.ChatParams]) -> ChatCompletion: ...
    @overload
    def create(self, **params: Unpack[p.ChatStreamingParams]) -> Stream[ChatCompletionChunk]: ...
    @overload
    def create(self, **params: Unpack[p.ChatBothParams]) -> ChatCompletion | Stream[ChatCompletionChunk]: ...
    def parse(self, **params: Unpack[p.ChatParseParams[FormatT]]) -> ParsedChatCompletion[FormatT]: ...
    def stream(self, **params: Unpack[p.ChatParseParams[FormatT]]) -> ChatCompletionStreamManager[FormatT]: ...

class AsyncSafeCompletions(AsyncCompletions):
    @overload
    async def create(self, **params: Unpack[p.ChatParams]) -> ChatCompletion: ...
    @overload
    async def create(self, **params: Unpack[p.ChatStreamingParams]) -> AsyncStream[ChatCompletionChunk]: ...
    @overload
    async def create(self, **params: Unpack[p.ChatBothParams]) -> ChatCompletion | AsyncStream[ChatCompletionChunk]: ...
    async def parse(self, **params: Unpack[p.ChatParseParams[FormatT]]) -> ParsedChatCompletion[FormatT]: ...
    def stream(self, **params: Unpack[p.ChatParseParams[FormatT]]) -> AsyncChatCompletionStreamManager[FormatT]: ...

class SafeChat(Chat):
    @property
    def completions(self) -> SafeCompletions: ...

class AsyncSafeChat(AsyncChat):
    @property
    def completions(self) -> AsyncSafeCompletions: ...

class SafeResponses(Responses):
    @overload
    def create(self, **params: Unpack[p.ResponseParams]) -> Response: ...
    @overload
    def create(self, **params: Unpack[p.ResponseStreamingParams]) -> Stream[ResponseStreamEvent]: ...
    @overload
    def create(self, **params: Unpack[p.ResponseBothParams]) -> Response | Stream[ResponseStreamEvent]: ...
    def parse(self, **params: Unpack[p.ResponseParseParams[FormatT]]) -> ParsedResponse[FormatT]: ...
    def stream(self, **params: Unpack[p.ResponseStreamParams[FormatT]]) -> ResponseStreamManager[FormatT]: ...
    def compact(self, **params: Unpack[p.CompactParams]) -> CompactedResponse: ...

class AsyncSafeResponses(AsyncResponses):
    @overload
    async def create(self, **params: Unpack[p.ResponseParams]) -> Response: ...
    @overload
    async def create(self, **params: Unpack[p.ResponseStreamingParams]) -> AsyncStream[ResponseStreamEvent]: ...
    @overload
    async def create(self, **params: Unpack[p.ResponseBothParams]) -> Response | AsyncStream[ResponseStreamEvent]: ...
    async def parse(self, **params: Unpack[p.ResponseParseParams[FormatT]]) -> ParsedResponse[FormatT]: ...
    def stream(self, **params: Unpack[p.ResponseStreamParams[FormatT]]) -> AsyncResponseStreamManager[FormatT]: ...
    async def compact(self, **params: Unpack[p.CompactParams]) -> CompactedResponse: ...

class SafeEmbeddings(Embeddings):
    def create(self, **params: Unpack[p.EmbeddingParams]) -> CreateEmbeddingResponse: ...

class AsyncSafeEmbeddings(AsyncEmbeddings):
    async def create(self, **params: Unpack[p.EmbeddingParams]) -> CreateEmbeddingResponse: ...

class SafeLegacyCompletions(LegacyCompletions):
    @overload
    def create(self, **params: Unpack[p.CompletionParams]) -> Completion: ...
    @overload
    def create(self, **params: Unpack[p.CompletionStreamingParams]) -> Stream[Completion]: ...
    @overload
    def create(self, **params: Unpack[p.CompletionBothParams]) -> Completion | Stream[Completion]: ...

class AsyncSafeLegacyCompletions(AsyncLegacyCompletions):
    @overload
    async def create(self, **params: Unpack[p.CompletionParams]) -> Completion: ...
    @overload
    async def create(self, **params: Unpack[p.CompletionStreamingParams]) -> AsyncStream[Completion]: ...
    @overload
    async def create(self, **params: Unpack[p.CompletionBothParams]) -> Completion | AsyncStream[Completion]: ...

class SafeImages(Images):
    @overload
    def generate(self, **params: Unpack[p.ImageParams]) -> ImagesResponse: ...
    @overload
    def generate(self, **params: Unpack[p.ImageStreamingParams]) -> Stream[ImageGenStreamEvent]: ...
    @overload
    def generate(self, **params: Unpack[p.ImageBothParams]) -> ImagesResponse | Stream[ImageGenStreamEvent]: ...
    @overload
    def edit(self, **params: Unpack[p.ImageEditParams]) -> ImagesResponse: ...
    @overload
    def edit(self, **params: Unpack[p.ImageEditStreamingParams]) -> Stream[ImageEditStreamEvent]: ...
    @overload
    def edit(self, **params: Unpack[p.ImageEditBothParams]) -> ImagesResponse | Stream[ImageEditStreamEvent]: ...
    def create_variation(self, **params: Unpack[p.ImageVariationParams]) -> ImagesResponse: ...

class AsyncSafeImages(AsyncImages):
    @overload
    async def generate(self, **params: Unpack[p.ImageParams]) -> ImagesResponse: ...
    @overload
    async def generate(self, **params: Unpack[p.ImageStreamingParams]) -> AsyncStream[ImageGenStreamEvent]: ...
    @overload
    async def generate(
        self, **params: Unpack[p.ImageBothParams]
    ) -> ImagesResponse | AsyncStream[ImageGenStreamEvent]: ...
    @overload
    async def edit(self, **params: Unpack[p.ImageEditParams]) -> ImagesResponse: ...
    @overload
    async def edit(self, **params: Unpack[p.ImageEditStreamingParams]) -> AsyncStream[ImageEditStreamEvent]: ...
    @overload
    async def edit(
        self, **params: Unpack[p.ImageEditBothParams]
    ) -> ImagesResponse | AsyncStream[ImageEditStreamEvent]: ...
    async def create_variation(self, **params: Unpack[p.ImageVariationParams]) -> ImagesResponse: ...

class SafeTranscriptions(Transcriptions):
    @overload
    def create(
        self, *, response_format: Literal["verbose_json"], **params: Unpack[p.TranscriptionParams]
    ) -> TranscriptionVerbose: ...
    @overload
    def create(
        self, *, response_format: Literal["diarized_json"], **params: Unpack[p.TranscriptionParams]
    ) -> TranscriptionDiarized: ...
    @overload
    def create(
        self, *, response_format: Literal["text", "srt", "vtt"], **params: Unpack[p.TranscriptionParams]
    ) -> str: ...
    @overload
    def create(
        self, *, response_format: Literal["json"] = ..., **params: Unpack[p.TranscriptionParams]
    ) -> Transcription: ...
    @overload
    def create(self, **params: Unpack[p.TranscriptionStreamingParams]) -> Stream[TranscriptionStreamEvent]: ...
    @overload
    def create(
        self, **params: Unpack[p.TranscriptionBothParams]
    ) -> AnyTranscription | Stream[TranscriptionStreamEvent]: ...

class AsyncSafeTranscriptions(AsyncTranscriptions):
    @overload
    async def create(
        self, *, response_format: Literal["verbose_json"], **params: Unpack[p.TranscriptionParams]
    ) -> TranscriptionVerbose: ...
    @overload
    async def create(
        self, *, response_format: Literal["diarized_json"], **params: Unpack[p.TranscriptionParams]
    ) -> TranscriptionDiarized: ...
    @overload
    async def create(
        self, *, response_format: Literal["text", "srt", "vtt"], **params: Unpack[p.TranscriptionParams]
    ) -> str: ...
    @overload
    async def create(
        self, *, response_format: Literal["json"] = ..., **params: Unpack[p.TranscriptionParams]
    ) -> Transcription: ...
    @overload
    async def create(
        self, **params: Unpack[p.TranscriptionStreamingParams]
    ) -> AsyncStream[TranscriptionStreamEvent]: ...
    @overload
    async def create(
        self, **params: Unpack[p.TranscriptionBothParams]
    ) -> AnyTranscription | AsyncStream[TranscriptionStreamEvent]: ...

class SafeTranslations(Translations):
    @overload
    def create(
        self, *, response_format: Literal["verbose_json"], **params: Unpack[p.TranslationParams]
    ) -> TranslationVerbose: ...
    @overload
    def create(
        self, *, response_format: Literal["text", "srt", "vtt"], **params: Unpack[p.TranslationParams]
    ) -> str: ...
    @overload
    def create(
        self, *, response_format: Literal["json"] = ..., **params: Unpack[p.TranslationParams]
    ) -> Translation: ...
    @overload
    def create(self, *, response_format: str, **params: Unpack[p.TranslationParams]) -> AnyTranslation: ...

class AsyncSafeTranslations(AsyncTranslations):
    @overload
    async def create(
        self, *, response_format: Literal["verbose_json"], **params: Unpack[p.TranslationParams]
    ) -> TranslationVerbose: ...
    @overload
    async def create(
        self, *, response_format: Literal["text", "srt", "vtt"], **params: Unpack[p.TranslationParams]
    ) -> str: ...
    @overload
    async def create(
        self, *, response_format: Literal["json"] = ..., **params: Unpack[p.TranslationParams]
    ) -> Translation: ...
    @overload
    async def create(self, *, response_format: str, **params: Unpack[p.TranslationParams]) -> AnyTranslation: ...

class SafeSpeech(Speech):
    def create(self, **params: Unpack[p.SpeechParams]) -> HttpxBinaryResponseContent: ...

class AsyncSafeSpeech(AsyncSpeech):
    async def create(self, **params: Unpack[p.SpeechParams]) -> HttpxBinaryResponseContent: ...

class SafeAudio(Audio):
    @property
    def transcriptions(self) -> SafeTranscriptions: ...
    @property
    def translations(self) -> SafeTranslations: ...
    @property
    def speech(self) -> SafeSpeech: ...

class AsyncSafeAudio(AsyncAudio):
    @property
    def transcriptions(self) -> AsyncSafeTranscriptions: ...
    @property
    def translations(self) -> AsyncSafeTranslations: ...
    @property
    def speech(self) -> AsyncSafeSpeech: ...

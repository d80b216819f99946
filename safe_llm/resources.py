"""Typed facades over the SDK's resources: they add who is calling to each guarded method, and nothing else.

The SDK's own parameters come from its own ``TypedDict``, so they are those of the SDK that is installed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property, wraps
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, overload

from openai.resources.chat import AsyncChat, AsyncCompletions, Chat, Completions

from ._shell import CLAIM_HEADER, Carried
from .errors import RouteBlockedError
from .identity import NOTHING, claim_of, current

if TYPE_CHECKING:
    from openai import AsyncStream, Stream
    from openai.lib.streaming.chat import AsyncChatCompletionStreamManager, ChatCompletionStreamManager
    from openai.resources.chat.chat import AsyncChatWithStreamingResponse, ChatWithStreamingResponse
    from openai.resources.chat.completions import (
        AsyncCompletionsWithStreamingResponse,
        CompletionsWithStreamingResponse,
    )
    from openai.types.chat import ChatCompletion, ChatCompletionChunk, ParsedChatCompletion
    from typing_extensions import Unpack

    from ._params import BothParams, CreateParams, ParseParams, StreamingParams

FormatT = TypeVar("FormatT")
ResourceT = TypeVar("ResourceT")
WrapperT = TypeVar("WrapperT")
MethodT = TypeVar("MethodT", bound=Callable[..., Any])

_CALLER = tuple(
    inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
    for name, annotation in (
        ("user_id", "str | None"),
        ("feature", "str | None"),
        ("session_id", "str | None"),
        ("tags", "Mapping[str, str] | None"),
    )
)


def fold(arguments: dict[str, Any]) -> dict[str, Any]:
    """Move who is calling into the private header, which survives every calling style of the SDK.

    Raises:
        ValueError: a value is not a printable string of 1 to 256 characters.
    """
    take = arguments.pop
    claim = claim_of(
        user_id=take("user_id", None),
        feature=take("feature", None),
        session_id=take("session_id", None),
        tags=take("tags", None),
    )
    headers = arguments.get("extra_headers") or {}
    if isinstance(headers.get(CLAIM_HEADER), Carried):
        return arguments  # the SDK's helpers come back here with what was folded when they were called
    # What the context says is taken along, too: the SDK may send the request after it has ended.
    context = current()
    if claim != NOTHING or context != NOTHING:
        arguments["extra_headers"] = {**headers, CLAIM_HEADER: Carried(claim, context)}
    return arguments


def light(arguments: dict[str, Any]) -> dict[str, Any]:
    """Take the messages past the SDK's own transformation, into ``extra_body``.

    It walks every part of every message against a type, which costs more than all else that the SDK does, and a
    long history would be walked before the guard could refuse it. What it does to messages, making lists of iterables
    and JSON of models, the guard and the SDK's encoder do as well.
    """
    messages, extra = arguments.get("messages"), arguments.get("extra_body")
    if messages is None or isinstance(messages, str | Mapping) or not isinstance(messages, Iterable):
        return arguments
    if extra is not None and (not isinstance(extra, Mapping) or "messages" in extra):
        return arguments
    arguments["messages"] = ()
    arguments["extra_body"] = {**(extra or {}), "messages": [_listed(message) for message in messages]}
    return arguments


def _listed(message: Any) -> Any:
    """A message whose parts and calls are lists, where they came as other iterables."""
    if not isinstance(message, dict):
        return message
    found = {name: message[name] for name in ("content", "tool_calls") if name in message}
    lists = {name: list(value) for name, value in found.items() if _is_other_iterable(value)}
    return {**message, **lists} if lists else message


def _is_other_iterable(value: object) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, str | list | tuple | Mapping)


def _like(theirs: Callable[..., Any]) -> Callable[[MethodT], MethodT]:
    """Give a method the SDK's documentation and signature, and the caller's four arguments."""

    def decorate(ours: MethodT) -> MethodT:
        signature = inspect.signature(theirs)
        wraps(theirs)(ours)
        del ours.__wrapped__  # type: ignore[attr-defined]  # it would lead around this method
        ours.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=[*signature.parameters.values(), *_CALLER]
        )
        return ours

    return decorate


class SafeCompletions(Completions):
    """`client.chat.completions`, with ``user_id``, ``feature``, ``session_id`` and ``tags``."""

    @cached_property
    def with_streaming_response(self) -> CompletionsWithStreamingResponse:
        return _deferring(super().with_streaming_response, "create", "parse")

    if TYPE_CHECKING:

        @overload  # type: ignore[override]
        def create(self, **params: Unpack[CreateParams]) -> ChatCompletion: ...
        @overload
        def create(self, **params: Unpack[StreamingParams]) -> Stream[ChatCompletionChunk]: ...
        @overload
        def create(self, **params: Unpack[BothParams]) -> ChatCompletion | Stream[ChatCompletionChunk]: ...
        def create(self, **params: Any) -> Any: ...
        def parse(self, **params: Unpack[ParseParams[FormatT]]) -> ParsedChatCompletion[FormatT]: ...  # type: ignore[override]
        def stream(self, **params: Unpack[ParseParams[FormatT]]) -> ChatCompletionStreamManager[FormatT]: ...  # type: ignore[override]

    else:

        @_like(Completions.create)
        def create(self, *args, **params):
            return super().create(*args, **light(fold(params)))

        @_like(Completions.parse)
        def parse(self, *args, **params):
            return super().parse(*args, **light(fold(params)))

        @_like(Completions.stream)
        def stream(self, *args, **params):
            return super().stream(*args, **fold(params))


class AsyncSafeCompletions(AsyncCompletions):
    """`client.chat.completions`, with ``user_id``, ``feature``, ``session_id`` and ``tags``."""

    @cached_property
    def with_streaming_response(self) -> AsyncCompletionsWithStreamingResponse:
        return _deferring(super().with_streaming_response, "create", "parse")

    if TYPE_CHECKING:

        @overload  # type: ignore[override]
        async def create(self, **params: Unpack[CreateParams]) -> ChatCompletion: ...
        @overload
        async def create(self, **params: Unpack[StreamingParams]) -> AsyncStream[ChatCompletionChunk]: ...
        @overload
        async def create(self, **params: Unpack[BothParams]) -> ChatCompletion | AsyncStream[ChatCompletionChunk]: ...
        async def create(self, **params: Any) -> Any: ...
        async def parse(self, **params: Unpack[ParseParams[FormatT]]) -> ParsedChatCompletion[FormatT]: ...  # type: ignore[override]
        def stream(self, **params: Unpack[ParseParams[FormatT]]) -> AsyncChatCompletionStreamManager[FormatT]: ...  # type: ignore[override]

    else:

        @_like(AsyncCompletions.create)
        async def create(self, *args, **params):
            return await super().create(*args, **light(fold(params)))

        @_like(AsyncCompletions.parse)
        async def parse(self, *args, **params):
            return await super().parse(*args, **light(fold(params)))

        @_like(AsyncCompletions.stream)
        def stream(self, *args, **params):
            return super().stream(*args, **fold(params))


def _deferring(wrapper: WrapperT, *methods: str) -> WrapperT:
    """The SDK's wrapper for ``with_streaming_response``, made to take the caller along.

    It calls the method when its ``with`` block is entered, where another context may hold.
    """
    for name in methods:
        setattr(wrapper, name, _folding(getattr(wrapper, name)))
    return wrapper


def _folding(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def call(*args: Any, **params: Any) -> Any:
        return method(*args, **fold(params))

    return call


def preset(resource: ResourceT, **parts: Any) -> ResourceT:
    """A resource of the SDK with parts of ours, in place of those that it would make and keep itself."""
    resource.__dict__.update(parts)
    return resource


_WITH_SOCKETS = ("realtime", "responses", "translations", "sideband", "forks")


def without_sockets(resource: ResourceT) -> ResourceT:
    """A resource whose ``connect``, and those of the resources below it, refuse.

    A websocket does not pass the client's ``request``, so what it costs can be neither bounded nor metered.
    """
    if hasattr(type(resource), "connect"):
        resource.__dict__["connect"] = _refuse_socket
    for name in _WITH_SOCKETS:
        if hasattr(type(resource), name):
            without_sockets(getattr(resource, name))
    return resource


def _refuse_socket(*_: object, **__: object) -> NoReturn:
    raise RouteBlockedError(
        "Websockets are blocked: what they cost can be neither bounded nor metered here. "
        '[routes] allow = ["*"] would let them through, unguarded.'
    )


class SafeChat(Chat):
    """`client.chat`."""

    @cached_property
    def completions(self) -> SafeCompletions:
        return SafeCompletions(self._client)

    @cached_property
    def with_streaming_response(self) -> ChatWithStreamingResponse:
        made = super().with_streaming_response
        return preset(made, completions=self.completions.with_streaming_response)


class AsyncSafeChat(AsyncChat):
    """`client.chat`."""

    @cached_property
    def completions(self) -> AsyncSafeCompletions:
        return AsyncSafeCompletions(self._client)

    @cached_property
    def with_streaming_response(self) -> AsyncChatWithStreamingResponse:
        made = super().with_streaming_response
        return preset(made, completions=self.completions.with_streaming_response)

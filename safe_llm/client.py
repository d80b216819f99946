"""The four clients: `SafeOpenAI`, `AsyncSafeOpenAI`, `SafeAzureOpenAI`, `AsyncSafeAzureOpenAI`.

Every request of the SDK, whatever its calling style, passes `request`. There it is found to be guarded, free or
blocked; a guarded one is taken through the path (`guard.py`), which sends it by the SDK's own `request`.
"""

from __future__ import annotations

import copy as copying
import inspect
from collections.abc import Mapping
from functools import cache, cached_property, wraps
from typing import TYPE_CHECKING, Any, TypeVar

from openai import AsyncAzureOpenAI, AsyncOpenAI, AzureOpenAI, OpenAI

from . import deadline
from ._async import AsyncGuard
from ._requests import read_call, read_retrieval, read_unguarded, route_of, take_claim, with_body
from ._settings import GUARD_OPTIONS, build
from ._shell import outside
from ._streams import noticing
from ._sync import SyncGuard
from ._transport import sending
from .errors import ConfigurationError
from .identity import NOTHING, Claim, Identity, claim_of
from .resources import ROOTS, SOCKETS, facade, preset, without_keeping, without_sockets

if TYPE_CHECKING:
    from typing import Self

    from openai._client import AsyncOpenAIWithStreamedResponse, OpenAIWithStreamedResponse
    from typing_extensions import Unpack

    from ._params import AsyncSafeAzureOptions, AsyncSafeOptions, SafeAzureOptions, SafeOptions
    from ._typed import (
        AsyncSafeAudio,
        AsyncSafeChat,
        AsyncSafeEmbeddings,
        AsyncSafeImages,
        AsyncSafeLegacyCompletions,
        AsyncSafeResponses,
        SafeAudio,
        SafeChat,
        SafeEmbeddings,
        SafeImages,
        SafeLegacyCompletions,
        SafeResponses,
    )


ClientT = TypeVar("ClientT", bound="_Guarded")
WrapperT = TypeVar("WrapperT")


class _Guarded:
    """What all four clients have in common. Stands before the SDK's class, whose hooks it overrides."""

    _shell: type
    _guard: Any
    _claim: Claim
    _bounded: bool
    _opened: bool
    """Whether it is this client that opened the guard's store, and not one that it is a copy of."""

    def __init__(self, **options: Any) -> None:
        # A copy brings the guard of the client that it was made from; any other client builds its own.
        inherited = options.pop("_inherited", None)
        own = {name: options.pop(name, None) for name in GUARD_OPTIONS}
        super().__init__(**options)
        self._guard, self._claim, self._opened = inherited or (build(self._shell, **own), NOTHING, True)
        self._bounded = deadline.install(self._client)  # type: ignore[attr-defined]

    def copy(self, **options: Any) -> Self:
        """A copy with some options replaced. It keeps the guard, its counters, and the identity."""
        given = {name: value for name in GUARD_OPTIONS if (value := options.pop(name, None)) is not None}
        guard = build(self._shell, **{**self._guard.settings, **given}) if given else self._guard
        extra = {**options.pop("_extra_kwargs", {}), "_inherited": (guard, self._claim, bool(given))}
        copied: Self = super().copy(**options, _extra_kwargs=extra)  # type: ignore[misc]
        return copied

    def with_identity(
        self: ClientT,
        identity: Identity | None = None,
        *,
        user_id: str | None = None,
        feature: str | None = None,
        session_id: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> ClientT:
        """A light copy whose calls are this caller's: for frameworks that call the client themselves.

        It shares the guard, the store and the HTTP client. What a call says itself goes before it.

        Raises:
            ValueError: a value is not a printable string of 1 to 256 characters.
        """
        return self._bound(claim_of(identity, user_id=user_id, feature=feature, session_id=session_id, tags=tags))

    def with_token(self: ClientT, token: str) -> ClientT:
        """A light copy whose calls are those of the caller that the token proves, by the client's ``verifier=``.

        The token is verified here, but where an async client would have to wait for keys: there, at the first call.

        Raises:
            NotAuthenticatedError: the token proves nobody.
            ConfigurationError: the client has no verifier.
        """
        verifier = self._guard.settings["verifier"]
        if verifier is None:
            raise ConfigurationError("with_token() needs a verifier: give the client verifier=JWTVerifier(...).")
        is_at_hand = getattr(verifier, "at_hand", None)
        if self._shell is AsyncGuard and is_at_hand is not None and not is_at_hand(token):
            return self._bound(Claim(proof=lambda: verifier.verify_async(token)))
        return self.with_identity(verifier.verify(token))

    def _bound(self: ClientT, claim: Claim) -> ClientT:
        bound = copying.copy(self)
        for name in _cached_on(type(self)):  # type: ignore[arg-type]
            bound.__dict__.pop(name, None)  # they hold on to the client that made them
        bound._claim = claim.over(self._claim)
        bound._opened = False
        return bound

    @property
    def _sockets_are_closed(self) -> bool:
        return "*" not in self._guard.policy.routes.allow

    def _with_facades(self, wrapper: WrapperT) -> WrapperT:
        """The SDK's wrapper of all resources, with ours in it."""
        names = [name for name in ROOTS if hasattr(type(wrapper), name)]
        return preset(wrapper, **{name: getattr(self, name).with_streaming_response for name in names})

    # Hooks of the SDK's request loop ----------------------------------------------------------------------------------

    def _build_request(self, options: Any, *, retries_taken: int = 0) -> Any:
        request = super()._build_request(options, retries_taken=retries_taken)  # type: ignore[misc]
        state = sending.get()
        if state is not None:
            state.bounded = self._bounded
            state.attempt(request, retries_taken + 1)
        return request

    def _should_retry(self, response: Any) -> bool:
        retry: bool = super()._should_retry(response)  # type: ignore[misc]
        state = sending.get()
        if not retry or state is None:
            return retry
        asked = self._parse_retry_after_header(response.headers)  # type: ignore[attr-defined]
        return state.allows_retry(asked)

    def _calculate_retry_timeout(self, *args: Any, **kwargs: Any) -> float:
        delay: float = super()._calculate_retry_timeout(*args, **kwargs)  # type: ignore[misc]
        state = sending.get()
        return delay if state is None else state.retry(delay)


@cache
def _cached_on(client: Any) -> tuple[str, ...]:
    """Names of the resources that a client makes once and keeps."""
    return tuple(
        name for cls in client.__mro__ for name, value in vars(cls).items() if isinstance(value, cached_property)
    )


class _Sync(_Guarded):
    """The sync half."""

    _shell = SyncGuard

    if TYPE_CHECKING:
        _guard: SyncGuard
        chat: SafeChat
        responses: SafeResponses
        embeddings: SafeEmbeddings
        completions: SafeLegacyCompletions
        images: SafeImages
        audio: SafeAudio

    @property
    def guard(self) -> SyncGuard:
        """How limits stand, what a call would cost, kill switches, and the policy in force."""
        guard: SyncGuard = self._guard.with_claim(self._claim, str(self.base_url))  # type: ignore[attr-defined]
        return guard

    @cached_property
    def with_streaming_response(self) -> OpenAIWithStreamedResponse:
        """The SDK's wrapper that does not read a response eagerly; it takes who is calling along."""
        made: OpenAIWithStreamedResponse = super().with_streaming_response  # type: ignore[misc]
        return self._with_facades(made)

    def request(self, cast_to: Any, options: Any, *, stream: bool = False, stream_cls: Any = None) -> Any:
        """Every request of the SDK passes here, whatever its calling style.

        Raises:
            DeniedError: nothing was sent.
        """
        send = super().request  # type: ignore[misc]
        options, claim = take_claim(options, self._claim)
        route = route_of(options, str(self.base_url))  # type: ignore[attr-defined]
        if route.kind == "guarded":
            most, host = self._guard.largest_file, self.base_url.host  # type: ignore[attr-defined]
            options, call = read_call(options, route, claim, self.timeout, most, host)  # type: ignore[attr-defined]

            def transmit(body: dict[str, Any]) -> Any:
                given = options if body is call.body else with_body(options, body)
                return send(cast_to, given, stream=stream, stream_cls=noticing(stream_cls))

            return self._guard.run(self._guard.core.run(call), transmit)
        with outside():
            if route.kind == "other":
                flow = self._guard.core.pass_by(read_unguarded(options, route, claim), route)
            elif route.response_id is not None:
                flow = self._guard.core.retrieve(read_retrieval(options, claim), route.response_id)
            else:
                return send(cast_to, options, stream=stream, stream_cls=stream_cls)
            return self._guard.run(flow, lambda _: send(cast_to, options, stream=stream, stream_cls=stream_cls))

    def _process_response(self, *, response: Any, **rest: Any) -> Any:
        state = sending.get()
        if state is not None:
            if state.receives(response, as_stream=bool(rest.get("stream"))):
                self._guard.open(state, response)
            elif state.output is not None:
                self._guard.inspect(state, response)
        return super()._process_response(response=response, **rest)  # type: ignore[misc]

    def close(self) -> None:
        """Close the HTTP client, deliver what the sinks wait for, and close the store if this client opened it."""
        super().close()  # type: ignore[misc]
        if "_guard" in self.__dict__:
            self._guard.close(store=self._opened)


class _Async(_Guarded):
    """The async half."""

    _shell = AsyncGuard

    if TYPE_CHECKING:
        _guard: AsyncGuard
        chat: AsyncSafeChat
        responses: AsyncSafeResponses
        embeddings: AsyncSafeEmbeddings
        completions: AsyncSafeLegacyCompletions
        images: AsyncSafeImages
        audio: AsyncSafeAudio

    @property
    def guard(self) -> AsyncGuard:
        """How limits stand, what a call would cost, kill switches, and the policy in force."""
        guard: AsyncGuard = self._guard.with_claim(self._claim, str(self.base_url))  # type: ignore[attr-defined]
        return guard

    @cached_property
    def with_streaming_response(self) -> AsyncOpenAIWithStreamedResponse:
        """The SDK's wrapper that does not read a response eagerly; it takes who is calling along."""
        made: AsyncOpenAIWithStreamedResponse = super().with_streaming_response  # type: ignore[misc]
        return self._with_facades(made)

    async def request(self, cast_to: Any, options: Any, *, stream: bool = False, stream_cls: Any = None) -> Any:
        """Every request of the SDK passes here, whatever its calling style.

        Raises:
            DeniedError: nothing was sent.
        """
        send = super().request  # type: ignore[misc]
        options, claim = take_claim(options, self._claim)
        route = route_of(options, str(self.base_url))  # type: ignore[attr-defined]
        if route.kind == "guarded":
            most, host = self._guard.largest_file, self.base_url.host  # type: ignore[attr-defined]
            options, call = read_call(options, route, claim, self.timeout, most, host)  # type: ignore[attr-defined]

            async def transmit(body: dict[str, Any]) -> Any:
                given = options if body is call.body else with_body(options, body)
                return await send(cast_to, given, stream=stream, stream_cls=noticing(stream_cls))

            return await self._guard.run(self._guard.core.run(call), transmit)
        with outside():
            if route.kind == "other":
                flow = self._guard.core.pass_by(read_unguarded(options, route, claim), route)
            elif route.response_id is not None:
                flow = self._guard.core.retrieve(read_retrieval(options, claim), route.response_id)
            else:
                return await send(cast_to, options, stream=stream, stream_cls=stream_cls)
            return await self._guard.run(flow, lambda _: send(cast_to, options, stream=stream, stream_cls=stream_cls))

    async def _process_response(self, *, response: Any, **rest: Any) -> Any:
        state = sending.get()
        if state is not None:
            if state.receives(response, as_stream=bool(rest.get("stream"))):
                self._guard.open(state, response)
            elif state.output is not None:
                await self._guard.inspect(state, response)
        return await super()._process_response(response=response, **rest)  # type: ignore[misc]

    async def close(self) -> None:
        """Close the HTTP client, deliver what the sinks wait for, and close the store if this client opened it."""
        await super().close()  # type: ignore[misc]
        if "_guard" in self.__dict__:
            await self._guard.close(store=self._opened)


class SafeOpenAI(_Sync, OpenAI):
    """`openai.OpenAI`, guarded.

    Takes every argument of the SDK's client, and these, by keyword:

    Args:
        policy: a `Policy`, a mapping, or the path of a TOML file; else the file named by ``SAFE_LLM_POLICY``; else the
            safe defaults.
        quota_store: where calls are counted: a store, or a URL such as ``memory://``; else ``SAFE_LLM_QUOTA_STORE``;
            else this process's memory.
        plan_for: user_id to the name of a plan, as a callable or a mapping; else everybody has ``default_plan``.
        sinks: where records and alerts go: `Sink` objects or callables of one event; by default a `LoggingSink`.
        checks: `Check` objects that look at the input and at the answers, and `Pattern`s of what answers must not hold.
        hash_key: key of the prompt's hash; else ``SAFE_LLM_HASH_KEY``; else random for this process.
        clock: an object with ``time()`` and ``monotonic()``; by default the system's.
        verifier: what `with_token` verifies tokens by, such as a `safe_llm.web.JWTVerifier`.
        shadow_policy: a second policy, to be tried: what it would have decided otherwise stands on the records.

    Raises:
        ConfigurationError: one of these is wrong. Says which, and how to mend it.
    """

    if TYPE_CHECKING:

        def __init__(self, **options: Unpack[SafeOptions]) -> None: ...

        def copy(self, **options: Any) -> Self: ...

        with_options = copy


class AsyncSafeOpenAI(_Async, AsyncOpenAI):
    """`openai.AsyncOpenAI`, guarded. Takes what `SafeOpenAI` takes; the store, ``plan_for`` and checks may be async."""

    if TYPE_CHECKING:

        def __init__(self, **options: Unpack[AsyncSafeOptions]) -> None: ...

        def copy(self, **options: Any) -> Self: ...

        with_options = copy


class SafeAzureOpenAI(_Sync, AzureOpenAI):
    """`openai.AzureOpenAI`, guarded. Takes what `SafeOpenAI` takes. Price deployments by ``[prices]``."""

    if TYPE_CHECKING:

        def __init__(self, **options: Unpack[SafeAzureOptions]) -> None: ...

        def copy(self, **options: Any) -> Self: ...

        with_options = copy


class AsyncSafeAzureOpenAI(_Async, AsyncAzureOpenAI):
    """`openai.AsyncAzureOpenAI`, guarded. Takes what `AsyncSafeOpenAI` takes. Price deployments by ``[prices]``."""

    if TYPE_CHECKING:

        def __init__(self, **options: Unpack[AsyncSafeAzureOptions]) -> None: ...

        def copy(self, **options: Any) -> Self: ...

        with_options = copy


def _replace_resources() -> None:
    """Put the facades in place of the SDK's resources, and let websockets obey the policy; not every SDK has all."""

    def replacing(theirs: Any, name: str) -> Any:
        def resource(client: Any) -> Any:
            made = without_keeping(theirs, client)
            if name in ROOTS:
                made = facade(made, name)
            return without_sockets(made) if client._sockets_are_closed else made

        return resource

    for ours, sdk in ((_Sync, OpenAI), (_Async, AsyncOpenAI)):
        for name in sorted({*ROOTS, *SOCKETS}):
            theirs = vars(sdk).get(name)
            if theirs is not None:
                own = cached_property(replacing(theirs, name))
                own.__set_name__(ours, name)
                setattr(ours, name, own)


def _name_keywords() -> None:
    """Let the constructors and `copy` name every keyword that they take, the SDK's and ours, to whoever inspects."""
    own = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in GUARD_OPTIONS]
    for ours in (SafeOpenAI, AsyncSafeOpenAI, SafeAzureOpenAI, AsyncSafeAzureOpenAI):
        sdk = ours.__mro__[3]
        for name in ("__init__", "copy"):
            theirs = inspect.signature(getattr(sdk, name), eval_str=True)
            method = _passing_on(getattr(_Guarded, name))
            method.__signature__ = theirs.replace(parameters=[*theirs.parameters.values(), *own])
            method.__annotations__ = {p.name: p.annotation for p in theirs.parameters.values() if p.name != "self"}
            setattr(ours, name, method)
        setattr(ours, "with_options", vars(ours)["copy"])  # noqa: B010  # mypy takes the plain form for an instance's


def _passing_on(shared: Any) -> Any:
    @wraps(shared)
    def method(self: Any, **options: Any) -> Any:
        return shared(self, **options)

    del method.__wrapped__  # each class has a signature of its own
    return method


_replace_resources()
_name_keywords()

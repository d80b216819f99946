"""Facades over the SDK's resources: they add who is calling to each guarded method, and nothing else.

They are made of the SDK's own classes as those are met, so that a resource has the methods and parameters of the SDK
that is installed. What type checkers see of them stands in `_typed.py`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import cache, cached_property, wraps
from typing import Any, NoReturn, TypeVar

from ._requests import CLAIM_HEADER, Carried, is_other_iterable
from .errors import RouteBlockedError
from .identity import NOTHING, claim_of, current

ResourceT = TypeVar("ResourceT")

GUARDED_METHODS: dict[str, tuple[str, ...]] = {
    "chat.completions": ("create", "parse", "stream"),
    "responses": ("create", "parse", "stream", "compact"),
    "embeddings": ("create",),
    "completions": ("create",),
    "images": ("generate", "edit", "create_variation"),
    "audio.transcriptions": ("create",),
    "audio.translations": ("create",),
    "audio.speech": ("create",),
    "beta.chat.completions": ("create", "parse", "stream"),
    "beta.responses": ("create", "parse", "stream", "compact"),
}
"""Path below the client to the methods that take who is calling; of some, an older SDK has none."""

ROOTS = tuple(dict.fromkeys(path.partition(".")[0] for path in GUARDED_METHODS))
"""The client's own attributes among them."""

_CALLER = tuple(
    inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
    for name, annotation in (
        ("user_id", "str | None"),
        ("feature", "str | None"),
        ("session_id", "str | None"),
        ("tags", "Mapping[str, str] | None"),
    )
)


# Methods --------------------------------------------------------------------------------------------------------------


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


def light(arguments: dict[str, Any], name: str) -> dict[str, Any]:
    """Take the messages past the SDK's own transformation, into ``extra_body``.

    It walks every part of every message against a type, which costs more than all else that the SDK does, and a
    long history would be walked before the guard could refuse it. What it does to messages, making lists of iterables
    and JSON of models, the guard and the SDK's encoder do as well.
    """
    messages, extra = arguments.get(name), arguments.get("extra_body")
    if messages is None or isinstance(messages, str | Mapping) or not isinstance(messages, Iterable):
        return arguments
    if extra is not None and (not isinstance(extra, Mapping) or name in extra):
        return arguments
    arguments[name] = ()
    arguments["extra_body"] = {**(extra or {}), name: [_listed(message) for message in messages]}
    return arguments


def _listed(message: Any) -> Any:
    """A message whose parts and calls are lists, where they came as other iterables."""
    if not isinstance(message, dict):
        return message
    lists = {name: list(value) for name, value in message.items() if is_other_iterable(value)}
    return {**message, **lists} if lists else message


def _method(owner: Any, name: str, light_name: str | None) -> Callable[..., Any]:
    """A method of the SDK that takes who is calling, with the SDK's documentation and signature."""
    theirs = getattr(owner, name)

    def folded(params: dict[str, Any]) -> dict[str, Any]:
        return fold(params) if light_name is None else light(fold(params), light_name)

    # Looked up at each call: instruments of others put methods of their own into the SDK's classes.
    if inspect.iscoroutinefunction(inspect.unwrap(theirs)):  # the SDK wraps some to check their arguments

        @wraps(theirs)
        async def method(self: Any, *args: Any, **params: Any) -> Any:
            return await getattr(owner, name)(self, *args, **folded(params))

    else:

        @wraps(theirs)
        def method(self: Any, *args: Any, **params: Any) -> Any:
            return getattr(owner, name)(self, *args, **folded(params))

    signature = inspect.signature(theirs)
    del method.__wrapped__  # it would lead around this method
    method.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*signature.parameters.values(), *_CALLER]
    )
    return method


def _folding(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def call(*args: Any, **params: Any) -> Any:
        return method(*args, **fold(params))

    return call


# Resources ------------------------------------------------------------------------------------------------------------


def facade(resource: ResourceT, path: str) -> ResourceT:
    """The facade of a resource of the SDK, made for the same client."""
    theirs: Any = type(resource)
    made: ResourceT = _class(theirs, path)(resource._client)  # type: ignore[attr-defined]
    return made


@cache
def _class(theirs: Any, path: str) -> Any:
    methods = [name for name in GUARDED_METHODS.get(path, ()) if hasattr(theirs, name)]
    members: dict[str, Any] = {name: _method(theirs, name, _light_name(path, name)) for name in methods}
    below = {one.removeprefix(f"{path}.").partition(".")[0] for one in GUARDED_METHODS if one.startswith(f"{path}.")}
    for name in sorted(below):
        if hasattr(theirs, name):
            members[name] = _property(name, _below(theirs, name, path))
    members["with_streaming_response"] = _property("with_streaming_response", _deferring(theirs, methods, below))
    return type(f"Safe{theirs.__name__}", (theirs,), {"__doc__": theirs.__doc__, "__module__": __name__, **members})


def _light_name(path: str, method: str) -> str | None:
    """The argument that `light` is for: long histories, in methods that send it themselves."""
    if method == "stream":
        return None  # it calls `create`
    return {"chat.completions": "messages", "responses": "input"}.get(path.removeprefix("beta."))


def _property(name: str, make: Callable[[Any], Any]) -> Any:
    made = cached_property(make)
    made.__set_name__(object, name)
    return made


def _below(theirs: Any, name: str, path: str) -> Callable[[Any], Any]:
    def resource(self: Any) -> Any:
        return facade(_made(theirs, name, self), f"{path}.{name}")

    return resource


def _made(theirs: Any, name: str, owner: Any) -> Any:
    """What the SDK's own property makes."""
    return without_keeping(getattr(theirs, name), owner)


def without_keeping(theirs: Any, owner: Any) -> Any:
    """What a property makes, without its being kept where another thread would find it in place of ours."""
    return theirs.func(owner) if isinstance(theirs, cached_property) else theirs.__get__(owner, type(owner))


def _deferring(theirs: Any, methods: list[str], below: set[str]) -> Callable[[Any], Any]:
    """The SDK's wrapper for ``with_streaming_response``, made to take the caller along.

    It calls a method when its ``with`` block is entered, where another context may hold.
    """

    def wrapper(self: Any) -> Any:
        made = _made(theirs, "with_streaming_response", self)
        folding = {name: _folding(getattr(made, name)) for name in methods if hasattr(made, name)}
        inner = {name: getattr(self, name).with_streaming_response for name in below if hasattr(type(made), name)}
        return preset(made, **folding, **inner)

    return wrapper


def preset(resource: ResourceT, **parts: Any) -> ResourceT:
    """A resource of the SDK with parts of ours, in place of those that it would make and keep itself."""
    resource.__dict__.update(parts)
    return resource


# Websockets -----------------------------------------------------------------------------------------------------------

SOCKETS = ("realtime", "live", "responses", "beta")
"""The client's own attributes at or below which there are websockets."""
_BELOW = (*SOCKETS, "translations", "sideband", "forks")


def without_sockets(resource: ResourceT) -> ResourceT:
    """A resource whose ``connect``, and those of the resources below it, refuse.

    A websocket does not pass the client's ``request``, so what it costs can be neither bounded nor metered.
    """
    if hasattr(type(resource), "connect"):
        resource.__dict__["connect"] = _refuse_socket
    for name in _BELOW:
        if hasattr(type(resource), name):
            without_sockets(getattr(resource, name))
    return resource


def _refuse_socket(*_: object, **__: object) -> NoReturn:
    raise RouteBlockedError(
        "Websockets are blocked: what they cost can be neither bounded nor metered here. "
        '[routes] allow = ["*"] would let them through, unguarded.'
    )

"""What the sync and the async side share: settings, reading requests, and effects that need no waiting."""

from __future__ import annotations

import inspect
import logging
import os
import secrets
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from functools import cache
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

from openai._types import NotGiven, Omit
from pydantic import BaseModel

from ._outage import StoreLink
from ._transport import sending
from .effects import Complete, Compute, Effect, Emit, FindPlan, Flow, Inspect, Peek, Reserve, Settle, drive
from .endpoints import ENDPOINTS, Endpoint, Route, Unguarded, classify, deployment_of
from .errors import ConfigurationError
from .guard import Guard
from .identity import NOTHING, Claim, claim_of, current
from .policy import Policy
from .sinks import Dispatcher, LoggingSink
from .sinks.base import Worker
from .stores import AwaitableQuotaStore
from .types import Call, Clock, Event, Upload

log = logging.getLogger("safe_llm")

CLAIM_HEADER = "____safe_llm_claim"
"""Carries what a call says of its caller from the typed facades through every calling style of the SDK to `request`,
which takes it out again. Only a `Carried` is taken for one, so no header from outside can name a user."""


_LONGEST_TIMEOUT = 86_400
"""Seconds. No deadline of a policy is longer."""


class Carried(NamedTuple):
    """What the private header carries."""

    call: Claim
    """What the call's own arguments say."""
    context: Claim
    """What `identify` said where the call was made."""


LAST_SECONDS = 3.0
"""How long closing, or a normal exit, goes on delivering what is owed to the store."""


class SystemClock:
    """The machine's own time."""

    # Looked up at each call, so that a test that replaces time.time is heard.
    def time(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()


class Shell:
    """A guard with everything around it that does I/O: store, sinks, ``plan_for``."""

    open_store: Callable[[str], Any]
    settings: dict[str, Any]
    """The arguments that it was built from, resolved: what a copy of the client starts from."""

    def __init__(
        self,
        core: Guard,
        store: Any,
        dispatcher: Dispatcher,
        plan_for: Callable[[str], Any] | Mapping[str, str] | None,
        *,
        owns_store: bool,
    ) -> None:
        self.core = core
        # The shell itself keeps a blocking store off the event loop, and knows one that never blocks.
        self._store = store.store if isinstance(store, AwaitableQuotaStore) else store
        self._dispatcher = dispatcher
        self._plan_for = plan_for
        self._owns_store = owns_store
        allows = core.policy.on_store_error == "allow"
        self._link = StoreLink(allows=allows, clock=core.clock, emit=self._emit)
        self._deliverer = Worker("safe_llm deliverer")
        self._claim, self._base = NOTHING, ""
        self._ways: dict[type, Callable[..., Any]] = {
            Emit: self._emit,
            FindPlan: self._found_plan,
            Compute: lambda function: function(),
            Inspect: lambda check, content: tuple(check.inspect(content)),
            Complete: lambda flow, _waits: drive(flow, self._now),
        }
        dispatcher.before_close = self._deliver_last
        _shells.add(self)

    @property
    def blocking(self) -> bool:
        """Whether the store may wait for I/O."""
        return bool(getattr(self._store, "blocking", True))

    def with_claim(self, claim: Claim, base: str) -> Any:
        """This guard as a client reaches it that is bound to a caller and a base URL. Everything else is shared."""
        bound = copy(self)
        bound._claim, bound._base = claim, base
        return bound

    @property
    def largest_file(self) -> int:
        """Bytes of a file that are read: more of it is refused whatever they are."""
        return self.policy.widest_input.max_inline_bytes

    def _asked(self, endpoint: str | None, arguments: Mapping[str, Any], claim: Claim) -> Call:
        """The call that a quote is asked of."""
        return call_of(endpoint, arguments, self.bound(claim), self._base, self.largest_file)

    def bound(self, claim: Claim) -> Claim:
        """A claim laid over the one of the client that this guard was reached through, and over the context."""
        return claim.over(self._claim).over(current())

    @property
    def policy(self) -> Policy:
        """The policy in force."""
        return self.core.policy

    # Effects that never wait ------------------------------------------------------------------------------------------

    def _now(self, effect: Effect) -> Any:
        """Do an effect at once, in this thread."""
        way = self._ways.get(type(effect))
        return self._ask(effect) if way is None else way(*effect)

    def _emit(self, event: Event) -> None:
        with self._occupied():
            self._dispatcher.emit(event)

    def _found_plan(self, identity: Claim) -> Any:
        if self._plan_for is None:
            return None
        user = identity.user
        return self._plan_for.get(user) if isinstance(self._plan_for, Mapping) else self._plan_for(user)

    # The store --------------------------------------------------------------------------------------------------------

    def _ask(self, effect: Effect) -> Any:
        """Ask the store, or what stands in for it."""
        with self._occupied():
            if not self._link.asks(effect):
                return self._instead(effect)
            try:
                answer = self._at_store(effect)
            except Exception as error:
                return self._instead(effect, error)
            self._answered()
            return answer

    def _at_store(self, effect: Effect) -> Any:
        match effect:
            case Reserve(id, charges, ttl):
                return self._store.reserve(id, charges, ttl)
            case Settle(reservation, actual):
                return self._store.settle(reservation, actual)
        assert isinstance(effect, Peek)
        return self._store.peek(effect.charges)

    def _answered(self) -> None:
        self._link.answered()
        if self._link.owes:
            self._deliver_soon()

    def _instead(self, effect: Effect, cause: Exception | None = None) -> Any:
        try:
            return self._link.instead(effect, cause)
        finally:
            if self._link.owes:
                self._deliver_soon()

    def _deliver_soon(self) -> None:
        """See to it that somebody delivers what is owed to the store."""
        if self._link.delivering is None:
            self._link.delivering = self._deliverer
            self._deliverer.put(self._deliver)

    def _deliver(self) -> None:
        """Try until nothing is owed any more."""
        import tenacity

        undelivered = tenacity.retry_if_result(lambda done: not done)
        pause: Any = self._pause
        try:
            tenacity.Retrying(retry=undelivered, wait=pause)(self._delivered)
        except Exception as error:  # none of the store's: the link sees to those
            self._link.delivering = None
            log.warning("Delivering settlements to the quota store failed with %s.", _name(error))

    def _delivered(self) -> bool:
        """Deliver what the store takes; whether nothing is left."""
        while self._link.tries() and self._deliver_one():
            pass
        return self._link.rest()

    def _deliver_one(self) -> bool:
        with self._link.turn, self._occupied():
            return drive(self._link.deliver(), self._at_store)

    def _pause(self, _: object) -> float:
        return max(self._link.pause(), 0.01)

    def _deliver_last(self, seconds: float) -> None:
        """Deliver what the store takes within a few seconds, `seconds` at the most, be it away or not."""
        ends = time.monotonic() + min(seconds, LAST_SECONDS)
        while self._link.owes and time.monotonic() < ends and self._deliver_one():
            pass

    def _give_up(self) -> None:
        """The store is about to be closed."""
        if owed := self._link.give_up():
            log.warning(
                "The quota store is closed, and settlements did not reach it before: %d. What they had reserved stays "
                "charged; calls that were counted by this process alone are not added.",
                owed,
            )

    # Endings without a reader -----------------------------------------------------------------------------------------

    def _occupied(self) -> Any:
        return _Occupied()

    def _soon(self, flow: Flow[Any], *, waits: bool) -> None:
        """Run a flow that nobody waits for: at once if it neither waits nor finds this thread inside a lock of ours,
        which the garbage collector may have interrupted; else in a thread of its own."""
        if waits or bool(getattr(_busy, "depth", None)):
            self._dispatcher.defer(lambda: drive(flow, self._now))
        else:
            drive(flow, self._now)


_shells: weakref.WeakSet[Shell] = weakref.WeakSet()


def _renew_all() -> None:
    for shell in list(_shells):
        shell._link.renew()
        shell._deliverer.renew()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_renew_all)

_busy = threading.local()
"""How deep each thread is inside locks of ours: stores and sinks may be shared, so it is not each guard's own."""


class _Occupied:
    """Marks this thread as being inside a lock of ours."""

    __slots__ = ()

    def __enter__(self) -> None:
        _busy.depth = getattr(_busy, "depth", 0) + 1

    def __exit__(self, *_: object) -> None:
        _busy.depth -= 1


def _name(error: BaseException) -> str:
    return type(error).__name__


# Reading the SDK's request --------------------------------------------------------------------------------------------


def take_claim(options: Any, bound: Claim) -> tuple[Any, Claim]:
    """A request's options without the private header, and who calls: call before client before context."""
    headers = options.headers
    if isinstance(headers, NotGiven) or CLAIM_HEADER not in headers:
        return options, bound.over(current())
    rest = dict(headers)
    carried = rest.pop(CLAIM_HEADER)
    options.headers = rest  # only a facade puts the header there, and the options with it are this call's own
    if not isinstance(carried, Carried):
        return options, bound.over(current())
    return options, carried.call.over(bound).over(carried.context)


def read_call(options: Any, route: Route, claim: Claim, timeout: Any, most: int) -> tuple[Any, Call]:
    """A request to a guarded route, and the call that it is, ``extra_body`` merged in as the SDK would.

    Files are read here, at most `most` bytes of each and one more: what was weighed is what is sent.
    """
    given, extra = options.json_data, options.extra_json
    body: dict[str, Any] = {}
    is_raw = getattr(options, "content", None) is not None or isinstance(given, bytes)
    if not is_raw and (given is None or isinstance(given, Mapping)):
        body = {**(given or {}), **(extra or {})}
    uploads: tuple[Upload, ...] = ()
    if options.files:
        files = take_files(options.files, most)
        options = options.model_copy(update={"files": files})
        uploads = _uploads(files)
    call = _call(
        ENDPOINTS[route.path],
        body,
        claim,
        uploads=uploads,
        is_raw=is_raw,
        deployment=route.deployment,
        query={**dict(parse_qsl(urlsplit(options.url).query, keep_blank_values=True)), **(options.params or {})},
        timeout=timeout if isinstance(options.timeout, NotGiven) else options.timeout,
    )
    return options, call


def call_of(endpoint: str | None, arguments: Mapping[str, Any], claim: Claim, base: str, most: int) -> Call:
    """The call that these arguments of a guarded method would make.

    Raises:
        ConfigurationError: there is no such endpoint.
    """
    name = endpoint or ("responses" if "input" in arguments else "chat.completions")
    found = next((known for known in ENDPOINTS.values() if f"{known.name}.".startswith(f"{name}.")), None)
    if found is None:
        names = ", ".join(sorted(known.name for known in ENDPOINTS.values()))
        raise ConfigurationError(f"There is no guarded endpoint {name!r}. There are: {names}.")
    rest = {name: value for name, value in arguments.items() if not isinstance(value, Omit | NotGiven)}
    extra, query, timeout = rest.pop("extra_body", None), rest.pop("extra_query", None), rest.pop("timeout", None)
    rest.pop("extra_headers", None)
    given = [(name, file) for name in found.upload_fields for file in _listed(rest.pop(name, None))]
    body = {name: list(value) if is_other_iterable(value) else value for name, value in rest.items()}
    return _call(
        found,
        {**body, **(extra or {})},
        claim,
        uploads=_uploads(take_files(given, most)),
        deployment=deployment_of(base),
        query=dict(query or {}),
        timeout=timeout,
    )


def _call(endpoint: Endpoint, body: dict[str, Any], claim: Claim, *, timeout: Any, **rest: Any) -> Call:
    """What reading a request and reading a method's arguments come to."""
    body = {name: value for name, value in body.items() if not isinstance(value, Omit | NotGiven)}
    total = min(timeout, _LONGEST_TIMEOUT) if isinstance(timeout, int | float) else None
    seconds = None if total is None else float(total)
    return Call(endpoint, body, claim, timeout=seconds, stream=body.get("stream") is True, **rest)


def take_files(files: Any, most: int) -> list[tuple[str, Any]]:
    """The files of a multipart request with their contents as bytes, in the SDK's own form: pairs of field and file."""
    pairs = files.items() if isinstance(files, Mapping) else files
    return [(field, _with_content(file, most)) for field, file in pairs]


def _with_content(file: Any, most: int) -> Any:
    if isinstance(file, tuple):  # beside the name, the type and the headers
        return (file[0], _content(file[1], most), *file[2:])
    name = os.path.basename(name) if isinstance(name := getattr(file, "name", None), str) else None
    content = _content(file, most)
    return content if name is None else (name, content)


def _content(file: Any, most: int) -> bytes:
    if isinstance(file, str):
        return file.encode()
    if isinstance(file, bytes | bytearray):
        return bytes(file)
    if isinstance(file, os.PathLike):
        with open(file, "rb") as opened:
            return opened.read(most + 1)
    if not hasattr(file, "read"):
        raise TypeError(f"A file must be bytes, a path or something to read from, not {_name(file)}.")
    start = None
    if getattr(file, "seekable", lambda: False)():
        start = file.tell()
        file.seek(0)  # the HTTP client sends all of it, wherever it was read to
    read = file.read(most + 1)
    if start is not None:
        file.seek(start)
    return read.encode() if isinstance(read, str) else bytes(read)


def _uploads(files: list[tuple[str, Any]]) -> tuple[Upload, ...]:
    return tuple(Upload(field, file[1] if isinstance(file, tuple) else file) for field, file in files)


def is_other_iterable(value: object) -> bool:
    """Whether a value is sent as a list although it is none yet."""
    if type(value) in (str, list, dict):  # nearly always
        return False
    return isinstance(value, Iterable) and not isinstance(
        value, str | bytes | list | tuple | Mapping | type | BaseModel
    )


def _listed(given: Any) -> list[Any]:
    """One file or several, as a list."""
    if given is None or isinstance(given, Omit | NotGiven):
        return []
    return list(given) if isinstance(given, list) else [given]


def switch_values(
    feature: str | None, user_id: str | None, plan: str | None, model: str | None
) -> dict[str, str | None]:
    """What a kill switch names, by dimension. A name obeys the same rules as in a call."""
    claim_of(user_id=user_id, feature=feature)
    claim_of(user_id=plan, feature=model)
    return {"feature": feature, "model": model, "plan": plan, "user": user_id}


def read_unguarded(options: Any, route: Route, claim: Claim) -> Call:
    """The call that a request to any other route is. Nothing in it is read but its model."""
    body = options.json_data if isinstance(options.json_data, dict) else {}
    model = body.get("model")
    return Call(Unguarded(str(route)[:256]), body, claim, model=model[:256] if isinstance(model, str) else "")


def read_retrieval(options: Any, claim: Claim) -> Call:
    """The call that retrieving a response is."""
    params = options.params if isinstance(options.params, Mapping) else {}
    return Call(ENDPOINTS["/responses"], {}, claim, stream=params.get("stream") is True)


@contextmanager
def outside() -> Iterator[None]:
    """Outside of any guarded call: for requests that one call's machinery makes beside it."""
    token = sending.set(None)
    try:
        yield
    finally:
        sending.reset(token)


def with_body(options: Any, body: dict[str, Any]) -> Any:
    """The options with this body in place of what came."""
    return options.model_copy(update={"json_data": body, "extra_json": None})


def route_of(options: Any, base_url: str) -> Route:
    """The route that a request is for."""
    return classify(options.method, options.url, base_url, ENDPOINTS)


GUARD_OPTIONS = ("policy", "quota_store", "plan_for", "sinks", "checks", "hash_key", "clock")
"""What the clients take beside the SDK's own options."""


# Settings -------------------------------------------------------------------------------------------------------------


def build(
    shell: Any,
    *,
    policy: Any,
    quota_store: Any,
    plan_for: Any,
    sinks: Any,
    checks: Any,
    hash_key: bytes | str | None,
    clock: Clock | None,
) -> Any:
    """A guard from a client's arguments, and from the environment where they say nothing.

    Raises:
        ConfigurationError: an argument is wrong.
    """
    chosen = Policy.of(policy if policy is not None else os.environ.get("SAFE_LLM_POLICY") or None)
    time_source = clock if clock is not None else SystemClock()
    if quota_store is None:
        quota_store = os.environ.get("SAFE_LLM_QUOTA_STORE") or "memory://"
    owns_store = isinstance(quota_store, str)
    store = shell.open_store(quota_store) if owns_store else quota_store
    if not all(callable(getattr(store, name, None)) for name in ("reserve", "settle", "peek")):
        raise ConfigurationError(f"quota_store= takes a QuotaStore or a URL, not {_name(store)}.")
    follow = getattr(getattr(store, "store", store), "follow", None)
    if clock is not None and follow is not None:
        follow(clock.time)
    if plan_for is not None and not callable(plan_for) and not isinstance(plan_for, Mapping):
        raise ConfigurationError("plan_for= takes a callable user_id -> plan name, or a mapping of them.")
    key = _hash_key(hash_key)
    receivers = [LoggingSink()] if sinks is None else list(sinks)
    core = Guard(chosen, clock=time_source, hash_key=key, checks=tuple(checks or ()))
    built = shell(core, store, Dispatcher(receivers), plan_for, owns_store=owns_store)
    built.settings = {
        "policy": chosen,
        "quota_store": store,
        "plan_for": plan_for,
        "sinks": receivers,
        "checks": core.checks,
        "hash_key": key,
        "clock": clock,
    }
    built.check()
    return built


@cache
def _process_key() -> bytes:
    return secrets.token_bytes(32)


def _hash_key(given: bytes | str | None) -> bytes:
    key = given if given is not None else os.environ.get("SAFE_LLM_HASH_KEY") or None
    if key is None:
        return _process_key()
    if not isinstance(key, bytes | str) or not key:
        raise ConfigurationError("hash_key= takes bytes or a string that is not empty.")
    return key.encode() if isinstance(key, str) else key


def is_async(function: Any) -> bool:
    """Whether a function, or an object's method, is a coroutine function."""
    call = getattr(type(function), "__call__", None)  # noqa: B004  # the method itself is what may be a coroutine
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)

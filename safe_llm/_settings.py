"""From a client's arguments, and the environment, to its guard."""

from __future__ import annotations

import inspect
import os
import secrets
import time
from collections.abc import Mapping
from functools import cache
from typing import Any

from .errors import ConfigurationError
from .guard import Guard
from .identity import Verifier
from .policy import Policy
from .sinks import Dispatcher, LoggingSink
from .types import Clock

GUARD_OPTIONS = (
    *("policy", "quota_store", "plan_for", "sinks", "checks", "hash_key", "clock"),
    *("verifier", "shadow_policy"),
)
"""What the clients take beside the SDK's own options."""


class SystemClock:
    """The machine's own time."""

    # Looked up at each call, so that a test that replaces time.time is heard.
    def time(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()


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
    verifier: Verifier | None,
    shadow_policy: Any,
) -> Any:
    """A guard from a client's arguments, and from the environment where they say nothing.

    Raises:
        ConfigurationError: an argument is wrong.
    """
    source = policy if policy is not None else os.environ.get("SAFE_LLM_POLICY") or None
    # Whole, for the program may change its folder, and is not to take up another file then.
    path = os.path.abspath(source) if isinstance(source, str | os.PathLike) else None
    chosen = Policy.of(source)
    time_source = clock if clock is not None else SystemClock()
    if quota_store is None:
        quota_store = os.environ.get("SAFE_LLM_QUOTA_STORE") or "memory://"
    owns_store = isinstance(quota_store, str)
    store = shell.open_store(quota_store) if owns_store else quota_store
    if not all(callable(getattr(store, name, None)) for name in ("reserve", "settle", "peek")):
        raise ConfigurationError(f"quota_store= takes a QuotaStore or a URL, not {type(store).__name__}.")
    follow = getattr(getattr(store, "store", store), "follow", None)
    if clock is not None and follow is not None:
        follow(clock.time)
    if plan_for is not None and not callable(plan_for) and not isinstance(plan_for, Mapping):
        raise ConfigurationError("plan_for= takes a callable user_id -> plan name, or a mapping of them.")
    if verifier is not None and not callable(getattr(verifier, "verify", None)):
        raise ConfigurationError("verifier= takes an object with verify(token) -> Identity, such as a JWTVerifier.")
    key = _hash_key(hash_key)
    receivers = [LoggingSink()] if sinks is None else list(sinks)
    core = Guard(chosen, clock=time_source, hash_key=key, checks=tuple(checks or ()))
    if shadow_policy is not None:
        core.shadow = Guard(Policy.of(shadow_policy), clock=time_source, hash_key=key)
    built = shell(core, store, Dispatcher(receivers), plan_for, owns_store=owns_store, policy_path=path)
    built.settings = {
        "policy": path or chosen,
        "quota_store": store,
        "plan_for": plan_for,
        "sinks": receivers,
        "checks": core.checks,
        "hash_key": key,
        "clock": clock,
        "verifier": verifier,
        "shadow_policy": core.shadow and core.shadow.policy,
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

"""Every method of the installed SDK, walked: guarded, free or closed, and nothing that was not looked at."""

from __future__ import annotations

import asyncio
import inspect
import re
import warnings
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI, OpenAI

from safe_llm import AsyncSafeOpenAI, DeniedError, RateLimitExceededError, RouteBlockedError, SafeOpenAI
from safe_llm.endpoints import ENDPOINTS
from safe_llm.endpoints.routes import BLOCKED, Route, classify

FREE_TO_SEND = (
    *("POST /files", "POST /uploads", "POST /uploads/x/cancel", "POST /uploads/x/complete", "POST /uploads/x/parts"),
    *("POST /moderations", "POST /conversations", "POST /conversations/x", "POST /conversations/x/items"),
    *("POST /responses/input_tokens", "POST /responses/x/cancel", "POST /chat/completions/x"),
    *(
        "POST /batches/x/cancel",
        "POST /fine_tuning/jobs/x/cancel",
        "POST /evals/x/runs/x",
        "POST /evals/x/runs/x/cancel",
    ),
    *(
        "POST /threads/x/runs/x/cancel",
        "POST /vector_stores/x/file_batches/x/cancel",
        "POST /chatkit/sessions/x/cancel",
    ),
    *(f"POST /{of}/x/{end}" for of in ("realtime/calls", "live/sessions") for end in ("hangup", "reject")),
)
"""All that may reach the provider although every limit is zero, beside reads and deletes."""

VALUES: dict[str, Any] = {
    "messages": [{"role": "user", "content": "Hi"}],
    "input": "Hi",
    "prompt": "Hi",
    "model": "gpt-4o",
    "file": b"x",
    "image": b"x",
    "files": [b"x"],
    **dict.fromkeys(("recording", "audio_sample", "data", "video", "mask"), b"x"),
    "voice": "alloy",
    "event_handler": None,
}
POLLING = re.compile(r"poll|upload_file_chunked|wait_for|run_tools|tool_runner")
"""Helpers made of several requests, with pauses between them: each of their requests is a method that is walked."""


class Elsewhere(Exception):
    """A method took arguments that this walk cannot make up."""


def methods(resource: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Each method at or below a resource that makes a request."""
    for cls in type(resource).__mro__:
        if not cls.__module__.startswith(("openai", "safe_llm.resources")):
            continue
        for name, value in vars(cls).items():
            if name.startswith("_") or name in ("with_raw_response", "with_streaming_response"):
                continue
            if isinstance(value, cached_property):
                yield from methods(getattr(resource, name), f"{path}.{name}")
            elif inspect.isfunction(value) and name != "connect" and not POLLING.search(name):
                yield f"{path}.{name}", getattr(resource, name)


def all_methods(client: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for cls in (OpenAI, AsyncOpenAI):
        for name, value in vars(cls).items():
            if isinstance(value, cached_property) and name not in ("with_raw_response", "with_streaming_response"):
                for path, method in methods(getattr(client, name), name):
                    found.setdefault(path, method)
    return found


def arguments(method: Any) -> dict[str, Any]:
    """Something for every parameter that has no default, and for what a model needs."""
    required = [
        name
        for name, one in inspect.signature(method).parameters.items()
        if (one.default is one.empty and one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY))
        or name in ("model", "messages", "input")
    ]
    return {name: VALUES.get(name, "x") for name in required}


def call(method: Any) -> Any:
    """Call with what is required; the SDK's overloads say only in their error what that is."""
    given = arguments(method)
    try:
        return method(**given)
    except TypeError as error:
        first = re.search(r"Expected (?:either )?\((.*?)\)|Missing required argument: (.*)", str(error))
        if first is None:
            raise
        names = re.findall(r"'(\w+)'", first[0])
        return method(**{name: VALUES.get(name, "x") for name in names}, **given)


def routes_of(client: Any, base: Any) -> dict[str, set[Route]]:
    """Method to the routes that it asks the client's `request` for."""
    seen: dict[str, set[Route]] = {}
    for path, method in all_methods(client).items():
        base.asked = set()
        try:
            result = call(method)
            if inspect.iscoroutine(result):
                asyncio.run(result)
            elif hasattr(result, "__enter__"):
                with result:
                    raise AssertionError("nothing was sent that could be entered")
        except Exception:
            seen[path] = base.asked  # what came of the walk's arguments does not matter, only what was asked for
        seen[path] = base.asked
    return seen


class Watched(OpenAI):
    """Notes what is asked for, and sends nothing."""

    asked: set[Route]

    def request(self, cast_to: Any, options: Any, **rest: Any) -> Any:
        type(self).asked.add(classify(options.method, options.url, str(self.base_url), ENDPOINTS))
        raise Elsewhere


KEYS = {name: "k" for name in ("api_key", "admin_api_key") if name in inspect.signature(OpenAI).parameters}

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # the SDK's own, of methods that it wants rid of
    ASKED = routes_of(Watched(**KEYS), Watched)
"""What each method of the SDK asks for."""

LOCAL = re.compile(r"webhooks\.(unwrap|verify_signature)|\.(is_closed|close)$")
"""Methods that ask for nothing."""


def test_the_walk_reaches_nearly_every_method() -> None:
    """So that the tests below speak of something."""
    silent = sorted(path for path, asked in ASKED.items() if not asked and not LOCAL.search(path))
    assert len(ASKED) > 100
    assert len(silent) <= len(ASKED) * 0.05, silent


@pytest.mark.parametrize("path", sorted(ASKED))
def test_every_route_of_the_sdk_was_looked_at(path: str) -> None:
    """A route that a new SDK brings is closed; this test fails on it, so that somebody decides."""
    for route in ASKED[path]:
        assert route.kind != "other" or any(route.matches(known) for known in BLOCKED), str(route)


def test_the_methods_that_take_who_is_calling_are_those_of_the_guarded_routes() -> None:
    client = SafeOpenAI(api_key="k")
    ours = all_methods(client)
    for path, asked in ASKED.items():
        names_caller = {"user_id", "feature", "session_id", "tags"} <= inspect.signature(ours[path]).parameters.keys()
        assert names_caller == any(route.kind == "guarded" for route in asked), path


# Sending --------------------------------------------------------------------------------------------------------------

ZERO = {"plans": {"default": {"limits": ["0 requests/day"]}}, "routes": {"hosted_tools": {"*": {}}}}


class Provider:
    """Remembers what reaches it."""

    def __init__(self) -> None:
        self.received: list[str] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.received.append(f"{request.method} {request.url.path.removeprefix('/v1')}")
        return httpx.Response(400, json={"error": {"message": "no"}})


def client_of(kind: Any, provider: Provider) -> Any:
    make = httpx.AsyncClient if kind is AsyncSafeOpenAI else httpx.Client
    http_client = make(transport=httpx.MockTransport(provider))
    return kind(**KEYS, policy=ZERO, sinks=[], max_retries=0, http_client=http_client)


def ended(result: Any) -> None:
    """Bring a call to its end, in whatever style it was made."""
    if inspect.isawaitable(result):
        asyncio.run(_awaited(result))
    elif hasattr(type(result), "__aenter__"):
        asyncio.run(_entered(result))
    elif hasattr(type(result), "__enter__"):
        with result:
            pass


async def _awaited(result: Any) -> Any:
    return await result


async def _entered(manager: Any) -> None:
    async with manager:
        pass


def raised(method: Any) -> Exception | None:
    """What became of a call: a denial, or whatever the SDK makes of the walk's arguments and of a 400."""
    try:
        ended(call(method))
    except Exception as error:
        return error
    return None


STYLES = ("plain", "with_raw_response", "with_streaming_response")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("kind", [SafeOpenAI, AsyncSafeOpenAI])
def test_with_all_limits_at_zero_nothing_is_sent_but_what_is_free(kind: Any, style: str) -> None:
    provider = Provider()
    client = client_of(kind, provider)
    denied: set[str] = set()
    for path, plain in all_methods(client).items():
        method = plain
        if style != "plain":
            method = getattr(getattr(plain.__self__, style, None), plain.__name__, None)
            if method is None:
                continue  # not every method has other styles
        error = raised(method if style == "plain" else _like(method, plain))
        if isinstance(error, DeniedError):
            assert isinstance(error, RateLimitExceededError | RouteBlockedError), path
            denied.add(path)
        else:
            assert "safe_llm" not in type(error).__module__, (path, error)
    sent = {one for one in provider.received if not one.startswith(("GET ", "DELETE "))}
    assert sent <= set(FREE_TO_SEND)
    guarded = {path for path, asked in ASKED.items() if any(route.kind != "free" for route in asked)}
    if style == "plain":
        assert guarded <= denied


def _like(method: Any, plain: Any) -> Any:
    """A wrapped method with the signature of the plain one, which its wrapper does not show."""

    def call(**given: Any) -> Any:
        return method(**given)

    call.__signature__ = inspect.signature(plain)  # type: ignore[attr-defined]
    return call

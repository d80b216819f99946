"""One request and its answer, as everything below the middleware finds it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from .._lines import Lines, opened
from .._settings import is_async
from ..identity import Identity, identify
from ..types import LimitStatus

IDENTITY = "safe_llm.identity"
"""Where a WSGI application finds the caller, in its environ. An ASGI application finds him in
``scope["state"]["identity"]``, which Starlette and FastAPI call ``request.state.identity``."""


@dataclass(slots=True)
class Exchange:
    """What a middleware knows of the request that it is answering."""

    client: Any = None
    identity: Identity | None = None
    feature: str | None = None
    """The feature that the route named, with `require_feature`."""
    told: BaseException | None = None
    """The error that a framework tells of, which answers with a page of its own."""
    lines: Lines = field(default_factory=Lines)

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Everything in the block, and what it starts, belongs to this request and its caller."""
        tokens = current.set(self), opened.set(self.lines)
        try:
            with nullcontext() if self.identity is None else identify(self.identity):
                yield
        finally:
            opened.reset(tokens[1])
            current.reset(tokens[0])

    def refusal(self, status: int) -> BaseException | None:
        """The error behind an answer with the status 500: the one being handled, or the one that was told of."""
        return (self.told or sys.exception()) if status == 500 else None

    async def limits(self) -> list[LimitStatus]:
        """How the caller's limits stand. Off the event loop where a sync client may have to wait."""
        import asyncio

        guard = self.client.guard
        if is_async(guard.usage):
            with self._caller():
                found: list[LimitStatus] = await guard.usage(feature=self.feature, exact=False)
                return found
        return await asyncio.to_thread(self.limits_now) if may_wait(guard) else self.limits_now()

    def limits_now(self) -> list[LimitStatus]:
        """How the caller's limits stand, asked of a sync client."""
        with self._caller():
            found: list[LimitStatus] = self.client.guard.usage(feature=self.feature, exact=False)
            return found

    def _caller(self) -> Any:
        return nullcontext() if self.identity is None else identify(self.identity)


current: ContextVar[Exchange | None] = ContextVar("safe_llm_exchange", default=None)
"""The request that is being answered here and now."""


def may_wait(guard: Any) -> bool:
    """Whether asking a sync guard may block: for the store, or for ``plan_for``."""
    return guard.blocking or callable(guard.settings.get("plan_for"))


def listen() -> None:
    """Have the frameworks that answer an error themselves tell of it: Flask, Quart and Django, where they are loaded.

    Doing it twice is harmless.
    """
    for name in ("flask", "quart"):
        if (framework := sys.modules.get(name)) is not None:
            framework.got_request_exception.connect(_tell)
    if (django := sys.modules.get("django.core.signals")) is not None:
        django.got_request_exception.connect(_tell, dispatch_uid="safe_llm")


def _tell(*_: object, exception: BaseException | None = None, **__: object) -> None:
    exchange = current.get()
    if exchange is not None:
        exchange.told = exception or sys.exception()

"""What the two middlewares share: their settings, and telling how limits stand."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

from .._settings import SystemClock, is_async
from ..errors import ConfigurationError
from ..identity import Verifier
from ..types import LimitStatus
from .exchange import Exchange, listen
from .headers import Header, of_limits

log = logging.getLogger("safe_llm")

MAX_BODY_BYTES = 1_048_576
"""As the policy's ``[input] max_request_bytes``. Inline images and files need more."""
BODY_SECONDS = 15.0
EXEMPT = ("/healthz",)


class Middleware:
    """An application with its verifier, and what `SafeLLMMiddleware` says of the rest.

    Raises:
        ConfigurationError: `exempt` is one string, whose letters would be taken for paths; or the client is async,
            and this middleware cannot wait.
    """

    waits = True
    """Whether it can wait for an async client."""

    def __init__(
        self,
        app: Any,
        *,
        verifier: Verifier,
        client: Any = None,
        max_body_bytes: int = MAX_BODY_BYTES,
        body_seconds: float = BODY_SECONDS,
        exempt: Sequence[str] = EXEMPT,
    ) -> None:
        if isinstance(exempt, str):
            raise ConfigurationError(f"exempt= must be several paths, not {exempt!r}: write exempt=({exempt!r},).")
        if client is not None and not self.waits and is_async(client.guard.usage):
            raise ConfigurationError("WSGI cannot wait for an async client: pass client= a SafeOpenAI.")
        self.app: Any = app
        self.client = client
        self.clock = SystemClock() if client is None else client.guard.core.clock
        self._verifier = verifier
        self._most, self._seconds, self._exempt = max_body_bytes, body_seconds, frozenset(exempt)
        self._untold = False
        listen()

    def tells(self, exchange: Exchange, names: Iterable[str]) -> bool:
        """Whether an answer with headers of these names is to say how its caller's limits stand."""
        known = exchange.client is not None and exchange.identity is not None
        return known and not any(name.lower() == "ratelimit" for name in names)

    def told(self, statuses: Iterable[LimitStatus]) -> list[Header]:
        """The headers that say it."""
        return of_limits(statuses, self.clock.time())

    def cannot_tell(self, error: Exception) -> list[Header]:
        """No headers, for which an answer is not to fail; said once."""
        if not self._untold:
            self._untold = True
            log.warning("How limits stand cannot be told in headers: usage() failed with %s.", type(error).__name__)
        return []

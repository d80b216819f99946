"""What FastAPI's ``Depends`` takes. It imports nothing of FastAPI."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from .._settings import is_async
from ..errors import FeatureNotAllowedError
from ..identity import add, claim_of
from ..identity import current as caller
from .exchange import current, may_wait


def require_feature(name: str) -> Callable[[], Awaitable[None]]:
    """A dependency: the route is of this feature, and only those whose plan includes it may use it.

    ::

        @app.post("/analyse", dependencies=[Depends(require_feature("document_analysis"))])

    The feature holds for the rest of the request, sync endpoints and streamed answers included. Whether the plan has it
    is asked of the client that `SafeLLMMiddleware` was given; without one the first guarded call finds out.

    Raises:
        FeatureNotAllowedError: in the dependency, before the endpoint runs; the middleware makes it a 403.
        ValueError: here, if the name is not a printable string of 1 to 256 characters.
    """
    claim = claim_of(feature=name)

    async def required() -> None:
        add(claim)
        exchange = current.get()
        if exchange is None:
            return
        exchange.feature = name
        if exchange.client is not None and not await _allowed(exchange.client.guard):
            user = caller().user
            raise FeatureNotAllowedError(
                f"User {user!r} is denied the feature {name!r}: the plan does not include it ([plans] features).",
                scope={"user": user, "feature": name},
            )

    async def _allowed(guard: object) -> bool:
        allows: Callable[..., object] = guard.allows  # type: ignore[attr-defined]
        if is_async(allows):
            return bool(await allows(feature=name))  # type: ignore[misc]
        return bool(await asyncio.to_thread(allows, feature=name) if may_wait(guard) else allows(feature=name))

    return required

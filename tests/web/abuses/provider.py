"""The provider behind both services: what it was asked, what it really wrote, and what it charges for that."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any, cast

from safe_llm.pricing import PriceBook
from safe_llm.testing import FakeOpenAI, Request
from safe_llm.types import NANO, Usage

UNKNOWN_COSTS_AS = "gpt-4o"
"""A model that no price list knows is billed like this one: the provider of a real one would not give it away."""


class Provider(FakeOpenAI):
    """A stand-in that keeps what it wrote, byte for byte, so that its bill is of what was served and not of a guess."""

    def __init__(self) -> None:
        super().__init__()
        self.written: dict[str, bytearray] = defaultdict(bytearray)
        """By the id of the request."""
        self.prices = PriceBook()

    async def _answer(self, request: Request, connection: Any) -> None:
        await super()._answer(request, cast(Any, _Keeping(connection, self.written[request.id])))

    @property
    def asked(self) -> list[Mapping[str, Any]]:
        """The bodies of all requests to a model."""
        return [request.body for request in list(self.requests) if isinstance(request.body, dict)]

    @property
    def busy(self) -> bool:
        """Whether an answer is still being written, or waited for."""
        return self._in_flight > 0

    def served(self) -> Iterator[tuple[str, Usage]]:
        """For each request, the model, and the tokens that it was served: of a broken stream, up to where it broke."""
        for request in list(self.requests):
            head, _, content = bytes(self.written[request.id]).partition(b"\r\n\r\n")
            if head.startswith(b"HTTP/1.1 200") and isinstance(request.body, dict):
                model = str(request.body.get("model"))
                yield model, _streamed(request, content) if b"event-stream" in head else _plain(request, content)

    @property
    def bill(self) -> Decimal:
        """USD for all that was served."""
        nano = 0
        for model, usage in self.served():
            rates = self.prices.rates(model) or self.prices.rates(UNKNOWN_COSTS_AS)
            assert rates is not None
            nano += rates.cost(usage) or 0
        return Decimal(nano) / NANO

    @property
    def tokens(self) -> int:
        """All that were served."""
        return sum(usage.total_tokens for _, usage in self.served())


class _Keeping:
    """A connection that keeps a copy of what is written to it."""

    def __init__(self, connection: Any, kept: bytearray) -> None:
        self._connection, self._kept = connection, kept

    async def write(self, data: bytes) -> None:
        self._kept += data
        await self._connection.write(data)

    def close(self) -> None:
        self._connection.close()


def _plain(request: Request, content: bytes) -> Usage:
    try:
        found = json.loads(content)["usage"]
    except (ValueError, KeyError):  # it broke off: all of it was generated before its first byte was written
        return Usage(_given(request), _words(content))
    return Usage(found["prompt_tokens"], found["completion_tokens"])


def _streamed(request: Request, content: bytes) -> Usage:
    return Usage(_given(request), content.count(b'"delta":{"content":'))


def _given(request: Request) -> int:
    return _words(json.dumps(request.body.get("messages")).encode())


def _words(content: bytes) -> int:
    return len(content.split())

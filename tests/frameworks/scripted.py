"""What the fake provider is told to say, and what one such answer costs."""

from __future__ import annotations

import inspect
import json
from decimal import Decimal
from typing import Any

from pydantic import BaseModel

from safe_llm import Usage
from safe_llm.testing import Reply

MODEL = "gpt-4o-mini"
USAGE = Usage(input_tokens=1_000, output_tokens=300)
COST = Decimal("0.00033")
"""Of `USAGE` with `MODEL`: 1,000 tokens at $0.15 per million and 300 at $0.60."""

WORDS = Reply("It rains in Oslo.", usage=USAGE)
CALL = {"name": "weather", "arguments": '{"city": "Oslo"}'}
ASKS = Reply(tool_calls=[CALL], usage=USAGE)
"""The model asks for a tool, `weather`."""


class City(BaseModel):
    """A city and how many people live there."""

    name: str
    people: int


OSLO = City(name="Oslo", people=717_710)
AS_TEXT = Reply(OSLO.model_dump_json(), usage=USAGE)


def as_call(name: str) -> Reply:
    """The city, as the arguments of a tool: how some frameworks ask for a structured answer."""
    return Reply(tool_calls=[{"name": name, "arguments": json.dumps(OSLO.model_dump())}], usage=USAGE)


async def done(result: Any) -> Any:
    """What either colour answers."""
    return await result if inspect.isawaitable(result) else result


async def read(stream: Any) -> list[Any]:
    """All that a stream of either colour holds."""
    return [item async for item in stream] if hasattr(stream, "__aiter__") else list(stream)

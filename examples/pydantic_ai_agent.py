"""pydantic-ai: an agent with a tool and a typed answer, whose calls are a user's, limited and recorded.

Needs pydantic-ai-slim[openai], and OPENAI_API_KEY in the environment.
"""

from __future__ import annotations

import asyncio

from pydantic import BaseModel
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

from safe_llm import AsyncSafeOpenAI, DeniedError

POLICY = {"plans": {"default": {"limits": ["3 requests/minute", "$0.50/day"]}}}


class Advice(BaseModel):
    """Whether to take an umbrella along, and why."""

    umbrella: bool
    reason: str


def weather(city: str) -> str:
    """The weather of a city."""
    return f"Rain in {city}, 8 degrees."


async def main() -> None:
    async with AsyncSafeOpenAI(policy=POLICY) as client:  # one for the whole application
        bound = client.with_identity(user_id="alice", feature="weather")
        model = OpenAIResponsesModel("gpt-4o-mini", provider=OpenAIProvider(openai_client=bound))
        guide = Agent(model, tools=[weather], output_type=Advice)
        try:
            for city in ("Oslo", "Rome"):
                advice = (await guide.run(f"Do I need an umbrella in {city}?")).output
                print(f"{city}: {advice.umbrella}, {advice.reason}")
        except DeniedError as denial:  # in the midst of the second run, which would need a fourth call
            print(f"{denial.status_code}: {denial}")

        for status in await client.guard.usage(user_id="alice"):
            print(f"{status.limit}: {status.used} used, {status.remaining} left")


if __name__ == "__main__":
    asyncio.run(main())

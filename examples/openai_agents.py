"""openai-agents: every call that an agent makes is a user's, limited and recorded.

Needs openai-agents, and OPENAI_API_KEY in the environment.
"""

from __future__ import annotations

import asyncio

from agents import Agent, OpenAIResponsesModel, Runner, function_tool, set_tracing_disabled

from safe_llm import AsyncSafeOpenAI, DeniedError

POLICY = {"plans": {"default": {"limits": ["3 requests/minute", "$0.50/day"]}}}


@function_tool
def weather(city: str) -> str:
    """The weather of a city."""
    return f"Rain in {city}, 8 degrees."


async def main() -> None:
    set_tracing_disabled(True)  # traces hold the prompts, and the framework uploads them by a client of its own
    async with AsyncSafeOpenAI(policy=POLICY) as client:  # one for the whole application
        bound = client.with_identity(user_id="alice", feature="weather")
        guide = Agent(name="Guide", model=OpenAIResponsesModel("gpt-4o-mini", openai_client=bound), tools=[weather])
        try:
            for city in ("Oslo", "Rome"):
                result = await Runner.run(guide, f"Do I need an umbrella in {city}?")
                print(result.final_output)
        except DeniedError as denial:  # in the midst of the second run, which would need a fourth call
            print(f"{denial.status_code}: {denial}")

        for status in await client.guard.usage(user_id="alice"):
            print(f"{status.limit}: {status.used} used, {status.remaining} left")


if __name__ == "__main__":
    asyncio.run(main())

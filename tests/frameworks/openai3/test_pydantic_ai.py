"""pydantic-ai: agents on a bound client, by Responses and by chat completions."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.exceptions import ModelAPIError, ModelHTTPError
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider
from scripted import AS_TEXT, ASKS, MODEL, OSLO, USAGE, WORDS, City, as_call

from safe_llm import AsyncSafeOpenAI, BudgetExceededError, DeadlineExceededError, RateLimitExceededError
from safe_llm.testing import FakeOpenAI, RecordingSink, Reply

pytestmark = pytest.mark.anyio

MODELS: dict[str, Any] = {"responses": OpenAIResponsesModel, "chat.completions": OpenAIChatModel}


@pytest.fixture
def kind() -> Any:
    return AsyncSafeOpenAI


def weather(city: str) -> str:
    """The weather of a city."""
    return f"Rain in {city}, says the tool."


def guide(endpoint: str, client: Any, **options: Any) -> Agent[None, Any]:
    return Agent(MODELS[endpoint](MODEL, provider=OpenAIProvider(openai_client=client)), **options)


async def run(agent: Agent[None, Any], stream: bool = False, question: str = "How is the weather in Oslo?") -> Any:
    """What the agent says in the end."""
    if not stream:
        return (await agent.run(question)).output
    async with agent.run_stream(question) as running:
        async for _ in running.stream_output(debounce_by=None):
            pass
        return await running.get_output()


async def test_words_come_through(
    client: Any, server: FakeOpenAI, accounted: Callable[..., None], endpoint: str, stream: bool
) -> None:
    server.script(WORDS)
    assert await run(guide(endpoint, client), stream) == "It rains in Oslo."
    accounted(endpoint, stream=stream)


async def test_words_come_through_in_code_that_is_not_async(
    client: Any, server: FakeOpenAI, accounted: Callable[..., None], endpoint: str
) -> None:
    """The framework drives the async client itself, on the event loop of the thread."""
    server.script(WORDS)
    agent = guide(endpoint, client)

    def ask() -> Any:
        with asyncio.Runner() as runner:
            asyncio.set_event_loop(runner.get_loop())
            answer = agent.run_sync("How is the weather in Oslo?").output
            runner.run(client.close())
        return answer

    assert await asyncio.to_thread(ask) == "It rains in Oslo."
    accounted(endpoint)


async def test_a_tool_is_called_and_both_calls_of_the_model_are_accounted_for(
    client: Any, server: FakeOpenAI, accounted: Callable[..., None], endpoint: str, stream: bool
) -> None:
    server.script(ASKS, WORDS)
    assert await run(guide(endpoint, client, tools=[weather]), stream) == "It rains in Oslo."
    assert "Rain in Oslo, says the tool." in str(server.requests[-1].body)
    accounted(endpoint, calls=2, stream=stream)


@pytest.mark.parametrize(
    ("output", "reply"), [(City, as_call("final_result")), (NativeOutput(City), AS_TEXT)], ids=["tool", "native"]
)
async def test_a_structured_answer_is_an_object(
    client: Any,
    server: FakeOpenAI,
    accounted: Callable[..., None],
    endpoint: str,
    stream: bool,
    output: Any,
    reply: Reply,
) -> None:
    server.script(reply)
    assert await run(guide(endpoint, client, output_type=output), stream) == OSLO
    accounted(endpoint, stream=stream)


async def test_a_copy_of_the_client_that_the_framework_makes_is_the_same_users(
    client: Any, server: FakeOpenAI, sink: RecordingSink, endpoint: str, stream: bool
) -> None:
    """It asks for a copy with the retries that the agent is to have: none, so that the first failure is the last."""
    server.script(Reply(status=500))
    with pytest.raises(ModelHTTPError):
        await run(guide(endpoint, client, model_settings={"max_retries": 0}), stream)
    assert server.count == 1
    assert [(r.user_id, r.feature, r.outcome, r.cost_usd) for r in sink.records] == [("u1", "travel", "error", 0)]


async def test_a_denial_arrives_as_itself_and_is_not_tried_again(
    broke: Any, refused: Callable[..., None], endpoint: str, stream: bool
) -> None:
    with pytest.raises(BudgetExceededError) as caught:
        await run(guide(endpoint, broke, retries=3), stream)
    assert caught.value.scope == {"user": "u1"}
    refused()


async def test_a_denial_in_the_midst_of_a_run_ends_it(
    once: Any, server: FakeOpenAI, refused: Callable[..., None], endpoint: str, stream: bool
) -> None:
    server.script(ASKS)
    with pytest.raises(RateLimitExceededError, match="1 requests/day"):
        await run(guide(endpoint, once, tools=[weather], retries=3), stream)
    refused(after=1)


async def test_the_deadline_ends_a_call_and_is_the_cause_of_the_frameworks_own_time_out(
    hurried: Any, server: FakeOpenAI, sink: RecordingSink, endpoint: str, stream: bool
) -> None:
    server.always(Reply(delay=math.inf))
    with pytest.raises(ModelAPIError) as caught:
        await run(guide(endpoint, hurried), stream)
    assert isinstance(caught.value.__cause__, DeadlineExceededError)
    assert [record.outcome for record in sink.records] == ["timeout"]


async def test_agents_of_two_users_at_once_are_kept_apart(
    make: Callable[..., Any], server: FakeOpenAI, kept_apart: Callable[[int], None], endpoint: str
) -> None:
    shared = make("5 requests/day")
    server.always(replace(WORDS, delay=0.02))

    async def ask(name: str) -> None:
        await run(guide(endpoint, shared.with_identity(user_id=name, feature=f"{name}'s")), question=f"I am {name}.")

    await asyncio.gather(*[ask(name) for name in ["alice", "bob"] * 5])
    kept_apart(5)


def test_the_example_shows_an_answer_and_a_denial_in_the_midst_of_a_run(
    server: FakeOpenAI, run_example: Callable[[str], list[str]]
) -> None:
    advice = {"name": "final_result", "arguments": '{"umbrella": true, "reason": "it rains"}'}
    server.script(ASKS, Reply(tool_calls=[advice], usage=USAGE), ASKS)
    answer, denial, requests, money = run_example("pydantic_ai_agent")
    assert answer == "Oslo: True, it rains"
    assert denial.startswith("429: User 'alice' is denied by the limit \"3 requests/minute\"")
    assert (requests, money) == ("3 requests/minute: 3 used, 0 left", "$0.50/day: 0.00099 used, 0.49901 left")
    assert server.count == 3

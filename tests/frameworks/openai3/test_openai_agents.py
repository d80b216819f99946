"""openai-agents: agents on a bound client, by Responses, which is their default, and by chat completions."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from agents import (
    Agent,
    ModelRetrySettings,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    RunConfig,
    Runner,
    function_tool,
    retry_policies,
)
from scripted import AS_TEXT, ASKS, COST, MODEL, OSLO, WORDS, City

from safe_llm import AsyncSafeOpenAI, BudgetExceededError, DeadlineExceededError, RateLimitExceededError
from safe_llm.testing import FakeOpenAI, RecordingSink, Reply

pytestmark = pytest.mark.anyio

MODELS: dict[str, Any] = {"responses": OpenAIResponsesModel, "chat.completions": OpenAIChatCompletionsModel}
EAGER = ModelSettings(
    retry=ModelRetrySettings(
        max_retries=2, backoff={"initial_delay": 0.0}, policy=retry_policies.http_status([429, 500])
    )
)
"""Asks the framework to try again by itself at these statuses, the first of which a denial has as well."""


@pytest.fixture
def kind() -> Any:
    return AsyncSafeOpenAI


@function_tool
def weather(city: str) -> str:
    """The weather of a city."""
    return f"Rain in {city}, says the tool."


def guide(endpoint: str, client: Any, **options: Any) -> Agent:
    return Agent(name="Guide", model=MODELS[endpoint](MODEL, client), **options)


async def run(agent: Agent, stream: bool = False, question: str = "How is the weather in Oslo?") -> Any:
    """What the agent says in the end; of a stream, the text of its deltas as well."""
    config = RunConfig(tracing_disabled=True)
    if not stream:
        return (await Runner.run(agent, question, run_config=config)).final_output
    running = Runner.run_streamed(agent, question, run_config=config)
    events = [event.data async for event in running.stream_events() if event.type == "raw_response_event"]
    deltas = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert deltas in (running.final_output, OSLO.model_dump_json())
    return running.final_output


async def test_words_come_through(
    client: Any, server: FakeOpenAI, accounted: Callable[..., None], endpoint: str, stream: bool
) -> None:
    server.script(WORDS)
    assert await run(guide(endpoint, client), stream) == "It rains in Oslo."
    accounted(endpoint, stream=stream)


async def test_a_tool_is_called_and_both_calls_of_the_model_are_accounted_for(
    client: Any, server: FakeOpenAI, accounted: Callable[..., None], endpoint: str, stream: bool
) -> None:
    server.script(ASKS, WORDS)
    assert await run(guide(endpoint, client, tools=[weather]), stream) == "It rains in Oslo."
    assert "Rain in Oslo, says the tool." in str(server.requests[-1].body)
    accounted(endpoint, calls=2, stream=stream)


async def test_a_structured_answer_is_an_object(
    client: Any, server: FakeOpenAI, accounted: Callable[..., None], endpoint: str, stream: bool
) -> None:
    server.script(AS_TEXT)
    assert await run(guide(endpoint, client, output_type=City), stream) == OSLO
    accounted(endpoint, stream=stream)


async def test_a_denial_arrives_as_itself_and_is_not_tried_again(
    broke: Any, refused: Callable[..., None], endpoint: str, stream: bool
) -> None:
    with pytest.raises(BudgetExceededError) as caught:
        await run(guide(endpoint, broke), stream)
    assert caught.value.scope == {"user": "u1"}
    refused()


async def test_a_denial_in_the_midst_of_a_run_ends_it(
    once: Any, server: FakeOpenAI, refused: Callable[..., None], endpoint: str, stream: bool
) -> None:
    server.script(ASKS)
    with pytest.raises(RateLimitExceededError, match="1 requests/day"):
        await run(guide(endpoint, once, tools=[weather]), stream)
    refused(after=1)


async def test_a_retry_of_the_frameworks_own_is_a_call_of_its_own_by_the_same_user(
    client: Any, server: FakeOpenAI, sink: RecordingSink, endpoint: str, stream: bool
) -> None:
    """It makes it through a copy of the client."""
    server.script(Reply(status=500), WORDS)
    patient = client.with_options(max_retries=0)
    assert await run(guide(endpoint, patient, model_settings=EAGER), stream) == "It rains in Oslo."
    assert server.count == 2
    failed, paid = [(r.user_id, r.feature, r.outcome, r.attempts, r.cost_usd) for r in sink.records]
    assert (failed, paid) == (("u1", "travel", "error", 1, 0), ("u1", "travel", "ok", 1, COST))


async def test_whoever_asks_for_retries_of_a_denial_sends_nothing_all_the_same(
    broke: Any, server: FakeOpenAI, endpoint: str, stream: bool
) -> None:
    with pytest.raises(BudgetExceededError):
        await run(guide(endpoint, broke, model_settings=EAGER), stream)
    assert server.requests == []


async def test_the_deadline_ends_a_call_and_arrives_as_itself(
    hurried: Any, server: FakeOpenAI, sink: RecordingSink, endpoint: str, stream: bool
) -> None:
    server.always(Reply(delay=math.inf))
    with pytest.raises(DeadlineExceededError):
        await run(guide(endpoint, hurried), stream)
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
    server.script(ASKS, WORDS, ASKS)
    answer, denial, requests, money = run_example("openai_agents")
    assert answer == "It rains in Oslo."
    assert denial.startswith("429: User 'alice' is denied by the limit \"3 requests/minute\"")
    assert (requests, money) == ("3 requests/minute: 3 used, 0 left", "$0.50/day: 0.00099 used, 0.49901 left")
    assert server.count == 3

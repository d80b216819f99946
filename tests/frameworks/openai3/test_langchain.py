"""langchain-openai: `ChatOpenAI` on a bound client, sync and async, by chat completions and by Responses."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import replace
from functools import reduce
from operator import add
from typing import Any

import openai
import pytest
from langchain_core.messages import HumanMessage
from langchain_core.runnables import Runnable
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from scripted import AS_TEXT, ASKS, CALL, MODEL, OSLO, WORDS, City, as_call, done, read

from safe_llm import BudgetExceededError, DeadlineExceededError, RateLimitExceededError, SafeOpenAI
from safe_llm.testing import FakeOpenAI, RecordingSink, Reply

pytestmark = [
    pytest.mark.anyio,
    # The framework dumps the last event of a parsed stream past its type, with the SDK's own client as well.
    pytest.mark.filterwarnings("ignore:Pydantic serializer warnings:UserWarning"),
]

QUESTION = "How is the weather in Oslo?"


@tool
def weather(city: str) -> str:
    """The weather of a city."""
    return f"Rain in {city}, says the tool."


def model(endpoint: str, client: Any) -> ChatOpenAI:
    """The client stands for both colours; each test uses its own alone."""
    return ChatOpenAI(
        model=MODEL,
        use_responses_api=endpoint == "responses",
        client=client.chat.completions,
        async_client=client.chat.completions,
        root_client=client,
        root_async_client=client,
    )


async def ask(runnable: Runnable[Any, Any], kind: Any, question: Any = QUESTION, *, stream: bool = False) -> Any:
    """The answer, or all parts of it added up."""
    is_sync = kind is SafeOpenAI
    if not stream:
        return await done(runnable.invoke(question) if is_sync else runnable.ainvoke(question))
    parts = await read(runnable.stream(question) if is_sync else runnable.astream(question))
    return parts[-1] if isinstance(parts[-1], City) else reduce(add, parts)


async def test_words_come_through(
    client: Any, kind: Any, server: FakeOpenAI, accounted: Callable[..., None], endpoint: str, stream: bool
) -> None:
    server.script(WORDS)
    assert (await ask(model(endpoint, client), kind, stream=stream)).text == "It rains in Oslo."
    accounted(endpoint, stream=stream)


async def test_a_tool_is_called_and_both_calls_of_the_model_are_accounted_for(
    client: Any, kind: Any, server: FakeOpenAI, accounted: Callable[..., None], endpoint: str, stream: bool
) -> None:
    server.script(ASKS, WORDS)
    bound = model(endpoint, client).bind_tools([weather])
    asking = await ask(bound, kind, stream=stream)
    (call,) = asking.tool_calls
    assert (call["name"], call["args"]) == (CALL["name"], {"city": "Oslo"})

    history = [HumanMessage(QUESTION), asking, weather.invoke(call)]
    assert (await ask(bound, kind, history, stream=stream)).text == "It rains in Oslo."
    assert "Rain in Oslo, says the tool." in str(server.requests[-1].body)
    accounted(endpoint, calls=2, stream=stream)


@pytest.mark.parametrize(("method", "reply"), [("json_schema", AS_TEXT), ("function_calling", as_call("City"))])
async def test_a_structured_answer_is_an_object(
    client: Any,
    kind: Any,
    server: FakeOpenAI,
    accounted: Callable[..., None],
    endpoint: str,
    stream: bool,
    method: Any,
    reply: Reply,
) -> None:
    server.script(reply)
    assert await ask(model(endpoint, client).with_structured_output(City, method=method), kind, stream=stream) == OSLO
    accounted(endpoint, stream=stream)


async def test_a_denial_arrives_as_itself_and_is_not_tried_again(
    broke: Any, kind: Any, refused: Callable[..., None], endpoint: str, stream: bool
) -> None:
    with pytest.raises(BudgetExceededError) as caught:
        await ask(model(endpoint, broke), kind, stream=stream)
    assert caught.value.scope == {"user": "u1"}
    refused()


async def test_a_structured_call_is_denied_like_any_other(
    once: Any, kind: Any, server: FakeOpenAI, refused: Callable[..., None], endpoint: str, stream: bool
) -> None:
    server.script(AS_TEXT)
    structured = model(endpoint, once).with_structured_output(City)
    await ask(structured, kind, stream=stream)
    with pytest.raises(RateLimitExceededError, match="1 requests/day"):
        await ask(structured, kind, stream=stream)
    refused(after=1)


async def test_the_deadline_ends_a_call_and_is_the_cause_of_the_frameworks_own_time_out(
    hurried: Any, kind: Any, server: FakeOpenAI, sink: RecordingSink, endpoint: str, stream: bool
) -> None:
    server.always(Reply(delay=math.inf))
    with pytest.raises(openai.APITimeoutError) as caught:
        await ask(model(endpoint, hurried), kind, stream=stream)
    assert isinstance(caught.value.__cause__, DeadlineExceededError)
    assert [record.outcome for record in sink.records] == ["timeout"]


async def test_models_of_two_users_at_once_are_kept_apart(
    make: Callable[..., Any], kind: Any, server: FakeOpenAI, kept_apart: Callable[[int], None], endpoint: str
) -> None:
    shared = make("5 requests/day")
    server.always(replace(WORDS, delay=0.02))
    models = {
        name: model(endpoint, shared.with_identity(user_id=name, feature=f"{name}'s")) for name in ("alice", "bob")
    }

    async def speak(name: str) -> None:
        if kind is SafeOpenAI:
            await asyncio.to_thread(models[name].invoke, f"I am {name}.")
        else:
            await models[name].ainvoke(f"I am {name}.")

    await asyncio.gather(*[speak(name) for name in ["alice", "bob"] * 5])
    kept_apart(5)


def test_the_example_counts_both_colours_together(server: FakeOpenAI, run_example: Callable[[str], list[str]]) -> None:
    server.script(Reply("Hello."), Reply("Once upon a time."))
    hello, story, denial = run_example("langchain_chat")
    assert (hello, story) == ("Hello.", "Once upon a time.")
    assert denial.startswith("429: User 'alice' is denied by the limit \"2 requests/minute\"")
    assert server.count == 2

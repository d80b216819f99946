"""instructor: structured answers on a bound client, sync and async, by chat completions and by Responses."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import instructor
import pytest
from instructor.core import InstructorRetryException
from scripted import AS_TEXT, ASKS, CALL, MODEL, OSLO, USAGE, WORDS, City, as_call, done, read

from safe_llm import BudgetExceededError, DeadlineExceededError, RateLimitExceededError, SafeOpenAI
from safe_llm.testing import FakeOpenAI, RecordingSink, Reply

pytestmark = pytest.mark.anyio

WRONG = Reply(tool_calls=[{"name": "City", "arguments": '{"name": "Oslo", "people": "many"}'}], usage=USAGE)
"""A structured answer that does not fit, so that the framework asks again."""
WEATHER: dict[str, Any] = {
    "name": "weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


class Way(NamedTuple):
    """How the framework asks for a structured answer."""

    mode: instructor.Mode
    endpoint: str
    reply: Reply


WAYS = {
    "tools": Way(instructor.Mode.TOOLS, "chat.completions", as_call("City")),
    "schema": Way(instructor.Mode.JSON_SCHEMA, "chat.completions", AS_TEXT),
    "responses": Way(instructor.Mode.RESPONSES_TOOLS, "responses", as_call("City")),
}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Way:
    return WAYS[request.param]


def completions(way: Way, client: Any) -> Any:
    return instructor.from_openai(client, mode=way.mode).chat.completions


def asking(text: str = "How many people live in Oslo?", **options: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": text}], "response_model": City, **options}


def said(answer: Any) -> str:
    return str(answer.output_text if hasattr(answer, "output_text") else answer.choices[0].message.content)


def words_of(event: Any) -> str:
    """The words in one event of either stream."""
    if hasattr(event, "choices"):
        return "".join(choice.delta.content or "" for choice in event.choices)
    return str(event.delta) if event.type == "response.output_text.delta" else ""


def is_oslo(answer: Any) -> bool:
    """Objects of the framework's are of a class that it derives, and have the raw response about them."""
    return isinstance(answer, City) and answer.model_dump() == OSLO.model_dump()


async def test_words_come_through(
    client: Any, server: FakeOpenAI, accounted: Callable[..., None], way: Way, stream: bool
) -> None:
    server.script(WORDS)
    answer = await done(completions(way, client).create(**asking(response_model=None, stream=stream)))
    text = "".join(map(words_of, await read(answer))) if stream else said(answer)
    assert text == "It rains in Oslo."
    accounted(way.endpoint, stream=stream)


async def test_a_tool_of_the_callers_own_is_asked_for(
    client: Any, server: FakeOpenAI, accounted: Callable[..., None], way: Way
) -> None:
    server.script(ASKS)
    is_chat = way.endpoint == "chat.completions"
    tool = {"type": "function", "function": WEATHER} if is_chat else {"type": "function", **WEATHER}
    answer = await done(completions(way, client).create(**asking(response_model=None, tools=[tool])))
    call = answer.choices[0].message.tool_calls[0].function if is_chat else answer.output[0]
    assert (call.name, call.arguments) == (CALL["name"], CALL["arguments"])
    accounted(way.endpoint)


async def test_a_structured_answer_is_an_object(
    client: Any, server: FakeOpenAI, accounted: Callable[..., None], way: Way
) -> None:
    server.script(way.reply)
    answer = await done(completions(way, client).create(**asking()))
    assert is_oslo(answer)
    accounted(way.endpoint)


async def test_a_structured_answer_grows_as_it_is_streamed(
    client: Any, server: FakeOpenAI, accounted: Callable[..., None], way: Way
) -> None:
    server.script(way.reply)
    *_, last = await read(completions(way, client).create_partial(**asking()))
    assert is_oslo(last)
    accounted(way.endpoint, stream=True)


async def test_an_answer_that_does_not_fit_is_asked_for_again_and_both_calls_are_accounted_for(
    client: Any, server: FakeOpenAI, accounted: Callable[..., None], way: Way
) -> None:
    server.script(WRONG, way.reply)
    answer = await done(completions(way, client).create(**asking(max_retries=1)))
    assert is_oslo(answer)
    accounted(way.endpoint, calls=2)


async def test_a_denial_arrives_as_itself_where_no_object_is_asked_for(
    broke: Any, refused: Callable[..., None], way: Way
) -> None:
    with pytest.raises(BudgetExceededError) as caught:
        await done(completions(way, broke).create(**asking(response_model=None)))
    assert caught.value.scope == {"user": "u1"}
    refused()


@pytest.mark.parametrize("method", ["create", "create_partial"])
async def test_a_denial_is_the_cause_of_the_frameworks_own_error_and_is_not_tried_again(
    broke: Any, refused: Callable[..., None], way: Way, method: str
) -> None:
    with pytest.raises(InstructorRetryException) as caught:
        await consumed(getattr(completions(way, broke), method)(**asking(max_retries=3)))
    assert isinstance(caught.value.__cause__, BudgetExceededError)
    assert caught.value.n_attempts == 1
    refused()


async def consumed(answer: Any) -> Any:
    """An answer of either colour, read to its end if it is a stream."""
    answer = await done(answer)
    return await read(answer) if hasattr(answer, "__aiter__") or hasattr(answer, "__next__") else answer


async def test_asking_again_is_denied_like_any_other_call(
    once: Any, server: FakeOpenAI, refused: Callable[..., None], way: Way
) -> None:
    server.script(WRONG)
    with pytest.raises(InstructorRetryException) as caught:
        await done(completions(way, once).create(**asking(max_retries=3)))
    assert isinstance(caught.value.__cause__, RateLimitExceededError)
    refused(after=1)


async def test_the_deadline_ends_a_call_and_is_the_cause_of_the_frameworks_own_error(
    hurried: Any, server: FakeOpenAI, sink: RecordingSink, way: Way
) -> None:
    server.always(Reply(delay=math.inf))
    with pytest.raises(InstructorRetryException) as caught:
        await done(completions(way, hurried).create(**asking(max_retries=3)))
    assert isinstance(caught.value.__cause__, DeadlineExceededError)
    assert [record.outcome for record in sink.records] == ["timeout"]


async def test_clients_of_two_users_at_once_are_kept_apart(
    make: Callable[..., Any], kind: Any, server: FakeOpenAI, kept_apart: Callable[[int], None], way: Way
) -> None:
    shared = make("5 requests/day")
    server.always(replace(way.reply, delay=0.02))
    bound = {
        name: completions(way, shared.with_identity(user_id=name, feature=f"{name}'s")) for name in ("alice", "bob")
    }

    async def speak(name: str) -> None:
        if kind is SafeOpenAI:
            await asyncio.to_thread(bound[name].create, **asking(f"I am {name}."))
        else:
            await bound[name].create(**asking(f"I am {name}."))

    await asyncio.gather(*[speak(name) for name in ["alice", "bob"] * 5])
    kept_apart(5)


def test_the_example_shows_answers_and_a_denial(server: FakeOpenAI, run_example: Callable[[str], list[str]]) -> None:
    server.script(as_call("City"), as_call("City"))
    *answers, denial, requests, money = run_example("instructor_extract")
    assert answers == ["Oslo: 717710"] * 2
    assert denial.startswith("429: User 'alice' is denied by the limit \"2 requests/minute\"")
    assert (requests, money) == ("2 requests/minute: 2 used, 0 left", "$0.50/day: 0.00066 used, 0.49934 left")
    assert server.count == 2

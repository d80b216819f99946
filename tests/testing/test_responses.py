"""What the fake provider's Responses API does beside plain answers: hosted tools, failures, compaction, and responses
that are retrieved and cancelled later."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, AzureOpenAI, OpenAI

from safe_llm.testing import FakeOpenAI, Reply
from safe_llm.types import Usage

Strict = Callable[[Any], Any]

TOOLS = (
    "web_search_call",
    "file_search_call",
    "code_interpreter_call",
    "mcp_call",
    "image_generation_call",
    "shell_call",
    "computer_call",
)


def create(client: OpenAI, **options: Any) -> Any:
    return client.responses.create(**{"model": "gpt-4o", "input": "Hi there"} | options)


def kinds(events: Any) -> list[str]:
    return [event.type.removeprefix("response.") for event in events]


# Hosted tools and failures --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tool", TOOLS)
def test_a_hosted_call_comes_whole_before_the_message(
    server: FakeOpenAI, client: OpenAI, strict: Strict, tool: str
) -> None:
    server.script(Reply("found", hosted_calls=[tool, tool]))
    first, second, message = strict(create(client)).output
    assert (first.type, first.status, message.type) == (tool, "completed", "message")
    assert first.id != second.id


def test_a_hosted_call_can_be_given_in_detail_and_may_be_all_there_is(server: FakeOpenAI, client: OpenAI) -> None:
    page = {"type": "open_page", "url": "https://example.com"}
    server.script(Reply("", hosted_calls=[{"type": "web_search_call", "action": page, "status": "failed"}, "new_call"]))
    search, unheard_of = create(client).output
    assert (search.action.to_dict(), search.status) == (page, "failed")
    assert (unheard_of.type, unheard_of.status) == ("new_call", "completed")


def test_hosted_calls_are_streamed_before_the_first_piece_that_a_cut_counts(server: FakeOpenAI, client: OpenAI) -> None:
    server.script(Reply("one two", hosted_calls=TOOLS), Reply("one two", hosted_calls=TOOLS, cut=1, abrupt=False))
    events = list(create(client, stream=True))
    added = [event.item for event in events if event.type == "response.output_item.added"]
    done = [event.item for event in events if event.type == "response.output_item.done"]
    assert [item.type for item in added] == [item.type for item in done] == [*TOOLS, "message"]
    assert {item.status for item in added} == {"in_progress"}
    assert [item.id for item in events[-1].response.output] == [item.id for item in done]
    assert kinds(create(client, stream=True))[-2:] == ["content_part.added", "output_text.delta"]


def test_what_hosted_tools_use_beside_the_tokens_is_told(server: FakeOpenAI, client: OpenAI, strict: Strict) -> None:
    server.script(Reply(hosted_calls=["web_search_call", "web_search_call", "image_generation_call"]), Reply())
    used = strict(create(client)).to_dict()["tool_usage"]
    assert (used["web_search"]["num_requests"], used["image_gen"]["total_tokens"]) == (2, 4160)
    assert "tool_usage" not in create(client).to_dict()


def test_a_response_can_fail_plain_and_streamed(server: FakeOpenAI, client: OpenAI, strict: Strict) -> None:
    failure = {"code": "server_error", "message": "It broke."}
    server.script(Reply("half", failure=failure), Reply("half", failure=failure, usage=Usage(3, 4)))
    failed = strict(create(client))
    assert (failed.status, failed.error.message, failed.output_text, failed.usage) == (
        "failed",
        "It broke.",
        "half",
        None,
    )
    *_, last = create(client, stream=True)
    assert (last.type, last.response.usage.total_tokens) == ("response.failed", 7)


def test_the_format_that_was_asked_for_is_told(server: FakeOpenAI, client: OpenAI, strict: Strict) -> None:
    schema = {"type": "json_schema", "name": "city", "schema": {"type": "object"}}
    assert strict(create(client)).text.format.type == "text"
    assert strict(create(client, text={"format": schema})).text.to_dict() == {"format": schema}
    *_, last = create(client, text={"format": schema}, stream=True)
    assert last.response.text.to_dict() == {"format": schema}


# Compaction -----------------------------------------------------------------------------------------------------------


def test_a_conversation_is_compacted(server: FakeOpenAI, client: OpenAI, strict: Strict) -> None:
    if not hasattr(client.responses, "compact"):
        pytest.skip("this SDK cannot compact")
    server.script(Reply("one two three"), Reply(usage=Usage(10, 5, cached_input_tokens=4, cache_write_tokens=2)))
    compacted = strict(client.responses.compact(model="gpt-4o", input="Hi there", instructions="Be brief"))
    assert (compacted.object, [item.type for item in compacted.output]) == ("response.compaction", ["compaction"])
    assert (compacted.usage.input_tokens, compacted.usage.output_tokens) == (2 + 2 + 4 + 3, 3)
    usage = client.responses.compact(model="gpt-4o", input="Hi").usage
    assert (usage.input_tokens_details.cached_tokens, usage.input_tokens_details.cache_write_tokens) == (4, 2)
    assert server.count == 2


# Later ----------------------------------------------------------------------------------------------------------------


def test_a_background_response_is_queued_and_complete_when_retrieved(
    server: FakeOpenAI, client: OpenAI, strict: Strict
) -> None:
    server.script(Reply("one two", usage=Usage(10, 5)))
    queued = strict(create(client, background=True, extra_query={"beta": "true"}))
    assert (queued.status, queued.background, queued.output, queued.usage) == ("queued", True, [], None)
    for _ in range(2):
        done = strict(client.responses.retrieve(queued.id))
        assert (done.id, done.status, done.background, done.output_text) == (queued.id, "completed", True, "one two")
        assert done.usage.total_tokens == 15
    assert (server.count, len(server.requests)) == (1, 3)


def test_it_stays_in_progress_for_as_many_polls_as_told(server: FakeOpenAI, client: OpenAI) -> None:
    server.script(Reply(polls=2))
    queued = create(client, background=True)
    polled = [client.responses.retrieve(queued.id) for _ in range(4)]
    assert [response.status for response in polled] == ["in_progress", "in_progress", "completed", "completed"]
    assert [response.usage is None for response in polled] == [True, True, False, False]


@pytest.mark.parametrize(
    ("reply", "status"), [(Reply("one two"), "incomplete"), (Reply(failure={"code": "c", "message": "m"}), "failed")]
)
def test_it_can_end_otherwise(server: FakeOpenAI, client: OpenAI, reply: Reply, status: str) -> None:
    server.script(reply)
    queued = create(client, background=True, max_output_tokens=1)
    assert client.responses.retrieve(queued.id).status == status


def test_a_plain_response_can_be_retrieved_too_unless_it_was_not_to_be_stored(
    server: FakeOpenAI, client: OpenAI
) -> None:
    answer = create(client)
    assert client.responses.retrieve(answer.id).to_dict() == answer.to_dict()
    for unknown in (create(client, store=False).id, "resp_unknown"):
        with pytest.raises(openai.NotFoundError, match="not found"):
            client.responses.retrieve(unknown)
        with pytest.raises(openai.NotFoundError, match="not found"):
            client.responses.cancel(unknown)


def test_a_retrieval_streams_what_is_done_from_where_the_caller_left(server: FakeOpenAI, client: OpenAI) -> None:
    server.script(Reply("one two", polls=math.inf))
    queued = create(client, background=True)
    events: list[Any] = list(client.responses.retrieve(queued.id, stream=True))
    assert (events[0].type, events[-1].type) == ("response.created", "response.completed")
    assert (events[0].response.id, events[-1].response.usage.output_tokens) == (queued.id, 2)
    for after in (0, 4, 8):
        rest: list[Any] = list(client.responses.retrieve(queued.id, stream=True, starting_after=after))
        assert [event.sequence_number for event in rest] == list(range(after + 1, 10))
    assert client.responses.retrieve(queued.id).status == "completed"


def test_a_background_response_can_be_streamed_at_once_and_its_rest_later(server: FakeOpenAI, client: OpenAI) -> None:
    server.script(Reply("one two", cut=1, abrupt=False))
    begun: list[Any] = list(create(client, background=True, stream=True))
    assert begun[0].response.background is True
    assert begun[-1].type == "response.output_text.delta"
    rest: list[Any] = list(
        client.responses.retrieve(begun[0].response.id, stream=True, starting_after=begun[-1].sequence_number)
    )
    assert (rest[0].delta, rest[-1].response.background) == (" two", True)


def test_a_cancelled_response_stays_cancelled_and_has_no_usage(
    server: FakeOpenAI, client: OpenAI, strict: Strict
) -> None:
    queued = create(client, background=True)
    for answer in (
        client.responses.cancel(queued.id),
        client.responses.cancel(queued.id),
        client.responses.retrieve(queued.id),
        client.responses.retrieve(queued.id),
    ):
        assert (strict(answer).status, answer.usage, answer.output) == ("cancelled", None, [])
    assert server.count == 1


def test_what_is_done_or_was_never_in_the_background_cannot_be_cancelled(server: FakeOpenAI, client: OpenAI) -> None:
    queued = create(client, background=True)
    client.responses.retrieve(queued.id)
    assert client.responses.cancel(queued.id).status == "completed"
    with pytest.raises(openai.BadRequestError, match="synchronous"):
        client.responses.cancel(create(client).id)


def test_the_manner_of_retrievals_and_cancellations_is_scripted_apart(server: FakeOpenAI, client: OpenAI) -> None:
    server.script(Reply("one two", headers={"X-Mine": "created"}))
    server.retrievals(
        Reply(status=500),
        Reply(cut="connect"),
        Reply("not said", cut=1, abrupt=False, headers={"X-Mine": "retrieved"}),
        Reply(status=503),
        Reply(body={"status": "odd"}),
    )
    queued = create(client, background=True)
    with pytest.raises(openai.InternalServerError):
        client.responses.cancel(queued.id)
    with pytest.raises(openai.APIConnectionError):
        client.responses.retrieve(queued.id)
    response = client.responses.with_raw_response.retrieve(queued.id, stream=True)
    assert response.headers["x-mine"] == "retrieved"
    *_, last = response.parse()
    assert last.delta == "one"
    with pytest.raises(openai.InternalServerError):
        client.responses.retrieve(queued.id)
    assert client.responses.retrieve(queued.id).status == "odd"
    assert client.responses.retrieve(queued.id).output_text == "one two"


def test_an_error_or_a_body_of_the_tests_own_leaves_nothing_to_retrieve(server: FakeOpenAI, client: OpenAI) -> None:
    server.script(Reply(status=500), Reply(body={"id": "resp_mine"}))
    with pytest.raises(openai.InternalServerError):
        create(client)
    create(client)
    for number in (1, 2):
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(f"resp_{number:06d}")


def test_a_malformed_request_is_one_when_it_is_retrieved_too(server: FakeOpenAI, client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError):
        create(client, background=True, max_output_tokens=0)
    with pytest.raises(openai.BadRequestError):
        client.responses.retrieve("resp_000001")


def test_azure_reaches_them_too(server: FakeOpenAI) -> None:
    with AzureOpenAI(azure_endpoint=server.url, api_key="test", api_version="2025-04-01-preview") as azure:
        queued = azure.responses.create(model="my-deployment", input="Hi", background=True)
        assert azure.responses.retrieve(queued.id).status == "completed"
        assert azure.responses.cancel(queued.id).status == "completed"
    assert server.count == 1


@pytest.mark.anyio
async def test_async_clients_reach_them_too(server: FakeOpenAI) -> None:
    async with AsyncOpenAI(base_url=server.base_url, api_key="test") as client:
        queued = await client.responses.create(model="gpt-4o", input="Hi", background=True)
        events = [event async for event in await client.responses.retrieve(queued.id, stream=True)]
        assert events[-1].type == "response.completed"

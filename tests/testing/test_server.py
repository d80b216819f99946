"""The fake provider as its users see it: through the bare OpenAI SDK, over real sockets."""

from __future__ import annotations

import asyncio
import math
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI, AzureOpenAI, OpenAI

from safe_llm.testing import FakeOpenAI, Reply, Request
from safe_llm.testing._wire import parse
from safe_llm.types import Usage

HI: Any = [{"role": "user", "content": "Hi there"}]


def ask(client: OpenAI, **options: Any) -> Any:
    return client.chat.completions.create(**{"model": "gpt-4o", "messages": HI} | options)


def say(client: OpenAI, **options: Any) -> str:
    return str(ask(client, **options).choices[0].message.content)


# Scripting ------------------------------------------------------------------------------------------------------------


def test_without_a_script_it_greets(client: OpenAI) -> None:
    assert say(client) == "Hello from the fake server."


def test_queued_replies_are_given_once_each_before_the_standing_one(server: FakeOpenAI, client: OpenAI) -> None:
    server.always(Reply("standing"))
    server.reply("first", "second")
    server.script(Reply("third"))
    assert [say(client) for _ in range(5)] == ["first", "second", "third", "standing", "standing"]


def test_a_callable_answers_by_the_request(server: FakeOpenAI, client: OpenAI) -> None:
    server.respond(lambda request: Reply(f"you said {request.body['messages'][0]['content']}"))
    assert say(client) == "you said Hi there"


@pytest.mark.parametrize("error", [ValueError("my mistake"), pytest.fail.Exception("my mistake")])
def test_an_error_in_the_callable_is_a_500_and_raised_again_at_the_end(error: BaseException) -> None:
    def broken(request: Request) -> Reply:
        raise error

    server = FakeOpenAI().start()
    server.respond(broken)
    with OpenAI(base_url=server.base_url, api_key="test", max_retries=0) as client:
        with pytest.raises(openai.InternalServerError, match="my mistake"):
            ask(client)
        with pytest.raises(type(error), match="my mistake"):
            server.close()


def test_requests_are_recorded_as_they_came(server: FakeOpenAI, client: OpenAI) -> None:
    before = time.time()
    ask(client, extra_query={"a": "1 2"}, extra_headers={"X-Mine": "yes"})
    client.models.list()
    request, listing = server.requests
    assert (request.id, request.method, request.path, request.query) == (
        "req_000001",
        "POST",
        "/v1/chat/completions",
        {"a": "1 2"},
    )
    assert request.headers["x-mine"] == "yes"
    assert request.body == {"model": "gpt-4o", "messages": HI}
    assert before - 1 <= request.time <= time.time() + 1
    assert (listing.method, listing.body, server.count) == ("GET", None, 1)


def test_the_provider_s_request_id_is_the_recorded_one(server: FakeOpenAI, client: OpenAI) -> None:
    assert ask(client)._request_id == server.requests[0].id


# Chat -----------------------------------------------------------------------------------------------------------------


def test_a_plain_answer_has_the_api_s_shape(server: FakeOpenAI, client: OpenAI) -> None:
    server.script(Reply("one two three", model="gpt-4o-2024-08-06", service_tier="flex"))
    answer = ask(client)
    assert answer.choices[0].finish_reason == "stop"
    assert (answer.model, answer.service_tier, answer.object) == ("gpt-4o-2024-08-06", "flex", "chat.completion")
    # 2 words, 4 for the message, 3 to prime
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (9, 3, 12)


def test_images_and_files_have_no_words(client: OpenAI) -> None:
    parts = [{"type": "text", "text": "what is this"}, {"type": "image_url", "image_url": {"url": "data:a b c d"}}]
    assert ask(client, messages=[{"role": "user", "content": parts}]).usage.prompt_tokens == 3 + 4 + 3


def test_usage_can_be_given_in_the_library_s_words_or_the_wire_s_or_be_missing(
    server: FakeOpenAI, client: OpenAI
) -> None:
    server.script(
        Reply(usage=Usage(10, 5, cached_input_tokens=4, reasoning_tokens=2)),
        Reply(usage={"prompt_tokens": -1, "completion_tokens": 0, "total_tokens": 7}),
        Reply(usage=None),
    )
    usage = ask(client).usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (10, 5, 15)
    assert (usage.prompt_tokens_details.cached_tokens, usage.completion_tokens_details.reasoning_tokens) == (4, 2)
    assert (usage := ask(client).usage).prompt_tokens == -1
    assert usage.total_tokens == 7
    assert ask(client).usage is None


@pytest.mark.parametrize("cap", ["max_tokens", "max_completion_tokens"])
def test_the_output_cap_is_obeyed(server: FakeOpenAI, client: OpenAI, cap: str) -> None:
    server.always(Reply("one two three"))
    answer = ask(client, **{cap: 2})
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("one two", "length")
    assert answer.usage.completion_tokens == 2
    assert ask(client, **{cap: 3}).choices[0].finish_reason == "stop"


def test_as_many_answers_come_as_were_asked_for_and_all_are_billed(server: FakeOpenAI, client: OpenAI) -> None:
    server.always(Reply("one two"))
    answer = ask(client, n=3)
    assert [(choice.index, choice.message.content) for choice in answer.choices] == [(i, "one two") for i in range(3)]
    assert answer.usage.completion_tokens == 6
    chunks = list(ask(client, n=3, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices[0].index == 2) == "one two"


def test_tool_calls_and_refusals_plain_and_streamed(server: FakeOpenAI, client: OpenAI) -> None:
    weather = {"name": "weather", "arguments": '{"city": "Rome"}'}
    server.script(Reply(tool_calls=[weather]), Reply(refusal="I will not."))
    call = ask(client).choices[0]
    assert (call.finish_reason, call.message.content) == ("tool_calls", None)
    assert call.message.tool_calls[0].function.model_dump() == weather
    message = ask(client).choices[0].message
    assert (message.content, message.refusal) == (None, "I will not.")

    server.script(Reply("Let me look.", tool_calls=[weather, weather]), Reply(refusal="I will not."))
    with client.chat.completions.stream(model="gpt-4o", messages=HI) as stream:
        final = stream.get_final_completion().choices[0]
    assert [(call.function.name, call.function.arguments) for call in final.message.tool_calls or ()] == [
        ("weather", '{"city": "Rome"}')
    ] * 2
    assert (final.finish_reason, final.message.content) == ("tool_calls", "Let me look.")
    with client.chat.completions.stream(model="gpt-4o", messages=HI) as stream:
        assert stream.get_final_completion().choices[0].message.refusal == "I will not."


def test_an_empty_answer_is_empty_text_and_not_none(server: FakeOpenAI, client: OpenAI) -> None:
    server.script(Reply(""))
    assert ask(client).choices[0].message.content == ""


def test_a_json_answer_parses_whole_and_streamed_word_by_word(server: FakeOpenAI, client: OpenAI) -> None:
    text = '{"city":  "New York",\n "people": 8}\n'
    server.script(Reply(text), Reply(text))
    assert say(client, response_format={"type": "json_object"}) == text
    assert "".join(chunk.choices[0].delta.content or "" for chunk in ask(client, stream=True)) == text


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (Reply("one two three"), ["one", " two", " three"]),
        (Reply("abcdef", chunks=3), ["ab", "cd", "ef"]),
        (Reply(chunks=4), ["word "] * 4),
        (Reply("", chunks=2), ["word "] * 2),
        (Reply(""), []),
    ],
)
def test_a_stream_has_one_chunk_per_piece(
    server: FakeOpenAI, client: OpenAI, reply: Reply, expected: list[str]
) -> None:
    server.script(reply)
    first, *content, last = ask(client, stream=True)
    assert (first.choices[0].delta.role, first.choices[0].delta.content) == ("assistant", "")
    assert [chunk.choices[0].delta.content for chunk in content] == expected
    assert last.choices[0].finish_reason == "stop"


def test_a_stream_tells_its_usage_only_when_asked_and_in_a_last_chunk(server: FakeOpenAI, client: OpenAI) -> None:
    assert all(chunk.usage is None and chunk.choices for chunk in ask(client, stream=True))
    *chunks, last = ask(client, stream=True, stream_options={"include_usage": True})
    assert all(chunk.usage is None and "usage" in chunk.model_fields_set for chunk in chunks)
    assert (last.choices, last.usage.completion_tokens) == ([], 5)
    server.script(Reply(usage=None))
    assert all(chunk.choices for chunk in ask(client, stream=True, stream_options={"include_usage": True}))


@pytest.mark.parametrize(
    ("bad", "param"),
    [({"messages": []}, "messages"), ({"max_tokens": 0}, "max_tokens"), ({"n": "two"}, "n"), ({"n": True}, "n")],
)
def test_what_the_real_api_would_refuse_is_a_400(client: OpenAI, bad: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, **bad)
    assert caught.value.param == param


# The other surfaces ---------------------------------------------------------------------------------------------------


def test_a_response_has_the_api_s_shape(server: FakeOpenAI, client: OpenAI) -> None:
    server.script(Reply("one two three"), Reply("one two three"), Reply(usage=None))
    answer = client.responses.create(model="gpt-4o", input="Hi there", instructions="Be brief")
    assert (answer.output_text, answer.status) == ("one two three", "completed")
    assert answer.usage is not None
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (2 + 2 + 4 + 3, 3)
    capped = client.responses.create(model="gpt-4o", input="Hi", max_output_tokens=2)
    assert (capped.output_text, capped.status) == ("one two", "incomplete")
    assert capped.incomplete_details is not None
    assert capped.incomplete_details.reason == "max_output_tokens"
    assert client.responses.create(model="gpt-4o", input="Hi").usage is None


def test_a_response_streams_numbered_events_with_usage_in_the_last(server: FakeOpenAI, client: OpenAI) -> None:
    server.script(Reply("one two", usage=Usage(10, 5, reasoning_tokens=3)))
    events: list[Any] = list(client.responses.create(model="gpt-4o", input="Hi", stream=True))
    assert [event.type.removeprefix("response.") for event in events] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert [event.sequence_number for event in events] == list(range(10))
    assert events[0].response.usage is None
    usage = events[-1].response.usage
    assert (usage.input_tokens, usage.output_tokens, usage.output_tokens_details.reasoning_tokens) == (10, 5, 3)


def test_the_sdk_s_responses_helper_can_follow_text_tool_calls_and_refusals(server: FakeOpenAI, client: OpenAI) -> None:
    weather = {"name": "weather", "arguments": '{"city": "Rome"}'}
    server.script(Reply("Let me look.", tool_calls=[weather]), Reply(refusal="I will not."))
    with client.responses.stream(model="gpt-4o", input="Hi") as stream:
        final: Any = stream.get_final_response()
    assert final.output_text == "Let me look."
    assert (final.output[1].name, final.output[1].arguments) == ("weather", '{"city": "Rome"}')
    with client.responses.stream(model="gpt-4o", input="Hi") as stream:
        refused: Any = stream.get_final_response()
    assert refused.output[0].content[0].refusal == "I will not."


@pytest.mark.parametrize(
    ("given", "count", "tokens"),
    [("two words", 1, 2), (["one", "two words"], 2, 3), ([1, 2, 3], 1, 3), ([[1, 2], [3]], 2, 3)],
)
def test_every_input_gets_an_embedding(client: OpenAI, given: Any, count: int, tokens: int) -> None:
    answer = client.embeddings.create(model="text-embedding-3-small", input=given)
    assert [len(item.embedding) for item in answer.data] == [1536] * count
    assert answer.usage.model_dump() == {"prompt_tokens": tokens, "total_tokens": tokens}


def test_embeddings_obey_dimensions_and_encoding(server: FakeOpenAI, client: OpenAI) -> None:
    plain = client.embeddings.create(model="m", input="Hi", dimensions=4, encoding_format="float")
    packed = client.embeddings.create(model="m", input="Hi", dimensions=4)
    assert plain.data[0].embedding == list(packed.data[0].embedding) == [0.5] * 4
    server.script(Reply(usage={"prompt_tokens": 5, "total_tokens": 5}), Reply(usage=None))
    assert client.embeddings.create(model="m", input="Hi").usage.total_tokens == 5
    assert client.embeddings.create(model="m", input="Hi").usage is None


def test_legacy_completions_plain_and_streamed(server: FakeOpenAI, client: OpenAI) -> None:
    server.always(Reply("one two three"))
    batch: Any = client.completions.create(model="m", prompt=["a", "b c"], n=2, max_tokens=2)
    assert [(choice.text, choice.finish_reason) for choice in batch.choices] == [("one two", "length")] * 4
    assert (batch.usage.prompt_tokens, batch.usage.completion_tokens) == (3, 8)
    *content, last, usage = client.completions.create(
        model="m", prompt="a", stream=True, stream_options={"include_usage": True}
    )
    assert [chunk.choices[0].text for chunk in content] == ["one", " two", " three"]
    assert (last.choices[0].finish_reason, usage.choices) == ("stop", [])
    server.script(Reply(usage=None), Reply(usage=None))
    assert client.completions.create(model="m", prompt="a").usage is None
    assert all(chunk.choices for chunk in client.completions.create(model="m", prompt="a", stream=True))


def test_models_are_listed_and_every_name_is_known(client: OpenAI) -> None:
    assert "gpt-4o" in [model.id for model in client.models.list()]
    assert client.models.retrieve("ft:gpt-4o:me").id == "ft:gpt-4o:me"


def test_azure_reaches_the_same_routes(server: FakeOpenAI) -> None:
    server.always(Reply("Hi"))
    with AzureOpenAI(azure_endpoint=server.url, api_key="test", api_version="2024-10-21") as azure:
        assert say(azure, model="my-deployment") == "Hi"
        assert azure.responses.create(model="my-deployment", input="Hi").output_text == "Hi"
    assert server.requests[0].path == "/openai/deployments/my-deployment/chat/completions"
    assert server.requests[0].query == {"api-version": "2024-10-21"}
    assert server.count == 2


def test_an_unknown_route_is_a_404_in_the_api_s_shape_and_takes_no_reply(server: FakeOpenAI, client: OpenAI) -> None:
    server.reply("kept")
    for method in (client.get, client.delete):
        with pytest.raises(openai.NotFoundError, match="Invalid URL") as caught:
            method("/chat/completions", cast_to=object)
        assert caught.value.type == "invalid_request_error"
    assert server.count == 0
    assert say(client) == "kept"


# Failures -------------------------------------------------------------------------------------------------------------


def test_errors_have_the_api_s_shape(server: FakeOpenAI, client: OpenAI) -> None:
    server.script(Reply(status=429, error={"code": "insufficient_quota"}, headers={"Retry-After": "7"}))
    with pytest.raises(openai.RateLimitError) as limited:
        ask(client, stream=True)
    assert (limited.value.code, limited.value.response.headers["retry-after"]) == ("insufficient_quota", "7")
    server.script(Reply(status=503))
    with pytest.raises(openai.InternalServerError) as failed:
        ask(client)
    assert (failed.value.status_code, failed.value.type) == (503, "server_error")


def test_retries_reach_it_and_are_counted(server: FakeOpenAI) -> None:
    now = {"Retry-After-Ms": "1"}
    server.script(Reply(status=500, headers=now), Reply(status=429, headers=now), Reply("at last"))
    with OpenAI(base_url=server.base_url, api_key="test", max_retries=2) as client:
        assert say(client) == "at last"
    assert server.count == 3


@pytest.mark.parametrize(
    ("body", "kind"),
    [("<html>", "text/plain; charset=utf-8"), (b"\0", "application/octet-stream"), ({"a": 1}, "application/json")],
)
def test_a_body_is_sent_as_given(server: FakeOpenAI, client: OpenAI, body: Any, kind: str) -> None:
    server.script(Reply(body=body), Reply(body=body, headers={"Content-Type": "text/html"}))
    response = client.chat.completions.with_raw_response.create(model="m", messages=HI)
    assert response.headers["content-type"] == kind
    assert response.http_response.content == (
        body if isinstance(body, bytes) else b'{"a":1}' if body == {"a": 1} else b"<html>"
    )
    response = client.chat.completions.with_raw_response.create(model="m", messages=HI)
    assert response.headers["content-type"] == "text/html"


def test_a_delay_makes_the_client_time_out_and_its_leaving_is_noticed(server: FakeOpenAI, client: OpenAI) -> None:
    server.script(Reply(delay=math.inf))
    with pytest.raises(openai.APITimeoutError):
        ask(client, timeout=0.05)
    server.wait_until(lambda: server.disconnects == server.requests != [])


def test_a_short_delay_ends_by_itself(server: FakeOpenAI, client: OpenAI) -> None:
    server.script(Reply("late", delay=0.05))
    started = time.monotonic()
    assert say(client) == "late"
    assert time.monotonic() - started >= 0.05


def test_a_drip_spaces_the_events_of_a_stream(server: FakeOpenAI, client: OpenAI) -> None:
    server.script(Reply("one two", drip=0.02))
    started = time.monotonic()
    arrivals = [time.monotonic() - started for _ in ask(client, stream=True)]
    assert len(arrivals) == 4
    assert arrivals[-1] >= 0.05


def test_the_bytes_of_a_body_or_of_the_headers_can_drip_too(server: FakeOpenAI, client: OpenAI) -> None:
    """No single read ever times out, and still the answer takes long."""
    for reply in (Reply(drip=0.0005, body={"id": "x" * 100}), Reply(drip_headers=0.0005)):
        server.script(reply)
        started = time.monotonic()
        assert ask(client).id
        assert time.monotonic() - started >= 100 * 0.0005
    assert server.disconnects == []


def test_a_client_that_leaves_a_dripping_stream_is_noticed(server: FakeOpenAI, client: OpenAI) -> None:
    server.script(Reply(chunks=10_000, drip=0.005))
    stream = ask(client, stream=True)
    next(stream)
    stream.close()
    server.wait_until(lambda: server.disconnects == server.requests != [])


def test_a_connection_cut_before_the_answer_is_a_connection_error(server: FakeOpenAI, client: OpenAI) -> None:
    server.script(Reply(cut="connect"))
    with pytest.raises(openai.APIConnectionError):
        ask(client)
    assert (server.count, server.disconnects) == (1, [])


def test_an_abrupt_cut_breaks_a_stream_behind_its_nth_chunk(server: FakeOpenAI, client: OpenAI) -> None:
    server.script(Reply("one two three", cut=2))
    seen: list[str] = []
    # openai 2 lets the transport's own error through.
    with pytest.raises((openai.APIConnectionError, httpx.RemoteProtocolError)):
        seen.extend(chunk.choices[0].delta.content for chunk in ask(client, stream=True))
    assert seen == ["", "one", " two"]


def test_a_quiet_cut_ends_a_stream_as_if_it_were_complete(server: FakeOpenAI, client: OpenAI) -> None:
    server.script(Reply("one two three", cut=2, abrupt=False))
    chunks = list(ask(client, stream=True, stream_options={"include_usage": True}))
    assert [chunk.choices[0].delta.content for chunk in chunks] == ["", "one", " two"]


def test_a_body_can_be_cut_inside_or_be_truncated_json(server: FakeOpenAI, client: OpenAI) -> None:
    server.script(Reply(cut=20), Reply(cut=20, abrupt=False))
    with pytest.raises(openai.APIConnectionError):
        ask(client)
    with pytest.raises((ValueError, openai.APIError)):
        ask(client)
    assert say(client)


def test_the_end_mark_of_a_stream_can_be_missing(server: FakeOpenAI, client: OpenAI) -> None:
    server.script(Reply(), Reply(done=False), Reply(done=False))
    with client.chat.completions.with_streaming_response.create(model="m", messages=HI, stream=True) as response:
        assert "data: [DONE]" in list(response.iter_lines())
    with client.chat.completions.with_streaming_response.create(model="m", messages=HI, stream=True) as response:
        assert "data: [DONE]" not in list(response.iter_lines())
    events = list(client.responses.create(model="m", input="Hi", stream=True))
    assert events[-1].type == "response.output_item.done"


def test_a_stream_can_end_in_an_error(server: FakeOpenAI, client: OpenAI) -> None:
    server.script(
        Reply("one two", error_event={"error": {"message": "overloaded"}}, cut=1),
        Reply("one two", error_event={"message": "overloaded"}),
    )
    seen: list[str] = []
    with pytest.raises(openai.APIError, match="overloaded"):
        seen.extend(chunk.choices[0].delta.content for chunk in ask(client, stream=True))
    assert seen == ["", "one"]
    *_, last = ask(client, stream=True)
    assert last.choices is None
    assert last.message == "overloaded"


# HTTP and the server's life -------------------------------------------------------------------------------------------


def port(server: FakeOpenAI) -> int:
    return int(server.url.rsplit(":", 1)[1])


def exchange(server: FakeOpenAI, data: bytes) -> bytes:
    """What the server sends to these bytes, until it closes the connection."""
    with socket.create_connection(("127.0.0.1", port(server)), timeout=5) as connection:
        connection.sendall(data)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def test_a_connection_is_kept_alive_and_serves_pipelined_requests_in_order(server: FakeOpenAI) -> None:
    get, last = b"GET /v1/models/a HTTP/1.1\r\n\r\n", b"GET /v1/models/b HTTP/1.1\r\nConnection: close\r\n\r\n"
    answer = exchange(server, get + last)
    assert answer.count(b"HTTP/1.1 200 OK") == 2
    assert answer.index(b'"id":"a"') < answer.index(b'"id":"b"')


def test_what_is_no_http_is_dropped_and_the_server_lives_on(server: FakeOpenAI, client: OpenAI) -> None:
    assert exchange(server, b"nonsense\r\n\r\n") == b""
    assert say(client)


def test_a_body_does_not_wait_for_the_acknowledgement_of_its_headers(client: OpenAI) -> None:
    started = time.monotonic()
    for _ in range(50):
        client.models.retrieve("m")
    assert time.monotonic() - started < 50 * 0.03  # each waits 0.04 s without TCP_NODELAY


CHUNKED = (
    b"POST /v1/chat/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    b'10;x=y\r\n{"model":"m","me\r\nd\r\nssages":["a"]\r\n1\r\n}\r\n0\r\n\r\n'
)
SIZED = b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}"


def test_a_body_may_come_in_chunks(server: FakeOpenAI) -> None:
    assert exchange(server, CHUNKED).startswith(b"HTTP/1.1 200 OK")
    assert server.requests[0].body == {"model": "m", "messages": ["a"]}


@pytest.mark.parametrize("message", [CHUNKED, SIZED])
def test_a_request_is_read_when_all_of_it_has_come_and_no_further(message: bytes) -> None:
    for size in range(len(message)):
        assert parse(bytearray(message[:size]), iter(())) is None
    parsed = parse(bytearray(message + b"POST"), iter(["req_7"]))
    assert parsed is not None
    assert (parsed[0].id, parsed[1]) == ("req_7", len(message))


@pytest.mark.parametrize("body", [b"", b"{", b"[]"])
def test_a_body_that_is_no_json_object_is_a_400(server: FakeOpenAI, body: bytes) -> None:
    head = b"POST /v1/responses HTTP/1.1\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
    answer = exchange(server, head + body)
    assert answer.startswith(b"HTTP/1.1 400 Bad Request")
    assert b"could not parse the JSON body" in answer


def test_a_client_that_does_not_read_blocks_nobody_and_gets_everything_later(
    server: FakeOpenAI, client: OpenAI
) -> None:
    server.script(Reply(body="x" * 50_000_000, headers={"Connection": "close"}), Reply("meanwhile"))
    with socket.create_connection(("127.0.0.1", port(server)), timeout=5) as slow:
        slow.sendall(b"POST /v1/responses HTTP/1.1\r\nConnection: close\r\n\r\n")
        server.wait_until(lambda: server.count == 1)
        assert say(client) == "meanwhile"
        received = sum(len(data) for data in iter(lambda: slow.recv(1 << 20), b""))
    assert received > 50_000_000


def test_a_hundred_threads_are_answered_at_one_time(server: FakeOpenAI, client: OpenAI) -> None:
    server.always(Reply("together", delay=math.inf))
    with ThreadPoolExecutor(100) as pool:
        calls = [pool.submit(say, client) for _ in range(100)]
        server.wait_until(lambda: server.count == 100, timeout=30)
        server.release()
        assert [call.result() for call in calls] == ["together"] * 100
    assert server.peak == 100


def test_a_hundred_tasks_stream_at_one_time() -> None:
    async def stream(client: AsyncOpenAI) -> str:
        chunks = await client.chat.completions.create(model="gpt-4o", messages=HI, stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in chunks])

    async def main() -> None:
        async with FakeOpenAI() as server, AsyncOpenAI(base_url=server.base_url, api_key="test") as client:
            server.always(Reply("all together now", delay=math.inf))
            tasks = [asyncio.create_task(stream(client)) for _ in range(100)]
            await asyncio.to_thread(server.wait_until, lambda: server.count == 100, timeout=30)
            server.release()
            assert await asyncio.gather(*tasks) == ["all together now"] * 100
            assert server.peak == 100

    asyncio.run(main())


def test_a_cancelled_task_leaves_and_is_noticed() -> None:
    async def main() -> None:
        async with FakeOpenAI() as server, AsyncOpenAI(base_url=server.base_url, api_key="test") as client:
            server.always(Reply(delay=math.inf))
            call = asyncio.create_task(client.responses.create(model="gpt-4o", input="Hi"))
            await asyncio.to_thread(server.wait_until, lambda: server.count == 1)
            call.cancel()
            await asyncio.to_thread(server.wait_until, lambda: len(server.disconnects) == 1)

    asyncio.run(main())


def test_closing_is_prompt_while_clients_hang_and_blames_none_of_them() -> None:
    server = FakeOpenAI().start()
    server.always(Reply(delay=math.inf))
    with OpenAI(base_url=server.base_url, api_key="test", max_retries=0) as client, ThreadPoolExecutor(20) as pool:
        calls = [pool.submit(say, client) for _ in range(20)]
        server.wait_until(lambda: server.count == 20)
        started = time.monotonic()
        server.close()
        assert time.monotonic() - started < 1
        assert all(isinstance(call.exception(), openai.APIConnectionError) for call in calls)
    server.close()
    server.release()
    assert server.disconnects == []


def test_it_starts_once_and_has_no_address_before() -> None:
    server = FakeOpenAI()
    with pytest.raises(RuntimeError, match="not running"):
        server.base_url
    server.close()
    with server:
        assert server.base_url == f"{server.url}/v1"
        with pytest.raises(RuntimeError, match="started before"):
            server.start()


def test_a_blocking_callable_does_not_block_closing_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("safe_llm.testing.server.CLOSE_SECONDS", 0.05)
    unblocked = Event()
    server = FakeOpenAI().start()
    server.respond(lambda request: Reply(str(unblocked.wait())))
    with socket.create_connection(("127.0.0.1", port(server))) as connection:
        connection.sendall(b"POST /v1/responses HTTP/1.1\r\n\r\n")
        server.wait_until(lambda: server.count == 1)
        with pytest.raises(TimeoutError, match="respond callable"):
            server.close()
        unblocked.set()
    monkeypatch.undo()
    server.close()


def test_waiting_for_what_never_happens_ends(server: FakeOpenAI) -> None:
    with pytest.raises(TimeoutError, match=r"0\.01 s"):
        server.wait_until(lambda: server.count == 1, timeout=0.01)

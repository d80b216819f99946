"""What comes from outside may be anything: each request is refused in words or handled, quickly, and nothing leaks."""

from __future__ import annotations

import asyncio
import logging
import math
import pickle
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from inspect import isawaitable
from traceback import walk_tb
from typing import Any

import coverage
import openai
import pytest
from openai.types.chat import ChatCompletionMessage

from safe_llm import (
    AsyncSafeOpenAI,
    DeniedError,
    InputRejectedError,
    LimitExceededError,
    NotAuthenticatedError,
    Policy,
    SafeOpenAI,
    identify,
)
from safe_llm.sinks import LoggingSink
from safe_llm.testing import FakeOpenAI, RecordingSink, Reply
from safe_llm.types import Admission, Call

SECONDS = 1.0 if coverage.Coverage.current() else 0.3
"""The most processor time that a hostile request may take; measuring coverage makes all code several times slower."""

# Limits that nothing here exhausts, so that counting and pricing take part.
POLICY: Mapping[str, Any] = {"plans": {"default": {"limits": ["$1_000_000/day", "1_000_000_000_000 tokens/day"]}}}

both_kinds = pytest.mark.parametrize("app", [SafeOpenAI, AsyncSafeOpenAI], ids=["sync", "async"], indirect=True)


def user(content: Any = "Hi", **fields: Any) -> dict[str, Any]:
    return {"role": "user", "content": content, **fields}


@dataclass
class App:
    """A client of either kind, driven the same way, and what it sent and recorded."""

    client: Any
    server: FakeOpenAI
    sink: RecordingSink
    wait: Callable[[Any], Any]
    """Awaits what the async client returns; passes on what the sync one does."""

    def create(self, **arguments: Any) -> Any:
        return self.wait(self.client.chat.completions.create(**{"model": "gpt-4o", "messages": [user()]} | arguments))

    def post(self, **arguments: Any) -> Any:
        """The same call below the SDK's typed methods."""
        options = {
            option: arguments.pop(name)
            for name, option in (("extra_body", "extra_json"), ("extra_query", "params"), ("extra_headers", "headers"))
            if name in arguments
        }
        body = {"model": "gpt-4o", "messages": [user()]} | arguments
        return self.wait(self.client.post("/chat/completions", cast_to=object, body=body, options=options))

    def quote(self, **arguments: Any) -> Any:
        return self.wait(self.client.guard.quote(**{"model": "gpt-4o", "messages": [user()]} | arguments))

    @property
    def sent(self) -> Any:
        """The body of the last request that reached the provider."""
        return self.server.requests[-1].body


@contextmanager
def running(kind: Any, *sinks: Any, **options: Any) -> Iterator[App]:
    """A client of this kind, and a provider of its own."""
    with FakeOpenAI() as server, asyncio.Runner() as runner:

        async def until(answer: Any) -> Any:
            return await answer

        def wait(answer: Any) -> Any:
            return runner.run(until(answer)) if isawaitable(answer) else answer

        sink = RecordingSink()
        options = {"api_key": "test", "policy": POLICY} | options
        client = kind(base_url=server.base_url, max_retries=0, sinks=[sink, *sinks], **options)
        try:
            yield App(client, server, sink, wait)
        finally:
            wait(client.close())


@pytest.fixture(scope="module")
def app(request: pytest.FixtureRequest) -> Iterator[App]:
    with running(request.param) as app:
        # The first exact count loads the tokenizer, the first call the prices.
        app.create(messages=[user("a " * 1000)] * 10)
        yield app


def nested(levels: int, wrap: Callable[[Any], Any]) -> Any:
    value: Any = "x"
    for _ in range(levels):
        value = wrap(value)
    return value


def in_object(value: Any) -> dict[str, Any]:
    return {"a": value}


def in_list(value: Any) -> list[Any]:
    return [value]


def called(arguments: Any) -> list[dict[str, Any]]:
    """A history with a tool call."""
    function = {"name": "look_up", "arguments": arguments}
    return [
        user(),
        {"role": "assistant", "tool_calls": [{"id": "c1", "type": "function", "function": function}]},
        {"role": "tool", "tool_call_id": "c1", "content": "found"},
    ]


def tool(parameters: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "look_up", "parameters": parameters}}


# Refused --------------------------------------------------------------------------------------------------------------

Row = tuple[str, str, str, dict[str, Any]]
"""What it is, the stable code of the refusal, words of its message, and the arguments."""

SHAPES = (("objects", in_object), ("lists", in_list))
PLACES: tuple[tuple[str, Callable[[Any], dict[str, Any]]], ...] = (
    ("a message", lambda value: {"messages": [user(z=value)]}),
    ("a content", lambda value: {"messages": [user([{"type": "text", "text": "x", "z": value}])]}),
    ("a tool", lambda value: {"tools": [tool(value)]}),
    ("extra_body", lambda value: {"extra_body": {"z": value}}),
)


def given(field: str) -> Callable[[Any], dict[str, Any]]:
    """Puts a value into a field of the request."""
    return lambda value: {field: value}


def each(what: str, words: str, place: Callable[[Any], dict[str, Any]], *values: Any) -> list[Row]:
    """One malformed request for each value."""
    return [(f"{what} {repr(value)[:40]}", "malformed_request", words, place(value)) for value in values]


REFUSED: list[Row] = [
    ("10 MB of one character", "request_too_large", "max_request_bytes", {"messages": [user("a" * 10_000_000)]}),
    ("10 MB in a field of its own", "request_too_large", "max_request_bytes", {"extra_body": {"z": "a" * 10_000_000}}),
    ("10 MB of keys", "request_too_large", "max_request_bytes", {"extra_body": {"z": {"a" * 10_000_000: 1}}}),
    ("10 MB of emoji", "request_too_large", "max_request_bytes", {"messages": [user("\U0001f600" * 2_500_000)]}),
    ("10 MB inline", "request_too_large", "max_inline_bytes",
     {"messages": [user([{"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 10_000_000}}])]}),
    ("a million spaces", "message_too_long", "max_message_chars", {"messages": [user(" " * 1_000_000)]}),
    ("a million newlines", "message_too_long", "max_message_chars", {"messages": [user("\n" * 1_000_000)]}),
    ("newlines of the app", "context_too_long", "max_context_tokens",
     {"messages": [{"role": "system", "content": "\n" * 1_000_000}, user()]}),
    ("newlines of a tool", "context_too_long", "max_context_tokens",
     {"messages": [*called("{}")[:2], {"role": "tool", "tool_call_id": "c1", "content": "\n" * 1_000_000}]}),
    *[
        (f"a lone surrogate in {where}", "malformed_request", "not valid Unicode", arguments)
        for where, arguments in (
            ("the text", {"messages": [user("\ud800")]}),
            ("a part", {"messages": [user([{"type": "text", "text": "a\udfffb"}])]}),
            ("a key", {"messages": [user(**{"\ud800": "x"})]}),
            ("a tool call's arguments", {"messages": called("\udfff")}),
            ("a tool's schema", {"tools": [tool({"properties": {"\ud800": {}}})]}),
            ("the model", {"model": "gpt-\ud800"}),
            ("extra_body", {"extra_body": {"z": "\udc00"}}),
        )
    ],
    *[
        (f"{levels} levels of {shape} in {where}", "malformed_request", "nested", place(nested(levels, wrap)))
        for levels in (100, 1_000, 100_000)
        for shape, wrap in SHAPES
        for where, place in PLACES
    ],
    ("lists for messages", "malformed_request", "nested", {"messages": nested(100_000, in_list)}),
    ("bytes in extra_body", "malformed_request", "bytes", {"extra_body": {"z": b"x"}}),
    ("a bytearray in a tool", "malformed_request", "bytes", {"tools": [tool({"default": bytearray(b"x")})]}),
    ("an int of 5,000 digits", "malformed_request", "", {"extra_body": {"z": 10**5_000}}),
    *each("no JSON:", "", lambda value: {"extra_body": {"z": [value]}}, math.nan, math.inf, {1}, {(1, 2): 3}, range(3)),
    *each("messages that are", "messages", given("messages"), None, "Hi", user(), [], 3, True),
    *each("a message that is", "messages[1] is not an object", lambda value: {"messages": [user(), value]},
          None, "Hi", 3, [], True),
    *each("the role", "unknown role", lambda value: {"messages": [{"role": value, "content": "x"}]},
          "root", "User", "", None, 1, ["user"], {"user": 1}),
    ("no role", "malformed_request", "unknown role", {"messages": [{"content": "x"}]}),
    ("no content", "malformed_request", "no content", {"messages": [{"role": "user"}]}),
    ("no content of an assistant", "malformed_request", "no content", {"messages": [user(), {"role": "assistant"}]}),
    *each("the content", "content", lambda value: {"messages": [user(value)]},
          None, 3, True, 10**30, [], {"text": "x"}, ["Hi"], [None], [{}], [{"type": "text"}],
          [{"type": "text", "text": 3}], [{"type": ["text"], "text": "x"}], [{"type": "video", "video": {}}],
          [{"type": "image_url", "image_url": "https://x.test"}]),
    *[
        row
        for field in ("max_tokens", "max_completion_tokens", "n")
        for row in each(f"{field} =", f"{field} must be a whole number", given(field),
                        0, -1, 1.5, 1.0, True, False, "10", [], {})
    ],
    *each("the model", "model must be a name", given("model"),
          "", None, 3, True, ["gpt-4o"], {"gpt-4o": 1}, "m" * 257, "m" * 100_000, "gpt-4o\nINFO forged"),
    *each("tools that are", "tools", given("tools"), 3, True, "x", {"type": "function"}),
    *each("functions that are", "functions", given("functions"), 3, True, "x"),
    *each("extra_body", "", given("extra_body"),
          {"model": None}, {"messages": []}, {"messages": "Hi"}, {"max_tokens": 0}, {"n": "3"}),
    *each("in extra_query:", "extra_query names ", lambda value: {"extra_query": {value: "1"}},
          "model", "messages", "n", "stream", "tools", "max_tokens", "max_completion_tokens"),
]  # fmt: skip

# The SDK's typed methods look at ten thousand values for a second before any client sees them: these come by post.
BULKY: list[Row] = [
    ("10,000 system messages", "context_too_long", "max_context_tokens",
     {"messages": [{"role": "system", "content": "Be kind."}] * 10_000 + [user()]}),
    ("10,000 parts", "message_too_long", "max_message_chars",
     {"messages": [user([{"type": "text", "text": "Hi"}] * 10_000)]}),
    ("10,000 images", "too_many_images", "max_images",
     {"messages": [user([{"type": "image_url", "image_url": {"url": "https://x.test/a.png"}}] * 10_000)]}),
    ("a million numbers", "request_too_large", "max_request_bytes", {"extra_body": {"z": [0] * 1_000_000}}),
    ("a million empty objects", "request_too_large", "max_request_bytes", {"messages": [user([{}] * 1_000_000)]}),
    ("10,000 tools", "context_too_long", "max_context_tokens", {"tools": [tool({"type": "object"})] * 10_000}),
]  # fmt: skip


def cases(rows: list[Row]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        ("code", "words", "arguments"), [row[1:] for row in rows], ids=[row[0] for row in rows]
    )


@both_kinds
@cases(REFUSED)
def test_create_refuses_it_in_words_and_sends_nothing(app: App, code: str, words: str, arguments: Any) -> None:
    assert_refused(app, app.create, code, words, arguments)


@both_kinds
@cases(REFUSED + BULKY)
def test_post_refuses_it_in_words_and_sends_nothing(app: App, code: str, words: str, arguments: Any) -> None:
    assert_refused(app, app.post, code, words, arguments)


@both_kinds
@cases(REFUSED + BULKY)
def test_a_quote_says_that_it_would_be_denied(app: App, code: str, words: str, arguments: Any) -> None:
    before = len(app.server.requests)
    denial = app.quote(**arguments).would_be_denied
    assert denial is not None
    assert_swift(lambda: app.quote(**arguments))
    assert (denial.code, len(app.server.requests)) == (code, before)


def assert_refused(app: App, ask: Callable[..., Any], code: str, words: str, arguments: Any) -> None:
    before, recorded = len(app.server.requests), len(app.sink.records)
    with pytest.raises(InputRejectedError) as caught:
        ask(**arguments)
    error = caught.value
    assert error.code == code
    assert words in str(error)
    assert len(str(error)) < 400
    assert "\n" not in str(error)
    assert error.status_code == (400 if code == "malformed_request" else 413)
    assert app.sink.records[recorded:] == [error.record]
    assert_swift(lambda: ask(**arguments))
    assert len(app.server.requests) == before


def assert_swift(work: Callable[[], Any]) -> None:
    """Assert that it takes less than `SECONDS`, at best of three: the machine may be busy with something else."""
    for _ in range(3):
        began = time.process_time()
        with suppress(DeniedError):
            work()
        if time.process_time() - began < SECONDS:
            return
    pytest.fail(f"It took more than {SECONDS} s of processor time.")


@both_kinds
@pytest.mark.parametrize("body", [None, [], [user()], "text", 3], ids=repr)
def test_a_body_that_is_no_object_is_refused(app: App, body: Any) -> None:
    before = len(app.server.requests)
    with pytest.raises(InputRejectedError):
        app.wait(app.client.post("/chat/completions", cast_to=object, body=body))
    assert len(app.server.requests) == before


SMUGGLED = b'{"model": "gpt-4", "messages": [], "max_tokens": 99999}'
CHECKED = {"model": "gpt-4o", "messages": [user()], "max_tokens": 9}


@both_kinds
@pytest.mark.parametrize(
    "arguments",
    [
        {"content": SMUGGLED},
        {"content": SMUGGLED, "options": {"extra_json": CHECKED}},
        {"body": CHECKED, "files": {"max_tokens": (None, b"99999")}},
        {"body": CHECKED, "files": {"max_tokens": (None, b"99999")},
         "options": {"headers": {"Content-Type": "multipart/form-data"}}},
    ],
    ids=["raw content", "raw content beside extra_body", "form fields", "form fields beside the body's"],
)  # fmt: skip
def test_what_cannot_be_read_as_json_does_not_slip_past_the_body_that_is_checked(app: App, arguments: Any) -> None:
    before = len(app.server.requests)
    with pytest.raises(InputRejectedError):
        app.wait(app.client.post("/chat/completions", cast_to=object, **arguments))
    assert len(app.server.requests) == before


@both_kinds
def test_a_query_in_the_path_is_read_like_extra_query(app: App) -> None:
    before = len(app.server.requests)
    with pytest.raises(InputRejectedError, match="max_tokens"):
        app.wait(app.client.post("/chat/completions?max_tokens=99999", cast_to=object, body=CHECKED))
    assert len(app.server.requests) == before


@both_kinds
@pytest.mark.parametrize("answers", [10**30, 10**5_000], ids=["10**30", "10**5000"])
def test_more_answers_than_can_be_paid_for_are_denied(app: App, answers: int) -> None:
    before = len(app.server.requests)
    with pytest.raises(DeniedError) as caught:
        app.create(n=answers)
    assert isinstance(caught.value, InputRejectedError | LimitExceededError)
    assert (caught.value.retry_after, len(app.server.requests)) == (None, before)
    assert len(str(caught.value)) < 400


# Handled --------------------------------------------------------------------------------------------------------------


@both_kinds
def test_a_generator_of_messages_is_read_once_and_sent(app: App) -> None:
    app.create(messages=(user(text) for text in ("one", "two")))
    assert app.sent["messages"] == [user("one"), user("two")]
    assert app.quote(messages=(user(text) for text in ("one", "two"))).would_be_denied is None


@both_kinds
def test_a_generator_of_parts_is_read_once_and_sent(app: App) -> None:
    parts = [{"type": "text", "text": text} for text in ("one", "two")]
    app.create(messages=[user(iter(parts))])
    assert app.sent["messages"] == [user(parts)]


@both_kinds
@pytest.mark.parametrize("way", ["create", "post", "quote"])
def test_the_sdks_own_answers_can_be_put_back_into_the_history(app: App, way: str) -> None:
    answer = app.create().choices[0].message
    assert isinstance(answer, ChatCompletionMessage)
    result = getattr(app, way)(messages=[user("one"), answer, user("two")])
    if way == "quote":
        assert result.would_be_denied is None
    else:
        assert [message["role"] for message in app.sent["messages"]] == ["user", "assistant", "user"]
        assert app.sent["messages"][1]["content"] == answer.content


@both_kinds
def test_ten_thousand_messages_are_trimmed_to_the_last_turns(app: App) -> None:
    messages = [user(f"turn {number}") for number in range(10_000)]
    assert_swift(lambda: app.post(messages=messages))
    assert app.sent["messages"] == messages[-10:]
    assert app.sink.last.trimmed_messages == 9_990


@both_kinds
@pytest.mark.parametrize("way", ["create", "post"])
@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("place", ["argument", "extra_body"])
def test_a_cap_beyond_all_bounds_is_lowered_wherever_it_stands(app: App, way: str, field: str, place: str) -> None:
    cap = {field: 10**30}
    getattr(app, way)(**(cap if place == "argument" else {"extra_body": cap}))
    caps = {name: value for name, value in app.sent.items() if name in ("max_tokens", "max_completion_tokens")}
    assert caps == {field: 4_000}
    assert app.sink.last.max_tokens == 4_000


@both_kinds
@pytest.mark.parametrize("way", ["create", "post"])
def test_extra_body_is_held_to_the_rules_as_the_arguments_that_it_overrides(app: App, way: str) -> None:
    extra = {"model": "gpt-4o-mini", "messages": [user("one")], "max_tokens": 99_999, "n": 3}
    getattr(app, way)(max_completion_tokens=5, extra_body=extra)
    assert (app.sent["model"], app.sent["messages"], app.sent["n"]) == ("gpt-4o-mini", [user("one")], 3)
    assert app.sent.get("max_completion_tokens", app.sent.get("max_tokens")) == 5, "the smaller of two caps holds"
    assert app.sink.last.model == "gpt-4o-mini"
    with pytest.raises(InputRejectedError, match="max_message_chars"):
        getattr(app, way)(extra_body={"messages": [user("a" * 4_001)]})


@both_kinds
@pytest.mark.parametrize("stream", [True, False])
def test_a_stream_that_extra_body_contradicts_is_metered_as_it_was_sent(app: App, stream: bool) -> None:
    recorded = len(app.sink.records)
    answer = app.create(stream=not stream, extra_body={"stream": stream})
    if isinstance(answer, openai.Stream):
        list(answer)
    elif isinstance(answer, openai.AsyncStream):
        app.wait(drained(answer))
    (record,) = app.sink.records[recorded:]
    assert (record.usage_source, record.stream) == ("provider", stream)
    assert app.sent["stream"] is stream


async def drained(stream: Any) -> None:
    async for _ in stream:
        pass


WRONG: tuple[Any, ...] = (0, -1, True, 1.5, "", "x", [], [3], ["x"], [None], {}, {"a": 3}, {"type": 3}, {"type": []})
FIELDS = (
    *("tools", "functions", "tool_choice", "function_call", "response_format", "stop", "prediction", "modalities"),
    *("audio", "web_search_options", "service_tier", "metadata", "user", "logit_bias", "reasoning_effort", "stream"),
    *(
        "stream_options",
        "parallel_tool_calls",
        "store",
        "seed",
        "temperature",
        "logprobs",
        "verbosity",
        "safety_identifier",
    ),
)


@both_kinds
@pytest.mark.parametrize("field", FIELDS)
def test_a_field_of_any_wrong_type_is_denied_or_passed_on(app: App, field: str) -> None:
    """The provider judges what costs nothing here; a request never fails in any other way."""
    for value in WRONG:
        assert_denied_or_handled(app, field, value, {field: value})


@both_kinds
@pytest.mark.parametrize(
    "field", ["name", "tool_calls", "function_call", "refusal", "audio", "tool_call_id", "unknown"]
)
def test_a_message_with_a_field_of_any_wrong_type_is_denied_or_passed_on(app: App, field: str) -> None:
    for value in WRONG:
        message = {"role": "assistant", "content": "x", field: value}
        assert_denied_or_handled(app, field, value, {"messages": [user(), message, user()]})


@both_kinds
@pytest.mark.parametrize("field", ["function", "name", "parameters", "properties", "required", "enum", "type", "anyOf"])
def test_a_tool_with_a_field_of_any_wrong_type_is_denied_or_passed_on(app: App, field: str) -> None:
    for value in WRONG:
        schema = {"type": "object", "properties": {"a": {"type": "string", field: value}}, field: value}
        function = {"name": "f", "parameters": value if field == "parameters" else schema}
        tool = {"type": "function", "function": function, field: value}
        for offered in (tool, {"type": "function", "function": {**function, field: value}}):
            assert_denied_or_handled(app, field, value, {"tools": [offered]})


def assert_denied_or_handled(app: App, field: str, value: Any, arguments: dict[str, Any]) -> None:
    recorded, sent = len(app.sink.records), len(app.server.requests)
    try:
        app.post(**arguments)
    except DeniedError:
        assert len(app.server.requests) == sent
    except Exception as error:
        pytest.fail(f"{field} = {value!r} raised {error!r}")
    assert len(app.sink.records) == recorded + 1


# Who is calling -------------------------------------------------------------------------------------------------------

NOT_A_NAME: tuple[Any, ...] = (
    *("", " ", "\t", "u" * 257, "a\nb", "a\x00", "\x1b[31m", "\u200b", "\u202e", "\ud800"),
    *(0, 1, False, True, 1.5, b"", b"u1", [], ["u1"], {}, ("u1",)),
)


@both_kinds
@pytest.mark.parametrize("value", NOT_A_NAME, ids=[ascii(value)[:20] for value in NOT_A_NAME])
@pytest.mark.parametrize("field", ["user_id", "feature", "session_id"])
def test_what_is_no_name_never_becomes_one(app: App, field: str, value: Any) -> None:
    before = len(app.server.requests)
    ways: tuple[Callable[[], Any], ...] = (
        lambda: app.create(**{field: value}),
        lambda: app.client.with_identity(**{field: value}),
        lambda: ExitStack().enter_context(identify(**{field: value})),
        lambda: app.wait(app.client.guard.usage(**{field: value})),
        lambda: app.quote(**{field: value}),
    )
    for say in ways:
        with pytest.raises(ValueError, match=field):
            say()
    assert len(app.server.requests) == before


@both_kinds
@pytest.mark.parametrize(
    "tags",
    ["a=b", ["a"], 1, b"", {"": "b"}, {" ": "b"}, {1: "b"}, {None: "b"}, {"a": ""}, {"a": 1}, {"a": None},
     {"a": ["b"]}, {"a" * 257: "b"}, {"a": "b" * 257}, {"a": "b\nc"}, {"a\x1b[31m": "b"}, {"a": "\ud800"},
     {str(n): "b" for n in range(33)}],
    ids=lambda value: ascii(value)[:20],
)  # fmt: skip
def test_tags_that_are_no_names_are_refused(app: App, tags: Any) -> None:
    before = len(app.server.requests)
    for say in (app.create, app.client.with_identity):
        with pytest.raises(ValueError, match="tag"):
            say(tags=tags)
    assert len(app.server.requests) == before


@both_kinds
def test_nothing_that_a_request_carries_to_the_provider_names_its_user(app: App) -> None:
    """Neither the private header as text, in any case, nor the fields of the body that look like an identity."""
    for name in ("____safe_llm_claim", "____SAFE_LLM_CLAIM"):
        app.create(
            user_id="ann",
            user="root",
            safety_identifier="root",
            metadata={"user_id": "root"},
            extra_headers={name: "root", "X-User": "root"},
            extra_body={"user_id": "root"},
        )
        assert app.sink.last.user_id == "ann"
        app.create(extra_headers={name: "root"}, user="root")
        assert app.sink.last.user_id == "anonymous"


@both_kinds
def test_a_private_header_as_text_is_no_identity_where_one_is_required(app: App) -> None:
    strict = app.client.with_options(policy={**POLICY, "identity": {"required": True}})
    before = len(app.server.requests)
    with pytest.raises(NotAuthenticatedError):
        app.wait(strict.chat.completions.create(
            model="gpt-4o", messages=[user()], user="root", extra_headers={"____safe_llm_claim": "root"}
        ))  # fmt: skip
    assert len(app.server.requests) == before


# Nothing leaks --------------------------------------------------------------------------------------------------------

PROMPT, ANSWER, KEY, HASH_KEY = "prompt-4Xq", "answer-7Zk", "sk-key-9Vw", "hash-key-2Jt"


@pytest.mark.parametrize("kind", [SafeOpenAI, AsyncSafeOpenAI], ids=["sync", "async"])
def test_no_record_log_message_or_repr_shows_prompt_answer_or_key(kind: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="safe_llm")
    policy = Policy(plans={"default": {"limits": ["$1/day", "6 requests/day"], "models": ["gpt-4o"]}})
    history = [{"role": "system", "content": PROMPT}, *called(f'{{"a": "{PROMPT}"}}'), user(PROMPT, name=PROMPT)]
    usual = {"messages": history, "tools": [tool({"description": PROMPT})], "user_id": "ann"}
    shown: list[str] = []

    def broken(event: Any) -> None:
        raise RuntimeError("This sink always fails.")

    with running(kind, LoggingSink(), broken, api_key=KEY, hash_key=HASH_KEY, policy=policy) as app:

        def ask(**arguments: Any) -> None:
            try:
                answer = app.create(**usual | arguments)
            except openai.OpenAIError as error:
                shown.extend(as_a_reporter_sees(error))
            else:
                if arguments.get("stream"):
                    app.wait(next(answer) if kind is SafeOpenAI else anext(answer))
                    app.wait(answer.close())

        app.server.always(Reply(f"{ANSWER} " * 5))
        ask()
        ask(stream=True)
        app.server.script(*(Reply(status=status, error={"message": ANSWER}) for status in (400, 500)))
        ask()
        ask()
        for arguments in REFUSED_WITH_A_SECRET:
            ask(**arguments)
        for _ in range(6):
            ask()
        guard = app.client.guard
        shown += map(repr, (app.client, app.client.with_identity(user_id="ann"), app.client.chat.completions))
        shown += map(repr, (guard, guard.core, policy, app.wait(guard.usage(user_id="ann")), app.quote(**usual)))
        shown.append(str(policy))

    assert {record.outcome for record in app.sink.records} == {"ok", "aborted", "error", "denied"}
    logged = [record for record in caplog.records if record.name.startswith("safe_llm")]
    assert len(logged) > len(app.sink.records), "every event is logged, and that a sink failed"
    shown += [record.getMessage() + repr(vars(record)) for record in logged]
    shown += [event.model_dump_json() + repr(event) for event in app.sink.events]
    assert [(secret, text) for secret in (PROMPT, ANSWER, KEY, HASH_KEY) for text in shown if secret in text] == []


REFUSED_WITH_A_SECRET: list[dict[str, Any]] = [
    {"messages": [user(PROMPT * 1_000)]},
    {"messages": [user([{"type": PROMPT, PROMPT: PROMPT}])]},
    {"messages": [{"role": PROMPT, "content": PROMPT}]},
    {"messages": [user(PROMPT + "\ud800")]},
    {"messages": [user(nested(100, lambda value: {PROMPT: value}))]},
    {"messages": [user(PROMPT + " x" * 2_000)] * 20 + [{"role": "system", "content": PROMPT * 9_000}]},
    {"model": "gpt-4-turbo"},
    {"max_tokens": PROMPT},
    {"n": 10**9},
    {"extra_query": {"messages": PROMPT}},
    {"extra_body": {PROMPT: PROMPT.encode()}},
]


def as_a_reporter_sees(error: BaseException) -> list[str]:
    """What a tool that reports errors sends home: the text and state of ours, and the call in every frame."""
    shown = []
    for frame, _ in walk_tb(error.__traceback__):
        shown += [repr(value) for value in frame.f_locals.values() if isinstance(value, Call | Admission)]
    if isinstance(error, DeniedError):
        shown += [str(error), repr(error), repr(vars(error)), repr(error.to_problem())]
        shown.append(pickle.dumps(error).decode("latin-1"))
    return shown

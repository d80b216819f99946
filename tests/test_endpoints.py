"""Reading requests and answers: what is weighed before anything else, and what chat completions look like."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletionMessage
from pydantic import BaseModel, ConfigDict

from safe_llm import tokens
from safe_llm.endpoints import ENDPOINTS
from safe_llm.endpoints.chat import CHAT
from safe_llm.endpoints.reading import whole_number
from safe_llm.endpoints.weighing import Weight, take_over
from safe_llm.errors import InputRejectedError
from safe_llm.identity import NOTHING
from safe_llm.policy import InputRules
from safe_llm.types import Call, Part, Usage


def weigh(body: Any, rules: InputRules) -> Weight:
    return take_over(body, rules)[1]


RULES = InputRules()
USER = {"role": "user", "content": "Hello"}
IMAGE = {"type": "image_url", "image_url": {"url": "https://example.com/cat.png"}}


def weight(body: Mapping[str, Any], **rules: int) -> tuple[int, int]:
    return tuple(weigh(body, InputRules(**rules)))  # type: ignore[return-value]  # a named tuple of two


def rejected(body: Mapping[str, Any], **rules: int) -> InputRejectedError:
    with pytest.raises(InputRejectedError) as caught:
        weigh(body, InputRules(**rules))
    return caught.value


# Weighing -------------------------------------------------------------------------------------------------------------


def test_the_weight_of_a_request_is_its_text_in_bytes_the_names_of_its_fields_included() -> None:
    assert weight({"a": "xyz", "bc": ["é", {"d": "🙂"}], "n": 7, "t": True, "z": None}) == (
        1 + 3 + 2 + 2 + 1 + 4 + 3,
        0,
    )


def test_names_of_fields_weigh_their_bytes_too() -> None:
    assert weight({"é": 1}) == (2, 0)


@pytest.mark.parametrize(
    ("part", "text", "inline"),
    [
        ({"url": "data:image/png;base64,AAAA"}, 3, 26),
        ({"image_url": "data:image/png;base64,AAAA"}, 9, 26),
        ({"url": "https://example.com/cat.png"}, 30, 0),
        ({"data": "AAAA"}, 4, 4),
        ({"file_data": "AAAA"}, 9, 4),
        ({"b64_json": ["AAAA", "BB"]}, 8, 6),
        ({"text": "data:AAAA"}, 13, 0),
    ],
)
def test_inline_data_weighs_apart_from_text(part: dict[str, Any], text: int, inline: int) -> None:
    assert weight(part) == (text, inline)


def test_a_request_of_exactly_the_limit_passes_and_one_byte_more_does_not() -> None:
    assert weight({"a": "x" * 99}, max_request_bytes=100) == (100, 0)
    error = rejected({"a": "x" * 100}, max_request_bytes=100)
    assert (error.code, error.status_code) == ("request_too_large", 413)
    assert "max_request_bytes" in str(error)
    assert weight({"data": "A" * 100}, max_inline_bytes=100) == (4, 100)
    assert "max_inline_bytes" in str(rejected({"data": "A" * 101}, max_inline_bytes=100))


def test_many_small_texts_weigh_as_much_as_a_large_one() -> None:
    assert rejected({"a": ["x" * 10] * 10}, max_request_bytes=100).status_code == 413
    assert rejected({"a": [{"b": "x"}] * 60}, max_request_bytes=100).status_code == 413


def nested(levels: int, value: Any = "x", *, kind: str = "list") -> dict[str, Any]:
    for _ in range(levels - 1):
        value = [value] if kind == "list" else {"a": value}
    return {"a": value}


@pytest.mark.parametrize("kind", ["list", "dict"])
@pytest.mark.parametrize("levels", [100, 1_000, 100_000])
def test_nesting_that_is_too_deep_is_refused_without_recursion(kind: str, levels: int) -> None:
    weigh(nested(60, kind=kind), RULES)
    began = time.perf_counter()
    error = rejected(nested(levels, kind=kind))
    assert (error.code, error.status_code) == ("malformed_request", 400)
    assert "64 levels" in str(error)
    assert time.perf_counter() - began < 1


def test_a_request_that_contains_itself_is_refused() -> None:
    body: dict[str, Any] = {}
    body["a"] = body
    assert rejected(body).code == "malformed_request"


@pytest.mark.parametrize(
    "body",
    [
        {"a": "\ud800"},
        {"a": "x\udfff" * 3},
        {"a": [{"b": "\ud83d"}]},
        {"\ud800": 1},
        {"data": "AAAA\ud800"},
        {"url": "data:image/png;base64,\ud800"},
    ],
)
def test_text_that_is_not_unicode_is_refused_wherever_it_stands(body: dict[str, Any]) -> None:
    error = rejected(body)
    assert error.code == "malformed_request"
    assert "valid Unicode" in str(error)


@pytest.mark.parametrize("value", [b"x", bytearray(b"x")])
def test_bytes_are_no_json(value: object) -> None:
    assert rejected({"a": [value]}).code == "malformed_request"


def test_models_and_mappings_of_any_kind_are_weighed() -> None:
    message = ChatCompletionMessage(role="assistant", content="x" * 50)
    assert weight({"m": [message]})[0] >= 50
    assert weight({"m": MappingProxyType({"a": "x" * 50})})[0] == 52
    assert rejected({"m": [message]}, max_request_bytes=40).status_code == 413


def test_the_extra_fields_of_a_model_are_weighed_too() -> None:
    class Open(BaseModel):
        model_config = ConfigDict(extra="allow")

    assert rejected({"m": Open(more="x" * 50)}, max_request_bytes=40).status_code == 413


def test_ten_megabytes_are_refused_at_once() -> None:
    began = time.perf_counter()
    assert rejected({"a": "é" * 10_000_000}).status_code == 413
    assert time.perf_counter() - began < 0.5


@pytest.mark.parametrize(("value", "found"), [(None, None), (1, 1), (10**6, 10**6)])
def test_a_whole_number_may_be_absent(value: object, found: int | None) -> None:
    assert whole_number({"n": value}, "n") == found


@pytest.mark.parametrize("value", [0, -1, 1.0, "1", True, [1], float("nan")])
def test_what_is_no_whole_number_of_at_least_1_is_refused(value: object) -> None:
    with pytest.raises(InputRejectedError, match="n must be a whole number of at least 1"):
        whole_number({"n": value}, "n")


def test_a_model_is_read_as_the_json_that_the_sdk_would_send() -> None:
    message = ChatCompletionMessage(role="assistant", content="x")
    copied, _ = take_over({"messages": [message]}, InputRules())
    assert copied == {"messages": [{"role": "assistant", "content": "x"}]}


# Chat: reading --------------------------------------------------------------------------------------------------------


def call(*messages: Any, stream: bool = False, **body: Any) -> Call:
    return Call(CHAT, {"model": "gpt-4o", "messages": list(messages) or [USER], **body}, NOTHING, stream=stream)


def read(*messages: Any, **body: Any) -> Call:
    found = call(*messages, **body)
    CHAT.read(found)
    return found


def test_the_registry_knows_the_endpoint_by_its_path() -> None:
    assert ENDPOINTS["/chat/completions"] is CHAT
    assert all(path == endpoint.path for path, endpoint in ENDPOINTS.items())


VALID: list[Any] = [
    {"role": "system", "content": "s"},
    {"role": "developer", "content": [{"type": "text", "text": "d"}]},
    {"role": "user", "content": ""},
    {"role": "user", "name": "ann", "content": [{"type": "text", "text": "t"}, IMAGE]},
    {"role": "user", "content": ({"type": "text", "text": "t"},)},
    {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}}]},
    {"role": "user", "content": [{"type": "file", "file": {"file_data": "AA=="}}]},
    {"role": "assistant", "content": "a"},
    {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}]},
    {"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}},
    {"role": "assistant", "refusal": "no"},
    {"role": "assistant", "audio": {"id": "audio_1"}},
    {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
    {"role": "tool", "tool_call_id": "1", "content": "r"},
    {"role": "function", "name": "f", "content": None},
]


@pytest.mark.parametrize("message", VALID)
def test_every_kind_of_message_is_read(message: Any) -> None:
    found = read(message)
    assert found.messages is not None
    assert len(found.messages) == 1
    CHAT.validate(found, RULES)
    assert CHAT.measure(found, found.messages[0], tokens.upper_bound) >= tokens.chat.PER_MESSAGE


MALFORMED: list[tuple[Any, str]] = [
    (None, "messages[1] is not an object"),
    ("hello", "messages[1] is not an object"),
    ([], "messages[1] is not an object"),
    ({}, "messages[1] has an unknown role"),
    ({"role": "root", "content": "x"}, "messages[1] has an unknown role"),
    ({"role": ["user"], "content": "x"}, "messages[1] has an unknown role"),
    ({"role": "user"}, "messages[1] has no content"),
    ({"role": "user", "content": None}, "messages[1] has no content"),
    ({"role": "tool", "tool_call_id": "1"}, "messages[1] has no content"),
    ({"role": "assistant"}, "messages[1] has no content"),
    ({"role": "assistant", "tool_calls": []}, "messages[1] has no content"),
    ({"role": "user", "tool_calls": [{}]}, "messages[1] has no content"),
    ({"role": "user", "content": 7}, "messages[1].content must be text or a list of parts"),
    ({"role": "user", "content": []}, "messages[1].content must be text or a list of parts"),
    ({"role": "user", "content": {"type": "text", "text": "x"}}, "messages[1].content must be text or a list of parts"),
    ({"role": "user", "content": ["x"]}, "messages[1].content[0] is not a part of a known type"),
    ({"role": "user", "content": [{}]}, "messages[1].content[0] is not a part of a known type"),
    ({"role": "user", "content": [{"type": "video"}]}, "messages[1].content[0] is not a part of a known type"),
    ({"role": "user", "content": [{"type": ["text"]}]}, "messages[1].content[0] is not a part of a known type"),
    ({"role": "user", "content": [IMAGE, {"type": "text"}]}, "messages[1].content[1].text is missing"),
    ({"role": "user", "content": [{"type": "text", "text": 7}]}, "messages[1].content[0].text is missing"),
    ({"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}, "messages[1].content[0].image_url is"),
    ({"role": "user", "content": [{"type": "input_audio"}]}, "messages[1].content[0].input_audio is missing"),
    ({"role": "user", "content": [{"type": "file", "file": "x"}]}, "messages[1].content[0].file is missing"),
]


@pytest.mark.parametrize(("message", "problem"), MALFORMED)
def test_a_malformed_message_is_refused_with_its_place(message: Any, problem: str) -> None:
    with pytest.raises(InputRejectedError) as caught:
        read(USER, message)
    assert problem in str(caught.value)
    assert (caught.value.code, caught.value.status_code) == ("malformed_request", 400)


@pytest.mark.parametrize("messages", [None, "hello", {"role": "user"}, 7])
def test_messages_are_a_list(messages: Any) -> None:
    with pytest.raises(InputRejectedError, match="messages must be a list"):
        CHAT.read(Call(CHAT, {"messages": messages}, NOTHING))


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "n"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "10", True])
def test_caps_and_answers_are_whole_numbers_of_at_least_1(name: str, value: Any) -> None:
    with pytest.raises(InputRejectedError, match=f"{name} must be a whole number"):
        read(**{name: value})


@pytest.mark.parametrize(
    ("body", "cap"),
    [
        ({}, None),
        ({"max_tokens": None}, None),
        ({"max_tokens": 5}, 5),
        ({"max_completion_tokens": 5}, 5),
        ({"max_tokens": 9, "max_completion_tokens": 5}, 5),
        ({"max_tokens": 5, "max_completion_tokens": 9}, 5),
    ],
)
def test_the_cap_is_the_smaller_of_those_that_are_named(body: dict[str, Any], cap: int | None) -> None:
    assert read(**body).cap == cap


def test_answers_tiers_and_predictions_are_read() -> None:
    found = read(n=3, service_tier="flex", prediction={"type": "content", "content": [{"type": "text", "text": "né"}]})
    assert (found.answers, found.tier, found.extra_output) == (3, "flex", 3)
    assert (read().answers, read().tier, read().extra_output) == (1, None, 0)
    assert read(service_tier=7, prediction="x").tier is None


@pytest.mark.parametrize(
    ("body", "tools"),
    [
        ({}, ()),
        ({"tools": [{"type": "function", "function": {"name": "f"}}, {"type": "custom", "custom": {}}]}, ()),
        ({"tools": [{"type": "web_search"}]}, ("web_search",)),
        ({"web_search_options": {}}, ("web_search",)),
        ({"web_search_options": None}, ()),
        ({"tools": [{"type": "mcp"}], "web_search_options": {}}, ("mcp", "web_search")),
    ],
)
def test_tools_that_the_provider_runs_itself_are_found(body: dict[str, Any], tools: tuple[str, ...]) -> None:
    assert read(**body).hosted_tools == tools


def test_reading_leaves_the_callers_messages_alone() -> None:
    content = ({"type": "text", "text": "t"},)
    message = {"role": "user", "content": content}
    found = read(message)
    assert message == {"role": "user", "content": content}
    assert found.messages == [{"role": "user", "content": [{"type": "text", "text": "t"}]}]


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.sampled_from(["", "x", "é"])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["type", "text", "function", "name", "arguments", "id", "parameters"]), inner),
    ),
    max_leaves=8,
)
FIELDS = ["content", "name", "tool_calls", "function_call", "refusal", "audio", "tool_call_id", "x"]
any_message = st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "tool", "system"])}).flatmap(
    lambda role: st.dictionaries(st.sampled_from(FIELDS), json_values).map(
        lambda rest: {**role, "content": "c", **rest}
    )
)
OTHERS = [
    "tools",
    "functions",
    "response_format",
    "tool_choice",
    "prediction",
    "n",
    "web_search_options",
    "stream_options",
]


@given(st.lists(any_message, min_size=1, max_size=3), st.dictionaries(st.sampled_from(OTHERS), json_values, max_size=3))
@example([USER], {"tools": "web_search"})
@example([USER], {"tools": 7})
@example([USER], {"tools": [7]})
@example([USER], {"tools": {"type": "web_search"}})
@example([{"role": "assistant", "content": "c", "tool_calls": 7}], {})
def test_a_request_of_any_shape_is_read_and_counted_or_refused(messages: list[Any], others: dict[str, Any]) -> None:
    """It raises no error but the one that an application expects."""
    found = call(*messages, **others)
    try:
        weigh(found.body, RULES)
        CHAT.read(found)
        CHAT.validate(found, RULES)
        assert CHAT.overhead(found, tokens.upper_bound) >= 0
        assert all(CHAT.measure(found, message, tokens.upper_bound) > 0 for message in found.messages or ())
    except InputRejectedError:
        return
    CHAT.plain(found)
    CHAT.parts(found)
    CHAT.prompt(found)
    CHAT.wants_usage(found)
    assert CHAT.write(found)["messages"] == found.messages


class Hosted(BaseModel):
    """A tool as some applications write theirs."""

    type: str


@pytest.mark.parametrize(
    "tools",
    [
        [Hosted(type="web_search")],
        ({"type": "web_search"},),
        {"type": "web_search"},
        {"a": {"type": "web_search"}},
        "web_search",
    ],
)
def test_tools_in_a_shape_of_their_own_are_no_way_round(tools: Any) -> None:
    """What cannot be read as tools is refused, or found all the same."""
    with contextlib.suppress(InputRejectedError):
        assert read(tools=tools).hosted_tools == ("web_search",)


# Chat: rules ----------------------------------------------------------------------------------------------------------


def too_large(rules: InputRules, *messages: Any) -> InputRejectedError:
    with pytest.raises(InputRejectedError) as caught:
        CHAT.validate(read(*messages), rules)
    assert caught.value.status_code == 413
    return caught.value


def test_the_text_of_a_user_message_is_limited_and_the_applications_own_is_not() -> None:
    rules = InputRules(max_message_chars=10)
    CHAT.validate(
        read(
            {"role": "user", "content": "é" * 10},
            *(
                {**USER, "role": r, "content": "x" * 11, "tool_call_id": "1"}
                for r in ("system", "developer", "assistant", "tool")
            ),
        ),
        rules,
    )
    error = too_large(rules, {"role": "user", "content": "x" * 11}, USER)
    assert error.code == "message_too_long"
    assert "messages[0] has 11 characters" in str(error)


def test_the_parts_of_one_message_count_together() -> None:
    part = {"type": "text", "text": "x" * 6}
    assert (
        too_large(InputRules(max_message_chars=10), USER, {"role": "user", "content": [part, part]}).code
        == "message_too_long"
    )


def test_images_of_all_messages_count_together() -> None:
    two = {"role": "user", "content": [IMAGE, IMAGE]}
    CHAT.validate(read(two), InputRules(max_images=2))
    error = too_large(InputRules(max_images=3), two, two)
    assert error.code == "too_many_images"
    assert "4 images" in str(error)
    assert too_large(InputRules(max_images=0), two).code == "too_many_images"


def test_checks_see_every_text_and_who_wrote_it() -> None:
    found = read(
        {"role": "system", "content": "s"},
        {"role": "user", "content": [{"type": "text", "text": "t"}, IMAGE]},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "r"}]},
        {"role": "tool", "tool_call_id": "1", "content": "x"},
    )
    assert CHAT.parts(found) == (
        Part("system", "s", trusted=True),
        Part("user", "t", trusted=False),
        Part("assistant", "r", trusted=False),
        Part("tool", "x", trusted=False),
    )


# Chat: writing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "sent"),
    [
        ({}, {"max_completion_tokens": 7}),
        ({"max_tokens": 9}, {"max_tokens": 7}),
        ({"max_completion_tokens": 9}, {"max_completion_tokens": 7}),
        ({"max_tokens": 9, "max_completion_tokens": 9}, {"max_completion_tokens": 7}),
        ({"max_tokens": None, "max_completion_tokens": 9}, {"max_completion_tokens": 7}),
        ({"max_tokens": 9, "max_completion_tokens": None}, {"max_tokens": 7}),
    ],
)
def test_one_cap_is_written_in_the_field_that_the_caller_chose(body: dict[str, Any], sent: dict[str, int]) -> None:
    found = read(**body)
    found.cap = 7
    assert {name: value for name, value in CHAT.write(found).items() if "max" in name} == sent


def test_without_a_cap_none_is_written() -> None:
    assert CHAT.write(read()) == {"model": "gpt-4o", "messages": [USER]}


def test_writing_makes_a_body_of_its_own() -> None:
    found = read(stream_options={"x": 1}, stream=True)
    body, options = dict(found.body), dict(found.body["stream_options"])
    found.messages, found.cap = [USER, USER], 7
    written = CHAT.write(found)
    assert written["messages"] == [USER, USER]
    assert written["stream_options"] == {"x": 1, "include_usage": True}
    assert found.body == body
    assert found.body["stream_options"] == options


@pytest.mark.parametrize("given", [None, {}, {"include_usage": False}, "x"])
def test_a_stream_is_asked_for_its_usage_whatever_the_caller_said(given: Any) -> None:
    found = read(stream=True, stream_options=given)
    assert not CHAT.wants_usage(found)
    assert CHAT.write(found)["stream_options"] == {"include_usage": True}


def test_a_plain_call_is_not_asked_for_the_usage_of_a_stream() -> None:
    assert "stream_options" not in CHAT.write(read())


# Chat: answers --------------------------------------------------------------------------------------------------------


NO_USAGE: list[Any] = [None, {}, [], 7, "9", {"prompt_tokens": 9}, {"completion_tokens": 3}]


@pytest.mark.parametrize(
    ("found", "usage"),
    [
        ({"prompt_tokens": 9, "completion_tokens": 3}, Usage(9, 3)),
        ({"prompt_tokens": 0, "completion_tokens": 0}, Usage(0, 0)),
        (
            {
                "prompt_tokens": 9,
                "completion_tokens": 5,
                "prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": 2, "cache_write_tokens": 1},
                "completion_tokens_details": {"reasoning_tokens": 3, "audio_tokens": 1},
            },
            Usage(9, 5, 4, 1, 3, 2, 1),
        ),
        (
            {
                "prompt_tokens": 9,
                "completion_tokens": 5,
                "prompt_tokens_details": {"cached_tokens": 10, "audio_tokens": -1},
                "completion_tokens_details": None,
            },
            Usage(9, 5, 9),
        ),
        *[(value, None) for value in NO_USAGE],
        ({"prompt_tokens": -1, "completion_tokens": 3}, None),
        ({"prompt_tokens": 9, "completion_tokens": -3}, None),
        ({"prompt_tokens": 9.0, "completion_tokens": 3}, None),
        ({"prompt_tokens": "9", "completion_tokens": 3}, None),
        ({"prompt_tokens": None, "completion_tokens": None}, None),
    ],
)
def test_usage_is_what_the_provider_says_and_nonsense_is_none(found: Any, usage: Usage | None) -> None:
    """An explicit 0 and 0 is believed; a part is never larger than its whole."""
    assert CHAT.usage({"usage": found}) == usage


TOOL_CALLS = [{"function": {"name": "f", "arguments": '{"a"'}}, {"function": {"arguments": ":1}"}}]


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ({"content": "a"}, "a"),
        ({"role": "assistant", "content": "a"}, "a"),
        ({"refusal": "no"}, "no"),
        ({"reasoning_content": "hm"}, "hm"),
        ({"content": "", "reasoning_content": "hm"}, "hm"),
        ({"content": "a", "refusal": "no"}, "ano"),
        ({"content": "a", "tool_calls": TOOL_CALLS}, 'a{"a":1}'),
        ({"role": "assistant", "content": None, "tool_calls": TOOL_CALLS}, '{"a":1}'),
        ({"function_call": {"name": "f", "arguments": "{}"}}, "{}"),
        ({}, ""),
        ({"content": None}, ""),
        ({"content": 7, "refusal": 7, "tool_calls": [7, {"function": 7}], "function_call": {"arguments": 7}}, ""),
        ({"tool_calls": 7}, ""),
    ],
)
def test_all_that_an_answer_says_is_text(said: dict[str, Any], text: str) -> None:
    for name in ("delta", "message"):
        assert CHAT.said({"choices": [{name: said}]}) == (text, False)


def test_the_texts_of_several_answers_are_one() -> None:
    item = {"choices": [{"delta": {"content": "a"}}, {"delta": {"content": "b"}, "finish_reason": "length"}]}
    assert CHAT.said(item) == ("ab", True)


@pytest.mark.parametrize("item", [{}, {"choices": None}, {"choices": 7}, {"choices": [None, 7, {}]}])
def test_an_answer_without_choices_says_nothing(item: dict[str, Any]) -> None:
    assert CHAT.said(item) == ("", False)


def test_only_a_chunk_without_choices_is_nothing_but_usage() -> None:
    assert CHAT.only_usage({"choices": [], "usage": {}})
    assert not CHAT.only_usage({"choices": [{}], "usage": {}})
    assert CHAT.answer(USER) is USER

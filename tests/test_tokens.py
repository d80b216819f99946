"""Token counts and bounds: the tokenizer, chat requests, images."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safe_llm import tokens
from safe_llm.tokens import text as text_module

GPT_4O = tokens.exact("gpt-4o")

# Text -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "encoding"),
    [
        ("gpt-4", "cl100k_base"),
        ("gpt-4-0613", "cl100k_base"),
        ("gpt-4-turbo-2024-04-09", "cl100k_base"),
        ("gpt-3.5-turbo-instruct", "cl100k_base"),
        ("gpt-35-turbo", "cl100k_base"),
        ("ft:gpt-3.5-turbo-0125:acme::1", "cl100k_base"),
        ("ft:gpt-4:acme::1", "cl100k_base"),
        ("text-embedding-3-small", "cl100k_base"),
        ("text-embedding-ada-002-v2", "cl100k_base"),
        ("gpt-4o-mini-2024-07-18", "o200k_base"),
        ("chatgpt-4o-latest", "o200k_base"),
        ("gpt-4.1-nano", "o200k_base"),
        ("ft:gpt-4.1-2025-04-14:acme::1", "o200k_base"),
        ("gpt-4.5-preview", "o200k_base"),
        ("gpt-5.2", "o200k_base"),
        ("gpt-6", "o200k_base"),
        ("gpt-audio", "o200k_base"),
        ("o3", "o200k_base"),
        ("codex-mini-latest", "o200k_base"),
        ("my-azure-deployment", "o200k_base"),
    ],
)
def test_every_model_has_its_encoding(model: str, encoding: str) -> None:
    assert tokens.encoding_for(model) == encoding


@pytest.mark.parametrize(
    ("model", "text", "count"),
    [
        # Published examples of the tokenizer: github.com/openai/openai-cookbook, "How to count tokens with tiktoken".
        ("gpt-4", "antidisestablishmentarianism", 6),
        ("gpt-4o", "antidisestablishmentarianism", 6),
        ("gpt-4", "2 + 2 = 4", 7),
        ("gpt-4o", "2 + 2 = 4", 7),
        ("gpt-4", "お誕生日おめでとう", 9),
        ("gpt-4o", "お誕生日おめでとう", 8),
    ],
)
def test_published_counts_are_met(model: str, text: str, count: int) -> None:
    assert tokens.exact(model)(text) == count


def test_special_tokens_count_as_plain_text() -> None:
    assert GPT_4O("<|endoftext|>") > 1


def test_long_texts_are_cut_between_words_without_changing_the_count() -> None:
    sentence = "The quick brown fox jumps over 13 lazy dogs, doesn't it? "
    long = sentence * 1_000
    whole = len(text_module._encoding("o200k_base").encode(long, disallowed_special=()))
    assert len(long) > 6 * text_module.PIECE
    assert GPT_4O(long) == whole


@pytest.mark.parametrize("run", [" ", "a", "\n", "́", "🏽"])
def test_a_run_of_a_million_characters_is_counted(run: str) -> None:
    text = run * 1_000_000
    assert tokens.lower_bound(text) <= GPT_4O(text) <= tokens.upper_bound(text)


@given(st.text())
def test_exact_counts_lie_between_the_bounds(text: str) -> None:
    for model in ("gpt-4o", "gpt-4"):
        assert tokens.lower_bound(text) <= tokens.exact(model)(text) <= tokens.upper_bound(text)


def test_unpaired_surrogates_are_bounded_too() -> None:
    text = "\ud800 \udfff" * 10
    assert GPT_4O(text) <= tokens.upper_bound(text)


def test_the_lower_bound_is_met_by_the_longest_token() -> None:
    assert tokens.lower_bound(" " * 128) == GPT_4O(" " * 128) == 1
    assert tokens.lower_bound("") == GPT_4O("") == 0


def test_counting_up_to_a_budget_is_exact_within_it() -> None:
    count = tokens.exact_up_to("gpt-4o", 100)
    texts = ["hello world", "", "a b c d"]
    assert [count(text) for text in texts] == [GPT_4O(text) for text in texts]


def test_counting_up_to_a_budget_stops_behind_it() -> None:
    words = "word " * 100_000
    count = tokens.exact_up_to("gpt-4o", 1_000)
    first = count(words)
    assert 1_000 < first < GPT_4O(words) / 10
    assert count("eight more words that are not tokenized now") == 1


def test_a_text_whose_lower_bound_passes_the_budget_is_not_tokenized() -> None:
    text = " " * 1_280
    assert tokens.exact_up_to("gpt-4o", 9)(text) == tokens.lower_bound(text) == 10


@settings(max_examples=50)
@given(st.lists(st.text()), st.integers(0, 50))
def test_a_budget_is_passed_if_and_only_if_the_exact_sum_passes_it(texts: list[str], budget: int) -> None:
    count = tokens.exact_up_to("gpt-4o", budget)
    total, truth = sum(map(count, texts)), sum(map(GPT_4O, texts))
    assert total == truth if truth <= budget else budget < total <= truth


def test_inputs_of_embeddings_may_be_texts_tokens_or_lists_of_them() -> None:
    assert tokens.input_tokens("hello world", GPT_4O) == 2
    assert tokens.input_tokens(["hello world", "hi"], GPT_4O) == 3
    assert tokens.input_tokens([1, 2, 3], GPT_4O) == 3
    assert tokens.input_tokens([[1, 2], [3]], GPT_4O) == 3


def test_an_encoding_is_loaded_once_however_many_threads_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_module, "_loaded", {})
    barrier = Barrier(8)

    def load(_: int) -> object:
        barrier.wait()
        return text_module._encoding("cl100k_base")

    with ThreadPoolExecutor(8) as pool:
        assert len(set(map(id, pool.map(load, range(8))))) == 1


def test_importing_and_bounding_loads_no_tokenizer() -> None:
    program = """
import sys
from safe_llm import tokens
body = {"messages": [{"role": "user", "content": "hi"}], "tools": [{"type": "function", "function": {"name": "f"}}]}
assert tokens.bound_tokens(body, tokens.upper_bound, "gpt-4o") > 0
assert "tiktoken" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)


# Chat -----------------------------------------------------------------------------------------------------------------


def request(*contents: Any, **rest: Any) -> dict[str, Any]:
    return {"model": "gpt-4o", "messages": [{"role": "user", "content": content} for content in contents], **rest}


def function(name: str, **rest: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **rest}}


WEATHER = function(
    "get_weather",
    description="Get the weather.\nOf today.",
    strict=True,
    parameters={
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "city": {"type": "string", "title": "City", "description": "Name of the city"},
            "days": {"type": "integer", "default": 1, "minimum": 1},
            "unit": {"enum": ["C", "F"]},
            "where": {"$ref": "#/$defs/Place"},
            "hours": {"type": "array", "items": {"type": "number"}},
            "kind": {"const": "short"},
            "until": {"anyOf": [{"type": "string", "format": "date"}, {"type": "null"}]},
            "note": {"type": ["string", "null"]},
            "area": {"type": "object", "properties": {"radius": {"type": "number"}}, "required": ["radius"]},
            "any": True,
            "rest": {},
        },
        "required": ["city"],
        "$defs": {"Place": {"type": "object", "properties": {"lat": {"type": "number"}}}},
    },
)
WEATHER_AS_TYPESCRIPT = """\
namespace functions {

// Get the weather.
// Of today.
type get_weather = (_: {
// City
//
// Name of the city
city: string,
// minimum: 1
days?: number, // default: 1
unit?: "C" | "F",
where?: Place,
hours?: number[],
kind?: "short",
until?: {"type":"string","format":"date"} | null,
note?: {"type":["string","null"]},
area?: {
  radius: number,
},
any?: true,
rest?: any,
}) => any;
type Place = {
  lat?: number,
};

} // namespace functions"""


def test_a_plain_request_is_its_text_and_four_tokens_a_message_and_three() -> None:
    body = request("hello world", "hi")
    assert tokens.request_tokens(body, GPT_4O, "gpt-4o") == 3 + (4 + 2) + (4 + 1)
    assert tokens.bound_tokens(body, GPT_4O, "gpt-4o") == 14


def test_gpt_5_primes_its_answer_with_one_token_less() -> None:
    body = request("hello world")
    assert tokens.request_tokens(body, GPT_4O, "gpt-5-mini") == tokens.request_tokens(body, GPT_4O, "gpt-4o") - 1


def test_a_name_costs_its_text_and_one_token() -> None:
    named = {"role": "user", "content": "hi", "name": "alice"}
    assert tokens.message_tokens(named, GPT_4O, "gpt-4o") == 4 + 1 + GPT_4O("alice") + 1


def test_text_parts_cost_what_their_text_costs() -> None:
    parts = [{"type": "text", "text": "hello world"}, {"type": "refusal", "refusal": "no"}]
    assert tokens.message_tokens({"role": "assistant", "content": parts}, GPT_4O, "gpt-4o") == 4 + 2 + 1
    assert tokens.is_plain(request(parts[:1]))


def test_the_request_is_its_overhead_and_its_messages() -> None:
    body = request("hello", tools=[WEATHER])
    alone = {key: value for key, value in body.items() if key != "messages"}
    for count in (GPT_4O, tokens.upper_bound):
        assert tokens.request_tokens(body, count, "gpt-4o") == tokens.overhead_tokens(
            alone, count, "gpt-4o"
        ) + tokens.message_tokens(body["messages"][0], count, "gpt-4o")


def test_tools_are_read_as_typescript() -> None:
    assert tokens.typescript([WEATHER]) == WEATHER_AS_TYPESCRIPT
    assert tokens.typescript([WEATHER["function"]]) == WEATHER_AS_TYPESCRIPT
    added = tokens.overhead_tokens({"tools": [WEATHER]}, GPT_4O, "gpt-4o") - tokens.overhead_tokens(
        {}, GPT_4O, "gpt-4o"
    )
    assert added == 9 + GPT_4O(WEATHER_AS_TYPESCRIPT)


def test_functions_without_parameters_and_foreign_tools_are_read_too() -> None:
    assert "type now = () => any;" in tokens.typescript([function("now")])
    assert '{"type":"custom","custom":{"name":"x"}}' in tokens.typescript([{"type": "custom", "custom": {"name": "x"}}])


def test_legacy_functions_cost_what_tools_cost() -> None:
    as_tools, as_functions = {"tools": [WEATHER]}, {"functions": [WEATHER["function"]]}
    counts = {tokens.overhead_tokens(body, GPT_4O, "gpt-4") for body in (as_tools, as_functions)}
    assert len(counts) == 1


def test_gpt_5_gets_instructions_with_its_tools() -> None:
    body = {"tools": [WEATHER]}
    assert tokens.overhead_tokens(body, GPT_4O, "gpt-5") >= tokens.overhead_tokens(body, GPT_4O, "gpt-4o") + 80


def test_a_schema_nested_without_end_is_cut_off_and_counted_as_json() -> None:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(200):
        schema = {"type": "array", "items": schema}
    deep = function("f", parameters={"type": "object", "properties": {"x": schema}})
    assert tokens.typescript([deep]).count('"items"') > 150


def test_a_forced_tool_and_a_response_schema_cost_something() -> None:
    schema = {"name": "Joke", "schema": {"type": "object", "properties": {"joke": {"type": "string"}}}}
    bare = tokens.overhead_tokens({}, GPT_4O, "gpt-4o")
    forced = {"tool_choice": {"type": "function", "function": {"name": "get_weather"}}}
    shaped = {"response_format": {"type": "json_schema", "json_schema": schema}}
    assert tokens.overhead_tokens(forced, GPT_4O, "gpt-4o") > bare + GPT_4O("get_weather")
    assert tokens.overhead_tokens(shaped, GPT_4O, "gpt-4o") == bare + 8 + GPT_4O(
        json.dumps(schema, separators=(",", ":"))
    )
    for free in ({"tool_choice": "auto"}, {"response_format": {"type": "json_object"}}, {"response_format": None}):
        assert tokens.overhead_tokens(free, GPT_4O, "gpt-4o") == bare


CALL = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city":"Rome"}'}}


def test_tool_calls_cost_their_name_and_arguments_and_parallel_ones_a_wrapper() -> None:
    def cost(*calls: Any) -> int:
        return tokens.message_tokens({"role": "assistant", "content": None, "tool_calls": [*calls]}, GPT_4O, "gpt-4o")

    one = cost(CALL) - 4
    assert one == 9 + GPT_4O("get_weather") + GPT_4O('{"city":"Rome"}')
    assert cost(CALL, CALL) == 4 + 2 * one + 12
    legacy = {"role": "assistant", "content": None, "function_call": CALL["function"]}
    assert tokens.message_tokens(legacy, GPT_4O, "gpt-4o") == 4 + one
    assert cost({"type": "custom", "custom": {"name": "sql", "input": "select 1"}}) > 4 + GPT_4O("select 1")


def test_the_ids_of_tool_results_are_free() -> None:
    result = {"role": "tool", "tool_call_id": "call_" + "1" * 100, "content": "sunny"}
    assert tokens.message_tokens(result, GPT_4O, "gpt-4o") == 4 + GPT_4O("sunny")


@pytest.mark.parametrize(
    "message",
    [
        {"role": "assistant", "content": "x", "annotations": [{"url": "https://example.org"}]},
        {"role": "user", "content": [{"type": "video", "video": {"url": "https://example.org"}}]},
        {"role": "user", "content": ["https://example.org"]},
        {"role": "user", "content": {"url": "https://example.org"}},
        {"role": "user", "content": [{"type": "image_url", "image_url": "https://example.org"}]},
        {"role": "assistant", "tool_calls": [{"function": "https://example.org"}]},
        {"role": "assistant", "tool_calls": "https://example.org"},
        {"role": "user", "content": "", "name": ["https://example.org"]},
    ],
)
def test_what_is_unknown_in_a_message_counts_as_its_json(message: dict[str, Any]) -> None:
    assert tokens.message_tokens(message, GPT_4O, "gpt-4o") >= 4 + GPT_4O("https://example.org")


@pytest.mark.parametrize(
    "body",
    [
        request("hi", tools=[WEATHER]),
        request("hi", functions=[WEATHER["function"]]),
        request("hi", response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}),
        request([{"type": "image_url", "image_url": {"url": "https://example.org/x.png", "detail": "low"}}]),
        {"messages": [{"role": "assistant", "content": None, "tool_calls": [CALL]}]},
        {"messages": [{"role": "tool", "tool_call_id": "call_1", "content": "sunny"}]},
        request({"unheard": "of"}),
    ],
)
def test_a_request_that_is_not_plain_text_is_reserved_with_ten_percent_more(body: dict[str, Any]) -> None:
    assert not tokens.is_plain(body)
    counted = tokens.request_tokens(body, GPT_4O, "gpt-4o")
    assert tokens.bound_tokens(body, GPT_4O, "gpt-4o") == -(-counted * 11 // 10)
    assert tokens.bound_tokens(body, tokens.upper_bound, "gpt-4o") >= tokens.bound_tokens(body, GPT_4O, "gpt-4o")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
keywords = st.sampled_from(
    ["type", "properties", "required", "items", "enum", "anyOf", "$ref", "$defs", "const", "default", "title", "format"]
)
schemas = st.recursive(
    json_values, lambda inner: st.dictionaries(keywords, inner | st.lists(inner, max_size=3)), max_leaves=12
)
messages = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant", "tool"])},
    optional={
        "content": st.text() | st.lists(json_values, max_size=3),
        "name": json_values,
        "tool_calls": json_values,
        "function_call": json_values,
        "refusal": json_values,
        "audio": json_values,
    },
)


@settings(max_examples=200, deadline=None)
@given(st.lists(messages, max_size=3), st.lists(schemas, max_size=2), json_values)
def test_no_request_is_too_strange_to_be_bounded(chat: list[Any], parameters: list[Any], shape: Any) -> None:
    """The bound without a tokenizer is never below the exact one, whatever the fields hold."""
    tools = [function("f", parameters=value) for value in parameters]
    body = {"messages": chat, "tools": tools, "response_format": {"type": "json_schema", "json_schema": shape}}
    exact = tokens.bound_tokens(body, GPT_4O, "gpt-4o")
    assert 3 <= exact <= tokens.bound_tokens(body, tokens.upper_bound, "gpt-4o")


# Images, audio, files -------------------------------------------------------------------------------------------------


def data_url(raw: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{b64encode(raw).decode()}"


def png(width: int, height: int) -> str:
    return data_url(b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", width, height) + bytes(40))


def jpeg(width: int, height: int, *, before: int = 0, frame: int = 0xC0) -> str:
    segments = b"".join(b"\xff\xe2" + struct.pack(">H", 65_535) + bytes(65_533) for _ in range(before))
    table = b"\xff\xc4" + struct.pack(">H", 4) + bytes(2)
    start = b"\xff" + bytes([frame]) + struct.pack(">HBHH", 11, 8, height, width) + bytes(20)
    return data_url(b"\xff\xd8" + segments + table + start, "jpeg")


def webp(kind: bytes, header: bytes) -> str:
    return data_url(b"RIFF" + bytes(4) + b"WEBP" + kind + bytes(4) + header + bytes(20), "webp")


@pytest.mark.parametrize(
    "url",
    [
        png(640, 480),
        data_url(b"GIF89a" + struct.pack("<HH", 640, 480) + bytes(30), "gif"),
        jpeg(640, 480),
        jpeg(640, 480, before=7, frame=0xC2),
        webp(b"VP8 ", bytes(3) + b"\x9d\x01\x2a" + struct.pack("<HH", 640 | 1 << 14, 480)),
        webp(b"VP8L", b"\x2f" + struct.pack("<I", 639 | 479 << 14)),
        webp(b"VP8X", bytes(4) + (639).to_bytes(3, "little") + (479).to_bytes(3, "little")),
    ],
    ids=["png", "gif", "jpeg", "jpeg behind a long profile", "webp lossy", "webp lossless", "webp extended"],
)
def test_the_size_of_an_inline_image_is_read_from_its_header(url: str) -> None:
    assert tokens.image_size(url) == (640, 480)


@pytest.mark.parametrize(
    "url",
    [
        "https://example.org/image.png",
        "data:image/png,raw",
        "data:image/png;base64,",
        "data:image/png;base64,!!!!" + "A" * 80,
        data_url(bytes(80)),
        png(640, 480)[:40],
        png(0, 480),
        webp(b"VP9 ", bytes(20)),
        data_url(b"\xff\xd8" + bytes(80), "jpeg"),
        data_url(b"\xff\xd8" + b"\xff\xe0\x00\x02" * 2_000, "jpeg"),
    ],
)
def test_an_image_that_cannot_be_read_has_no_size_and_counts_as_the_largest(url: str) -> None:
    assert tokens.image_size(url) is None
    assert tokens.image_tokens(url, "auto", "gpt-4o") == 85 + 8 * 170


@pytest.mark.parametrize(
    ("model", "size", "detail", "cost"),
    [
        # OpenAI's guide "Images and vision": 1,024 × 1,024 is four tiles, 2,048 × 4,096 six.
        ("gpt-4o", (1_024, 1_024), "high", 765),
        ("gpt-4o", (2_048, 4_096), "high", 1_105),
        ("gpt-4o", (4_096, 8_192), "low", 85),
        ("gpt-4o-mini", (1, 1), "auto", 8_500),
        ("gpt-4o-mini", (640, 480), "auto", 14_167),
        ("gpt-5", (1_024, 1_024), "auto", 630),
        ("gpt-5.1", (1_024, 1_024), "auto", 630),
        ("o3", (1_024, 1_024), "auto", 675),
        ("gpt-4.1-mini", (1_024, 1_024), "auto", 1_659),
        ("gpt-4.1-nano", (32, 33), "auto", 5),
        ("gpt-5-nano", (8_000, 8_000), "low", 2_304),
        ("ft:gpt-4.1-mini:acme::1", (8_000, 8_000), "auto", 2_489),
        ("gpt-5.4", (8_000, 8_000), "high", 3_000),
        ("gpt-5.4", (8_000, 8_000), "original", 12_000),
        ("my-azure-deployment", (1, 1), "auto", 255),
        ("my-azure-deployment", (8_000, 8_000), "auto", 3_779),
    ],
)
def test_an_image_costs_what_the_model_charges_for_its_size(
    model: str, size: tuple[int, int], detail: str, cost: int
) -> None:
    assert tokens.image_tokens(png(*size), detail, model) == cost
    assert tokens.image_tokens(png(*reversed(size)), detail, model) == cost


@given(
    st.integers(1, 20_000), st.integers(1, 20_000), st.sampled_from(["gpt-4o", "gpt-5-mini", "gpt-5.4", "unheard-of"])
)
def test_no_image_costs_more_than_one_of_unknown_size(width: int, height: int, model: str) -> None:
    worst = tokens.image_tokens("https://example.org/x.png", "auto", model)
    assert tokens.image_tokens(png(width, height), "auto", model) <= worst


def test_images_in_a_message_count_by_size_and_detail_and_never_as_text() -> None:
    url = png(1_024, 1_024) + "A" * 4_000_000
    for image, cost in (({"url": url}, 765), ({"url": url, "detail": "low"}, 85), ({"url": url, "detail": None}, 765)):
        message = {"role": "user", "content": [{"type": "image_url", "image_url": image}]}
        assert tokens.message_tokens(message, tokens.upper_bound, "gpt-4o") == 4 + cost


def test_audio_counts_by_its_length_at_the_lowest_bit_rate() -> None:
    ten_seconds = b64encode(bytes(80_000)).decode()

    def cost(format: str) -> int:
        part = {"type": "input_audio", "input_audio": {"data": ten_seconds, "format": format}}
        return tokens.message_tokens({"role": "user", "content": [part]}, GPT_4O, "gpt-4o-audio-preview") - 4

    assert 100 <= cost("wav") <= 110
    assert 800 <= cost("mp3") <= 810


def test_an_inline_file_counts_a_token_a_byte_and_an_image() -> None:
    data = "data:application/pdf;base64," + b64encode(bytes(3_000)).decode()
    part = {"type": "file", "file": {"filename": "x.pdf", "file_data": data}}
    cost = tokens.message_tokens({"role": "user", "content": [part]}, GPT_4O, "gpt-4o") - 4
    assert 3_000 + 1_445 <= cost <= 3_100 + 1_445

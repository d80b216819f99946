"""What the endpoints beside chat read in a request: what it may cost, what it says, and what is malformed."""

from __future__ import annotations

import io
import struct
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from safe_llm import tokens
from safe_llm._requests import take_files
from safe_llm.endpoints import ENDPOINTS
from safe_llm.endpoints.audio import SPEECH, TRANSCRIPTIONS
from safe_llm.endpoints.base import Endpoint
from safe_llm.endpoints.completions import COMPLETIONS
from safe_llm.endpoints.embeddings import EMBEDDINGS
from safe_llm.endpoints.hosted import family
from safe_llm.endpoints.images import IMAGE_EDITS, IMAGES
from safe_llm.endpoints.responses import RESPONSES
from safe_llm.errors import InputRejectedError
from safe_llm.identity import NOTHING
from safe_llm.policy import InputRules
from safe_llm.types import Call, Upload, Usage

RULES = InputRules()


def read(endpoint: Endpoint, body: dict[str, Any], *uploads: Upload) -> Call:
    call = Call(endpoint, body, NOTHING, uploads=uploads, model=str(body.get("model", "")))
    endpoint.read(call)
    return call


def rejected(endpoint: Endpoint, body: dict[str, Any], *uploads: Upload) -> str:
    with pytest.raises(InputRejectedError) as caught:
        endpoint.validate(read(endpoint, body, *uploads), RULES)
    assert (caught.value.code, caught.value.status_code) in (("malformed_request", 400), ("message_too_long", 413))
    return str(caught.value)


# Responses ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        {"input": 7},
        {"input": ["Hi"]},
        {"input": [{"role": "robot", "content": "Hi"}]},
        {"input": [{"role": "user"}]},
        {"input": [{"role": "user", "content": []}]},
        {"input": [{"role": "user", "content": [{"type": "text_of_another_kind", "text": "Hi"}]}]},
        {"input": [{"role": "user", "content": [{"type": "input_text"}]}]},
        {"input": [{"type": "something_new", "data": "x"}]},
        {"input": "Hi", "instructions": 7},
        {"input": "Hi", "max_output_tokens": 0},
        {"input": "Hi", "max_tool_calls": -1},
        {"input": "Hi", "tools": "web_search"},
        {"input": "Hi", "tools": [{"name": "f"}]},
    ],
)
def test_a_malformed_response_is_refused(body: dict[str, Any]) -> None:
    rejected(RESPONSES, body)


def test_a_long_user_message_is_refused_and_one_of_the_application_s_own_is_not() -> None:
    long = "x" * 4_001
    assert "input[0] has 4_001 characters" in rejected(RESPONSES, {"input": long})
    assert "input[1]" in rejected(
        RESPONSES,
        {
            "input": [
                {"role": "system", "content": long},
                {"role": "user", "content": [{"type": "input_text", "text": long}]},
            ]
        },
    )
    RESPONSES.validate(
        read(RESPONSES, {"input": [{"role": "developer", "content": long}], "instructions": long}), RULES
    )


def test_images_are_counted_in_messages_and_in_the_outputs_of_tools() -> None:
    image = {"type": "input_image", "image_url": "https://example.com/a.png"}
    shot = {"type": "computer_call_output", "call_id": "c", "output": {"type": "computer_screenshot", "image_url": "x"}}
    outputs = {"type": "function_call_output", "call_id": "c", "output": [image, image]}
    call = read(RESPONSES, {"input": [{"role": "user", "content": [image, image]}, shot, outputs]})
    with pytest.raises(InputRejectedError, match="5 images"):
        RESPONSES.validate(call, RULES)


def test_every_text_is_a_part_with_the_voice_that_speaks_it() -> None:
    call = read(
        RESPONSES,
        {
            "instructions": "Be brief.",
            "input": [
                {"role": "user", "content": [{"type": "input_text", "text": "one"}]},
                {"role": "developer", "content": "two"},
                {"type": "function_call", "call_id": "c", "name": "f", "arguments": '{"three": 3}'},
                {"type": "function_call_output", "call_id": "c", "output": "four"},
                {"type": "custom_tool_call", "call_id": "d", "name": "g", "input": "five"},
                {"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": "six"}]},
                {"type": "mcp_call", "id": "m", "name": "h", "server_label": "s", "arguments": "{}", "output": "seven"},
            ],
        },
    )
    assert [(part.role, part.text, part.trusted) for part in RESPONSES.parts(call)] == [
        ("system", "Be brief.", True),
        ("user", "one", False),
        ("developer", "two", True),
        ("assistant", '{"three": 3}', False),
        ("tool", "four", False),
        ("assistant", "five", False),
        ("assistant", "six", False),
        ("tool", "{}", False),
        ("tool", "seven", False),
    ]


def test_text_costs_what_it_costs_in_a_chat() -> None:
    exact = tokens.exact("gpt-4o")
    body = {"model": "gpt-4o", "input": "How do I test this?", "instructions": "You are a tester."}
    call = read(RESPONSES, body)
    chat = {
        "messages": [{"role": "system", "content": body["instructions"]}, {"role": "user", "content": body["input"]}]
    }
    counted = RESPONSES.overhead(call, exact) + sum(
        RESPONSES.measure(call, item, exact) for item in call.messages or ()
    )
    assert counted == tokens.request_tokens(chat, exact, "gpt-4o")
    assert RESPONSES.plain(call)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
items = st.dictionaries(
    st.sampled_from(["type", "role", "content", "output", "name", "arguments", "input", "summary", "call_id"]),
    st.sampled_from(["function_call", "function_call_output", "reasoning", "message", "user", "x"]) | json_values,
    max_size=5,
)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(items, min_size=1, max_size=4))
def test_no_input_is_too_strange_to_be_refused_or_bounded(given: list[Any]) -> None:
    """What is let through has a bound that is never below the exact count."""
    try:
        call = read(RESPONSES, {"model": "gpt-4o", "input": given})
        RESPONSES.validate(call, RULES)
    except InputRejectedError:
        return
    RESPONSES.parts(call)
    exact = tokens.exact("gpt-4o")
    for item in call.messages or ():
        assert RESPONSES.measure(call, item, exact) <= RESPONSES.measure(call, item, tokens.upper_bound)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("web_search_preview_2025_03_11", "web_search"),
        ("computer_use_preview", "computer"),
        ("shell", "shell"),
        ("brand_new", "brand_new"),
    ],
)
def test_versions_of_a_hosted_tool_are_one_family(kind: str, name: str) -> None:
    assert family(kind) == name


# Embeddings and completions -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [None, "", [], 7, {"a": 1}, [""], ["a", 7], [1, -1], [[]], [[1], ["a"]], [True]])
def test_what_is_neither_text_nor_tokens_is_refused(given: Any) -> None:
    rejected(EMBEDDINGS, {"input": given})
    if given is not None:  # a completion may begin from nothing
        rejected(COMPLETIONS, {"prompt": given})


@pytest.mark.parametrize(
    ("body", "answers"),
    [
        ({"prompt": "a"}, 1),
        ({}, 1),
        ({"prompt": ["a", "b"]}, 2),
        ({"prompt": [1, 2, 3]}, 1),
        ({"prompt": [[1, 2], [3]]}, 2),
        ({"prompt": ["a", "b"], "n": 3}, 6),
        ({"prompt": "a", "n": 2, "best_of": 5}, 5),
    ],
)
def test_a_completion_has_an_answer_for_each_prompt_and_each_try(body: dict[str, Any], answers: int) -> None:
    assert read(COMPLETIONS, body).answers == answers


def test_embeddings_write_nothing() -> None:
    call = read(EMBEDDINGS, {"input": ["one two", "three"]})
    assert call.most_output == 0
    assert EMBEDDINGS.overhead(call, tokens.exact("text-embedding-3-small")) == 3
    assert [part.text for part in EMBEDDINGS.parts(call)] == ["one two", "three"]


# Images and audio -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "output"),
    [
        ({"quality": "low", "size": "1024x1024"}, 272),
        ({"quality": "medium", "size": "1024x1024"}, 1_056),
        ({"quality": "high", "size": "1024x1024"}, 4_160),
        ({"quality": "high", "size": "1536x1024"}, 6_240),
        ({}, 6_240),
        ({"quality": "something_new"}, 6_240),
        ({"partial_images": 3, "stream": True}, 6_540),
        ({"output_format": "gif", "quality": "low", "size": "1024x1024"}, 9 * 272),
        ({"output_format": "gif", "quality": "low", "size": "1024x1024", "frame_count": 2}, 2 * 272),
        ({"size": "256x256", "quality": "low"}, 272),
    ],
)
def test_an_image_is_bounded_by_its_quality_and_size(body: dict[str, Any], output: int) -> None:
    assert read(IMAGES, {"model": "gpt-image-1", "prompt": "a cat", **body}).most_output == output


@pytest.mark.parametrize(
    "body", [{"n": "3"}, {"n": 0}, {"size": "1x1"}, {"size": 7}, {"prompt": 7}, {"partial_images": -1}]
)
def test_a_malformed_request_for_an_image_is_refused(body: dict[str, Any]) -> None:
    rejected(IMAGES, {"prompt": "a cat", **body})


def test_a_form_carries_its_numbers_as_text() -> None:
    upload = Upload("image", b"abc")
    assert read(IMAGE_EDITS, {"prompt": "a cat", "n": "3", "model": "gpt-image-1"}, upload).answers == 3
    rejected(IMAGE_EDITS, {"prompt": "a cat", "n": "three"}, upload)


def test_each_uploaded_image_is_reserved_by_how_closely_it_is_read() -> None:
    images = Upload("image[]", b"a"), Upload("image[]", b"b"), Upload("mask", b"c")
    body = {"prompt": "a cat", "model": "gpt-image-1"}
    coarse = read(IMAGE_EDITS, body, *images).extra_input
    close = read(IMAGE_EDITS, {**body, "input_fidelity": "high"}, *images).extra_input
    assert (coarse, close) == (3 * 1_097, 3 * 7_337)
    assert read(IMAGE_EDITS, {**body, "model": "gpt-image-2"}, *images).extra_input == close


def test_a_recording_is_bounded_by_its_size() -> None:
    """Two seconds of PCM at the rate of its header, and sixty-four of anything else."""
    head = b"RIFF\x00\x00\x00\x00WAVEfmt \x10\x00\x00\x00" + struct.pack("<HHIIHH", 1, 1, 16_000, 32_000, 2, 16)
    pcm = Upload("file", head.ljust(64_000, b"\x00"))
    compressed = read(TRANSCRIPTIONS, {}, Upload("file", b"ID3".ljust(64_000, b"\x00")))
    assert read(TRANSCRIPTIONS, {}, pcm).audio_seconds == 2
    assert (compressed.audio_seconds, compressed.extra_input) == (64, 640)
    rejected(TRANSCRIPTIONS, {})
    rejected(TRANSCRIPTIONS, {}, pcm, pcm)


@pytest.mark.parametrize(
    ("answer", "usage"),
    [
        ({"usage": {"type": "duration", "seconds": 2}}, Usage(audio_seconds=2)),
        ({"usage": {"type": "duration", "seconds": 2.1}}, Usage(audio_seconds=3)),
        ({"duration": 8.5, "text": "Hi"}, Usage(audio_seconds=9)),
        ({"usage": {"type": "duration", "seconds": -1}}, None),
        ({"usage": {"type": "duration", "seconds": float("inf")}}, None),
        ({"usage": {"type": "duration", "seconds": True}}, None),
        ({"usage": {"type": "duration"}}, None),
        ({"text": "Hi"}, None),
        (
            {"usage": {"input_tokens": 14, "output_tokens": 3, "input_token_details": {"audio_tokens": 12}}},
            Usage(14, 3, input_audio_tokens=12),
        ),
    ],
)
def test_a_recording_is_billed_by_length_or_by_tokens(answer: dict[str, Any], usage: Usage | None) -> None:
    assert TRANSCRIPTIONS.usage(answer) == usage


def test_speech_is_bounded_by_its_text_and_its_speed() -> None:
    body = {"model": "gpt-4o-mini-tts", "input": "Good morning", "voice": "alloy"}
    assert read(SPEECH, body).most_output == 48
    assert read(SPEECH, {**body, "speed": 0.25}).most_output == 4 * 48
    assert read(SPEECH, {**body, "speed": 4}).most_output == 48
    letters = Call(SPEECH, body, NOTHING, by_letter=True)
    SPEECH.read(letters)
    assert (letters.most_output, SPEECH.overhead(letters, tokens.upper_bound)) == (0, 12)
    rejected(SPEECH, {**body, "input": ""})
    rejected(SPEECH, {**body, "input": "x" * 4_001})


# Uploads --------------------------------------------------------------------------------------------------------------


def test_a_file_is_taken_whole_up_to_what_may_be_sent() -> None:
    """Its name, type and headers are kept; a file object is left where it was."""
    stream = io.BytesIO(b"0123456789")
    stream.seek(4)
    assert take_files({"file": stream}, 100) == [("file", b"0123456789")]
    assert stream.tell() == 4
    assert take_files([("file", stream)], 3) == [("file", b"0123")]
    assert take_files([("file", ("a.txt", "é", "text/plain"))], 100) == [
        ("file", ("a.txt", "é".encode(), "text/plain"))
    ]
    named = io.BytesIO(b"abc")
    named.name = "/music/a.mp3"
    assert take_files([("file", named)], 100) == [("file", ("a.mp3", b"abc"))]
    with pytest.raises(TypeError, match="must be bytes"):
        take_files([("file", 7)], 100)


def test_every_endpoint_has_a_name_and_a_path_of_its_own() -> None:
    assert len({endpoint.name for endpoint in ENDPOINTS.values()}) == len(ENDPOINTS) == 11
    assert all(path == endpoint.path for path, endpoint in ENDPOINTS.items())

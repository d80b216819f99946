"""The meter: it reads the events of a stream however the bytes arrive, and hands the same bytes on."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from safe_llm.endpoints.chat import CHAT
from safe_llm.metering import Meter, text_or_none, whole
from safe_llm.types import Usage

TOLD = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}


def chunk(text: str | None = None, **fields: Any) -> dict[str, Any]:
    choices = [] if text is None else [{"index": 0, "delta": {"content": text}, "finish_reason": None}]
    return {"id": "c1", "object": "chat.completion.chunk", "model": "gpt-4o-2024-08-06", "choices": choices, **fields}


LAST = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
USAGE = chunk(usage=TOLD, service_tier="default")


def events(*items: Any, newline: bytes = b"\n") -> bytes:
    """Items as a provider sends them."""
    return b"".join(b"data: " + json.dumps(item).encode() + newline * 2 for item in items)


DONE = b"data: [DONE]\n\n"
STREAM = events(chunk("Hel", usage=None), chunk("lo"), LAST, USAGE) + DONE


def metered(pieces: Iterable[bytes], *, hide_usage: bool = False) -> tuple[Meter, bytes]:
    """A meter that has read it all, and what it handed on."""
    meter = Meter(CHAT, hide_usage=hide_usage)
    out = b"".join([meter.feed(piece) for piece in pieces])
    return meter, out + meter.end()


def state(meter: Meter) -> tuple[Any, ...]:
    meter.read_rest()
    return meter.usage, meter.text, meter.items, meter.ended, meter.failed, meter.model, meter.tier


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    bounds = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(bounds)]


# Any stream, however it is cut ----------------------------------------------------------------------------------------

newlines = st.sampled_from([b"\n", b"\r\n", b"\r"])
texts = st.text(st.sampled_from('ab é🙂\u2028\r\n"\\'), max_size=8)
lines = st.sampled_from(
    [b": ping", b"event: chunk", b"id: 7", b"retry: 10", b"data:", b"data", b"", b"garbage", b"\xff\xfe"]
)


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Events of all kinds, comments, several lines of data, garbage, with any of the three ends of lines."""
    out = b""
    for _ in range(draw(st.integers(0, 6))):
        newline = draw(newlines)
        item = draw(
            st.one_of(
                texts.map(chunk),
                st.just(USAGE),
                st.just(LAST),
                st.just({"error": {"message": "m"}}),
                st.sampled_from([None, 7, [], {}, "text"]),
            )
        )
        data = json.dumps(item, ensure_ascii=draw(st.booleans()), indent=draw(st.sampled_from([None, 1]))).encode()
        event = [*draw(st.lists(lines, max_size=2)), *(b"data: " + line for line in data.split(b"\n"))]
        out += newline.join(event) + newline * 2
    return out + draw(st.sampled_from([b"", DONE, b"data: [DONE]", b"data: {", b"\r", b"\n"]))


@given(streams(), st.lists(st.integers(0, 10_000), max_size=12), st.booleans())
@example(STREAM, [1], False)
@example(STREAM, range(len(STREAM)), False)
@example(STREAM.replace(b"\n", b"\r\n"), range(3 * len(STREAM)), True)
def test_a_stream_means_the_same_however_it_is_cut(data: bytes, places: Iterable[int], hide: bool) -> None:
    whole_meter, whole_out = metered([data], hide_usage=hide)
    meter, out = metered(cut(data, places), hide_usage=hide)
    assert state(meter) == state(whole_meter)
    assert out == whole_out


@given(st.one_of(streams(), st.binary(max_size=200)), st.lists(st.integers(0, 10_000), max_size=12))
def test_every_byte_is_handed_on_unchanged_to_whoever_may_see_the_usage(data: bytes, places: list[int]) -> None:
    assert metered(cut(data, places))[1] == data


@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\r"])
def test_a_stream_tells_its_usage_its_text_its_model_and_its_end(newline: bytes) -> None:
    meter, out = metered([STREAM.replace(b"\n", newline)])
    assert out == STREAM.replace(b"\n", newline)
    assert state(meter) == (Usage(9, 3), "Hello", 4, True, False, "gpt-4o-2024-08-06", "default")


def test_events_are_handed_on_as_soon_as_they_are_whole() -> None:
    meter = Meter(CHAT, hide_usage=False)
    event = events(chunk("x"))
    assert meter.feed(event[:-1]) == b""
    assert meter.feed(event[-1:] + event[:3]) == event
    assert meter.feed(event[3:] + event) == event + event
    assert meter.end() == b""


# Hiding ---------------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 10_000), max_size=12))
def test_the_chunk_of_usage_is_hidden_from_a_caller_who_did_not_ask_and_read_all_the_same(places: list[int]) -> None:
    meter, out = metered(cut(STREAM, places), hide_usage=True)
    assert out == events(chunk("Hel", usage=None), chunk("lo"), LAST) + DONE
    assert meter.usage == Usage(9, 3)


def test_usage_beside_an_answer_is_not_hidden() -> None:
    """Some servers tell it with every chunk; the last word counts."""
    data = events(chunk("a", usage={"prompt_tokens": 9, "completion_tokens": 1}), chunk("b", usage=TOLD))
    meter, out = metered([data], hide_usage=True)
    assert out == data
    assert meter.usage == Usage(9, 3)


def test_a_chunk_without_choices_that_carries_no_usage_is_not_hidden() -> None:
    """Azure begins with one, for its content filter."""
    data = events(chunk(usage=None, prompt_filter_results=[]))
    assert metered([data], hide_usage=True)[1] == data


def test_a_last_event_without_its_blank_line_is_read_and_hidden_too() -> None:
    meter, out = metered([events(chunk("x")), events(USAGE)[:-2]], hide_usage=True)
    assert out == events(chunk("x"))
    assert meter.usage == Usage(9, 3)


# What a stream may contain --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "event",
    [
        b'data:{"usage":{"prompt_tokens":9,"completion_tokens":3}}\n\n',
        b'data:   {"usage":{"prompt_tokens":9,"completion_tokens":3}}  \n\n',
        b'event: x\ndata: {"usage":{"prompt_tokens":9,"completion_tokens":3}}\n\n',
        b': comment\r\ndata: {"usage":{"prompt_tokens":9,"completion_tokens":3}}\r\nid: 7\r\n\r\n',
        b'data: {"usage":\ndata: {"prompt_tokens":9,"completion_tokens":3}\ndata: }\n\n',
        b'data: {"usage":{"prompt_tokens":9,"completion_tokens":3}}',
    ],
)
def test_data_is_read_wherever_the_format_allows_it(event: bytes) -> None:
    meter, out = metered([event])
    assert out == event
    assert meter.usage == Usage(9, 3)


@pytest.mark.parametrize(
    "event",
    [
        b"\n\n",
        b": ping\n\n",
        b"event: ping\n\n",
        b"data\n\n",
        b"data: \n\n",
        b"data: {\n\n",
        b"data: 7\n\n",
        b"data: []\n\n",
        b'data: "usage"\n\n',
        b"data: \xff\xfe\n\n",
        b'data: {"usage": {"prompt_tokens": -1, "completion_tokens": 3}}\n\n',
        b'data: {"usage": {}}\n\n',
        b'data: {"usage": 7}\n\n',
        b'{"usage": {"prompt_tokens": 9, "completion_tokens": 3}}\n\n',
        b"data: " + b"[" * 100_000 + b"\n\n",
    ],
)
def test_what_carries_no_usage_says_nothing_and_passes(event: bytes) -> None:
    meter, out = metered([event])
    assert out == event
    assert (meter.usage, meter.text, meter.ended, meter.failed) == (None, "", False, False)


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.sampled_from(["", "x", "é"])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["choices", "delta", "message", "content", "tool_calls", "function", "usage", "error"]),
            inner,
        ),
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["choices", "usage", "error", "model", "service_tier"]), json_values))
@example({"choices": [{"delta": {"tool_calls": 7}}]})
@example({"choices": [{"delta": {"tool_calls": [{"function": 7}], "function_call": 7}}]})
def test_no_answer_of_a_provider_can_break_a_stream(item: dict[str, Any]) -> None:
    data = events(item)
    assert metered([data])[1] == data


def test_an_error_in_the_stream_is_noticed() -> None:
    meter, _ = metered([events(chunk("x"), {"error": {"message": "overloaded"}})])
    assert meter.failed
    assert not meter.ended


def test_a_stream_that_is_cut_has_not_ended() -> None:
    meter, _ = metered([STREAM[: STREAM.index(b"lo")]])
    assert not meter.ended
    assert meter.usage is None
    assert meter.items == 1


def test_the_mark_of_the_end_or_a_reason_for_it_ends_a_stream() -> None:
    assert metered([DONE])[0].ended
    assert metered([events(LAST)])[0].ended


# Size -----------------------------------------------------------------------------------------------------------------

MEGABYTE = 1024 * 1024


def test_a_large_event_is_read() -> None:
    data = events(chunk("x" * MEGABYTE))
    meter, out = metered([data[start : start + 65_536] for start in range(0, len(data), 65_536)])
    assert out == data
    assert len(meter.text) == MEGABYTE


def test_a_stream_without_end_of_event_is_passed_on_unread_from_some_size_on() -> None:
    """It takes no more memory than that, and its usage stays unknown."""
    meter = Meter(CHAT, hide_usage=True)
    data = b"data: " + b"x" * 6 * MEGABYTE
    out = [meter.feed(data) for _ in range(4)]
    assert any(out)
    assert b"".join(out) + meter.end() == data * 4
    assert meter.feed(events(USAGE)) == events(USAGE)
    assert meter.usage is None


def test_names_from_outside_are_kept_only_if_they_are_short() -> None:
    assert text_or_none("gpt-4o") == "gpt-4o"
    assert [text_or_none(value) for value in ("", "x" * 257, 7, None, ["gpt-4o"])] == [None] * 5


def test_a_count_is_a_whole_number_that_is_not_negative() -> None:
    assert [whole(value) for value in (0, 7)] == [0, 7]
    assert [whole(value) for value in (-1, 1.0, True, "7", None)] == [None] * 5

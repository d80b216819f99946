"""What an event may look like, and what it may hold beside the text."""

from __future__ import annotations

import json
from typing import Any

import pytest
from answers import output, sse, through

from safe_llm.checks import Pattern

KEY = "AKIAIOSFODNN7EXAMPLE"


def chunk(delta: Any, **choice: Any) -> dict[str, Any]:
    return {"id": "1", "choices": [{"index": 0, "delta": delta, "finish_reason": None, **choice}]}


def out(data: bytes, **rest: Any) -> bytes:
    return b"".join(through(output(**rest), [data]))


def test_only_the_data_of_an_event_is_written_anew() -> None:
    event = json.dumps(chunk({"content": f"{KEY} x"}))
    expected = event.replace(KEY, "[redacted]").replace(": ", ":").replace(", ", ",")
    assert out(f": note\r\nid: 7\r\ndata: {event}\r\n\r\n".encode()) == (
        f": note\r\nid: 7\r\ndata: {expected}\r\n\r\n".encode()
    )
    assert out(f"data: {event}\r\r".encode()) == f"data: {expected}\r\r".encode()
    several = json.dumps(chunk({"content": f"{KEY} x"}), indent=1).replace("\n", "\ndata: ")
    assert out(f"data: {several}\n\n".encode()) == f"data: {expected}\n\n".encode()


@pytest.mark.parametrize(
    "data",
    [
        f"data: no JSON, but {KEY} in it\n\n".encode(),
        b'data: {"choices":[{"index":0,"delta":{"content":"\\ud800 ' + KEY.encode() + b' "}}]}\n\n',
        b"data: " + b"[" * 100_000 + KEY.encode() + b" \n\n",
        sse({"error": {"message": f"It was {KEY}!"}}),
        sse({"type": "response.some_new.event", "item_id": "1", "words": [f"It was {KEY}!"]}),
        sse({"type": "response.output_text.delta", "item_id": "1", "delta": "a", "snapshot": f"It was {KEY}!"}),
        sse(chunk({"role": "assistant", "content": None, "reasoning_content": f"It was {KEY}!"})),
        sse(chunk({"content": "a", "annotations": [{"type": "url_citation", "url_citation": {"title": f"{KEY}!"}}]})),
        sse(chunk({"tool_calls": [{"index": 0, "function": {"name": f"f_{KEY}!", "arguments": "{}"}}]})),
        sse(chunk({"content": f"{KEY}!"}, logprobs={"content": [{"token": KEY, "bytes": [65]}]})),
    ],
)
def test_a_key_comes_out_of_no_part_of_an_event(data: bytes) -> None:
    came = out(data + b"data: [DONE]\n\n")
    assert KEY.encode() not in came
    assert came.endswith(b"data: [DONE]\n\n")


def test_what_a_response_repeats_of_its_request_is_not_looked_at() -> None:
    event = sse({"type": "response.created", "response": {"id": "resp_1", "instructions": KEY, "tools": [KEY]}})
    assert out(event, responses=True) == event


def test_a_plain_answer_is_written_anew_only_where_something_was_taken_out() -> None:
    for text, expected in (("Fine.", "Fine."), (f"It is {KEY}.", "It is [redacted].")):
        body = json.dumps(
            {"choices": [{"message": {"content": text}, "logprobs": {"content": [{"token": KEY}]}}]}
        ).encode()
        looking = output()
        looking.read(body)
        came = looking.end()
        assert json.loads(came)["choices"][0]["message"]["content"] == expected
        assert (came == body) == (text == expected)
        assert (KEY in came.decode()) == (text == expected)  # the probabilities stay with what stays


def test_with_all_output_checks_off_nothing_looks() -> None:
    off = dict.fromkeys(("secrets", "prompt_leak", "links", "tool_calls"), "off")
    assert not output(off).looks
    assert output(off, own=[Pattern("p", "x", max_length=1)]).looks


@pytest.mark.parametrize(
    ("name", "regex", "length", "problem"),
    [("p", "x*", 5, "empty"), ("p", "x", 0, "at least 1"), ("secrets", "x", 5, "built-in")],
)
def test_a_pattern_that_cannot_work_is_refused(name: str, regex: str, length: int, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Pattern(name, regex, max_length=length)

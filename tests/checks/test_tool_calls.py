"""The rule ``tool_calls``: what was offered, what its schema says, and that no call passes before it is judged."""

from __future__ import annotations

import json
from collections.abc import Mapping
from random import Random
from typing import Any

import pytest
from answers import cut, items_in, output, sse, through

from safe_llm import OutputRejectedError
from safe_llm.checks.tool_calls import Offer, ToolCall

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}, "days": {"type": "integer", "minimum": 1}},
    "required": ["city"],
    "additionalProperties": False,
}
CHAT_TOOLS = [
    {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}},
    {"type": "function", "function": {"name": "now"}},
    {"type": "custom", "custom": {"name": "note"}},
]
RESPONSE_TOOLS = [
    {"type": "function", "name": "weather", "parameters": SCHEMA, "strict": True},
    {"type": "function", "name": "now"},
    {"type": "custom", "name": "note"},
]
RIGHT = ('{"city": "Oslo"}', '{"days": 2, "city": "Oslo"}')
WRONG = (
    *("{}", '{"city": 1}', '{"city": "Oslo", "days": 0}', '{"city": "Oslo", "to": "me"}', '{"city": "Oslo"', "Oslo"),
    *('["Oslo"]', "null", '{"city": "' + "x" * 21 + '"}', ""),
)


@pytest.mark.parametrize("tools", [CHAT_TOOLS, RESPONSE_TOOLS], ids=["chat", "responses"])
def test_a_call_must_be_of_an_offered_tool_and_keep_to_its_schema(tools: Any) -> None:
    offer = Offer({"tools": tools})
    assert all(offer.allows(ToolCall("weather", arguments)) for arguments in RIGHT)
    assert not any(offer.allows(ToolCall("weather", arguments)) for arguments in WRONG)
    assert not offer.allows(ToolCall("transfer", '{"city": "Oslo"}'))
    assert not offer.allows(ToolCall("Weather", '{"city": "Oslo"}'))
    assert offer.allows(ToolCall("now", ""))
    assert not offer.allows(ToolCall("now", "soon"))
    assert offer.allows(ToolCall("note", None))
    assert not offer.allows(ToolCall("weather", None))  # free text for a tool that has a schema
    assert not offer.allows(ToolCall("note", "{}"))


def test_nothing_may_be_called_where_nothing_was_offered_but_what_a_stored_prompt_offers_is_not_known() -> None:
    assert not Offer({}).allows(ToolCall("weather", "{}"))
    assert Offer({"prompt": {"id": "pmpt_1"}}).allows(ToolCall("weather", "{}"))


def test_legacy_functions_namespaces_and_tools_in_the_input_are_offers() -> None:
    assert Offer({"functions": [{"name": "f"}]}).allows(ToolCall("f", "{}"))
    nested = {"type": "namespace", "name": "crm", "tools": [{"type": "function", "name": "f"}]}
    assert Offer({"tools": [nested]}).allows(ToolCall("f", "{}"))
    assert not Offer({"tools": [nested]}).allows(ToolCall("crm", "{}"))
    found = {"type": "tool_search_output", "tools": [{"type": "function", "name": "f"}]}
    assert Offer({"input": [found]}).allows(ToolCall("f", "{}"))


def test_a_schema_never_fetches_what_it_refers_to() -> None:
    offer = Offer({"tools": [{"type": "function", "name": "f", "parameters": {"$ref": "http://127.0.0.1:9/schema"}}]})
    with pytest.raises(Exception, match=r"127\.0\.0\.1"):
        offer.allows(ToolCall("f", "{}"))


def chat_call(name: str, pieces: list[str], *, custom: bool = False) -> list[bytes]:
    """A stream with one call, and words before and behind it."""

    def chunk(delta: Mapping[str, Any], reason: str | None = None) -> bytes:
        return sse({"id": "1", "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]})

    kind, field = ("custom", "input") if custom else ("function", "arguments")
    first = {"index": 0, "id": "call_1", "type": kind, kind: {"name": name, field: ""}}
    return [
        chunk({"role": "assistant", "content": "Wait. "}),
        chunk({"tool_calls": [first]}),
        *(chunk({"tool_calls": [{"index": 0, kind: {field: piece}}]}) for piece in pieces),
        chunk({}, "tool_calls"),
        b"data: [DONE]\n\n",
    ]


def response_call(name: str, pieces: list[str], *, custom: bool = False) -> list[bytes]:
    """The same by the Responses API."""
    kind, field, event = (
        ("custom_tool_call", "input", "custom_tool_call_input")
        if custom
        else ("function_call", "arguments", "function_call_arguments")
    )
    item = {
        "id": "fc_1",
        "type": kind,
        "call_id": "call_1",
        "name": name,
        field: "".join(pieces),
        "status": "completed",
    }
    where = {"item_id": "fc_1", "output_index": 0}
    told: list[dict[str, Any]] = [
        {"type": "response.created", "response": {"id": "resp_1", "status": "in_progress", "output": []}},
        {"type": "response.output_item.added", "output_index": 0, "item": {**item, field: "", "status": "in_progress"}},
        *({"type": f"response.{event}.delta", **where, "delta": piece} for piece in pieces),
        {"type": f"response.{event}.done", **where, field: item[field]},
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        {"type": "response.completed", "response": {"id": "resp_1", "status": "completed", "output": [item]}},
    ]
    return [sse(each) for each in told]


STREAMS = {"chat": (chat_call, CHAT_TOOLS), "responses": (response_call, RESPONSE_TOOLS)}


@pytest.mark.parametrize("action", ["deny", "redact"])
@pytest.mark.parametrize("surface", STREAMS)
def test_nothing_of_a_wrong_call_comes_out_of_a_stream(surface: str, action: str) -> None:
    make, tools = STREAMS[surface]
    random = Random(1)
    calls = [("weather", wrong) for wrong in WRONG] + [("transfer", "{}"), ("", "{}")]
    for name, arguments in calls:
        events = make(name, [*arguments])
        looking = output({"tool_calls": action}, responses=surface == "responses", tools=tools)
        came = b"".join(through(looking, cut(b"".join(events), random)))
        assert isinstance(looking.rejection, OutputRejectedError)
        assert looking.rejection.rule == "tool_calls"
        assert b"call_1" not in came
        assert b"fc_1" not in came
        assert came == events[0]


@pytest.mark.parametrize("surface", STREAMS)
def test_a_right_call_comes_out_byte_for_byte(surface: str) -> None:
    make, tools = STREAMS[surface]
    for name, arguments, custom in (("weather", RIGHT[0], False), ("now", "", False), ("note", "Anything", True)):
        events = make(name, [*arguments], custom=custom)
        looking = output({"tool_calls": "deny"}, responses=surface == "responses", tools=tools)
        assert b"".join(through(looking, events)) == b"".join(events)
        assert looking.findings() == ()


@pytest.mark.parametrize("surface", STREAMS)
def test_a_wrong_call_is_noted_once_by_default(surface: str) -> None:
    make, tools = STREAMS[surface]
    events = make("transfer", ["{", "}"])
    looking = output(responses=surface == "responses", tools=tools)
    assert b"".join(through(looking, events)) == b"".join(events)
    assert [(finding.rule, finding.action) for finding in looking.findings()] == [("tool_calls", "flag")]


@pytest.mark.parametrize("surface", STREAMS)
def test_a_call_that_is_cut_off_does_not_come_out(surface: str) -> None:
    make, tools = STREAMS[surface]
    events = make("weather", ['{"city": ', '"Oslo"}'])[:4]
    looking = output({"tool_calls": "deny"}, responses=surface == "responses", tools=tools)
    came = b"".join(looking.feed(event) for event in events) + looking.end(cut=True)
    assert came == events[0]
    assert looking.rejection is None


@pytest.mark.parametrize("surface", STREAMS)
def test_a_stream_that_just_stops_in_the_middle_of_a_call_is_rejected(surface: str) -> None:
    make, tools = STREAMS[surface]
    looking = output({"tool_calls": "deny"}, responses=surface == "responses", tools=tools)
    came = b"".join(through(looking, make("weather", ['{"city": ', '"Oslo"}'])[:3]))
    assert looking.rejection is not None
    assert b"call_1" not in came


SHAPE = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


def shaped(surface: str) -> dict[str, Any]:
    """Asking for a structured output."""
    if surface == "chat":
        return {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SHAPE}}}
    return {"text": {"format": {"type": "json_schema", "name": "n", "schema": SHAPE}}}


@pytest.mark.parametrize("surface", STREAMS)
@pytest.mark.parametrize(
    ("text", "is_right"), [('{"n": 1}', True), ('{"n": "1"}', False), ('{"n": 1', False), ("No.", False)]
)
def test_a_structured_output_keeps_to_its_schema(surface: str, text: str, is_right: bool) -> None:
    from answers import chat_events, response_events

    events = chat_events([[*text]]) if surface == "chat" else response_events([*text])
    for action in ("flag", "deny"):
        looking = output({"tool_calls": action}, responses=surface == "responses", **shaped(surface))
        came = b"".join(through(looking, events))
        if is_right:
            assert came == b"".join(events)
            assert looking.findings() == ()
        else:
            assert [finding.rule for finding in looking.findings()] == ["tool_calls"]
            assert (looking.rejection is not None) == (action == "deny")
        if action == "deny" and not is_right:
            told = "".join(str(item) for item in items_in(came))
            assert json.dumps(text)[1:-1] not in told


def test_a_plain_answer_is_judged_as_a_whole() -> None:
    for name, arguments, is_right in (
        ("weather", RIGHT[0], True),
        ("weather", WRONG[1], False),
        ("transfer", "{}", False),
    ):
        call = {"id": "1", "type": "function", "function": {"name": name, "arguments": arguments}}
        body = json.dumps({"choices": [{"index": 0, "message": {"content": None, "tool_calls": [call]}}]}).encode()
        looking = output({"tool_calls": "deny"}, tools=CHAT_TOOLS)
        looking.read(body)
        assert (looking.rejection is None) == is_right
        assert looking.end() == (body if is_right else b"")

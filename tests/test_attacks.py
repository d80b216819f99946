"""What a greedy caller and a lying provider try in vain."""

from __future__ import annotations

import io
import json
import random
import string
import struct
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from safe_llm import Content, DeniedError, Finding, InputRejectedError, SafeAzureOpenAI, SafeOpenAI
from safe_llm.endpoints import ENDPOINTS
from safe_llm.history import turns
from safe_llm.testing import RecordingSink

LIMITS = ["100 requests/day", "10_000_000 tokens/day", "$1000/day"]
POLICY: dict[str, Any] = {"plans": {"default": {"limits": LIMITS}}}
HI = [{"role": "user", "content": "Hi"}]
ITEMS = [{"role": "user", "content": "Hi"}]


class App:
    """A client, what it sent, and what it recorded."""

    def __init__(self, answer: Any = None, policy: Any = None, kind: Any = SafeOpenAI, **options: Any) -> None:
        self.sent: list[httpx.Request] = []
        self.sink = RecordingSink()
        self._answer = answer if callable(answer) else lambda: answer or {}
        options.setdefault("api_key", "k")
        transport = httpx.MockTransport(self._respond)
        self.client = kind(
            policy=policy or POLICY,
            sinks=[self.sink],
            max_retries=0,
            http_client=httpx.Client(transport=transport),
            **options,
        )

    def _respond(self, request: httpx.Request) -> httpx.Response:
        request.read()
        self.sent.append(request)
        found = self._answer()
        return found if isinstance(found, httpx.Response) else httpx.Response(200, json=found)

    @property
    def last(self) -> Any:
        return self.sink.last

    @property
    def body(self) -> Any:
        return json.loads(self.sent[-1].content)

    def used(self, user: str = "anonymous") -> list[tuple[Any, Any]]:
        return [(status.used, status.held) for status in self.client.guard.usage(user_id=user)]


def told(given: int, generated: int) -> dict[str, int]:
    return {"input_tokens": given, "output_tokens": generated, "total_tokens": given + generated}


def response(status: str = "completed", usage: Any = None, id: str = "resp_1", **more: Any) -> dict[str, Any]:
    return {"id": id, "object": "response", "model": "gpt-4o", "status": status, "output": [], "usage": usage, **more}


def in_turn(*answers: Any) -> Callable[[], Any]:
    left: Iterator[Any] = iter(answers)
    return lambda: next(left)


def events(*items: dict[str, Any]) -> httpx.Response:
    content = b"".join(b"data: " + json.dumps(item).encode() + b"\n\n" for item in items)
    return httpx.Response(200, content=content, headers={"content-type": "text/event-stream"})


# Someone pays less, or a rule is lifted -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "url", "model"),
    [
        (SafeOpenAI, "/deployments/gpt-4o-mini/../../chat/completions", "gpt-4o"),
        (SafeAzureOpenAI, "/deployments/gpt-4o-mini/../gpt-4o/chat/completions", "gpt-4o-mini"),
    ],
)
def test_a_deployment_that_the_url_leaves_again_is_not_the_model(kind: Any, url: str, model: str) -> None:
    """The HTTP client removes dot segments, so the provider sees gpt-4o while the allow-list, switches and prices
    are asked about gpt-4o-mini."""
    azure = {"azure_endpoint": "https://example.invalid", "api_version": "1"} if kind is SafeAzureOpenAI else {}
    policy = {"plans": {"default": {"models": ["gpt-4o-mini"], "limits": LIMITS}}}
    app = App({"id": "x", "choices": []}, policy, kind, **azure)
    with pytest.raises(DeniedError):
        app.client.post(url, body={"model": model, "messages": HI}, cast_to=object)


def test_the_variables_of_a_stored_prompt_are_counted() -> None:
    """Half a megabyte of variables is reserved as 8,000 tokens, beyond max_message_chars and max_context_tokens."""
    app = App(response())
    with pytest.raises(InputRejectedError):
        app.client.responses.create(model="gpt-4o", prompt={"id": "p", "variables": {"x": "word " * 100_000}})


def test_a_compaction_is_not_reserved_by_a_cap_that_it_does_not_have() -> None:
    """``max_output_tokens`` is no parameter of a compaction: it lowers the reservation from 4,000 tokens to one."""
    app = App()
    ask = {"endpoint": "responses.compact", "model": "gpt-4o", "input": "Hi"}
    plain, capped = app.client.guard.quote(**ask), app.client.guard.quote(**ask, extra_body={"max_output_tokens": 1})
    assert capped.max_usd == plain.max_usd or capped.would_be_denied is not None


def test_a_file_is_weighed_whole_wherever_it_was_read_to() -> None:
    """The HTTP client sends a file from its beginning; the guard measures from where it stands: 0 bytes, $0."""
    app = App({"text": "x"})
    file = io.BytesIO(b"x" * 5_000_000)
    file.seek(0, io.SEEK_END)
    app.client.audio.transcriptions.create(model="gpt-4o-transcribe", file=("a.mp3", file))
    assert len(app.sent[0].content) > 5_000_000
    assert app.last.input_tokens_estimated >= 50_000


class Growing(io.BytesIO):
    """A file that looks empty when it is first measured, as one that somebody still writes to."""

    looked = 0

    def seek(self, offset: int, whence: int = 0, /) -> int:
        end = super().seek(offset, whence)
        self.looked += 1
        return 0 if self.looked == 1 else end


def test_what_is_sent_of_a_file_is_what_was_weighed() -> None:
    """A file is measured, and read later: what it grew by in between is neither limited nor reserved."""
    app = App({"text": "x"})
    app.client.audio.transcriptions.create(model="gpt-4o-transcribe", file=("a.mp3", Growing(b"x" * 5_000_000)))
    assert len(app.sent[0].content) < 5_000_000 or app.last.input_tokens_estimated >= 50_000


@pytest.mark.parametrize("background", ["true", 1])
def test_a_response_that_is_only_queued_is_charged_at_its_bound(background: Any) -> None:
    """Only ``background is True`` is taken for background: a lenient provider queues it, and it settles at its input,
    never to be corrected."""
    app = App(response("queued"))
    try:
        app.client.responses.create(model="gpt-4o", input="Hi", background=background)
    except InputRejectedError:
        return
    assert app.last.cost_usd == app.last.cost_reserved_usd


def test_a_correction_comes_from_the_provider_alone() -> None:
    """``client.get`` takes a whole URL: whoever answers there with no usage gives the money back."""
    app = App(in_turn(response("queued"), response(usage=told(0, 0))))
    app.client.responses.create(model="gpt-4o", input="Hi", background=True)
    app.client.get("http://other.invalid/v1/responses/resp_1", cast_to=object)
    assert app.used()[1][1] > 0


def test_an_answer_corrects_the_response_that_it_is_of() -> None:
    """The id of the answer is not compared: a URL that a server reads otherwise corrects by a cheap response's bill."""
    app = App(in_turn(response("queued"), response(usage=told(1, 1), id="resp_cheap")))
    app.client.responses.create(model="gpt-4o", input="Hi", background=True)
    app.client.get("/responses/resp_cheap/%2e%2e/resp_1", cast_to=object)
    assert app.used()[1][1] > 0


def test_ids_that_differ_in_case_alone_are_two_responses() -> None:
    """Ids are compared in lower case: Bob's bill becomes Alice's, and Bob's own is never corrected."""
    answers = response("queued", id="resp_A"), response("queued", id="resp_a")
    app = App(in_turn(*answers, response(usage=told(1_000, 500), id="resp_a")))
    for user in ("alice", "bob"):
        app.client.responses.create(model="gpt-4o", input="Hi", background=True, user_id=user)
    app.client.responses.retrieve("resp_a")
    assert (app.used("alice")[1][0], app.used("bob")[1][0]) == (0, 1_500)


@pytest.mark.parametrize(
    "answers",
    [
        (response("queued", told(0, 0)),),
        (response("queued"), response("in_progress", told(0, 0))),
    ],
    ids=["created", "retrieved"],
)
def test_the_usage_of_a_response_that_is_not_over_is_not_its_bill(answers: Any) -> None:
    """Zeros beside ``queued`` or ``in_progress`` close the account at nothing, and the real bill is not taken."""
    app = App(in_turn(*answers, response(usage=told(1_000, 500))))
    app.client.responses.create(model="gpt-4o", input="Hi", background=True)
    for _ in answers:
        app.client.responses.retrieve("resp_1")
    assert app.used()[1] == (1_500, 0)


def test_the_usage_in_the_middle_of_a_stream_that_is_cut_is_not_its_bill() -> None:
    """An event that tells zeros before the first word makes a cut stream free, and its record ``ok``."""
    begun = {"type": "response.in_progress", "response": response("in_progress", told(0, 0))}
    app = App(events(begun, {"type": "response.output_text.delta", "delta": "Hello world"}))
    list(app.client.responses.create(model="gpt-4o", input="Hi", stream=True))
    assert (app.last.usage_source, app.last.outcome) == ("estimated", "error")


def test_a_chunk_of_a_cut_chat_that_tells_zeros_is_not_its_bill() -> None:
    """The same of chat completions, where some servers tell a running usage in each chunk."""
    chunk = {"choices": [{"index": 0, "delta": {"content": "Hello"}}]}
    usage = {"prompt_tokens": 0, "completion_tokens": 0}
    app = App(events({**chunk, "usage": usage}))
    list(app.client.chat.completions.create(model="gpt-4o", messages=HI, stream=True))
    assert app.last.cost_usd > 0


def test_the_fee_of_a_tool_listed_by_its_version_is_charged() -> None:
    """Answers name the family, and the policy lists ``web_search_preview``: the fee is reserved, then settled as 0."""
    answer = response(usage=told(0, 0), output=[{"type": "web_search_call", "id": "w"}])
    app = App(answer, {**POLICY, "routes": {"hosted_tools": {"web_search_preview": {"fee": "$0.01"}}}})
    app.client.responses.create(model="gpt-4o", input="Hi", tools=[{"type": "web_search_preview"}])
    assert app.last.cost_usd == Decimal("0.01")


def test_a_correction_beyond_the_bound_raises_the_alert_of_a_debt() -> None:
    """A background response that bills beyond what was reserved leaves neither an alert of the debt nor of a
    threshold."""
    app = App(in_turn(response("queued"), response(usage=told(1_000, 9_500_000))))
    app.client.responses.create(model="gpt-4o", input="Hi", background=True)
    app.client.responses.retrieve("resp_1")
    assert {"debt", "limit_threshold"} <= {getattr(event, "kind", "") for event in app.sink.events}


def test_images_that_a_json_edit_refers_to_are_counted() -> None:
    """Only uploads are: sixteen images by URL pass max_images = 4, and are reserved as one token."""
    app = App({"created": 1, "data": []})
    body = {"model": "gpt-image-1", "prompt": "x", "images": [{"image_url": "https://example.invalid/a.png"}] * 16}
    with pytest.raises(InputRejectedError):
        app.client.post("/images/edits", body=body, cast_to=object)


def test_both_images_of_a_stream_are_billed() -> None:
    """Each ``completed`` event tells its own image's usage; the last one replaces those before it."""
    one = {"type": "image_generation.completed", "b64_json": "x", "usage": told(10, 4_160)}
    app = App(lambda: events(one, one))
    list(app.client.images.generate(model="gpt-image-1", prompt="x", n=2, stream=True))
    assert app.last.output_tokens == 8_320


def test_a_suffix_is_held_to_the_rules_of_input() -> None:
    """A suffix passes max_message_chars, max_context_tokens and every check: it is reserved, and that is all."""
    app = App({"id": "x", "choices": []})
    with pytest.raises(InputRejectedError):
        app.client.completions.create(model="gpt-3.5-turbo-instruct", prompt="x", suffix="word " * 100_000)


@pytest.mark.parametrize(
    "extra",
    [{"keywords": ["word " * 100] * 40}, {"known_speaker_references": ["data:audio/wav;base64," + "A" * 160_000] * 4}],
    ids=["keywords", "references"],
)
def test_all_that_a_transcription_reads_is_reserved(extra: Any) -> None:
    """Keywords, and recordings of the speakers, are read by the model and reserved as nothing."""
    ask = {"endpoint": "audio.transcriptions", "model": "gpt-4o-transcribe", "file": ("a.mp3", b"x")}
    quote = App().client.guard.quote
    assert quote(**ask, **extra).input_tokens > quote(**ask).input_tokens


def wav(rate: int) -> bytes:
    """A second of silence for each `rate` bytes: PCM, mono, eight bits."""
    head = struct.pack("<IHHIIHH", 16, 1, 1, rate, rate, 1, 8)
    return b"RIFF" + struct.pack("<I", 36) + b"WAVEfmt " + head + b"data" + bytes(80_000)


def test_a_recording_is_as_long_as_its_header_says() -> None:
    """PCM is taken for 8,000 bytes a second whatever the header says: at 100 Hz a recording is 80 times longer."""
    ask = {"endpoint": "audio.transcriptions", "model": "gpt-4o-transcribe", "file": ("a.wav", wav(100))}
    assert App().client.guard.quote(**ask).input_tokens >= 8_000


def test_a_transcript_is_not_bounded_by_a_cap_that_is_not_sent() -> None:
    """An hour of speech is reserved as the policy's 64 output tokens, which nobody tells the provider of."""
    ask = {"endpoint": "audio.transcriptions", "model": "gpt-4o-transcribe", "file": ("a.mp3", bytes(3_600_000))}
    policy = {**POLICY, "output": {"max_tokens": 64, "default_max_tokens": 64}}
    assert App(policy=policy).client.guard.quote(**ask).max_output_tokens > 64


def test_a_recording_billed_by_tokens_never_uses_none() -> None:
    """A length told for a model that bills tokens settles limits on tokens at 0."""
    app = App({"text": "x", "usage": {"type": "duration", "seconds": 5}})
    app.client.audio.transcriptions.create(model="gpt-4o-transcribe", file=("a.mp3", bytes(4_000)))
    assert app.used()[1][0] > 0


def test_a_speed_that_is_text_is_refused_or_slows_down() -> None:
    """``speed="0.25"`` is reserved as speed 1: a quarter of what a lenient provider bills."""
    ask = {"endpoint": "audio.speech", "model": "gpt-4o-mini-tts", "input": "Hello", "voice": "alloy"}
    quote = App().client.guard.quote
    as_text = quote(**ask, speed="0.25")
    assert as_text.would_be_denied is not None or as_text.max_usd == quote(**ask, speed=0.25).max_usd


def test_a_model_priced_like_one_that_bills_letters_bills_letters() -> None:
    """``same_as = "tts-1"`` takes the price per letter, but counts tokens: a quarter, once the exact count is asked."""
    speak = httpx.Response(200, content=b"x", headers={"content-type": "audio/mpeg"})
    policy = {"prices": {"mine": {"same_as": "tts-1"}}, "plans": {"default": {"limits": ["$0.02/day"]}}}
    app = App(speak, policy)
    with pytest.raises(DeniedError):
        app.client.audio.speech.create(model="mine", input="Hello world " * 150, voice="alloy")  # $0.027


def test_a_history_of_many_turns_is_looked_at_in_linear_time() -> None:
    """One result for the first of 60,000 turns joins them one by one, each time copying all: several seconds, on the
    event loop, within the default limit of bytes."""
    call: dict[str, Any] = {"role": "assistant", "tool_calls": [{"id": "a"}]}
    messages: list[dict[str, Any]] = [
        call,
        *[{"role": "user", "content": "a"}] * 60_000,
        {"role": "tool", "tool_call_id": "a"},
    ]
    began = time.process_time()
    turns(messages)
    assert time.process_time() - began < 0.5


# Checks that do not see -----------------------------------------------------------------------------------------------


class Denies:
    """Denies what holds a word."""

    name = "denies"

    def inspect(self, content: Content) -> list[Finding]:
        seen = any("SECRET" in part.text for part in content.parts)
        return [Finding("secret", "high", "input", action="deny")] if seen else []


@pytest.mark.parametrize(
    ("path", "arguments"),
    [
        ("/responses", {"model": "gpt-4o", "prompt": {"id": "p", "variables": {"x": "SECRET"}}}),
        ("/completions", {"model": "gpt-3.5-turbo-instruct", "prompt": "x", "suffix": "SECRET"}),
        (
            "/responses",
            {
                "model": "gpt-4o",
                "input": [*ITEMS, {"type": "shell_call_output", "call_id": "c", "output": [{"stdout": "SECRET"}]}],
            },
        ),
        (
            "/responses",
            {
                "model": "gpt-4o",
                "input": [*ITEMS, {"type": "file_search_call", "id": "c", "results": [{"text": "SECRET"}]}],
            },
        ),
    ],
    ids=["variables", "suffix", "shell", "search"],
)
def test_checks_see_all_text_that_comes_from_outside(path: str, arguments: Any) -> None:
    """Variables of stored prompts, suffixes, a shell's output and search results are not handed to checks."""
    app = App(response(choices=[]), checks=[Denies()])
    with pytest.raises(InputRejectedError):
        app.client.post(path, body=arguments, cast_to=object)


# What works with the SDK, and not with ours ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("endpoint", "arguments"),
    [
        ("embeddings", {"model": "text-embedding-3-small", "input": "x", "encoding_format": "float"}),
        ("images.generate", {"model": "gpt-image-1", "prompt": "x"}),
        ("completions", {"model": "gpt-3.5-turbo-instruct", "prompt": "x"}),
        ("responses.compact", {"model": "gpt-4o", "input": "x"}),
    ],
)
def test_the_safety_identifier_goes_where_the_api_knows_it(endpoint: str, arguments: Any) -> None:
    """Only chat completions and Responses have that parameter; elsewhere OpenAI refuses it, and so every call."""
    path = next(path for path, known in ENDPOINTS.items() if known.name == endpoint)
    app = App({}, {**POLICY, "identity": {"send_safety_identifier": True}})
    app.client.post(path, body=arguments, cast_to=object)
    assert "safety_identifier" not in app.body


PICTURE = "iVBORw0KGgo=" * 30_000
"""360 kB, as a model's own image or a screenshot has."""


@pytest.mark.parametrize(
    "item",
    [
        {
            "type": "mcp_list_tools",
            "id": "l",
            "server_label": "s",
            "tools": [{"name": "a", "input_schema": {"type": "object"}}],
        },
        {"type": "image_generation_call", "id": "i", "status": "completed", "result": PICTURE},
        {
            "type": "computer_call_output",
            "call_id": "c",
            "output": {"type": "computer_screenshot", "image_url": f"data:image/png;base64,{PICTURE}"},
        },
        {"type": "message", "id": "m", "role": "assistant", "status": "incomplete", "content": []},
        {"type": "configuration_update", "id": "u"},
        {"type": "reasoning", "id": "r", "summary": iter([{"type": "summary_text", "text": "x"}])},
    ],
    ids=["mcp", "image", "screenshot", "empty", "configuration", "iterable"],
)
def test_an_item_of_a_previous_answer_may_be_sent_back(item: Any) -> None:
    """``input + response.output`` is how the SDK's users go on; these items are refused as malformed or too long."""
    app = App(response())
    app.client.responses.create(model="gpt-4o", input=[*ITEMS, item])
    assert app.body["input"][-1]["type"] == item["type"]


@pytest.mark.parametrize("beta", ["beta.responses", "responses"])
def test_a_response_takes_what_agents_say_to_each_other(beta: str) -> None:
    """``client.beta.responses``, which not every SDK has, has items of its own, such as multi_agent_call_output."""
    app = App(response())
    found = app.client.beta if beta == "beta.responses" and hasattr(app.client.beta, "responses") else app.client
    found.responses.create(
        model="gpt-4o", input=[*ITEMS, {"type": "multi_agent_call_output", "call_id": "c", "output": "x"}]
    )
    assert app.sent


def test_a_local_shell_is_no_hosted_tool() -> None:
    """A ``shell`` whose environment is local is run by the application, as ``local_shell`` is."""
    app = App(response())
    app.client.responses.create(model="gpt-4o", input="x", tools=[{"type": "shell", "environment": {"type": "local"}}])
    assert app.sent


# Quotes and records that are wrong ------------------------------------------------------------------------------------


def test_a_quote_prices_the_deployment_that_the_client_is_for() -> None:
    """With ``azure_deployment=`` a call is priced, and allowed, by the deployment; a quote by the model's name."""
    policy = {**POLICY, "prices": {"mine": {"input": "100", "output": "100"}}}
    azure = {"azure_endpoint": "https://example.invalid", "azure_deployment": "mine", "api_version": "1"}
    app = App({"id": "x", "choices": []}, policy, SafeAzureOpenAI, **azure)
    quote = app.client.guard.quote(model="gpt-4o-mini", messages=HI)
    app.client.chat.completions.create(model="gpt-4o-mini", messages=HI)
    assert quote.max_usd == app.last.cost_reserved_usd


def test_a_quote_measures_the_file_of_a_path_as_the_call_does(tmp_path: Path) -> None:
    """The SDK reads a path before the call is read, so its header is seen there, and not in a quote."""
    file = tmp_path / "a.wav"
    file.write_bytes(wav(8_000))
    app = App({"text": "x"})
    quote = app.client.guard.quote(endpoint="audio.transcriptions", model="gpt-4o-transcribe", file=file)
    app.client.audio.transcriptions.create(model="gpt-4o-transcribe", file=file)
    assert quote.max_usd == app.last.cost_reserved_usd


def test_a_quote_takes_any_iterable_that_create_takes() -> None:
    """``tools`` as a generator is sent by ``create``, and malformed for a quote."""
    tools = ({"type": "function", "name": name, "parameters": {}} for name in "ab")
    assert App().client.guard.quote(model="gpt-4o", input="x", tools=tools).would_be_denied is None


def test_a_response_that_failed_is_recorded_as_an_error() -> None:
    """``response.failed`` and ``status: failed`` are recorded as ``ok``."""
    app = App(events({"type": "response.failed", "response": response("failed", error={"code": "server_error"})}))
    list(app.client.responses.create(model="gpt-4o", input="x", stream=True))
    assert app.last.outcome == "error"


def test_two_recordings_of_one_size_are_two_requests() -> None:
    """A file object is hashed by its size alone, so that a limit per prompt takes other files for a loop."""
    app = App({"text": "x"})
    for letter in (b"a", b"b"):
        file = ("a.mp3", io.BytesIO(letter * 1_000))
        app.client.audio.transcriptions.create(model="gpt-4o-transcribe", file=file)
    assert len({record.prompt_hash for record in app.sink.records}) == 2


def test_an_answer_without_usage_is_not_counted_beyond_its_bound() -> None:
    """An answer of 64 MB that tells no usage is tokenized whole, 0.1 s a megabyte, beyond every deadline, though what
    is charged is cut to the reservation."""
    text = "".join(random.Random(0).choices(string.ascii_letters, k=1_000_000)) * 16
    answer = {"id": "x", "choices": [{"index": 0, "message": {"role": "assistant", "content": text}}]}
    app = App(answer, {**POLICY, "checks": {"secrets": "off", "links": "off", "prompt_leak": "off"}})
    app.client.guard.quote(model="gpt-4o", messages=HI)  # loads what counting needs
    began = time.process_time()
    app.client.chat.completions.create(model="gpt-4o", messages=HI, max_tokens=10)
    assert time.process_time() - began < 0.5


def test_events_of_a_json_type_are_metered_as_the_sdk_reads_them() -> None:
    """A stream whose type says JSON is read as events by the SDK, but not by the meter: it is charged at its bound,
    and the caller sees the chunk of usage that he did not ask for."""
    chunk = {"id": "x", "choices": [{"index": 0, "delta": {"content": "Hi"}}]}
    usage = {"id": "x", "choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 7}}
    answer = httpx.Response(200, content=events(chunk, usage).content, headers={"content-type": "application/json"})
    app = App(answer)
    assert len(list(app.client.chat.completions.create(model="gpt-4o", messages=HI, stream=True))) == 1
    assert app.last.output_tokens == 7

"""The fake provider's audio, through the bare OpenAI SDK."""

from __future__ import annotations

import base64
import io
import json
import wave
from collections.abc import Callable
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, AzureOpenAI, OpenAI

from safe_llm.testing import FakeOpenAI, Reply
from safe_llm.types import Usage

Strict = Callable[[Any], Any]

# Translations, which are served nevertheless.
pytestmark = pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")


def sound(seconds: float) -> tuple[str, bytes]:
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(1)
        writer.setframerate(1000)
        writer.writeframes(bytes(int(1000 * seconds)))
    return "sound.wav", file.getvalue()


def transcribe(client: OpenAI, **options: Any) -> Any:
    return client.audio.transcriptions.create(**{"model": "gpt-4o-transcribe", "file": sound(2)} | options)


def speak(client: OpenAI, **options: Any) -> Any:
    return client.audio.speech.create(**{"model": "gpt-4o-mini-tts", "voice": "alloy", "input": "one two"} | options)


# Transcriptions -------------------------------------------------------------------------------------------------------


def test_a_transcription_is_billed_by_tokens(server: FakeOpenAI, client: OpenAI, strict: Strict) -> None:
    server.script(Reply("one two three"))
    answer = strict(transcribe(client, prompt="about cats", include=["logprobs"]))
    assert answer.text == "one two three"
    assert answer.usage.to_dict() == {
        "type": "tokens",
        "input_tokens": 22,
        "input_token_details": {"text_tokens": 2, "audio_tokens": 20},
        "output_tokens": 3,
        "total_tokens": 25,
    }
    request = server.requests[0]
    assert request.body["include[]"] == ["logprobs"]
    assert request.files == {"file": [sound(2)]}


@pytest.mark.parametrize("model", ["whisper-1", "gpt-transcribe"])
@pytest.mark.parametrize(
    ("file", "seconds"), [(sound(2), 2), (sound(0.1), 1), (sound(2.001), 3), (("a.mp3", bytes(16_001)), 2)]
)
def test_or_by_the_seconds_that_were_begun(
    client: OpenAI, strict: Strict, model: str, file: tuple[str, bytes], seconds: int
) -> None:
    answer = strict(transcribe(client, model=model, file=file))
    assert answer.usage.to_dict() == {"type": "duration", "seconds": seconds}


def test_usage_can_be_given_or_be_missing(server: FakeOpenAI, client: OpenAI, strict: Strict) -> None:
    server.script(
        Reply(usage=Usage(10, 5, input_audio_tokens=8)),
        Reply(usage={"type": "duration", "seconds": 1.5}),
        Reply(usage=None),
    )
    usage = strict(transcribe(client, model="whisper-1")).usage
    assert (usage.type, usage.total_tokens, usage.input_token_details.to_dict()) == (
        "tokens",
        15,
        {"text_tokens": 2, "audio_tokens": 8},
    )
    assert transcribe(client).usage.seconds == 1.5
    assert transcribe(client).usage is None


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("text", "one two\n"),
        ("srt", "1\n00:00:00,000 --> 00:01:02,000\none two\n\n"),
        ("vtt", "WEBVTT\n\n00:00:00.000 --> 00:01:02.000\none two\n\n"),
    ],
)
def test_it_can_be_plain_text_without_usage(server: FakeOpenAI, client: OpenAI, form: Any, text: str) -> None:
    server.always(Reply("one two"))
    for surface in (client.audio.transcriptions, client.audio.translations):
        response = surface.with_raw_response.create(model="whisper-1", file=sound(62), response_format=form)
        assert response.headers["content-type"].startswith("text/plain")
        assert response.parse() == text


def test_it_can_be_told_in_detail(server: FakeOpenAI, client: OpenAI, strict: Strict) -> None:
    server.always(Reply("one two"))
    verbose = strict(transcribe(client, model="whisper-1", response_format="verbose_json"))
    assert (verbose.duration, verbose.language, verbose.segments[0].text) == (2.0, "english", "one two")
    assert verbose.usage.seconds == 2
    diarized = strict(transcribe(client, model="gpt-4o-transcribe-diarize", response_format="diarized_json"))
    assert (diarized.segments[0].speaker, diarized.usage.type) == ("A", "tokens")


def test_a_transcription_streams_its_pieces_and_usage_in_its_end(
    server: FakeOpenAI, client: OpenAI, strict: Strict
) -> None:
    server.always(Reply("one two"))
    *deltas, last = [strict(event) for event in transcribe(client, stream=True)]
    assert [(event.type, event.delta) for event in deltas] == [
        ("transcript.text.delta", "one"),
        ("transcript.text.delta", " two"),
    ]
    assert (last.type, last.text, last.usage.input_tokens) == ("transcript.text.done", "one two", 20)
    assert server.requests[0].body["stream"] == "true"
    server.script(Reply(done=False), Reply("one two", cut=1, abrupt=False), Reply(usage=None))
    assert {event.type for event in transcribe(client, stream=True)} == {"transcript.text.delta"}
    assert len(list(transcribe(client, stream=True))) == 1
    assert list(transcribe(client, stream=True))[-1].usage is None


@pytest.mark.parametrize("options", [{"stream": False}, {"stream": True, "model": "whisper-1"}])
def test_it_does_not_stream_unasked_nor_with_a_model_that_cannot(client: OpenAI, options: dict[str, Any]) -> None:
    response = client.audio.transcriptions.with_raw_response.create(
        **{"model": "gpt-4o-transcribe", "file": sound(2)} | options
    )
    assert response.headers["content-type"] == "application/json"


def test_a_translation_tells_no_usage(server: FakeOpenAI, client: OpenAI, strict: Strict) -> None:
    server.always(Reply("one two", usage=Usage(10, 5)))
    plain = strict(client.audio.translations.create(model="whisper-1", file=sound(2)))
    assert plain.to_dict() == {"text": "one two"}
    verbose: Any = client.audio.translations.create(model="whisper-1", file=sound(2), response_format="verbose_json")
    assert (strict(verbose).duration, "usage" in verbose.to_dict()) == (2.0, False)


@pytest.mark.parametrize("surface", ["transcriptions", "translations"])
def test_without_a_file_it_is_a_400(client: OpenAI, surface: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.post(f"/audio/{surface}", body={"model": "whisper-1"}, cast_to=object)
    assert caught.value.param == "file"


# Speech ---------------------------------------------------------------------------------------------------------------


def test_speech_is_sound_alone_as_long_as_its_words(server: FakeOpenAI, client: OpenAI) -> None:
    two, three = speak(client), speak(client, input="one two three", response_format="opus")
    assert (two.response.headers["content-type"], three.response.headers["content-type"]) == (
        "audio/mpeg",
        "audio/opus",
    )
    assert len(two.content) * 3 == len(three.content) * 2 > 0
    server.script(Reply("one two three", cut=5, abrupt=False))
    assert speak(client).content == two.content[:5]


def events_of(answer: Any) -> list[dict[str, Any]]:
    return [json.loads(line.removeprefix("data: ")) for line in answer.text.splitlines() if line.startswith("data: ")]


def test_speech_can_be_events_with_usage_in_the_last(server: FakeOpenAI, client: OpenAI) -> None:
    sse: Any = {"stream_format": "sse"}
    server.script(Reply(), Reply(usage=Usage(10, 5)), Reply(usage=None), Reply("one", done=False))
    *deltas, last = events_of(speak(client, instructions="slowly", **sse))
    assert {event["type"] for event in deltas} == {"speech.audio.delta"}
    assert b"".join(base64.b64decode(event["audio"]) for event in deltas) == speak(client).content
    assert last == {
        "type": "speech.audio.done",
        "usage": {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5},
    }
    assert "usage" not in events_of(speak(client, **sse))[-1]
    assert [event["type"] for event in events_of(speak(client, **sse))] == ["speech.audio.delta"]
    assert events_of(speak(client, model="tts-1-hd", **sse)) == []


def test_speech_without_words_is_a_400(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        speak(client, input="")
    assert caught.value.param == "input"


# All of it ------------------------------------------------------------------------------------------------------------


def test_azure_reaches_them_by_the_deployment(server: FakeOpenAI) -> None:
    with AzureOpenAI(azure_endpoint=server.url, api_key="test", api_version="2025-04-01-preview") as azure:
        assert transcribe(azure, model="mine").usage.type == "tokens"
        assert azure.audio.translations.create(model="mine", file=sound(2)).text
        assert speak(azure, model="mine").content
    assert [request.path for request in server.requests] == [
        f"/openai/deployments/mine/audio/{name}" for name in ("transcriptions", "translations", "speech")
    ]
    assert server.count == 3


@pytest.mark.anyio
async def test_async_clients_reach_them_too(server: FakeOpenAI) -> None:
    async with AsyncOpenAI(base_url=server.base_url, api_key="test") as client:
        stream: Any = await client.audio.transcriptions.create(model="gpt-4o-transcribe", file=sound(2), stream=True)
        assert [event.type async for event in stream][-1] == "transcript.text.done"
        assert (await client.audio.speech.create(model="tts-1", voice="alloy", input="Hi")).content

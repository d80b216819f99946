"""Code that is type-checked and never run: what mypy and pyright must infer from the clients."""

from __future__ import annotations

from typing import assert_type

from openai import AsyncStream, Stream
from openai.types import Completion, CreateEmbeddingResponse, ImagesResponse
from openai.types.audio import Transcription
from openai.types.chat import ChatCompletion, ChatCompletionChunk, ChatCompletionMessageParam, ParsedChatCompletion
from openai.types.responses import ParsedResponse, Response, ResponseStreamEvent
from pydantic import BaseModel

from safe_llm import AsyncSafeOpenAI, LimitStatus, Policy, Quote, SafeAzureOpenAI, SafeOpenAI

MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "hello"}]


class Answer(BaseModel):
    text: str


def sync_client(client: SafeOpenAI) -> None:
    create = client.chat.completions.create
    assert_type(create(model="gpt-4o", messages=MESSAGES), ChatCompletion)
    assert_type(create(model="gpt-4o", messages=MESSAGES, user_id="u1", feature="f", tags={"a": "b"}), ChatCompletion)
    assert_type(create(model="gpt-4o", messages=MESSAGES, stream=True), Stream[ChatCompletionChunk])
    parsed = client.chat.completions.parse(model="gpt-4o", messages=MESSAGES, response_format=Answer, user_id="u1")
    assert_type(parsed, ParsedChatCompletion[Answer])
    with client.chat.completions.stream(model="gpt-4o", messages=MESSAGES, response_format=Answer) as stream:
        assert_type(stream.get_final_completion(), ParsedChatCompletion[Answer])
    assert_type(client.with_identity(user_id="u1"), SafeOpenAI)
    assert_type(client.with_options(timeout=1), SafeOpenAI)
    assert_type(client.guard.usage(user_id="u1"), list[LimitStatus])
    assert_type(client.guard.quote(model="gpt-4o", messages=MESSAGES), Quote)
    assert_type(client.guard.policy, Policy)
    respond = client.responses.create
    assert_type(respond(model="gpt-4o", input="hello", user_id="u1"), Response)
    assert_type(respond(model="gpt-4o", input="hello", stream=True), Stream[ResponseStreamEvent])
    assert_type(client.responses.parse(model="gpt-4o", input="hello", text_format=Answer), ParsedResponse[Answer])
    assert_type(client.embeddings.create(model="m", input="hello", tags={"a": "b"}), CreateEmbeddingResponse)
    assert_type(client.completions.create(model="m", prompt="hello", session_id="s"), Completion)
    assert_type(client.images.generate(model="m", prompt="hello", user_id="u1"), ImagesResponse)
    transcribe = client.audio.transcriptions.create
    assert_type(transcribe(model="m", file=b"", user_id="u1"), Transcription)
    assert_type(transcribe(model="m", file=b"", response_format="srt"), str)
    respond(model="gpt-4o", input="hello", user_idd="u1")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    create(model="gpt-4o", messages=MESSAGES, user_idd="u1")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    create(model="gpt-4o", messages=MESSAGES, user_id=1)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    create(model="gpt-4o", messages=MESSAGES, temprature=1)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]


async def async_client(client: AsyncSafeOpenAI) -> None:
    create = client.chat.completions.create
    assert_type(await create(model="gpt-4o", messages=MESSAGES, user_id="u1"), ChatCompletion)
    assert_type(await create(model="gpt-4o", messages=MESSAGES, stream=True), AsyncStream[ChatCompletionChunk])
    parsed = await client.chat.completions.parse(model="gpt-4o", messages=MESSAGES, response_format=Answer)
    assert_type(parsed, ParsedChatCompletion[Answer])
    assert_type(await client.guard.usage(user_id="u1"), list[LimitStatus])
    assert_type(await client.guard.quote(model="gpt-4o", messages=MESSAGES), Quote)


def constructors() -> None:
    SafeOpenAI(api_key="k", timeout=3, policy={"mode": "shadow"}, sinks=[print], plan_for={"u1": "pro"})
    SafeAzureOpenAI(azure_endpoint="https://x", api_version="v", api_key="k", quota_store="memory://")
    SafeOpenAI(api_keyy="k")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]

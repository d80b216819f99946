"""The fake provider's images, through the bare OpenAI SDK."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, AzureOpenAI, OpenAI

from safe_llm.testing import FakeOpenAI, Reply
from safe_llm.types import Usage

Strict = Callable[[Any], Any]

PNG = b"\x89PNG\r\n\x1a\n"
CAT = ("cat.png", PNG + b"a cat\r\n--")


def generate(client: OpenAI, **options: Any) -> Any:
    return client.images.generate(**{"model": "gpt-image-1", "prompt": "a red cat"} | options)


def edit(client: OpenAI, **options: Any) -> Any:
    return client.images.edit(**{"model": "gpt-image-1", "prompt": "a red cat", "image": CAT} | options)


def test_as_many_images_come_as_were_asked_for_and_all_are_billed(client: OpenAI, strict: Strict) -> None:
    answer = strict(generate(client, n=3, quality="low", size="1024x1536"))
    assert [base64.b64decode(image.b64_json)[:8] for image in answer.data] == [PNG] * 3
    assert (answer.quality, answer.size, answer.output_format) == ("low", "1024x1536", "png")
    usage = answer.usage
    assert (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (3, 3 * 272, 3 + 3 * 272)
    assert usage.input_tokens_details.to_dict() == {"text_tokens": 3, "image_tokens": 0}


@pytest.mark.parametrize(("quality", "tokens"), [("low", 272), ("medium", 1056), ("high", 4160), ("auto", 4160)])
def test_an_image_costs_by_its_quality(client: OpenAI, quality: str, tokens: int) -> None:
    assert generate(client, quality=quality).usage.output_tokens == tokens


def test_an_edit_is_billed_for_the_images_sent(server: FakeOpenAI, client: OpenAI, strict: Strict) -> None:
    answer = strict(edit(client, image=[CAT, ("dog.png", PNG)], mask=PNG, n=2, quality="low"))
    assert len(answer.data) == 2
    assert answer.usage.input_tokens_details.to_dict() == {"text_tokens": 3, "image_tokens": 3 * 256}
    request = server.requests[0]
    assert request.body == {"model": "gpt-image-1", "prompt": "a red cat", "n": "2", "quality": "low"}
    assert request.files["image[]"] == [CAT, ("dog.png", PNG)]
    assert [content for _, content in request.files["mask"]] == [PNG]
    assert edit(client).usage.input_tokens == 3 + 256


@pytest.mark.parametrize(("ask", "kind"), [(generate, "image_generation"), (edit, "image_edit")])
def test_a_stream_has_as_many_partial_images_as_asked_for_and_usage_in_its_end(
    client: OpenAI, strict: Strict, ask: Callable[..., Any], kind: str
) -> None:
    *partial, last = [strict(event) for event in ask(client, stream=True, partial_images=2, quality="low")]
    assert [(event.type, event.partial_image_index) for event in partial] == [
        (f"{kind}.partial_image", i) for i in (0, 1)
    ]
    assert (last.type, last.usage.output_tokens) == (f"{kind}.completed", 272 + 200)
    assert base64.b64decode(last.b64_json).startswith(PNG)
    (only,) = ask(client, stream=True, partial_images=0)
    assert only.type == f"{kind}.completed"


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")  # variations, which are served nevertheless
def test_the_retired_models_have_no_usage_and_do_not_stream(client: OpenAI, strict: Strict) -> None:
    answer = strict(generate(client, model="dall-e-3", response_format="url"))
    assert (answer.data[0].url.startswith("https://"), answer.data[0].b64_json, answer.usage) == (True, None, None)
    variation = strict(client.images.create_variation(model="dall-e-2", image=CAT, n=2))
    assert ([base64.b64decode(image.b64_json)[:8] for image in variation.data], variation.usage) == ([PNG] * 2, None)
    response = client.images.with_raw_response.generate(model="dall-e-3", prompt="a cat", stream=True)
    assert response.headers["content-type"] == "application/json"


def test_usage_can_be_given_or_be_missing(server: FakeOpenAI, client: OpenAI, strict: Strict) -> None:
    server.script(Reply(usage=Usage(300, 5)), Reply(usage={"total_tokens": 7}), Reply(usage=None), Reply(usage=None))
    usage = strict(edit(client)).usage
    assert (usage.total_tokens, usage.input_tokens_details.to_dict()) == (305, {"text_tokens": 44, "image_tokens": 256})
    assert generate(client).usage.total_tokens == 7
    assert generate(client).usage is None
    assert "usage" not in next(iter(generate(client, stream=True))).to_dict()


def test_a_stream_can_be_cut_and_its_end_can_be_missing(server: FakeOpenAI, client: OpenAI) -> None:
    server.script(Reply(cut=1, abrupt=False), Reply(done=False), Reply(status=429))
    assert len(list(generate(client, stream=True, partial_images=3))) == 1
    assert len(list(generate(client, stream=True, partial_images=3))) == 3
    with pytest.raises(openai.RateLimitError):
        edit(client)


@pytest.mark.parametrize(
    ("call", "param"),
    [
        (lambda client: generate(client, n=0), "n"),
        (lambda client: edit(client, n="two"), "n"),
        (lambda client: edit(client, stream=True, partial_images=-1), "partial_images"),
        (lambda client: generate(client, prompt=None), "prompt"),
        (lambda client: edit(client, image=[]), "image"),
    ],
)
def test_what_the_real_api_would_refuse_is_a_400(client: OpenAI, call: Callable[[OpenAI], Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        call(client)
    assert caught.value.param == param


def test_azure_reaches_them_by_the_deployment_whose_name_says_nothing(server: FakeOpenAI) -> None:
    with AzureOpenAI(azure_endpoint=server.url, api_key="test", api_version="2025-04-01-preview") as azure:
        assert generate(azure, model="mine").usage.input_tokens == 3
        assert edit(azure, model="mine").usage.input_tokens == 3 + 256
    assert [request.path for request in server.requests] == [
        "/openai/deployments/mine/images/generations",
        "/openai/deployments/mine/images/edits",
    ]


@pytest.mark.anyio
async def test_async_clients_reach_them_too(server: FakeOpenAI) -> None:
    async with AsyncOpenAI(base_url=server.base_url, api_key="test") as client:
        answer: Any = await client.images.edit(model="gpt-image-1", prompt="a red cat", image=CAT)
        assert answer.usage.input_tokens == 3 + 256
        stream: Any = await client.images.generate(model="gpt-image-1", prompt="a cat", stream=True)
        assert [event.type async for event in stream] == ["image_generation.completed"]

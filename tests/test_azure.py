"""Azure: deployments in the path, their names as models, and their prices."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest

from safe_llm import (
    AsyncSafeAzureOpenAI,
    FeatureNotAllowedError,
    RateLimitExceededError,
    SafeAzureOpenAI,
    UnpricedModelError,
    Usage,
    identify,
)
from safe_llm.testing import FakeOpenAI, RecordingSink, Reply

pytestmark = pytest.mark.anyio

MESSAGES = [{"role": "user", "content": "Good morning"}]
PRICED = {"prices": {"shop-prod": {"input": "2.50", "cached_input": "1.25", "output": "10.00"}}}
USAGE = Usage(input_tokens=1_000, output_tokens=100, cached_input_tokens=400)
COST = Decimal("0.003")
"""600 at $2.50, 400 at $1.25 and 100 at $10 per million."""


async def done(result: Any) -> Any:
    """What a client of either colour answers."""
    return await result if inspect.isawaitable(result) else result


async def chat(client: Any, **arguments: Any) -> Any:
    result = await done(client.chat.completions.create(**{"model": "shop-prod", "messages": MESSAGES, **arguments}))
    if arguments.get("stream"):
        return [chunk async for chunk in result] if hasattr(result, "__aiter__") else list(result)
    return result


@pytest.fixture
def server() -> Iterator[FakeOpenAI]:
    with FakeOpenAI() as server:
        server.always(Reply("Hello", model="gpt-4o-2024-08-06", usage=USAGE))
        yield server


@pytest.fixture(params=[SafeAzureOpenAI, AsyncSafeAzureOpenAI], ids=["sync", "async"])
async def make(request: pytest.FixtureRequest, server: FakeOpenAI, sink: RecordingSink) -> AsyncIterator[Any]:
    """Makes Azure clients of one colour; closes them in the end."""
    made: list[Any] = []

    def make(**arguments: Any) -> Any:
        base: dict[str, Any] = {"azure_endpoint": server.url, "api_version": "2026-01-01", "api_key": "test"}
        made.append(request.param(**{**base, "sinks": [sink], **arguments}))
        return made[-1]

    yield make
    for client in made:
        await done(client.close())


Make = Callable[..., Any]


async def test_the_deployment_is_the_model_of_the_record_and_of_the_path(
    make: Make, server: FakeOpenAI, sink: RecordingSink
) -> None:
    await chat(make(policy=PRICED), user_id="u1", feature="search")
    (request,) = server.requests
    assert request.path == "/openai/deployments/shop-prod/chat/completions"
    assert request.query == {"api-version": "2026-01-01"}
    assert request.headers["api-key"] == "test"
    record = sink.last
    assert (record.endpoint, record.model, record.response_model) == (
        "chat.completions",
        "shop-prod",
        "gpt-4o-2024-08-06",
    )
    assert (record.user_id, record.feature) == ("u1", "search")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_deployment_costs_what_the_policy_says(make: Make, sink: RecordingSink, stream: bool) -> None:
    await chat(make(policy=PRICED), **({"stream": True} if stream else {}))
    assert (sink.last.cost_usd, sink.last.usage_source) == (COST, "provider")


async def test_a_deployment_can_cost_the_same_as_a_known_model(make: Make, sink: RecordingSink) -> None:
    await chat(make(policy={"prices": {"shop-prod": {"same_as": "gpt-4o"}}}))
    assert sink.last.cost_usd == COST


async def test_a_deployment_without_a_price_is_denied_where_money_is_limited(make: Make, server: FakeOpenAI) -> None:
    with pytest.raises(UnpricedModelError, match=r'\[prices\."shop-prod"\]'):
        await chat(make())
    assert server.count == 0


async def test_a_deployment_without_a_price_costs_what_the_model_that_answers_costs(
    make: Make, sink: RecordingSink
) -> None:
    """Where no money is limited, it need not be known before the call, and is known after it."""
    await chat(make(policy={"plans": {"default": {"limits": []}}}))
    assert (sink.last.cost_reserved_usd, sink.last.cost_usd) == (None, COST)


async def test_a_client_s_own_deployment_goes_before_the_model_in_the_path(
    make: Make, server: FakeOpenAI, sink: RecordingSink
) -> None:
    client = make(azure_deployment="shop-prod", policy=PRICED)
    await chat(client)
    assert server.requests[-1].path == "/openai/deployments/shop-prod/chat/completions"
    assert (sink.last.endpoint, sink.last.outcome) == ("chat.completions", "ok")


async def test_plans_list_deployments_as_they_are_named(make: Make, server: FakeOpenAI) -> None:
    client = make(policy={**PRICED, "plans": {"default": {"models": ["shop-*"], "limits": []}}})
    await chat(client)
    with pytest.raises(FeatureNotAllowedError):
        await chat(client, model="gpt-4o")
    assert server.count == 1


async def test_the_cap_and_the_identity_hold_as_everywhere(make: Make, server: FakeOpenAI, sink: RecordingSink) -> None:
    client = make(policy=PRICED).with_identity(feature="search")
    with identify(user_id="u1"):
        await chat(client, max_tokens=9_000)
    assert server.requests[-1].body == {"model": "shop-prod", "messages": MESSAGES, "max_tokens": 4_000}
    assert (sink.last.user_id, sink.last.feature, sink.last.max_tokens) == ("u1", "search", 4_000)


async def test_a_copy_keeps_the_endpoint_and_the_guard(make: Make, server: FakeOpenAI) -> None:
    client = make(policy={**PRICED, "plans": {"default": {"limits": ["2 requests/day"]}}})
    await chat(client, user_id="u1")
    await chat(client.with_options(api_version="2027-01-01"), user_id="u1")
    assert [request.query["api-version"] for request in server.requests] == ["2026-01-01", "2027-01-01"]
    (status,) = await done(client.guard.usage(user_id="u1"))
    assert (status.used, status.remaining) == (2, 0)


async def test_a_raw_post_to_a_deployment_is_guarded(make: Make, server: FakeOpenAI, sink: RecordingSink) -> None:
    client = make(policy=PRICED)
    body = {"model": "shop-prod", "messages": MESSAGES}
    for path in ("/chat/completions", "/deployments/shop-prod/chat/completions"):
        await done(client.post(path, body=dict(body), cast_to=object))
        assert server.requests[-1].body["max_completion_tokens"] == 1_000
    assert [record.endpoint for record in sink.records] == ["chat.completions"] * 2


async def test_a_token_provider_is_asked(make: Make, server: FakeOpenAI) -> None:
    client = make(api_key=None, azure_ad_token_provider=lambda: "entra", policy=PRICED)
    await chat(client)
    assert server.requests[-1].headers["authorization"] == "Bearer entra"


SURFACES: dict[str, tuple[str, dict[str, Any], str]] = {
    "responses": ("responses.create", {"input": "Hi"}, "/openai/responses"),
    "embeddings": ("embeddings.create", {"input": "Hi"}, "/openai/deployments/shop-prod/embeddings"),
    "completions": ("completions.create", {"prompt": "Hi"}, "/openai/deployments/shop-prod/completions"),
    "images": ("images.generate", {"prompt": "Hi"}, "/openai/deployments/shop-prod/images/generations"),
    "speech": (
        "audio.speech.create",
        {"input": "Hi", "voice": "alloy"},
        "/openai/deployments/shop-prod/audio/speech",
    ),
}
"""Method, arguments, and where Azure's client sends them."""


@pytest.mark.parametrize("surface", SURFACES)
async def test_every_surface_is_guarded_and_priced_by_its_deployment(
    make: Make, server: FakeOpenAI, sink: RecordingSink, surface: str
) -> None:
    path, arguments, route = SURFACES[surface]
    client = make(policy={**PRICED, "plans": {"default": {"limits": ["1 requests/day", "$5/day"]}}})
    method = client
    for step in path.split("."):
        method = getattr(method, step)
    await done(method(model="shop-prod", **arguments, user_id="u1"))
    assert [request.path for request in server.requests] == [route]
    assert (sink.last.model, sink.last.user_id, sink.last.outcome) == ("shop-prod", "u1", "ok")
    assert sink.last.cost_usd is not None
    assert sink.last.cost_usd > 0
    with pytest.raises(RateLimitExceededError):
        await done(method(model="shop-prod", **arguments, user_id="u1"))
    assert len(server.requests) == 1


async def test_a_stream_without_usage_falls_back_to_an_estimate_that_says_so(
    make: Make, server: FakeOpenAI, sink: RecordingSink
) -> None:
    server.always(Reply("Hello there", usage=None, model="gpt-4o-2024-08-06"))
    stream = await done(make(policy=PRICED).responses.create(model="shop-prod", input="Hi", stream=True))
    assert [event async for event in stream] if hasattr(stream, "__aiter__") else list(stream)
    assert (sink.last.outcome, sink.last.usage_source) == ("ok", "estimated")
    assert sink.last.cost_usd is not None
    assert 0 < sink.last.cost_usd <= (sink.last.cost_reserved_usd or 0)

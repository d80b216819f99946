"""Nothing in body, headers or query changes who pays or lifts a cap: every field that the SDK accepts is tried."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, get_type_hints

import httpx
import pytest
from openai.types import completion_create_params, embedding_create_params, image_edit_params, image_generate_params
from openai.types.audio import speech_create_params, transcription_create_params
from openai.types.chat import completion_create_params as chat_create_params
from openai.types.responses import response_create_params

from safe_llm import AsyncSafeOpenAI, DeniedError, InputRejectedError, RouteBlockedError, SafeOpenAI
from safe_llm.testing import FakeOpenAI, RecordingSink

pytestmark = pytest.mark.anyio

CAP = 500
POLICY = {
    "plans": {
        "default": {
            "features": ["chat_support"],
            "models": ["gpt-4o*", "text-*", "gpt-image-1*", "gpt-3.5*"],
            "limits": ["$5/day"],
        },
    },
    "output": {"max_tokens": CAP, "default_max_tokens": 100},
}
WHO = {"user_id": "alice", "feature": "chat_support"}

SURFACES: dict[str, tuple[str, dict[str, Any], Any]] = {
    "chat.completions": (
        "create",
        {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}]},
        chat_create_params.CompletionCreateParamsNonStreaming,
    ),
    "responses": (
        "create",
        {"model": "gpt-4o", "input": "Hi"},
        response_create_params.ResponseCreateParamsNonStreaming,
    ),
    "completions": (
        "create",
        {"model": "gpt-3.5-turbo-instruct", "prompt": "Hi"},
        completion_create_params.CompletionCreateParamsNonStreaming,
    ),
    "embeddings": (
        "create",
        {"model": "text-embedding-3-small", "input": "Hi"},
        embedding_create_params.EmbeddingCreateParams,
    ),
    "images": (
        "generate",
        {"model": "gpt-image-1", "prompt": "Hi"},
        image_generate_params.ImageGenerateParamsNonStreaming,
    ),
    "audio.speech": (
        "create",
        {"model": "gpt-4o-mini-tts", "input": "Hi", "voice": "alloy"},
        speech_create_params.SpeechCreateParams,
    ),
    "audio.transcriptions": (
        "create",
        {"model": "gpt-4o-transcribe", "file": b"RIFF"},
        transcription_create_params.TranscriptionCreateParamsNonStreaming,
    ),
}
"""Resource to its method, a call that is allowed, and the SDK's type of its parameters."""
SURFACES["images.edit"] = (
    "edit",
    {"model": "gpt-image-1", "prompt": "Hi", "image": b"x"},
    image_edit_params.ImageEditParamsNonStreaming,
)

TRIED = ("mallory", 1_000_000, True, ["mallory"], {"id": "mallory"}, None)
FIELDS = sorted({(surface, field) for surface, (_, _, params) in SURFACES.items() for field in get_type_hints(params)})
FIELDS += [
    (surface, field) for surface in SURFACES for field in ("user_id", "feature", "plan", "session_id", "tags", "tenant")
]
ANSWER = {
    "id": "x",
    "object": "x",
    "created": 1,
    "created_at": 1,
    "model": "gpt-4o",
    "choices": [],
    "data": [{"object": "embedding", "index": 0, "embedding": [0.1]}],
    "output": [],
    "text": "",
}


class Provider:
    """Answers anything, and remembers what it was sent."""

    def __init__(self) -> None:
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        request.read()
        self.requests.append(request)
        return httpx.Response(200, json=ANSWER)


@pytest.fixture
def provider() -> Provider:
    return Provider()


@pytest.fixture
def client(provider: Provider, sink: RecordingSink) -> Iterator[SafeOpenAI]:
    http_client = httpx.Client(transport=httpx.MockTransport(provider))
    with SafeOpenAI(api_key="k", policy=POLICY, sinks=[sink], http_client=http_client, max_retries=0) as client:
        yield client


def method_of(client: Any, surface: str) -> Any:
    name, _, _ = SURFACES[surface]
    resource = client
    for step in surface.removesuffix(".edit").split("."):
        resource = getattr(resource, step)
    return getattr(resource, name)


def sent_body(request: httpx.Request) -> Mapping[str, Any]:
    return json.loads(request.content) if request.headers["content-type"] == "application/json" else {}


def try_it(client: SafeOpenAI, surface: str, **more: Any) -> DeniedError | None:
    try:
        method_of(client, surface)(**SURFACES[surface][1], **WHO, **more)
    except DeniedError as denial:
        return denial
    return None


def hold_still(provider: Provider, sink: RecordingSink, denial: DeniedError | None) -> None:
    """Either nothing was sent, or alice pays for a call that is within its bounds."""
    record = sink.records[-1]
    assert (record.user_id, record.feature, record.plan or "default") == ("alice", "chat_support", "default")
    assert (len(provider.requests) == 0) is (denial is not None)
    if denial is not None:
        return
    (request,) = provider.requests
    body = sent_body(request)
    caps = [
        body[name]
        for name in ("max_completion_tokens", "max_tokens", "max_output_tokens")
        if body.get(name) is not None
    ]
    assert all(type(cap) is int and cap <= CAP for cap in caps)
    assert len(caps) <= 1
    if body:
        assert body["model"] == record.model
    answers = max([value for name in ("n", "best_of") if type(value := body.get(name)) is int] or [1])
    if caps:
        assert record.cost_reserved_usd is not None
        # What is reserved pays for every answer at its cap: gpt-4o's output is $10 per million, gpt-3.5's $2.
        rate = 2 if "3.5" in str(record.model) else 10
        assert record.cost_reserved_usd * 1_000_000 >= answers * caps[0] * rate


@pytest.mark.parametrize(("surface", "field"), FIELDS)
def test_no_field_of_extra_body_changes_who_pays_or_lifts_a_cap(
    client: SafeOpenAI, provider: Provider, sink: RecordingSink, surface: str, field: str
) -> None:
    for value in TRIED:
        provider.requests.clear()
        hold_still(provider, sink, try_it(client, surface, extra_body={field: value}))


@pytest.mark.parametrize(("surface", "field"), FIELDS)
def test_no_field_of_the_query_does(
    client: SafeOpenAI, provider: Provider, sink: RecordingSink, surface: str, field: str
) -> None:
    """What belongs into the body is refused in the query; anything else says nothing that the guard heeds."""
    denial = try_it(client, surface, extra_query={field: "1000000"})
    hold_still(provider, sink, denial)
    if field in ("model", "max_tokens", "max_completion_tokens", "max_output_tokens", "n", "stream", "user"):
        assert isinstance(denial, InputRejectedError)


@pytest.mark.parametrize("surface", SURFACES)
@pytest.mark.parametrize(
    "header",
    [
        *("user_id", "User-Id", "X-User-Id", "X-Forwarded-User", "feature", "OpenAI-Organization", "OpenAI-Project"),
        *("X-Feature", "X-Plan", "____safe_llm_claim", "X-Stainless-Raw-Response-Not"),
    ],
)
def test_no_header_does(client: SafeOpenAI, provider: Provider, sink: RecordingSink, surface: str, header: str) -> None:
    for value in ("mallory", '{"user_id": "mallory"}'):
        provider.requests.clear()
        try:
            denial = try_it(client, surface, extra_headers={header: value})
        except TypeError:
            continue
        hold_still(provider, sink, denial)
        assert all("____safe_llm_claim" not in request.headers for request in provider.requests)


def test_the_files_of_a_form_cannot_name_its_fields(client: SafeOpenAI, provider: Provider) -> None:
    """A part of a form is a file or a field by its name alone."""
    for name in ("model", "n", "prompt", "stream", "size", "quality"):
        with pytest.raises(InputRejectedError, match="sent as a file"):
            client.post(
                "/images/edits",
                cast_to=object,
                body={"model": "gpt-image-1", "prompt": "Hi"},
                files=[("image", b"x"), (name, (None, b"9"))],
                options={"headers": {"Content-Type": "multipart/form-data"}},
            )
    assert provider.requests == []


def test_a_file_is_weighed(client: SafeOpenAI, provider: Provider) -> None:
    with pytest.raises(InputRejectedError, match="max_inline_bytes") as caught:
        client.images.edit(model="gpt-image-1", prompt="Hi", image=b"x" * 8_388_609)
    assert caught.value.status_code == 413
    assert provider.requests == []


def test_a_file_without_an_end_is_read_no_further_than_what_may_be_sent(client: SafeOpenAI, provider: Provider) -> None:
    class Endless:
        def read(self, size: int = -1) -> bytes:
            return b"x" * size

    with pytest.raises(InputRejectedError, match="max_inline_bytes"):
        client.post(
            "/audio/transcriptions",
            cast_to=object,
            body={"model": "whisper-1"},
            files={"file": ("a.wav", Endless())},  # type: ignore[dict-item]
        )
    assert provider.requests == []


@pytest.mark.parametrize(
    ("surface", "more"),
    [
        ("chat.completions", {"tools": [{"type": "web_search"}]}),
        ("chat.completions", {"web_search_options": {}}),
        ("chat.completions", {"model": "gpt-4o-search-preview"}),
        ("responses", {"tools": [{"type": "web_search_preview_2025_03_11"}]}),
        ("responses", {"tools": [{"type": "namespace", "name": "n", "tools": [{"type": "code_interpreter"}]}]}),
        (
            "responses",
            {
                "input": [
                    {"role": "user", "content": "Hi"},
                    {"type": "additional_tools", "role": "developer", "tools": [{"type": "mcp"}]},
                ]
            },
        ),
        *(
            ("responses", {"tools": [{"type": kind}]})
            for kind in (
                "file_search",
                "computer",
                "computer_use_preview",
                "code_interpreter",
                "mcp",
                "image_generation",
                "shell",
                "something_new",
            )
        ),
        ("images", {"output_format": "svg"}),
    ],
)
def test_a_hosted_tool_is_found_wherever_it_is_offered(
    client: SafeOpenAI, provider: Provider, surface: str, more: dict[str, Any]
) -> None:
    with pytest.raises(RouteBlockedError, match=r"hosted_tools = \{"):
        method_of(client, surface)(**{**SURFACES[surface][1], **WHO}, extra_body=more)
    assert provider.requests == []


async def done(call: Callable[[], Any]) -> Any:
    result = call()
    return await result if inspect.isawaitable(result) else result


@pytest.mark.parametrize("kind", [SafeOpenAI, AsyncSafeOpenAI])
async def test_the_bare_post_is_guarded_on_every_surface(kind: Any) -> None:
    """Its body is all that the guard knows, and it is enough."""
    bodies = {
        "/chat/completions": {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}]},
        "/responses": {"model": "gpt-4o", "input": "Hi"},
        "/responses/compact": {"model": "gpt-4o", "input": "Hi"},
        "/completions": {"model": "gpt-3.5-turbo-instruct", "prompt": "Hi"},
        "/embeddings": {"model": "text-embedding-3-small", "input": "Hi"},
        "/images/generations": {"model": "gpt-image-1", "prompt": "Hi"},
        "/audio/speech": {"model": "tts-1", "input": "Hi", "voice": "alloy"},
    }
    sink = RecordingSink()
    with FakeOpenAI() as server:
        client = kind(
            base_url=server.base_url,
            api_key="k",
            sinks=[sink],
            policy={"plans": {"default": {"limits": [f"{len(bodies)} requests/day"]}}},
        )
        for path, body in bodies.items():
            await done(lambda path=path, body=body: client.post(path, body=body, cast_to=object))
        for path, body in bodies.items():
            with pytest.raises(DeniedError):
                await done(lambda path=path, body=body: client.post(path, body=body, cast_to=object))
        await done(client.close)
    assert server.count == len(bodies)
    assert [record.outcome for record in sink.records] == ["ok"] * len(bodies) + ["denied"] * len(bodies)

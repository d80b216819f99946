"""The four clients: what they take, and how they learn who is calling, in every calling style of the SDK."""

from __future__ import annotations

import inspect
import json
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from safe_llm import (
    AsyncSafeAzureOpenAI,
    AsyncSafeOpenAI,
    ConfigurationError,
    DeniedError,
    FeatureNotAllowedError,
    Finding,
    Identity,
    MemoryQuotaStore,
    NotAuthenticatedError,
    Policy,
    RateLimitExceededError,
    RouteBlockedError,
    SafeAzureOpenAI,
    SafeOpenAI,
    UsageRecord,
    identify,
)
from safe_llm._requests import CLAIM_HEADER
from safe_llm.testing import FakeClock, FakeOpenAI, RecordingSink, Reply

pytestmark = pytest.mark.anyio

ASK: dict[str, Any] = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Good morning"}]}
ALL_FOUR = [SafeOpenAI, AsyncSafeOpenAI, SafeAzureOpenAI, AsyncSafeAzureOpenAI]
PLANS = {
    "default": {"limits": []},
    "pro": {"limits": [], "features": ["chat_support", "search"], "models": ["gpt-4o", "gpt-4.1*"]},
}
Make = Callable[..., Any]


class Answer(BaseModel):
    text: str


async def done(result: Any) -> Any:
    """What a client of either colour answers."""
    return await result if inspect.isawaitable(result) else result


async def read(stream: Any) -> list[Any]:
    """All that a stream of either colour holds."""
    return [item async for item in stream] if hasattr(stream, "__aiter__") else list(stream)


async def chat(client: Any, **arguments: Any) -> Any:
    return await done(client.chat.completions.create(**{**ASK, **arguments}))


@pytest.fixture
async def make(kind: Any, server: FakeOpenAI, sink: RecordingSink) -> AsyncIterator[Make]:
    """Makes clients of one colour against the server; closes them in the end."""
    made: list[Any] = []

    def make(**arguments: Any) -> Any:
        base: dict[str, Any] = {"base_url": server.base_url, "api_key": "test", "sinks": [sink]}
        base["policy"] = {"plans": PLANS}
        made.append(kind(**{**base, **arguments}))
        return made[-1]

    yield make
    for client in made:
        await done(client.close())


# What they take -------------------------------------------------------------------------------------------------------


class NamingCheck:
    """Finds something in every input, and denies nothing."""

    name = "naming"

    def inspect(self, content: Any) -> list[Finding]:
        return [Finding(rule="named", severity="low", where=f"{len(content.parts)} part")]


@pytest.mark.parametrize("client_class", ALL_FOUR)
async def test_each_client_takes_every_argument_beside_the_sdk_s_own(
    client_class: Any, server: FakeOpenAI, sink: RecordingSink
) -> None:
    events: list[Any] = []
    where = {"azure_endpoint": server.url, "api_version": "2026-01-01"} if "Azure" in client_class.__name__ else {}
    client = client_class(
        **(where or {"base_url": server.base_url}),
        api_key="test",
        max_retries=0,
        timeout=5.0,
        policy={"default_plan": "pro", "plans": {"pro": {"limits": ["3 requests/day"]}, "free": {"limits": []}}},
        quota_store=MemoryQuotaStore(),
        plan_for={"u2": "free"},
        sinks=[sink, events.append],
        checks=[NamingCheck()],
        hash_key=b"key",
        clock=FakeClock(),
    )
    await chat(client, user_id="u1")
    await chat(client, user_id="u2")

    assert [record.plan for record in sink.records] == ["pro", "free"]
    assert [finding.rule for finding in sink.last.findings] == ["named"]
    assert sink.last.timestamp.timestamp() == FakeClock().time()
    assert events == sink.events
    assert (client.max_retries, client.timeout) == (0, 5.0)
    (status,) = await done(client.guard.usage(user_id="u1"))
    assert (status.limit, status.used, status.held) == ("3 requests/day", 1, 0)
    assert client.guard.policy.default_plan == "pro"
    await done(client.close())


TOML = 'default_plan = "tiny"\n[plans.tiny]\nlimits = ["1 requests/day"]\n'


@pytest.mark.parametrize("source", ["Policy", "mapping", "path", "str"])
async def test_a_policy_is_an_object_a_mapping_or_the_path_of_a_file(make: Make, source: str, tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_text(TOML)
    values: dict[str, Any] = {"default_plan": "tiny", "plans": {"tiny": {"limits": ["1 requests/day"]}}}
    given = {"Policy": Policy(**values), "mapping": values, "path": file, "str": str(file)}[source]
    client = make(policy=given)
    await chat(client, user_id="u1")
    with pytest.raises(RateLimitExceededError):
        await chat(client, user_id="u1")
    assert client.guard.policy == Policy(**values)


async def test_without_any_argument_the_safe_defaults_hold(make: Make, server: FakeOpenAI) -> None:
    client = make(policy=None)
    assert client.guard.policy == Policy()
    await chat(client)
    assert server.requests[-1].body["max_completion_tokens"] == 1_000


async def test_the_same_hash_key_gives_the_same_hash_and_another_key_another(make: Make, sink: RecordingSink) -> None:
    for key in ("secret", b"secret", "other"):
        await chat(make(hash_key=key))
    first, second, third = (record.prompt_hash for record in sink.records)
    assert first == second != third


# Who is calling -------------------------------------------------------------------------------------------------------


def caller(record: UsageRecord) -> tuple[Any, ...]:
    return record.user_id, record.feature, record.session_id, record.tags


FULL: dict[str, Any] = {"user_id": "u1", "feature": "search", "session_id": "s1", "tags": {"team": "red"}}


async def test_a_call_that_names_nobody_is_anonymous(make: Make, sink: RecordingSink) -> None:
    await chat(make())
    assert caller(sink.last) == ("anonymous", None, None, {})


async def test_the_call_itself_says_who_is_calling(make: Make, sink: RecordingSink) -> None:
    await chat(make(), **FULL)
    assert caller(sink.last) == tuple(FULL.values())


async def test_a_bound_client_says_who_is_calling(make: Make, sink: RecordingSink) -> None:
    client = make()
    await chat(client.with_identity(**FULL))
    assert caller(sink.last) == tuple(FULL.values())
    await chat(client)
    assert sink.last.user_id == "anonymous"


async def test_a_context_says_who_is_calling(make: Make, sink: RecordingSink) -> None:
    client = make()
    with identify(**FULL):
        await chat(client)
    assert caller(sink.last) == tuple(FULL.values())
    await chat(client)
    assert sink.last.user_id == "anonymous"


async def test_a_whole_identity_can_be_bound_or_be_the_context(make: Make, sink: RecordingSink) -> None:
    whole = Identity(**FULL, plan="pro", verified=True)
    client = make()
    await chat(client.with_identity(whole), model="gpt-4o")
    with identify(whole):
        await chat(client, model="gpt-4o")
    assert [caller(record) for record in sink.records] == [tuple(FULL.values())] * 2
    assert [record.plan for record in sink.records] == ["pro", "pro"]


async def test_the_call_goes_before_the_client_and_the_client_before_the_context(
    make: Make, sink: RecordingSink
) -> None:
    client = make()
    with identify(user_id="context", feature="f-context", session_id="s-context", tags={"a": "1", "b": "1", "c": "1"}):
        bound = client.with_identity(feature="f-client", tags={"b": "2", "c": "2"})
        await chat(bound, session_id="s-call", tags={"c": "3"})
        assert caller(sink.last) == ("context", "f-client", "s-call", {"a": "1", "b": "2", "c": "3"})
        await chat(bound.with_identity(user_id="client"), user_id="call")
        assert sink.last.user_id == "call"


async def test_a_bound_client_can_be_bound_further(make: Make, sink: RecordingSink) -> None:
    await chat(make().with_identity(user_id="u1", feature="search").with_identity(feature="chat_support"))
    assert caller(sink.last)[:2] == ("u1", "chat_support")


async def test_naming_another_user_drops_the_plan_and_the_verification_of_the_first(
    make: Make, sink: RecordingSink
) -> None:
    client = make().with_identity(Identity("u1", plan="pro", verified=True))
    await chat(client, user_id="u2")
    assert (sink.last.user_id, sink.last.plan) == ("u2", "default")


async def test_one_http_client_and_one_guard_serve_all_that_are_bound(make: Make) -> None:
    client = make(policy={"plans": {"default": {"limits": ["2 requests/day per app"]}}})
    bound = client.with_identity(user_id="u1")
    assert bound._client is client._client
    await chat(client)
    await chat(bound)
    with pytest.raises(RateLimitExceededError):
        await chat(client.with_identity(user_id="u2"))


@pytest.mark.parametrize("wrong", ["", "   ", "a\nb", "x" * 257, 0, False, b"u1", ["u1"]], ids=repr)
async def test_what_is_not_a_name_is_a_value_error_in_all_three_ways(
    make: Make, server: FakeOpenAI, sink: RecordingSink, wrong: Any
) -> None:
    client = make()
    for name in ("user_id", "feature", "session_id"):
        with pytest.raises(ValueError, match=name):
            await chat(client, **{name: wrong})
        with pytest.raises(ValueError, match=name):
            await chat(client.with_identity(**{name: wrong}))
        with pytest.raises(ValueError, match=name), identify(**{name: wrong}):
            await chat(client)
    assert (server.count, sink.events) == (0, [])


# In every calling style -----------------------------------------------------------------------------------------------


def create(client: Any, who: Mapping[str, Any]) -> Any:
    return client.chat.completions.create(**ASK, **who)


async def create_stream(client: Any, who: Mapping[str, Any]) -> Any:
    return await read(await done(client.chat.completions.create(**ASK, stream=True, **who)))


def parse(client: Any, who: Mapping[str, Any]) -> Any:
    return client.chat.completions.parse(**ASK, response_format=Answer, **who)


async def stream_manager(client: Any, who: Mapping[str, Any]) -> Any:
    return await entered(client.chat.completions.stream(**ASK, **who))


def raw(client: Any, who: Mapping[str, Any]) -> Any:
    return client.chat.completions.with_raw_response.create(**ASK, **who)


def raw_parse(client: Any, who: Mapping[str, Any]) -> Any:
    return client.chat.completions.with_raw_response.parse(**ASK, response_format=Answer, **who)


async def streaming(client: Any, who: Mapping[str, Any]) -> Any:
    return await entered(client.chat.completions.with_streaming_response.create(**ASK, **who))


def raw_client(client: Any, who: Mapping[str, Any]) -> Any:
    return client.with_raw_response.chat.completions.create(**ASK, **who)


def beta(client: Any, who: Mapping[str, Any]) -> Any:
    return client.beta.chat.completions.create(**ASK, **who)


async def entered(manager: Any) -> Any:
    """Enter a stream or a streamed response of either colour, and read it to its end."""
    if hasattr(manager, "__aenter__"):
        async with manager as opened:
            return [item async for item in (opened if hasattr(opened, "__aiter__") else opened.iter_lines())]
    with manager as opened:
        return list(opened if hasattr(opened, "__iter__") else opened.iter_lines())


def post(client: Any, who: Mapping[str, Any]) -> Any:
    assert not who
    return client.post("/chat/completions", body=dict(ASK), cast_to=object)


STYLES = [create, create_stream, parse, stream_manager, raw, raw_parse, streaming, raw_client, beta]


@pytest.fixture
def answering(server: FakeOpenAI) -> None:
    """Every answer is valid JSON for `parse`."""
    server.always(Reply('{"text": "Hi"}'))


@pytest.mark.usefixtures("answering")
@pytest.mark.parametrize("style", STYLES)
async def test_every_style_takes_the_four_arguments_and_sends_none_of_them(
    make: Make, server: FakeOpenAI, sink: RecordingSink, style: Any
) -> None:
    client = make()
    await done(style(client, {}))
    await done(style(client, FULL))

    assert [caller(record) for record in sink.records] == [("anonymous", None, None, {}), tuple(FULL.values())]
    without, sent = server.requests
    assert sent.body == without.body
    assert sent.headers.keys() == without.headers.keys()
    everything = json.dumps([sent.body, dict(sent.headers), dict(sent.query), sent.path])
    assert not any(word in everything for word in ("user_id", "u1", "search", "session", "s1", "team", "claim"))


@pytest.mark.usefixtures("answering")
@pytest.mark.parametrize("style", [*STYLES, post])
async def test_every_style_is_the_bound_client_s_and_is_guarded(
    make: Make, server: FakeOpenAI, sink: RecordingSink, style: Any
) -> None:
    client = make(policy={"plans": {"default": {"limits": ["1 requests/day"]}}}).with_identity(user_id="u1")
    await done(style(client, {}))
    with pytest.raises(RateLimitExceededError):
        await done(style(client, {}))
    assert [(record.user_id, record.outcome) for record in sink.records] == [("u1", "ok"), ("u1", "denied")]
    assert server.count == 1


@pytest.mark.usefixtures("answering")
@pytest.mark.parametrize("style", [*STYLES, post])
async def test_every_style_is_the_context_s(make: Make, sink: RecordingSink, style: Any) -> None:
    client = make()
    with identify(user_id="u1", tags={"team": "red"}):
        await done(style(client, {}))
    assert caller(sink.last) == ("u1", None, None, {"team": "red"})


DEFERRED = {
    "stream": lambda client, who: client.chat.completions.stream(**ASK, **who),
    "streaming response": lambda client, who: client.chat.completions.with_streaming_response.create(**ASK, **who),
    "client": lambda client, who: client.with_streaming_response.chat.completions.create(**ASK, **who),
    "beta": lambda client, who: client.beta.chat.completions.stream(**ASK, **who),
}


@pytest.mark.parametrize("style", DEFERRED)
async def test_the_context_also_holds_for_what_the_sdk_sends_later(make: Make, sink: RecordingSink, style: str) -> None:
    """The manager is made inside the block and entered outside, where another context holds."""
    client = make().with_identity(feature="search")
    with identify(user_id="u1", feature="chat_support", session_id="s1"):
        manager = DEFERRED[style](client, {"tags": {"team": "red"}})
    with identify(user_id="somebody else", tags={"not": "mine"}):
        await entered(manager)
    assert caller(sink.last) == ("u1", "search", "s1", {"team": "red"})


async def test_the_private_header_cannot_be_set_from_outside(
    make: Make, server: FakeOpenAI, sink: RecordingSink
) -> None:
    await chat(make(), extra_headers={CLAIM_HEADER: "u2"})
    assert sink.last.user_id == "anonymous"
    assert CLAIM_HEADER not in server.requests[-1].headers


@pytest.mark.parametrize(
    "body",
    [
        {"user": "u2"},
        {"metadata": {"user_id": "u2"}},
        {"safety_identifier": "u2"},
        {"extra_body": {"user_id": "u2", "user": "u2"}},
        {"extra_headers": {"user_id": "u2", "X-User": "u2"}},
    ],
    ids=lambda body: next(iter(body)),
)
async def test_the_body_is_not_the_payer(make: Make, sink: RecordingSink, body: Any) -> None:
    await chat(make().with_identity(user_id="u1"), **body)
    assert sink.last.user_id == "u1"


def test_the_guarded_methods_show_the_sdk_s_signature_and_the_four_arguments(kind: Any) -> None:
    own, theirs = kind.__mro__[0], kind.__mro__[3]
    client, bare = own(api_key="test"), theirs(api_key="test")
    for method in ("create", "parse", "stream"):
        ours = inspect.signature(getattr(client.chat.completions, method)).parameters
        original = inspect.signature(getattr(bare.chat.completions, method)).parameters
        assert list(ours) == [*original, "user_id", "feature", "session_id", "tags"]


# Who may call ---------------------------------------------------------------------------------------------------------


async def ways(client: Any, **who: Any) -> list[DeniedError | None]:
    """How a call ends that names the caller by each of the three ways."""
    endings: list[DeniedError | None] = []

    async def note(client: Any, **arguments: Any) -> None:
        try:
            await chat(client, **arguments)
            endings.append(None)
        except DeniedError as error:
            endings.append(error)

    await note(client, **who)
    await note(client.with_identity(**who))
    with identify(**who):
        await note(client)
    return endings


async def test_where_an_identity_is_required_nobody_is_refused(make: Make, server: FakeOpenAI) -> None:
    client = make(policy={"identity": {"required": True}})
    assert await ways(client, user_id="u1") == [None, None, None]
    for error in await ways(client, feature="search"):
        assert isinstance(error, NotAuthenticatedError)
        assert (error.code, error.status_code) == ("not_authenticated", 401)
    assert server.count == 3


async def test_where_a_verified_identity_is_required_a_bare_name_is_refused(make: Make, server: FakeOpenAI) -> None:
    client = make(policy={"identity": {"verified": True}})
    assert {type(error) for error in await ways(client, user_id="u1")} == {NotAuthenticatedError}
    assert server.count == 0


async def test_where_a_verified_identity_is_required_only_a_verifier_s_is_taken(make: Make, server: FakeOpenAI) -> None:
    client = make(policy={"identity": {"verified": True}})
    with pytest.raises(NotAuthenticatedError):
        await chat(client.with_identity(Identity("u1")))
    verified = Identity("u1", verified=True)
    await chat(client.with_identity(verified), feature="search")
    with identify(verified):
        await chat(client, session_id="s1")
        with pytest.raises(NotAuthenticatedError):
            await chat(client, user_id="u2")
    assert server.count == 2


async def test_a_plan_comes_from_a_mapping_and_who_is_not_in_it_has_the_default(
    make: Make, sink: RecordingSink
) -> None:
    client = make(plan_for={"u1": "pro"})
    for user in ("u1", "u2"):
        await chat(client, model="gpt-4o", user_id=user)
    assert [record.plan for record in sink.records] == ["pro", "default"]


async def test_a_plan_comes_from_a_callable_and_none_is_the_default(make: Make, sink: RecordingSink) -> None:
    asked: list[str] = []

    def plan_for(user_id: str) -> str | None:
        asked.append(user_id)
        return "pro" if user_id == "u1" else None

    client = make(plan_for=plan_for)
    for user in ("u1", "u2"):
        await chat(client, model="gpt-4o", user_id=user)
    assert [record.plan for record in sink.records] == ["pro", "default"]
    assert asked == ["u1", "u2"]


async def plan_later(user_id: str) -> str:
    return "pro"


async def test_a_plan_comes_from_a_coroutine_on_an_async_client_only(
    kind: Any, make: Make, sink: RecordingSink
) -> None:
    if kind is SafeOpenAI:
        with pytest.raises(ConfigurationError, match="plan_for= is async"):
            make(plan_for=plan_later)
    else:
        await chat(make(plan_for=plan_later), model="gpt-4o", user_id="u1")
        assert sink.last.plan == "pro"


async def test_an_identity_s_own_plan_goes_before_plan_for(make: Make, sink: RecordingSink) -> None:
    client = make(plan_for={"u1": "default"})
    await chat(client.with_identity(Identity("u1", plan="pro")), model="gpt-4o")
    assert sink.last.plan == "pro"


async def test_a_plan_for_that_raises_denies_with_the_original_as_cause(
    make: Make, server: FakeOpenAI, sink: RecordingSink
) -> None:
    def plan_for(user_id: str) -> str:
        raise LookupError("secret row 17")

    with pytest.raises(FeatureNotAllowedError) as caught:
        await chat(make(plan_for=plan_for), user_id="u1")
    assert isinstance(caught.value.__cause__, LookupError)
    assert "secret" not in str(caught.value)
    assert (server.count, sink.last.outcome) == (0, "denied")


@pytest.mark.parametrize("plan", ["gold", 7])
async def test_a_plan_that_the_policy_lacks_denies(make: Make, server: FakeOpenAI, plan: Any) -> None:
    with pytest.raises(FeatureNotAllowedError, match=f"no plan '{plan}'"):
        await chat(make(plan_for={"u1": plan}), user_id="u1")
    assert server.count == 0


@pytest.mark.parametrize(("feature", "allowed"), [("search", True), (None, True), ("Search", False), ("code", False)])
async def test_a_plan_lists_its_features_and_names_match_exactly(
    make: Make, server: FakeOpenAI, feature: str | None, allowed: bool
) -> None:
    client = make(plan_for={"u1": "pro"})
    if allowed:
        await chat(client, model="gpt-4o", user_id="u1", feature=feature)
    else:
        with pytest.raises(FeatureNotAllowedError, match=f"'u1'.*'{feature}'.*'pro'") as caught:
            await chat(client, model="gpt-4o", user_id="u1", feature=feature)
        assert caught.value.scope == {"user": "u1", "plan": "pro", "feature": feature}
    assert server.count == allowed


@pytest.mark.parametrize(
    ("model", "allowed"),
    [("gpt-4o", True), ("gpt-4.1-nano", True), ("gpt-4o-mini", False), ("GPT-4o", False), ("gpt-4", False)],
)
async def test_a_plan_lists_its_models_by_name_or_prefix(
    make: Make, server: FakeOpenAI, model: str, allowed: bool
) -> None:
    client = make(plan_for={"u1": "pro"})
    if allowed:
        await chat(client, model=model, user_id="u1")
    else:
        with pytest.raises(FeatureNotAllowedError) as caught:
            await chat(client, model=model, user_id="u1")
        assert (caught.value.code, caught.value.status_code) == ("model_not_allowed", 403)
    assert server.count == allowed


async def test_a_default_plan_without_lists_has_every_feature_and_model(make: Make, server: FakeOpenAI) -> None:
    await chat(make(), model="gpt-4", feature="whatever", user_id="u1")
    assert server.count == 1


# Everything else that the SDK can send --------------------------------------------------------------------------------


async def test_reads_are_free_and_leave_no_record(make: Make, server: FakeOpenAI, sink: RecordingSink) -> None:
    client = make(policy={"identity": {"required": True}, "plans": {"default": {"limits": ["0 requests/day"]}}})
    assert (await done(client.models.retrieve("gpt-4o"))).id == "gpt-4o"
    models = [model.id for model in await read(await done(client.models.list()))]
    assert "gpt-4o" in models
    assert (len(server.requests), sink.events) == (2, [])


async def test_what_runs_a_model_unguarded_is_blocked(make: Make, server: FakeOpenAI, sink: RecordingSink) -> None:
    with pytest.raises(RouteBlockedError, match="POST /batches"):
        await done(make().batches.create(input_file_id="f", endpoint="/v1/responses", completion_window="24h"))
    assert server.requests == []
    assert (sink.last.outcome, sink.last.endpoint, sink.last.attempts) == ("denied", "POST /batches", 0)


async def test_what_the_policy_opens_is_sent_and_recorded_as_of_unknown_cost(
    make: Make, server: FakeOpenAI, sink: RecordingSink
) -> None:
    client = make(policy={"routes": {"allow": ["POST /batches"]}}).with_identity(user_id="u1")
    with pytest.raises(openai.NotFoundError):  # the fake server has no batches
        await done(client.post("/batches", body={"model": "gpt-4o"}, cast_to=object))
    assert server.requests[-1].body == {"model": "gpt-4o"}
    record = sink.last
    assert (record.endpoint, record.user_id, record.model) == ("POST /batches", "u1", "gpt-4o")
    assert (record.usage_source, record.cost_usd, record.denial) == ("none", None, None)


def test_a_method_that_somebody_put_into_the_sdk_s_class_is_called(
    server: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As instruments of tracing do, before or after the client is made."""
    from openai.resources.chat import Completions

    original, seen = Completions.create, []

    def traced(self: Any, *args: Any, **params: Any) -> Any:
        seen.append(params["model"])
        return original(self, *args, **params)

    with SafeOpenAI(base_url=server.base_url, api_key="k", sinks=[]) as client:
        client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "Hi"}])
        monkeypatch.setattr(Completions, "create", traced)
        client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "Hi"}], user_id="u1")
    assert seen == ["gpt-4o"]

"""Binding a caller by the token that he brought, and how long that holds."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from safe_llm import (
    AsyncSafeOpenAI,
    ConfigurationError,
    Identity,
    NotAuthenticatedError,
    RateLimitExceededError,
    SafeOpenAI,
    identify,
)
from safe_llm.testing import FakeClock, FakeOpenAI, RecordingSink

pytestmark = pytest.mark.anyio

ASK: dict[str, Any] = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Good morning"}]}
Make = Callable[..., Any]


class Tickets:
    """Takes tokens such as ``ok:alice``. It has the key at hand from the first time on that it has verified one."""

    def __init__(self, *, at_hand: bool = True, expires: float | None = None) -> None:
        self.ready, self.expires = at_hand, expires
        self.threads: list[int] = []

    def at_hand(self, token: str) -> bool:
        return self.ready

    def verify(self, token: str) -> Identity:
        self.threads.append(threading.get_ident())
        self.ready = True
        sign, _, user = token.partition(":")
        if sign != "ok":
            raise NotAuthenticatedError("The token is not signed by us.", code="token_signature")
        return Identity(user, plan="default", tags={"team": "blue"}, verified=True, expires=self.expires)

    async def verify_async(self, token: str) -> Identity:
        await asyncio.sleep(0)
        return self.verify(token)


@pytest.fixture
def make(kind: Any, server: FakeOpenAI, sink: RecordingSink) -> Make:
    def make(verifier: Any, **arguments: Any) -> Any:
        policy = {"identity": {"verified": True}, "plans": {"default": {"limits": ["2 requests/day"]}}}
        base = {"base_url": server.base_url, "api_key": "test", "sinks": [sink], "policy": policy}
        return kind(**{**base, "verifier": verifier, **arguments})

    return make


async def done(result: Any) -> Any:
    return await result if asyncio.iscoroutine(result) else result


async def chat(client: Any, **arguments: Any) -> Any:
    return await done(client.chat.completions.create(**ASK, **arguments))


@pytest.mark.parametrize("at_hand", [True, False])
async def test_a_token_binds_whom_it_proves(make: Make, sink: RecordingSink, at_hand: bool) -> None:
    client = make(Tickets(at_hand=at_hand))
    bound = client.with_identity(feature="chat").with_token("ok:alice")
    await chat(bound, session_id="s1", tags={"tier": "1"})
    record = sink.last
    assert (record.user_id, record.feature, record.session_id, record.plan) == ("alice", "chat", "s1", "default")
    assert record.tags == {"team": "blue", "tier": "1"}
    (status,) = await done(bound.guard.usage())
    assert (status.scope, status.used) == ({"user": "alice"}, 1)
    assert await done(bound.guard.allows(feature="chat")) is True
    assert (await done(bound.guard.quote(**ASK))).would_be_denied is None
    await done(client.close())


@pytest.mark.parametrize("at_hand", [True, False])
async def test_a_token_that_proves_nobody_is_denied_and_nothing_is_sent(
    make: Make, server: FakeOpenAI, sink: RecordingSink, at_hand: bool
) -> None:
    """Where an async client has to wait for a key, the first call tells; and that call leaves its record."""
    client = make(Tickets(at_hand=at_hand))
    with pytest.raises(NotAuthenticatedError) as caught:
        await chat(client.with_token("forged:alice"))
    assert caught.value.code == "token_signature"
    assert server.count == 0
    recorded = [(record.user_id, record.outcome, record.attempts) for record in sink.records]
    late = isinstance(client, AsyncSafeOpenAI) and not at_hand
    assert recorded == ([("anonymous", "denied", 0)] if late else [])
    await done(client.close())


async def test_a_key_that_is_at_hand_tells_at_once(make: Make) -> None:
    client = make(Tickets())
    with pytest.raises(NotAuthenticatedError):
        client.with_token("forged:alice")
    await done(client.close())


async def test_whoever_names_a_user_beside_a_token_is_that_token_s_user_no_longer(
    make: Make, server: FakeOpenAI
) -> None:
    client = make(Tickets(at_hand=False))
    with pytest.raises(NotAuthenticatedError):
        await chat(client.with_token("ok:alice"), user_id="bob")
    assert server.count == 0
    await done(client.close())


async def test_a_token_goes_before_what_the_context_says(make: Make, sink: RecordingSink) -> None:
    client = make(Tickets(at_hand=False))
    with identify(Identity("carol", verified=True)):
        await chat(client.with_token("ok:alice"))
    assert sink.last.user_id == "alice"
    await done(client.close())


async def test_an_identity_is_refused_from_the_moment_on_that_it_expires(
    make: Make, server: FakeOpenAI, sink: RecordingSink
) -> None:
    clock = FakeClock()
    bound = make(Tickets(expires=clock.time() + 60), clock=clock).with_token("ok:alice")
    clock.advance(59)
    await chat(bound)
    clock.advance(1)
    with pytest.raises(NotAuthenticatedError, match="expired") as caught:
        await chat(bound)
    assert (caught.value.code, caught.value.status_code) == ("token_expired", 401)
    assert (server.count, sink.last.user_id, sink.last.outcome) == (1, "alice", "denied")
    await done(bound.close())


async def test_tokens_of_one_user_share_his_limits(make: Make) -> None:
    client = make(Tickets())
    for _ in range(2):
        await chat(client.with_token("ok:alice"))
    with pytest.raises(RateLimitExceededError):
        await chat(client.with_token("ok:alice"))
    await done(client.close())


async def test_without_a_verifier_a_token_says_nothing(make: Make) -> None:
    client = make(None)
    with pytest.raises(ConfigurationError, match="verifier="):
        client.with_token("ok:alice")
    await done(client.close())


@pytest.mark.parametrize("wrong", ["secret", object()])
async def test_what_cannot_verify_is_no_verifier(make: Make, wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="verifier= takes"):
        make(wrong)


async def test_copies_keep_the_verifier_and_no_representation_shows_a_token(make: Make) -> None:
    client = make(Tickets(at_hand=False)).with_options(max_retries=0)
    bound = client.with_token("ok:alice")
    assert "ok:alice" not in repr(bound._claim) + repr(bound)
    await chat(bound)
    await done(client.close())


def test_a_sync_client_verifies_where_the_token_is_bound(server: FakeOpenAI) -> None:
    """It may wait for the key there, and so nothing is left for later."""
    tickets = Tickets(at_hand=False)
    client = SafeOpenAI(base_url=server.base_url, api_key="test", verifier=tickets)
    client.with_token("ok:alice")
    assert tickets.threads == [threading.get_ident()]
    client.close()

"""Keys from a JWKS address: fetched, believed for a while, rotated, and never more often than they should be."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jwt
import pytest
from issuer import SECRET, KeySetServer, claims, jwk, private_key, say, token, until

from safe_llm import Identity, NotAuthenticatedError
from safe_llm.testing import FakeClock, FakeOpenAI, RecordingSink
from safe_llm.web import JWTVerifier
from safe_llm.web import _key_set as module

Verify = Callable[[JWTVerifier, Any], Identity]


@pytest.fixture(params=["sync", "async"])
def verify(request: pytest.FixtureRequest) -> Verify:
    if request.param == "sync":
        return lambda verifier, token: verifier.verify(token)
    return lambda verifier, token: asyncio.run(verifier.verify_async(token))


@pytest.fixture
def issuer() -> Iterator[KeySetServer]:
    with KeySetServer(jwk("RS256", "k1")) as server:
        yield server


def verifier_of(issuer: KeySetServer, clock: FakeClock, **options: Any) -> JWTVerifier:
    return JWTVerifier(jwks_url=issuer.url, clock=clock, **options)


def refusal(verify: Verify, verifier: JWTVerifier, token: str) -> NotAuthenticatedError:
    with pytest.raises(NotAuthenticatedError) as caught:
        verify(verifier, token)
    return caught.value


def code(verify: Verify, verifier: JWTVerifier, token: str) -> str:
    return refusal(verify, verifier, token).code


RS1 = token("RS256", kid="k1")


# Which key ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["RS256", "PS384", "ES256", "ES384", "ES512", "EdDSA"])
def test_the_set_is_fetched_once_for_all_tokens(
    issuer: KeySetServer, clock: FakeClock, verify: Verify, algorithm: str
) -> None:
    issuer.keys.append(jwk(algorithm, "k2"))
    verifier = verifier_of(issuer, clock)
    for _ in range(3):
        assert verify(verifier, token(algorithm, kid="k2")).user_id == "u1"
        assert verify(verifier, RS1).verified
    assert issuer.asked == 1


def test_a_token_without_key_id_takes_the_only_key_that_fits(
    issuer: KeySetServer, clock: FakeClock, verify: Verify
) -> None:
    issuer.keys = [jwk("ES256", "k1"), jwk("RS256", None)]
    verifier = verifier_of(issuer, clock)
    assert verify(verifier, token("RS256")).user_id == "u1"
    issuer.keys.append(jwk("RS256", "k3", 1))
    clock.advance(300)
    assert code(verify, verifier, token("RS256")) == "token_foreign"


def test_two_keys_of_one_id_are_told_apart_by_what_they_are_for(
    issuer: KeySetServer, clock: FakeClock, verify: Verify
) -> None:
    issuer.keys = [jwk("ES256", "k"), jwk("RS256", "k"), jwk("EdDSA", "k")]
    verifier = verifier_of(issuer, clock)
    for algorithm in ("RS256", "ES256", "EdDSA"):
        assert verify(verifier, token(algorithm, kid="k")).user_id == "u1"


def test_a_token_cannot_choose_another_key_of_the_set(issuer: KeySetServer, clock: FakeClock, verify: Verify) -> None:
    """The id of one key and the signature of another; and an algorithm of another kind."""
    issuer.keys.append(jwk("RS256", "k2", 1))
    issuer.keys.append(jwk("ES256", "k3"))
    verifier = verifier_of(issuer, clock)
    assert code(verify, verifier, token("RS256", key=private_key("RS256", 1), kid="k1")) == "token_signature"
    assert code(verify, verifier, token("ES256", kid="k1")) == "token_foreign"
    assert code(verify, verifier, token("RS256", kid="k3")) == "token_foreign"


def test_the_algorithm_that_a_key_is_for_binds(issuer: KeySetServer, clock: FakeClock, verify: Verify) -> None:
    """GHSA-jq35-7prp-9v3f: a token must be signed with an algorithm of the key and of the application."""
    issuer.keys = [jwk("RS256", "bound"), jwk("RS256", "free", alg=None), jwk("RS512", "other")]
    verifier = verifier_of(issuer, clock, algorithms=["RS256", "PS256"])
    assert verify(verifier, token("PS256", key=private_key("RS256"), kid="free")).user_id == "u1"
    assert code(verify, verifier, token("PS256", key=private_key("RS256"), kid="bound")) == "token_foreign"
    assert code(verify, verifier, token("RS256", key=private_key("RS512"), kid="other")) == "token_foreign"
    assert code(verify, verifier, token("RS512", kid="other")) == "token_algorithm"


def oct_key(kid: str) -> dict[str, Any]:
    return {"kty": "oct", "kid": kid, "k": jwt.utils.base64url_encode(SECRET.encode()).decode()}


UNFIT: dict[str, Any] = {
    "symmetric": oct_key("k1"),
    "symmetric, said to be RSA": {**oct_key("k1"), "alg": "RS256", "kty": "RSA"},
    "for encryption": jwk("RS256", "k1", use="enc"),
    "for signing alone": jwk("RS256", "k1", key_ops=["sign"]),
    "of another algorithm than its kind": jwk("RS256", "k1", alg="ES256"),
    "of no algorithm": jwk("RS256", "k1", alg="none"),
    "of an unknown kind": jwk("RS256", "k1", kty="XYZ"),
    "of a listed kind": jwk("RS256", "k1", kty=["RSA"]),
    "private": jwk("RS256", "k1", d="AQAB"),
    "broken": jwk("RS256", "k1", n="!!!"),
    "empty": jwk("RS256", "k1", n=""),
    "short": jwk("RS256", "k1", n="AQAB" * 43),
    "without modulus": jwk("RS256", "k1", n=None),
    "with a number for an id": {**jwk("RS256", "k1"), "kid": 1},
    "no object": "k1",
    "null": None,
}


@pytest.mark.parametrize("entry", UNFIT.values(), ids=UNFIT)
def test_an_entry_that_may_verify_nothing_is_left_out_and_the_others_stay_good(
    issuer: KeySetServer, clock: FakeClock, verify: Verify, entry: Any
) -> None:
    issuer.keys = [entry, jwk("ES256", "good")]
    verifier = verifier_of(issuer, clock)
    assert verify(verifier, token("ES256", kid="good")).user_id == "u1"
    assert code(verify, verifier, RS1) == "token_foreign"
    assert code(verify, verifier, token("HS256", kid="k1")) == "token_algorithm"


def test_nothing_that_a_token_points_to_is_fetched(issuer: KeySetServer, clock: FakeClock, verify: Verify) -> None:
    """CVE-2018-0114 and its kin."""
    with KeySetServer(jwk("RS256", "k1", 1)) as attacker:
        pointing = {"jku": attacker.url, "x5u": attacker.url, "jwk": jwk("RS256", "k1", 1)}
        made = token("RS256", key=private_key("RS256", 1), kid="k1", header=pointing)
        assert code(verify, verifier_of(issuer, clock), made) == "token_signature"
        for kid in (attacker.url, "../../dev/null", "k1\0", "K1", " k1", ""):
            made = token("RS256", key=private_key("RS256", 1), header={"kid": kid, **pointing})
            assert code(verify, verifier_of(issuer, clock), made) == "token_foreign"
        assert attacker.asked == 0


# Rotation -------------------------------------------------------------------------------------------------------------


def test_a_new_key_is_found_at_once(issuer: KeySetServer, clock: FakeClock, verify: Verify) -> None:
    """And so is the next: a fetch that found its key does not count against the next one."""
    verifier = verifier_of(issuer, clock)
    assert verify(verifier, RS1).user_id == "u1"
    for number in (1, 2):
        issuer.keys.append(jwk("ES256", f"new{number}", number))
        made = token("ES256", key=private_key("ES256", number), kid=f"new{number}")
        assert not verifier.at_hand(made)
        assert verify(verifier, made).user_id == "u1"
        assert verifier.at_hand(made)
    assert issuer.asked == 3


def test_a_key_that_vanished_serves_no_longer_than_the_age(
    issuer: KeySetServer, clock: FakeClock, verify: Verify
) -> None:
    verifier = verifier_of(issuer, clock, jwks_max_age=100)
    assert verify(verifier, RS1).user_id == "u1"
    issuer.keys = [jwk("ES256", "k2")]
    clock.advance(99)
    assert verify(verifier, RS1).user_id == "u1"
    clock.advance(1)
    assert not verifier.at_hand(RS1)
    assert code(verify, verifier, RS1) == "token_foreign"
    assert issuer.asked == 2


def test_a_key_that_vanished_is_gone_when_another_one_is_fetched(
    issuer: KeySetServer, clock: FakeClock, verify: Verify
) -> None:
    verifier = verifier_of(issuer, clock)
    assert verify(verifier, RS1).user_id == "u1"
    issuer.keys = [jwk("ES256", "k2")]
    assert verify(verifier, token("ES256", kid="k2")).user_id == "u1"
    assert code(verify, verifier, RS1) == "token_foreign"


def test_a_key_replaced_under_its_id_verifies_the_new_tokens_alone(
    issuer: KeySetServer, clock: FakeClock, verify: Verify
) -> None:
    verifier = verifier_of(issuer, clock)
    assert verify(verifier, RS1).user_id == "u1"
    issuer.keys = [jwk("RS256", "k1", 1)]
    clock.advance(300)
    assert code(verify, verifier, RS1) == "token_signature"
    assert verify(verifier, token("RS256", key=private_key("RS256", 1), kid="k1")).user_id == "u1"


def test_a_set_without_keys_withdraws_them_all(issuer: KeySetServer, clock: FakeClock, verify: Verify) -> None:
    """And is asked for no more often than any other."""
    verifier = verifier_of(issuer, clock)
    assert verify(verifier, RS1).user_id == "u1"
    issuer.keys = []
    clock.advance(300)
    for _ in range(20):
        assert code(verify, verifier, RS1) == "token_foreign"
    assert issuer.asked == 2


def test_a_token_is_not_good_again_when_its_key_is(issuer: KeySetServer, clock: FakeClock, verify: Verify) -> None:
    """Replayed after its expiry, which no cache of keys outlives."""
    verifier = verifier_of(issuer, clock)
    assert verify(verifier, RS1).user_id == "u1"
    clock.advance(601)
    assert code(verify, verifier, RS1) == "token_expired"


# How often ------------------------------------------------------------------------------------------------------------


def made_up(number: int) -> str:
    return token("ES256", kid=f"made-up-{number}")


def test_made_up_key_ids_cause_one_fetch_per_interval(issuer: KeySetServer, clock: FakeClock, verify: Verify) -> None:
    verifier = verifier_of(issuer, clock, jwks_min_interval=10)
    for round_ in range(1, 4):
        for number in range(20):
            assert code(verify, verifier, made_up(number)) == "token_foreign"
            assert verifier.at_hand(made_up(number))
        assert issuer.asked == round_
        clock.advance(10)


@pytest.mark.parametrize("warm", [True, False], ids=["known set", "first fetch"])
def test_a_flood_of_made_up_key_ids_from_50_threads_is_one_fetch(
    issuer: KeySetServer, clock: FakeClock, warm: bool
) -> None:
    verifier = verifier_of(issuer, clock)
    if warm:
        verifier.verify(RS1)
    barrier = threading.Barrier(50)
    flood = [made_up(number) for number in range(50)]

    def attack(made: str) -> str:
        barrier.wait(10)
        return code(lambda verifier, token: verifier.verify(token), verifier, made)

    with ThreadPoolExecutor(50) as pool:
        assert set(pool.map(attack, flood)) == {"token_foreign"}
    assert issuer.asked == (2 if warm else 1)


def test_a_flood_of_made_up_key_ids_from_200_tasks_is_one_fetch(issuer: KeySetServer, clock: FakeClock) -> None:
    verifier = verifier_of(issuer, clock)
    flood = [made_up(number) for number in range(200)]

    async def attack() -> list[Any]:
        return await asyncio.gather(*map(verifier.verify_async, flood), return_exceptions=True)

    assert {error.code for error in asyncio.run(attack())} == {"token_foreign"}
    assert issuer.asked == 1


def test_50_threads_and_tasks_that_need_the_first_set_share_one_fetch(issuer: KeySetServer, clock: FakeClock) -> None:
    issuer.answer = lambda handler: (time.sleep(0.2), say(handler, json.dumps({"keys": issuer.keys}).encode()))[1]
    verifier = verifier_of(issuer, clock)

    async def tasks(_: int) -> list[Identity]:
        return await asyncio.gather(*(verifier.verify_async(RS1) for _ in range(5)))

    with ThreadPoolExecutor(20) as pool:
        blocking = [pool.submit(verifier.verify, RS1) for _ in range(10)]
        looping = [pool.submit(asyncio.run, tasks(0)) for _ in range(8)]
        assert {one.result(10).user_id for one in blocking} == {"u1"}
        assert {identity.user_id for one in looping for identity in one.result(10)} == {"u1"}
    assert issuer.asked == 1


def held_back(issuer: KeySetServer) -> threading.Event:
    """Answers come only once this is set."""
    go = threading.Event()

    def answer(handler: Any) -> None:
        go.wait(10)
        say(handler, json.dumps({"keys": issuer.keys}).encode())

    issuer.answer = answer
    return go


def test_a_known_key_never_waits_for_a_made_up_one(issuer: KeySetServer, clock: FakeClock, verify: Verify) -> None:
    verifier = verifier_of(issuer, clock)
    verifier.verify(RS1)
    go = held_back(issuer)
    with ThreadPoolExecutor(1) as pool:
        attack = pool.submit(refusal, lambda verifier, token: verifier.verify(token), verifier, made_up(1))
        until(lambda: issuer.asked == 2)
        assert verifier.at_hand(RS1)
        assert not verifier.at_hand(made_up(2))
        for _ in range(10):
            assert verify(verifier, RS1).user_id == "u1"
        assert not attack.done()
        go.set()
        assert attack.result(10).code == "token_foreign"


def test_the_event_loop_goes_on_while_a_key_is_fetched(issuer: KeySetServer, clock: FakeClock) -> None:
    go = held_back(issuer)
    verifier = verifier_of(issuer, clock)

    async def main() -> Identity:
        waiting = asyncio.create_task(verifier.verify_async(RS1))
        for _ in range(20):
            await asyncio.sleep(0.005)
        assert not waiting.done()
        go.set()
        return await asyncio.wait_for(waiting, 10)

    assert asyncio.run(main()).user_id == "u1"


def test_who_stops_waiting_does_not_stop_the_others(issuer: KeySetServer, clock: FakeClock) -> None:
    go = held_back(issuer)
    verifier = verifier_of(issuer, clock)

    async def main() -> Identity:
        waiting = [asyncio.create_task(verifier.verify_async(RS1)) for _ in range(3)]
        await asyncio.to_thread(until, lambda: issuer.asked == 1)
        waiting[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting[0]
        go.set()
        return (await asyncio.wait_for(asyncio.gather(*waiting[1:]), 10))[0]

    assert asyncio.run(main()).user_id == "u1"
    assert issuer.asked == 1


def test_a_token_that_is_refused_anyway_causes_no_fetch(issuer: KeySetServer, clock: FakeClock, verify: Verify) -> None:
    verifier = verifier_of(issuer, clock)
    for made in ("nonsense", "x" * 10_000, token("HS256", kid="k1"), RS1 + "\n"):
        assert verifier.at_hand(made)
        refusal(verify, verifier, made)
    assert issuer.asked == 0
    assert not verifier.at_hand(RS1)
    assert issuer.asked == 0


# A server that misbehaves ---------------------------------------------------------------------------------------------


def drip_body(handler: Any) -> None:
    handler.send_response(200)
    handler.end_headers()
    drip(handler, b" ")


def drip_headers(handler: Any) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    drip(handler, b"x")


def drip(handler: Any, byte: bytes) -> None:
    ends = time.monotonic() + 8
    while time.monotonic() < ends:
        handler.wfile.write(byte)
        handler.wfile.flush()
        time.sleep(0.05)


def hang(handler: Any) -> None:
    time.sleep(3)


@pytest.mark.parametrize("answer", [drip_body, drip_headers, hang])
def test_one_total_time_out_ends_what_never_ends(
    issuer: KeySetServer, clock: FakeClock, verify: Verify, answer: Any
) -> None:
    """A byte each 50 ms would keep a time-out per read from ever passing."""
    issuer.answer = answer
    verifier = verifier_of(issuer, clock, timeout=0.4)
    began = time.monotonic()
    error = refusal(verify, verifier, RS1)
    assert time.monotonic() - began < 2.5
    assert (error.code, error.status_code, error.retry_after) == ("key_set_unavailable", 503, 10.0)
    until(lambda: not any(thread.name == "safe-llm-key-set" for thread in threading.enumerate()))


def endless(handler: Any) -> None:
    handler.send_response(200)
    handler.end_headers()
    for _ in range(100_000):
        handler.wfile.write(b" " * 65_536)


BROKEN: dict[str, Callable[[Any], None]] = {
    "more than may be": lambda handler: say(handler, b" " * 600_000 + b'{"keys": []}'),
    "endless": endless,
    "no JSON": lambda handler: say(handler, b"<html>"),
    "nothing": lambda handler: say(handler, b""),
    "a list": lambda handler: say(handler, b"[]"),
    "keys that are no list": lambda handler: say(handler, b'{"keys": {"kid": "k1"}}'),
    "no keys": lambda handler: say(handler, b'{"error": "x"}'),
    "deep nesting": lambda handler: say(handler, b'{"keys":' + b"[" * 100_000),
    "no UTF-8": lambda handler: say(handler, b'{"keys": ["\xff"]}'),
    "compressed": lambda handler: say(handler, b"\x1f\x8b", Content_Encoding="gzip"),
    "401": lambda handler: say(handler, b'{"keys": []}', 401),
    "404": lambda handler: say(handler, b"", 404),
    "204": lambda handler: say(handler, b"", 204),
    "no HTTP": lambda handler: handler.wfile.write(b"SSH-2.0-x\r\n"),
    "cut": lambda handler: handler.wfile.write(b'HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"keys": ['),
    "closed": lambda handler: handler.connection.close(),
}


@pytest.mark.parametrize("answer", BROKEN.values(), ids=BROKEN)
def test_what_is_no_key_set_denies(issuer: KeySetServer, clock: FakeClock, verify: Verify, answer: Any) -> None:
    """And is not asked for again before the interval is over."""
    issuer.answer = answer
    verifier = verifier_of(issuer, clock)
    for _ in range(3):
        assert code(verify, verifier, RS1) == "key_set_unavailable"
    assert 1 <= issuer.asked <= 3
    issuer.answer = None
    clock.advance(10)
    assert verify(verifier, RS1).user_id == "u1"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("scheme", ["http", "file", "ftp", "data"])
def test_a_redirect_is_not_followed(issuer: KeySetServer, clock: FakeClock, status: int, scheme: str) -> None:
    with KeySetServer(jwk("RS256", "k1", 1)) as attacker:
        elsewhere = {"http": attacker.url, "file": "file:///etc/passwd", "ftp": "ftp://127.0.0.1/"}
        to = elsewhere.get(scheme, "data:application/json,{}")
        issuer.answer = lambda handler: say(handler, b"", status, Location=to)
        verifier = verifier_of(issuer, clock)
        made = token("RS256", key=private_key("RS256", 1), kid="k1")
        assert code(lambda verifier, token: verifier.verify(token), verifier, made) == "key_set_unavailable"
        assert (issuer.asked, attacker.asked) == (1, 0)


def test_a_failure_that_passes_is_tried_again_within_the_time_out(
    issuer: KeySetServer, clock: FakeClock, verify: Verify
) -> None:
    def answer(handler: Any) -> None:
        if issuer.asked < 3:
            say(handler, b"", 503 if issuer.asked == 1 else 429)
        else:
            say(handler, json.dumps({"keys": issuer.keys}).encode())

    issuer.answer = answer
    assert verify(verifier_of(issuer, clock), RS1).user_id == "u1"
    assert issuer.asked == 3


def test_it_is_tried_three_times_and_no_more(issuer: KeySetServer, clock: FakeClock, verify: Verify) -> None:
    issuer.answer = lambda handler: say(handler, b"", 500)
    verifier = verifier_of(issuer, clock)
    for _ in range(5):
        assert code(verify, verifier, RS1) == "key_set_unavailable"
    assert issuer.asked == 3


def test_keys_at_hand_are_used_while_the_server_is_away_but_not_for_ever(
    issuer: KeySetServer, clock: FakeClock, verify: Verify
) -> None:
    verifier = verifier_of(issuer, clock, jwks_max_age=100, jwks_max_stale=200, max_lifetime=10_000)
    made = token("RS256", kid="k1", exp=claims()["exp"] + 1_000)
    assert verify(verifier, made).user_id == "u1"
    issuer.answer = lambda handler: say(handler, b"", 404)
    clock.advance(100)
    assert verify(verifier, made).user_id == "u1"
    assert refusal(verify, verifier, made_up(1)).status_code == 503, "it may be a new key"
    assert issuer.asked == 2
    clock.advance(199)
    assert verify(verifier, made).user_id == "u1"
    until(lambda: issuer.asked == 3)
    clock.advance(1)
    until(lambda: not any(thread.name == "safe-llm-key-set" for thread in threading.enumerate()))
    assert code(verify, verifier, made) == "key_set_unavailable"
    issuer.answer = None
    clock.advance(10)
    assert verify(verifier, made).user_id == "u1"


def test_nobody_waits_for_a_server_that_is_known_to_be_away(
    issuer: KeySetServer, clock: FakeClock, verify: Verify
) -> None:
    """It is asked again all the same, and what it then says holds."""
    verifier = verifier_of(issuer, clock)
    assert verify(verifier, RS1).user_id == "u1"
    issuer.answer = lambda handler: say(handler, b"", 404)
    clock.advance(300)
    assert verify(verifier, RS1).user_id == "u1"
    go = held_back(issuer)
    issuer.keys = [jwk("ES256", "k2")]
    clock.advance(10)
    assert verifier.at_hand(RS1)
    assert verify(verifier, RS1).user_id == "u1"
    until(lambda: issuer.asked == 3)
    assert verify(verifier, RS1).user_id == "u1"
    go.set()
    until(lambda: not any(thread.name == "safe-llm-key-set" for thread in threading.enumerate()))
    assert code(verify, verifier, RS1) == "token_foreign"


def test_a_fetch_that_cannot_even_end_is_given_up(
    issuer: KeySetServer, clock: FakeClock, verify: Verify, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As while a name is being resolved, which nothing interrupts; what it brings later is dropped."""
    go = threading.Event()
    fetched = module._fetching.fetch

    def stuck(url: str, timeout: float) -> list[Any]:
        go.wait(10)
        return fetched(url, 5)

    monkeypatch.setattr(module._fetching, "fetch", stuck)
    verifier = verifier_of(issuer, clock, timeout=0.05)
    began = time.monotonic()
    assert code(verify, verifier, RS1) == "key_set_unavailable"
    assert time.monotonic() - began < 2
    go.set()
    until(lambda: not any(thread.name == "safe-llm-key-set" for thread in threading.enumerate()))
    assert code(verify, verifier, RS1) == "key_set_unavailable"
    monkeypatch.setattr(module._fetching, "fetch", lambda url, timeout: fetched(url, 5))
    clock.advance(10)
    verifier_of(issuer, clock)
    assert verify(verifier, RS1).user_id == "u1"


def test_the_log_says_why_and_the_refusal_does_not(
    issuer: KeySetServer, clock: FakeClock, verify: Verify, caplog: pytest.LogCaptureFixture
) -> None:
    issuer.answer = lambda handler: say(handler, b"", 404)
    verifier = JWTVerifier(jwks_url=issuer.url + "?key=hunter2", clock=clock)
    with caplog.at_level(logging.WARNING, "safe_llm"):
        error = refusal(verify, verifier, RS1)
    assert "404" in caplog.text
    assert "hunter2" not in caplog.text
    assert "404" not in str(error)
    assert "127.0.0.1" not in str(error)
    assert error.to_problem()["retry_after"] == 10


# With a client --------------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_the_user_whom_a_token_proves_pays_for_the_call(
    issuer: KeySetServer, server: FakeOpenAI, kind: Any, sink: RecordingSink
) -> None:
    """The key is fetched where the client may wait: at once, or at an async client's first call."""
    asked = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}
    policy = {"identity": {"verified": True}, "plans": {"pro": {"limits": []}}}
    clock = FakeClock()
    client = kind(
        base_url=server.base_url, api_key="k", policy=policy, sinks=[sink], clock=clock,
        verifier=verifier_of(issuer, clock),
    )  # fmt: skip
    bound = client.with_token(token("RS256", kid="k1", plan="pro"))
    answer = bound.chat.completions.create(**asked)
    if asyncio.iscoroutine(answer):
        await answer
        await client.close()
    else:
        client.close()
    [record] = sink.records
    assert (record.user_id, record.plan, record.outcome) == ("u1", "pro", "ok")

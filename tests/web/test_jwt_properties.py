"""For any token: what PyJWT refuses is refused, and what is accepted says what was signed, sync and async alike."""

from __future__ import annotations

import asyncio
import base64
import functools
import json
from typing import Any

import jwt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from issuer import SECRET, START, claims, private_key, public_pem, token

from safe_llm import Identity, NotAuthenticatedError
from safe_llm.testing import FakeClock
from safe_llm.web import JWTVerifier

SOME = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])

ALGORITHMS = ("HS256", "RS256", "PS256", "ES256", "EdDSA")
WHOSE = {"issuer": "https://issuer", "audience": "api"}


@functools.cache
def verifier(algorithm: str) -> JWTVerifier:
    key: Any = {"secret": SECRET} if algorithm == "HS256" else {"public_key": public_pem(private_key(algorithm))}
    return JWTVerifier(**key, **WHOSE, algorithms=[algorithm], leeway=0, clock=FakeClock())


@functools.cache
def good(algorithm: str) -> str:
    return token(algorithm, iss="https://issuer", aud="api", plan="pro", kid="k1")


class _FakeDatetime(jwt.api_jwt.datetime):  # type: ignore[name-defined,misc]
    """PyJWT has no clock to inject: here it reads the hour of the tests."""

    @classmethod
    def now(cls, tz: Any = None) -> Any:
        return cls.fromtimestamp(START, tz)


def pyjwt_says(algorithm: str, made: Any) -> dict[str, Any] | None:
    """The claims, where PyJWT itself accepts the token with the same key and options."""
    key = SECRET if algorithm == "HS256" else public_pem(private_key(algorithm))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jwt.api_jwt, "datetime", _FakeDatetime)
        try:
            said: dict[str, Any] = jwt.decode(made, key, algorithms=[algorithm], **WHOSE, options={"require": ["exp"]})
        except Exception:
            return None
    return said


def verdict(algorithm: str, made: Any) -> Identity | None:
    """What both ways of verifying say; they agree in everything, the message included."""
    said: list[Any] = []
    for verify in (verifier(algorithm).verify, lambda made: asyncio.run(verifier(algorithm).verify_async(made))):
        try:
            said.append(verify(made))
        except NotAuthenticatedError as error:
            said.append((error.code, str(error), error.status_code))
    assert said[0] == said[1]
    return said[0] if isinstance(said[0], Identity) else None


def check(algorithm: str, made: Any) -> bool:
    """Whether it is accepted; if so, PyJWT accepts it too, and the identity is of the claims that it reads."""
    identity, said = verdict(algorithm, made), pyjwt_says(algorithm, made)
    if identity is None:
        return False
    assert said is not None, "accepted, and PyJWT refuses it"
    assert (identity.user_id, identity.plan) == (said["sub"], said.get("plan"))
    assert identity.verified
    assert identity.expires == int(said["exp"]) > START
    return True


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_tokens_that_are_changed_here_are_good_ones(algorithm: str) -> None:
    assert check(algorithm, good(algorithm))


@SOME
@given(st.data(), st.sampled_from(ALGORITHMS))
def test_a_token_with_any_bytes_changed_is_refused(data: st.DataObject, algorithm: str) -> None:
    whole = good(algorithm)
    letters = list(whole)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(letters) - 1))
        letters[at : at + 1] = data.draw(
            st.sampled_from([["A"], ["_"], ["."], [], ["=", "="], ["é"], ["\0"], ["A", "A"]])
        )
    made = "".join(letters)
    assert not check(algorithm, made) or made == whole


def parts(made: str) -> list[bytes]:
    return [base64.urlsafe_b64decode(part + "==") for part in made.split(".")]


def joined(*pieces: bytes) -> str:
    return ".".join(base64.urlsafe_b64encode(piece).rstrip(b"=").decode() for piece in pieces)


@SOME
@given(st.data(), st.sampled_from(ALGORITHMS))
def test_a_signed_part_with_any_bit_flipped_is_refused(data: st.DataObject, algorithm: str) -> None:
    pieces = parts(good(algorithm))
    which = data.draw(st.integers(0, 2))
    flipped = bytearray(pieces[which])
    flipped[data.draw(st.integers(0, len(flipped) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    pieces[which] = bytes(flipped)
    assert not check(algorithm, joined(*pieces))


@SOME
@given(st.sampled_from(ALGORITHMS), *(st.sampled_from(ALGORITHMS) for _ in range(3)))
def test_parts_of_different_tokens_make_none(algorithm: str, header: str, payload: str, signature: str) -> None:
    """Also where every part is good on its own; the claims here are all the same."""
    made = joined(parts(good(header))[0], parts(good(payload))[1], parts(good(signature))[2])
    assert check(algorithm, made) == (algorithm == header == signature)


@SOME
@given(
    st.sampled_from(ALGORITHMS),
    st.sampled_from((*ALGORITHMS, "HS384", "HS512", "RS512", "ES384", "none", "None", "hs256", "")),
)
def test_another_algorithm_in_the_header_is_refused(algorithm: str, named: str) -> None:
    header, payload, signature = parts(good(algorithm))
    header = json.dumps(json.loads(header) | {"alg": named}).encode()
    assert not check(algorithm, joined(header, payload, signature))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
NEAR = st.one_of(
    JSON,
    st.integers(START - 3, START + 3),
    st.floats(START - 3, START + 3),
    st.integers(START, START + 10_000).map(str),
    st.sampled_from(["https://issuer", "api", ["api"], ["x", "api"], "u1", "pro"]),
)


@SOME
@given(
    st.sampled_from(ALGORITHMS),
    st.dictionaries(st.sampled_from(["exp", "iat", "nbf", "sub", "plan", "iss", "aud", "jti", "other"]), NEAR),
    st.sets(st.sampled_from(["exp", "iat", "sub", "iss", "aud"]), max_size=2),
)
def test_claims_that_pyjwt_refuses_are_refused_though_they_are_signed(
    algorithm: str, changed: dict[str, Any], left_out: set[str]
) -> None:
    said = {**claims(iss="https://issuer", aud="api"), **changed}
    payload = json.dumps({name: value for name, value in said.items() if name not in left_out}).encode()
    key = SECRET if algorithm == "HS256" else private_key(algorithm)
    check(algorithm, jwt.api_jws.encode(payload, key, algorithm))


@SOME
@given(
    st.sampled_from(ALGORITHMS),
    st.dictionaries(
        st.sampled_from(["typ", "kid", "crit", "jku", "jwk", "x5u", "x5c", "zip", "cty", "b64", "enc", "exp"]), JSON
    ),
)
def test_headers_that_pyjwt_refuses_are_refused_though_they_are_signed(algorithm: str, header: dict[str, Any]) -> None:
    payload = json.dumps(claims(iss="https://issuer", aud="api")).encode()
    signed = f"{joined(json.dumps({'alg': algorithm, **header}).encode())}.{joined(payload)}"
    key = SECRET if algorithm == "HS256" else private_key(algorithm)
    signer = jwt.get_algorithm_by_name(algorithm)
    check(algorithm, f"{signed}.{joined(signer.sign(signed.encode(), signer.prepare_key(key)))}")


@SOME
@given(st.sampled_from(ALGORITHMS), st.text(max_size=200) | st.text("ab.=-_", max_size=30) | st.binary(max_size=50))
def test_anything_at_all_is_refused_and_nothing_breaks(algorithm: str, made: Any) -> None:
    assert not check(algorithm, made)

"""What a token proves, and what it does not: `JWTVerifier` with a key that the application has."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from issuer import SECRET, START, claims, jwk, private_key, private_pem, public_pem, token

from safe_llm import ConfigurationError, Identity, NotAuthenticatedError
from safe_llm.testing import FakeClock
from safe_llm.web import JWTVerifier

Verify = Callable[[JWTVerifier, Any], Identity]

ASYMMETRIC = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "ES256K", "EdDSA")


@pytest.fixture(params=["sync", "async"])
def verify(request: pytest.FixtureRequest) -> Verify:
    if request.param == "sync":
        return lambda verifier, token: verifier.verify(token)
    return lambda verifier, token: asyncio.run(verifier.verify_async(token))


def with_secret(**options: Any) -> JWTVerifier:
    return JWTVerifier(secret=SECRET, clock=FakeClock(), **options)


def with_pem(algorithm: str, **options: Any) -> JWTVerifier:
    return JWTVerifier(
        public_key=public_pem(private_key(algorithm)), algorithms=[algorithm], clock=FakeClock(), **options
    )


def part(value: Any) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def forged(header: Any, payload: Any = None, *, secret: bytes = SECRET.encode()) -> str:
    """A token whose signature is right by HMAC-SHA256, whatever the header says."""
    signed = f"{part(header)}.{part(claims() if payload is None else payload)}"
    return f"{signed}.{part(hmac.digest(secret, signed.encode(), hashlib.sha256))}"


def refusal(verify: Verify, verifier: JWTVerifier, token: Any) -> NotAuthenticatedError:
    with pytest.raises(NotAuthenticatedError) as caught:
        verify(verifier, token)
    error = caught.value
    assert error.to_problem()["status"] == error.status_code
    if isinstance(token, str):
        for piece in filter(lambda piece: len(piece) > 8, token.split(".")):
            assert piece not in str(error)
    assert SECRET not in str(error)
    return error


# Good tokens ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_a_token_signed_with_the_secret_makes_a_verified_identity(verify: Verify, algorithm: str) -> None:
    identity = verify(with_secret(algorithms=[algorithm]), token(algorithm, plan="pro"))
    assert identity == Identity("u1", plan="pro", verified=True, expires=START + 601.0)


@pytest.mark.parametrize("algorithm", ASYMMETRIC)
def test_a_token_signed_with_the_private_key_makes_a_verified_identity(verify: Verify, algorithm: str) -> None:
    identity = verify(with_pem(algorithm), token(algorithm))
    assert identity == Identity("u1", verified=True, expires=START + 601.0)


@pytest.mark.parametrize(
    ("algorithm", "by_default"), [("RS256", True), ("PS256", False), ("RS512", False), ("ES384", True), ("EdDSA", True)]
)
def test_a_pem_pins_the_usual_algorithm_of_its_kind(verify: Verify, algorithm: str, by_default: bool) -> None:
    verifier = JWTVerifier(public_key=public_pem(private_key(algorithm)).decode(), clock=FakeClock())
    if by_default:
        assert verify(verifier, token(algorithm)).user_id == "u1"
    else:
        assert refusal(verify, verifier, token(algorithm)).code == "token_algorithm"


def test_claims_become_user_plan_session_and_tags(verify: Verify) -> None:
    verifier = with_secret(
        user_claim="email", plan_claim="tier", session_claim="sid", tags={"team": "department", "site": "location"}
    )
    identity = verify(verifier, token(email="a@b.c", tier="pro", sid="s1", department="legal", plan="ignored"))
    assert identity.user_id == "a@b.c"
    assert (identity.plan, identity.session_id, dict(identity.tags)) == ("pro", "s1", {"team": "legal"})


def test_no_plan_is_taken_where_no_claim_of_it_is_named(verify: Verify) -> None:
    assert verify(with_secret(plan_claim=None), token(plan="pro")).plan is None


@pytest.mark.parametrize("audience", ["api", ["other", "api"]])
def test_one_audience_of_several_suffices(verify: Verify, audience: Any) -> None:
    verifier = with_secret(issuer="https://issuer", audience=audience)
    assert verify(verifier, token(iss="https://issuer", aud=["x", "api"])).user_id == "u1"


def test_keys_that_a_token_brings_along_are_not_looked_at(verify: Verify) -> None:
    """They neither help nor hurt: the application's own key decides."""
    brought = {"jwk": jwk("RS256", "k"), "jku": "http://127.0.0.1:1/", "x5u": "http://127.0.0.1:1/", "x5c": ["x"]}
    assert verify(with_pem("RS256"), token("RS256", header=brought)).user_id == "u1"
    foreign = token("RS256", key=private_key("RS256", 1), header=brought | {"jwk": jwk("RS256", "k", 1)})
    assert refusal(verify, with_pem("RS256"), foreign).code == "token_signature"


def test_a_key_id_is_never_a_path_or_a_query(verify: Verify) -> None:
    """With one key it is not looked at."""
    for kid in ("../../dev/null", "/proc/sys/kernel/randomize_va_space", "' UNION SELECT 'k", "http://127.0.0.1:1/"):
        assert verify(with_secret(), token(kid=kid)).user_id == "u1"
        assert refusal(verify, with_secret(), token(kid=kid, key="\0" * 32)).code == "token_signature"


# Times ----------------------------------------------------------------------------------------------------------------


def test_a_token_is_good_until_it_expires_and_never_again(verify: Verify) -> None:
    clock = FakeClock()
    verifier = JWTVerifier(secret=SECRET, leeway=2, clock=clock)
    replayed = token()
    clock.advance(601.5)
    assert verify(verifier, replayed).expires == START + 602
    clock.advance(0.5)
    for _ in range(2):
        assert refusal(verify, verifier, replayed).code == "token_expired"
        clock.advance(1_000_000)


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"exp": START - 1}, "token_expired"),
        ({"exp": START - 0.5}, "token_expired"),
        ({"exp": 0}, "token_expired"),
        ({"exp": -1}, "token_expired"),
        ({"nbf": START + 2}, "token_not_yet_valid"),
        ({"iat": START + 2}, "token_not_yet_valid"),
        ({"nbf": START + 1.5}, "token_not_yet_valid"),
        ({"exp": None}, "token_lifetime"),
        ({"exp": START + 7_201}, "token_lifetime"),
        ({"iat": START - 7_000}, "token_lifetime"),
        ({"iat": None, "exp": START + 7_300}, "token_lifetime"),
        ({"exp": 2**52}, "token_lifetime"),
    ],
)
def test_a_token_of_another_time_is_refused(verify: Verify, wrong: dict[str, Any], code: str) -> None:
    error = refusal(verify, with_secret(), token(**wrong))
    assert (error.code, error.status_code) == (code, 401)


@pytest.mark.parametrize("name", ["exp", "iat", "nbf"])
@pytest.mark.parametrize("value", [str(START + 60), True, [START], {}, "", float("inf"), float("nan"), 10**400, 2**53])
def test_a_time_that_is_no_number_is_refused(verify: Verify, name: str, value: Any) -> None:
    """Also what other libraries read as a number: strings, booleans, and infinity, which never comes."""
    assert refusal(verify, with_secret(), forged({"alg": "HS256"}, claims(**{name: value}))).code == "token_malformed"


@pytest.mark.parametrize("name", ["exp", "iat", "nbf"])
def test_a_time_that_is_null_is_refused(verify: Verify, name: str) -> None:
    assert refusal(verify, with_secret(), forged({"alg": "HS256"}, claims() | {name: None})).code == "token_malformed"


def test_leeway_and_lifetime_are_the_applications_to_choose(verify: Verify) -> None:
    assert verify(with_secret(leeway=30), token(nbf=START + 30, iat=START + 30, exp=START + 60)).user_id == "u1"
    assert verify(with_secret(max_lifetime=86_400), token(exp=START + 86_400)).user_id == "u1"
    assert refusal(verify, with_secret(max_lifetime=60), token(exp=START + 61)).code == "token_lifetime"


# Somebody else's ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("said", [None, "https://other", "https://issue", "https://issuer/", "", 7, ["https://issuer"]])
def test_a_token_of_another_issuer_is_refused(verify: Verify, said: Any) -> None:
    """A part of the right name, a list with it in, and none are another issuer (CVE-2024-53861)."""
    verifier = with_secret(issuer="https://issuer")
    assert refusal(verify, verifier, forged({"alg": "HS256"}, claims(iss=said))).code == "token_foreign"


@pytest.mark.parametrize("said", [None, "ap", "api2", "", [], ["x"], ["api", 7], {"api": 1}, 7])
def test_a_token_for_another_audience_is_refused(verify: Verify, said: Any) -> None:
    assert refusal(verify, with_secret(audience="api"), token(aud=said)).code == "token_foreign"


def test_a_token_that_names_an_audience_is_refused_where_the_application_names_none(verify: Verify) -> None:
    assert refusal(verify, with_secret(), token(aud="somebody else")).code == "token_foreign"


@pytest.mark.parametrize("sub", [None, "", " ", "\u200b\n", "x" * 257, 7, 0, True, ["u1"], {"u1": 1}, "a\0b", "\ud800"])
def test_a_claim_that_is_no_user_never_becomes_one(verify: Verify, sub: Any) -> None:
    assert refusal(verify, with_secret(), forged({"alg": "HS256"}, claims(sub=sub))).code == "token_claims"


@pytest.mark.parametrize("name", ["plan", "sid", "department"])
@pytest.mark.parametrize("value", ["", 7, True, ["pro"], {"pro": 1}, "x" * 257, "a\nb"])
def test_a_plan_session_or_tag_of_the_wrong_type_is_refused(verify: Verify, name: str, value: Any) -> None:
    verifier = with_secret(session_claim="sid", tags={"team": "department"})
    error = refusal(verify, verifier, token(**{name: value}))
    assert error.code == "token_claims"
    assert str(value) not in str(error) or value in ("", 7, True)


# No token at all ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "nOnE", "noNe", "none ", "", " ", None, 0, [], {}])
@pytest.mark.parametrize("signed", [True, False], ids=["signed", "unsigned"])
def test_an_unsigned_token_is_refused_however_it_spells_that(verify: Verify, algorithm: Any, signed: bool) -> None:
    made = forged({"alg": algorithm, "typ": "JWT"})
    made = made if signed else made.rpartition(".")[0] + "."
    for verifier in (with_secret(), with_pem("RS256"), with_pem("ES256")):
        assert refusal(verify, verifier, made).code == "token_algorithm"


def test_a_token_without_an_algorithm_or_a_signature_is_refused(verify: Verify) -> None:
    assert refusal(verify, with_secret(), forged({"typ": "JWT"})).code == "token_algorithm"
    assert refusal(verify, with_secret(), token().rpartition(".")[0] + ".").code == "token_signature"


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
def test_a_public_key_is_never_a_secret(verify: Verify, algorithm: str) -> None:
    """HS256 with what everybody knows of the key: PEM, DER, OpenSSH, JWK (CVE-2016-5431, CVE-2017-11424,
    CVE-2022-29217, CVE-2024-33663, GHSA-xgmm-8j9v-c9wx)."""
    public = private_key(algorithm).public_key()
    known = [
        public_pem(private_key(algorithm)),
        public_pem(private_key(algorithm)).strip(),
        public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH),
        json.dumps(jwk(algorithm, "k")).encode(),
    ]
    for bytes_of_it in known:
        made = forged({"alg": "HS256"}, secret=bytes_of_it)
        assert refusal(verify, with_pem(algorithm), made).code == "token_algorithm"
        with pytest.raises(ConfigurationError) as caught:
            JWTVerifier(secret=bytes_of_it)
        assert bytes_of_it[30:60].decode("latin-1") not in str(caught.value)


def test_a_token_is_signed_with_the_algorithm_that_its_header_names(verify: Verify) -> None:
    """Another hash, another padding, another curve, another family: the name and the signature must agree."""
    signed, wrong = token("RS256").split("."), {}
    for algorithm in ("RS384", "PS256", "ES256", "EdDSA", "HS256"):
        header = part({"alg": algorithm, "typ": "JWT"})
        wrong[algorithm] = refusal(verify, with_pem("RS256"), ".".join([header, *signed[1:]])).code
    assert set(wrong.values()) == {"token_algorithm"}
    both = JWTVerifier(public_key=public_pem(private_key("RS256")), algorithms=["RS256", "PS256"], clock=FakeClock())
    renamed = ".".join([part({"alg": "PS256", "typ": "JWT"}), *signed[1:]])
    assert refusal(verify, both, renamed).code == "token_signature"


def test_a_signature_of_zeros_proves_nothing(verify: Verify) -> None:
    """CVE-2022-21449: r = s = 0 fits every text, for those who do not look."""
    for algorithm, size in (("ES256", 64), ("ES384", 96), ("RS256", 256), ("EdDSA", 64)):
        unsigned = token(algorithm).rpartition(".")[0]
        assert refusal(verify, with_pem(algorithm), f"{unsigned}.{part(bytes(size))}").code == "token_signature"


@pytest.mark.parametrize("header", [{"crit": ["exp"], "exp": 1}, {"crit": ["b64"]}, {"crit": []}, {"crit": "x"}])
def test_a_header_that_demands_more_than_is_understood_is_refused(verify: Verify, header: dict[str, Any]) -> None:
    """CVE-2025-59420, CVE-2026-32597."""
    assert refusal(verify, with_secret(), forged({"alg": "HS256", **header})).code == "token_malformed"


@pytest.mark.parametrize("header", [{"b64": False}, {"b64": False, "crit": ["b64"]}, {"b64": 0}])
def test_a_token_whose_claims_stand_elsewhere_is_refused(verify: Verify, header: dict[str, Any]) -> None:
    """GHSA-w7vc-732c-9m39."""
    assert refusal(verify, with_secret(), forged({"alg": "HS256", **header})).code == "token_malformed"


@pytest.mark.parametrize("kid", [None, 7, ["k"], {"k": 1}, True])
def test_a_key_id_that_is_no_string_is_refused(verify: Verify, kid: Any) -> None:
    assert refusal(verify, with_secret(), forged({"alg": "HS256", "kid": kid})).code == "token_malformed"


MALFORMED = {
    "nothing": "",
    "a word": "token",
    "two parts": "a.b",
    "four parts": f"{token()}.x",
    "five parts, as of encryption": "a.b.c.d.e",
    "a scheme before it": f"Bearer {token()}",
    "a space behind it": f"{token()} ",
    "a line end behind it": f"{token()}\n",
    "a line end inside": token().replace(".", ".\n", 1),
    "padding": f"{token()}=",
    "the other alphabet": token().replace("_", "/").replace("-", "+") + "+",
    "letters beyond ASCII": token()[:-1] + "é",
    "a lone surrogate": token()[:-1] + "\ud800",
    "a zero byte": token() + "\0",
    "a header that is no JSON": forged(b"{"),
    "a header that is a list": forged(["alg", "HS256"]),
    "a header that is a number": forged(7),
    "a header that nests deeply": forged(b'{"alg":' + b"[" * 3_000),
    "a header that is no UTF-8": forged(b'{"alg":"\xff"}'),
    "claims that are no JSON": forged({"alg": "HS256"}, b"{"),
    "claims that are a list": forged({"alg": "HS256"}, ["sub", "u1"]),
    "claims that are a string": forged({"alg": "HS256"}, "u1"),
    "claims that nest deeply": forged({"alg": "HS256"}, b'{"sub":' + b"[" * 5_000),
    "claims that are another token": forged({"alg": "HS256", "cty": "JWT"}, token().encode()),
    "claims with an endless number": forged({"alg": "HS256"}, b'{"sub":"u1","exp":' + b"9" * 5_000 + b"}"),
    "bytes": token().encode(),
    "no text at all": None,
    "a number": 7,
    "a list": [token()],
}


@pytest.mark.parametrize("made", MALFORMED.values(), ids=MALFORMED)
def test_what_is_no_token_is_refused(verify: Verify, made: Any) -> None:
    error = refusal(verify, with_secret(), made)
    assert (error.code, error.status_code) == ("token_malformed", 401)


@pytest.mark.parametrize("made", ["x" * 8_193, "." * 10_000_000, token() + "A" * 8_192, "é" * 8_193])
def test_a_token_that_is_too_long_is_not_parsed(verify: Verify, made: str) -> None:
    """CVE-2025-30204: each dot of it would be a part."""
    assert refusal(verify, with_secret(), made).code == "token_too_large"


def test_the_longest_token_is_the_applications_to_choose(verify: Verify) -> None:
    made = token(groups=["x" * 100] * 100)
    assert refusal(verify, with_secret(), made).code == "token_too_large"
    assert verify(with_secret(max_bytes=len(made)), made).user_id == "u1"
    assert refusal(verify, with_secret(max_bytes=len(made) - 1), made).code == "token_too_large"


def test_no_error_holds_on_to_the_token_its_claims_or_the_key() -> None:
    """Nor do the errors chained to it, which tracebacks and crash reports show."""
    for made in (token(sub="hidden-user" * 30), forged({"alg": "HS256"}, b'{"hidden-user'), forged(b"{hidden-user")):
        with pytest.raises(NotAuthenticatedError) as caught:
            with_secret().verify(made)
        for error in (caught.value, caught.value.__cause__, caught.value.__context__):
            assert "hidden-user" not in repr(error)
            assert "hidden-user" not in repr(getattr(error, "__dict__", None))
            assert not hasattr(error, "doc")


# Settings -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "takes one of secret=, public_key= and jwks_url=, not none"),
        ({"secret": SECRET, "jwks_url": "https://issuer/"}, "not secret= and jwks_url="),
        ({"secret": ""}, "0 bytes"),
        ({"secret": "x" * 31}, "at least 32"),
        ({"secret": "x" * 47, "algorithms": ["HS256", "HS384"]}, "at least 48"),
        ({"secret": b"x" * 63, "algorithms": ["HS512"]}, "at least 64"),
        ({"secret": 7}, "takes a string or bytes"),
        ({"secret": SECRET, "algorithms": ["RS256"]}, "a secret cannot verify"),
        ({"secret": SECRET, "algorithms": ["none"]}, "'none'"),
        ({"secret": SECRET, "algorithms": ["hs256"]}, "'hs256'"),
        ({"secret": SECRET, "algorithms": []}, "list of one or more"),
        ({"secret": SECRET, "algorithms": "HS256"}, "list of one or more"),
        ({"secret": SECRET, "algorithms": [None]}, "None"),
        ({"secret": SECRET, "issuer": ""}, "issuer="),
        ({"secret": SECRET, "issuer": ["a", "b"]}, "issuer="),
        ({"secret": SECRET, "audience": ""}, "audience="),
        ({"secret": SECRET, "audience": []}, "audience="),
        ({"secret": SECRET, "audience": ["a", None]}, "audience="),
        ({"secret": SECRET, "user_claim": None}, "user_claim="),
        ({"secret": SECRET, "user_claim": ""}, "user_claim="),
        ({"secret": SECRET, "plan_claim": 7}, "plan_claim="),
        ({"secret": SECRET, "tags": {"": "x"}}, "tags="),
        ({"secret": SECRET, "tags": {"team": 7}}, "tags="),
        ({"secret": SECRET, "leeway": -1}, "leeway="),
        ({"secret": SECRET, "leeway": float("inf")}, "leeway="),
        ({"secret": SECRET, "max_lifetime": 0}, "max_lifetime="),
        ({"secret": SECRET, "max_lifetime": None}, "max_lifetime="),
        ({"secret": SECRET, "max_bytes": True}, "max_bytes="),
        ({"secret": SECRET, "timeout": 0}, "timeout="),
        ({"jwks_url": "https://issuer/", "algorithms": ["HS256"]}, "a key set cannot verify"),
        ({"jwks_url": "https://issuer/", "algorithms": ["RS256", "none"]}, "'none'"),
        ({"jwks_url": "http://issuer/jwks.json"}, "use https"),
        ({"jwks_url": "http://localhost.issuer/"}, "use https"),
        ({"jwks_url": "file:///etc/passwd"}, "must be like https://"),
        ({"jwks_url": "data:application/json,{}"}, "must be like https://"),
        ({"jwks_url": "ftp://issuer/"}, "must be like https://"),
        ({"jwks_url": "https://"}, "must be like https://"),
        ({"jwks_url": "https://[issuer/"}, "must be like https://"),
        ({"jwks_url": ""}, "must be like https://"),
        ({"jwks_url": 7}, "must be like https://"),
        ({"jwks_url": "https://issuer/", "jwks_min_interval": 0}, "jwks_min_interval="),
        ({"public_key": "ssh-rsa AAAA"}, "no PEM of a public key"),
        ({"public_key": ""}, "no PEM of a public key"),
        ({"public_key": 7}, "takes a PEM"),
        ({"public_key": public_pem(private_key("RS256")), "algorithms": ["HS256"]}, "this public key cannot verify"),
        ({"public_key": public_pem(private_key("RS256")), "algorithms": ["ES256"]}, "this public key cannot verify"),
        ({"public_key": public_pem(private_key("ES256")), "algorithms": ["ES384"]}, "this public key cannot verify"),
        ({"public_key": public_pem(private_key("ES256")), "algorithms": ["none"]}, "this public key cannot verify"),
        ({"public_key": private_pem(private_key("ES256"))}, "is a private key"),
        ({"public_key": public_pem(rsa.generate_private_key(65_537, 1_024))}, "kind or size"),
        ({"public_key": public_pem(ec.generate_private_key(ec.SECP224R1()))}, "kind or size"),
    ],
)
def test_a_wrong_setting_is_named_when_the_verifier_is_made(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        JWTVerifier(**options)
    assert said in str(caught.value)
    assert SECRET not in str(caught.value)


def test_http_is_for_this_machine_unless_it_is_asked_for() -> None:
    for url in ("http://localhost/k", "http://127.0.0.1:80/k", "http://127.9.9.9/k", "http://[::1]/k"):
        assert JWTVerifier(jwks_url=url)
    assert JWTVerifier(jwks_url="http://issuer/k", jwks_allow_http=True)


def test_what_a_verifier_shows_of_itself_has_no_secret() -> None:
    assert SECRET not in repr(with_secret())
    assert repr(with_secret(issuer="me")) == "JWTVerifier(secret, algorithms=['HS256'], issuer='me', audience=None)"
    shown = repr(JWTVerifier(jwks_url="https://user:hunter2@issuer.example/k?key=hunter2", audience="api"))
    assert "issuer.example" in shown
    assert "hunter2" not in shown


def test_a_key_that_is_there_is_at_hand_for_every_token() -> None:
    assert all(with_secret().at_hand(made) for made in (token(), "nonsense", "x" * 10_000))


@pytest.mark.parametrize(
    ("missing", "said"), [("jwt", "PyJWT, which is not installed"), ("cryptography", "cryptography for public keys")]
)
def test_a_missing_package_is_named_with_what_installs_it(missing: str, said: str) -> None:
    code = f"""
import sys
sys.modules[{missing!r}] = None
from safe_llm import ConfigurationError
from safe_llm.web import JWTVerifier
try:
    JWTVerifier(public_key={public_pem(private_key("RS256"))!r})
except ConfigurationError as error:
    print(error)
"""
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=root)
    assert said in done.stdout, done.stderr
    assert 'pip install "safe-llm[web]"' in done.stdout


def test_pyjwt_itself_agrees_that_the_tests_tokens_are_good() -> None:
    made = jwt.decode(token(), SECRET, algorithms=["HS256"], options={"verify_exp": False, "verify_iat": False})
    assert made == claims()

"""Who pays: a verified token, and nothing else that a request says."""

from __future__ import annotations

import time

from .abuse import Row, billed, sent
from .stage import Target
from .tokens import claims, forged, tampered

row = Row("Authentication")


@row("no token")
def no_token(target: Target) -> str | None:
    target.ask(token=None)
    return sent(target)


# Another user's name ------------------------------------------------------------------------------------------------


@row("another user in the body")
def user_in_body(target: Target) -> str | None:
    target.ask(user="victim")
    return billed(target, "victim") or named(target)


@row("another user in a header")
def user_in_header(target: Target) -> str | None:
    target.ask(headers={"X-User-Id": "victim"})
    return billed(target, "victim")


@row("another user in the query")
def user_in_query(target: Target) -> str | None:
    target.ask(path="/ask/chat_support?user=victim&user_id=victim")
    return billed(target, "victim")


@row("another user in metadata")
def user_in_metadata(target: Target) -> str | None:
    target.ask(metadata={"user_id": "victim"}, store=True)
    return named(target)


@row("another user as safety_identifier")
def user_as_safety_identifier(target: Target) -> str | None:
    target.ask(safety_identifier="victim")
    return named(target)


@row("another user in the SDK's own extra_body")
def user_in_extra_body(target: Target) -> str | None:
    target.ask(extra_body={"user": "victim", "safety_identifier": "victim"})
    return named(target)


@row("a forged token before an honest one")
def forged_first(target: Target) -> str | None:
    tokens = (forged({"alg": "none"}, claims("victim")), target.token())
    target.ask(token=None, headers=[("Authorization", f"Bearer {token}") for token in tokens])
    return billed(target, "victim")


@row("two Authorization headers")
def two_tokens(target: Target) -> str | None:
    honest, other = target.token("mallory"), target.token("victim")
    target.ask(token=None, headers=[("Authorization", f"Bearer {honest}"), ("Authorization", f"Bearer {other}")])
    return sent(target)


def named(target: Target) -> str | None:
    """Whether the provider was told that it is the victim who asks."""
    return "the provider was told that the victim asks" if "victim" in str(target.provider.asked) else None


# Forged tokens --------------------------------------------------------------------------------------------------------


def stands_for_victim(target: Target, *tokens: str) -> str | None:
    for token in tokens:
        target.ask(token=token)
    return billed(target, "victim") or sent(target)


@row('"alg": "none"')
def alg_none(target: Target) -> str | None:
    return stands_for_victim(target, forged({"alg": "none", "typ": "JWT"}, claims("victim")))


@row('"alg": "nOnE", "NONE", "None"')
def alg_none_otherwise(target: Target) -> str | None:
    return stands_for_victim(target, *(forged({"alg": name}, claims("victim")) for name in ("nOnE", "NONE", "None")))


@row("the signature cut off")
def unsigned(target: Target) -> str | None:
    return stands_for_victim(target, target.token("victim").rpartition(".")[0] + ".")


@row("an honest token made to say another user")
def changed_user(target: Target) -> str | None:
    return stands_for_victim(target, tampered(target.token(), sub="victim"))


@row("an honest token made to say a better plan")
def changed_plan(target: Target) -> str | None:
    target.ask(token=tampered(target.token(), plan="staff"))
    return sent(target)


@row("HS256 with the public key as its secret")
def key_confusion(target: Target) -> str | None:
    header = {"alg": "HS256", "kid": "RS256"}
    secrets = (target.issuer.pem, target.issuer.pem.strip())
    return stands_for_victim(target, *(forged(header, claims("victim"), secret) for secret in secrets))


@row("HS256 with an empty secret")
def empty_secret(target: Target) -> str | None:
    return stands_for_victim(target, forged({"alg": "HS256", "kid": "RS256"}, claims("victim"), b""))


@row("a key of one's own in the header (jwk)")
def own_key(target: Target) -> str | None:
    header = {"alg": "HS256", "jwk": {"kty": "oct", "k": "c2VjcmV0"}}
    return stands_for_victim(target, forged(header, claims("victim"), b"secret"))


@row("a key set of one's own in the header (jku, x5u)")
def own_key_set(target: Target) -> str | None:
    header = {"alg": "HS256", "jku": f"{target.provider.url}/keys", "x5u": f"{target.provider.url}/keys", "kid": "1"}
    return stands_for_victim(target, forged(header, claims("victim"), b"secret"))


@row("a key id that is a path")
def key_id_as_path(target: Target) -> str | None:
    header = {"alg": "HS256", "kid": "../../../../dev/null"}
    return stands_for_victim(target, forged(header, claims("victim"), b""))


# Tokens that do not hold here and now ---------------------------------------------------------------------------------


@row("an expired token")
def expired(target: Target) -> str | None:
    now = int(time.time())
    return stands_for_victim(target, target.token("victim", iat=now - 600, exp=now - 300))


@row("a token replayed after its end")
def replayed(target: Target) -> str | None:
    stolen = target.token("victim", algorithm="ES256", exp=int(time.time()) + 2)
    target.ask(token=stolen)
    before = target.sent
    time.sleep(2.1)
    target.ask("I was overheard.", token=stolen)
    return f"{target.sent - before} sent after the token's end" if target.sent > before else None


@row("a token of the future")
def early(target: Target) -> str | None:
    now = int(time.time())
    return stands_for_victim(target, target.token("victim", nbf=now + 600, iat=now + 600, exp=now + 900))


@row("a token for ten years")
def long_lived(target: Target) -> str | None:
    return stands_for_victim(target, target.token("victim", exp=int(time.time()) + 315_000_000))


@row("a token without an end")
def endless(target: Target) -> str | None:
    return stands_for_victim(target, target.token("victim", exp=None))


@row("a token of another issuer")
def foreign_issuer(target: Target) -> str | None:
    return stands_for_victim(target, target.token("victim", iss="https://login.evil.example"))


@row("a token for another service")
def foreign_audience(target: Target) -> str | None:
    return stands_for_victim(target, target.token("victim", aud="newsletter"), target.token("victim", aud=None))


@row("a token in the query")
def token_in_query(target: Target) -> str | None:
    target.ask(token=None, path=f"/ask/chat_support?token={target.token()}&access_token={target.token()}")
    return sent(target)


@row("a token of 20,000 characters")
def huge_token(target: Target) -> str | None:
    target.ask(token=target.token(padding="x" * 15_000))
    return sent(target)


@row("a token without a user")
def nobody(target: Target) -> str | None:
    for user in ("", "   ", "mallory\nvictim"):
        target.ask(token=target.token(user))
    target.ask(token=target.issuer.token("x", sub=None))
    return sent(target)


# What the plan does not include ---------------------------------------------------------------------------------------


@row("a feature that the plan does not include")
def feature_without_plan(target: Target) -> str | None:
    target.ask(feature="document_analysis")
    return sent(target)


@row("the staff's feature")
def staff_feature(target: Target) -> str | None:
    target.ask(feature="admin")
    return sent(target)


@row("a better plan in body, header and query")
def plan_by_request(target: Target) -> str | None:
    target.ask(
        feature="document_analysis", plan="pro", headers={"X-Plan": "pro"}, path="/ask/document_analysis?plan=pro"
    )
    target.ask(feature="document_analysis", headers={"X-Plan": "pro"})
    return sent(target)


@row("a plan that does not exist")
def unknown_plan(target: Target) -> str | None:
    target.ask(token=target.token(plan="unlimited"))
    return sent(target)

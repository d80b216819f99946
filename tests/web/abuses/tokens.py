"""Tokens of every kind, honest and forged, and the server that publishes the keys of the honest ones."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from functools import cached_property
from typing import Any

import jwt
from issuer import KeySetServer, jwk, private_key, public_pem

from safe_llm.web import JWTVerifier

ISSUER = "https://login.example.com"
AUDIENCE = "shop-assistant"


class Issuer(KeySetServer):
    """Signs tokens by two keys, one of RSA and one of an elliptic curve, and serves both as a key set on loopback."""

    def __init__(self) -> None:
        super().__init__(*(jwk(algorithm, algorithm) for algorithm in ("RS256", "ES256")))

    @cached_property
    def verifier(self) -> JWTVerifier:
        """Knows of the issuer what a service knows: its name, and where its keys are."""
        return JWTVerifier(jwks_url=self.url, issuer=ISSUER, audience=AUDIENCE, leeway=0)

    @property
    def pem(self) -> bytes:
        """The public key of RSA, which everybody knows."""
        return public_pem(private_key("RS256"))

    def token(self, user: str, plan: str | None = None, *, algorithm: str = "RS256", **changed: Any) -> str:
        """A token of this issuer. A claim that is set to None is left out."""
        return jwt.encode(claims(user, plan, **changed), private_key(algorithm), algorithm, headers={"kid": algorithm})


def claims(user: str, plan: str | None = None, **changed: Any) -> dict[str, Any]:
    """What an honest token of five minutes says, with some of it changed."""
    now = int(time.time())
    said = {"sub": user, "plan": plan, "iss": ISSUER, "aud": AUDIENCE, "iat": now, "exp": now + 300}
    return {name: value for name, value in {**said, **changed}.items() if value is not None}


def forged(header: dict[str, Any], said: dict[str, Any], secret: bytes | None = None) -> str:
    """A token put together by hand: without a signature, or with one of HMAC by whatever is at hand."""
    signed = f"{_part(header)}.{_part(said)}"
    signature = b"" if secret is None else hmac.new(secret, signed.encode(), hashlib.sha256).digest()
    return f"{signed}.{_encoded(signature)}"


def tampered(token: str, **changed: Any) -> str:
    """The same token and signature, saying something else."""
    header, payload, signature = token.split(".")
    said = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return f"{header}.{_part({**said, **changed})}.{signature}"


def _part(data: dict[str, Any]) -> str:
    return _encoded(json.dumps(data).encode())


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

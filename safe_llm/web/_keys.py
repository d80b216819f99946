"""The keys that tokens are verified with, and which algorithms each of them may serve.

A key serves the algorithms of its own kind and no others, whatever a token's header asks for: that is what stops a
public key from being used as an HMAC secret.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from ..errors import ConfigurationError

_HASH_BYTES = {"HS256": 32, "HS384": 48, "HS512": 64}
"""A secret is at least as long as the hash (RFC 7518, 3.2)."""

_RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_RSA_BITS = 2048
"""The shortest RSA key (RFC 7518, 3.3)."""

_CURVES = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512", "secp256k1": "ES256K"}
"""One curve, one algorithm (RFC 7518, 3.4)."""

SYMMETRIC = tuple(_HASH_BYTES)
ASYMMETRIC = (*_RSA, *_CURVES.values(), "EdDSA")

_PUBLIC_MEMBERS = ("kty", "n", "e", "crv", "x", "y")
"""What a public key is made of. Nothing else of a key set's entry reaches the library that loads it."""

_LOADED_AS = {"RSA": "RS256", "EC": None, "OKP": "EdDSA"}
"""Key type to the algorithm that PyJWT loads it under; it knows that of an elliptic curve itself."""


@dataclass(frozen=True, slots=True)
class Key:
    """One key: its id in a key set, the algorithms it may serve, and what PyJWT takes as the key."""

    id: str | None
    algorithms: tuple[str, ...]
    material: Any = field(repr=False)


def pinned(algorithms: Iterable[str] | None, kind: str, known: tuple[str, ...]) -> tuple[str, ...] | None:
    """The algorithms that an application names, all of them fit for its kind of key; None if it names none.

    Raises:
        ConfigurationError: one is unknown, or of another kind of key.
    """
    if algorithms is None:
        return None
    if isinstance(algorithms, str) or not (named := tuple(algorithms)):
        raise ConfigurationError("algorithms= takes a list of one or more names, for example ['RS256'].")
    for name in named:
        if name not in known:
            raise ConfigurationError(f"algorithms= has {name!r}, which {kind} cannot verify: use {', '.join(known)}.")
    return named


def of_secret(secret: object, algorithms: Iterable[str] | None) -> Key:
    """The key that an HMAC secret is.

    Raises:
        ConfigurationError: it is too short for the algorithm, or a public key, or something else than text or bytes.
    """
    named = pinned(algorithms, "a secret", SYMMETRIC) or ("HS256",)
    if not isinstance(secret, str | bytes):
        raise ConfigurationError(f"secret= takes a string or bytes, not {type(secret).__name__}.")
    material = secret.encode() if isinstance(secret, str) else secret
    longest = max(named, key=_HASH_BYTES.__getitem__)
    if len(material) < _HASH_BYTES[longest]:
        raise ConfigurationError(
            f"secret= has {len(material)} bytes, and {longest} takes at least {_HASH_BYTES[longest]} (RFC 7518, 3.2). "
            "Make one with: python -c 'import secrets; print(secrets.token_urlsafe(64))'"
        )
    pyjwt()
    if _is_public(material):
        raise ConfigurationError("secret= is a public key, a certificate or a JWK: pass a PEM as public_key=.")
    return Key(None, named, material)


def _is_json_object(material: bytes) -> bool:
    try:
        return isinstance(json.loads(material), dict)
    except (ValueError, RecursionError):
        return False


def _is_public(material: bytes) -> bool:
    """Whether a secret is what everybody may know of a key: as PEM, OpenSSH, DER or JWK. PyJWT itself refuses these
    at each token, each of its versions some more of them."""
    if b"-----BEGIN" in material or material.startswith((b"ssh-", b"ecdsa-", b"sk-ssh-", b"sk-ecdsa-")):
        return True
    if _is_json_object(material):
        return True
    if material[:1] != b"\x30":  # DER is a sequence; and a secret alone needs no cryptography
        return False
    x509, serialization = _cryptography()
    for load in (serialization.load_der_public_key, x509.load_der_x509_certificate):
        with suppress(Exception):
            load(material)
            return True
    return False


def of_pem(pem: object, algorithms: Iterable[str] | None) -> Key:
    """The public key in a PEM.

    Raises:
        ConfigurationError: it is no PEM of a public key, or it cannot serve the algorithms named.
    """
    pyjwt()
    _, serialization = _cryptography()
    if not isinstance(pem, str | bytes):
        raise ConfigurationError(f"public_key= takes a PEM as a string or bytes, not {type(pem).__name__}.")
    encoded = pem.encode() if isinstance(pem, str) else pem
    if b"PRIVATE KEY" in encoded:
        raise ConfigurationError("public_key= is a private key, which a verifier must not have: pass its public key.")
    try:
        key = serialization.load_pem_public_key(encoded)
    except Exception as exc:
        raise ConfigurationError(
            "public_key= is no PEM of a public key (-----BEGIN PUBLIC KEY-----). "
            "That of a certificate: openssl x509 -pubkey -noout -in FILE"
        ) from exc
    serves = _serves(key)
    if not serves:
        raise ConfigurationError(
            f"public_key= is of a kind or size that no algorithm takes: RSA of at least {_RSA_BITS} bits, "
            "P-256, P-384, P-521, secp256k1, Ed25519 and Ed448 are known."
        )
    return Key(None, pinned(algorithms, "this public key", serves) or serves[:1], key)


def of_jwk(jwk: object, allowed: tuple[str, ...]) -> Key | None:
    """The key in an entry of a key set; None for what may verify no token.

    That is: a symmetric or private key, which is no secret once it is published; one for encryption; one that is not
    for an algorithm allowed, or says another than its kind can serve; one that is broken or too short.
    """
    jwt = pyjwt()
    if not isinstance(jwk, Mapping) or "d" in jwk or "k" in jwk:
        return None
    if jwk.get("use", "sig") != "sig" or "verify" not in _strings(jwk.get("key_ops", ["verify"])):
        return None
    kind, named, id = jwk.get("kty"), jwk.get("alg"), jwk.get("kid")
    if kind not in tuple(_LOADED_AS) or not isinstance(id, str | None):
        return None
    try:
        members = {name: jwk[name] for name in _PUBLIC_MEMBERS if name in jwk}
        key = jwt.PyJWK(members, algorithm=_LOADED_AS[kind]).key
    except jwt.exceptions.MissingCryptographyError:
        raise _no_cryptography() from None
    except Exception:  # whatever a broken entry makes the libraries raise: the others of its set stay good
        return None
    serves = tuple(name for name in _serves(key) if name in allowed and named in (None, name))
    return Key(id, serves, key) if serves else None


def _strings(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _serves(key: object) -> tuple[str, ...]:
    """The algorithms that a public key of this kind and size can serve, the usual one first."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa

    if isinstance(key, rsa.RSAPublicKey):
        return _RSA if key.key_size >= _RSA_BITS else ()
    if isinstance(key, ec.EllipticCurvePublicKey):
        name = _CURVES.get(key.curve.name)
        return (name,) if name else ()
    return ("EdDSA",) if isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey) else ()


def pyjwt() -> Any:
    """PyJWT.

    Raises:
        ConfigurationError: it is not installed.
    """
    try:
        import jwt
    except ImportError as exc:
        raise ConfigurationError(
            'JWTVerifier needs PyJWT, which is not installed: pip install "safe-llm[web]"'
        ) from exc
    return jwt


def _cryptography() -> tuple[Any, Any]:
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import serialization
    except ImportError as exc:
        raise _no_cryptography() from exc
    return x509, serialization


def _no_cryptography() -> ConfigurationError:
    return ConfigurationError(
        'JWTVerifier needs cryptography for public keys, which is not installed: pip install "safe-llm[web]"'
    )

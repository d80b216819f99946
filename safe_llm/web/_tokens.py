"""What is asked of a token, step by step: its header, its signature and claims, its times."""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from ..errors import NotAuthenticatedError
from ._keys import Key, pyjwt

_COMPACT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*")
"""A signed token has three parts, an encrypted one five. The last is empty where the algorithm is "none"."""

_EXACT = 2**53
"""Below this a number of seconds is exact as a float, and neither infinite nor NaN."""

_NO_TIMES = {"verify_exp": False, "verify_nbf": False, "verify_iat": False}
"""`expiry` looks at them: PyJWT reads the system's clock, and takes an expiry that is written as a string."""


class Header(NamedTuple):
    """A token, and what its header says of its key: believed no further than to choose among our own."""

    token: str
    algorithm: str
    key_id: str | None


def refused(code: str, why: str, advice: str = "Get a new one from the issuer.") -> NotAuthenticatedError:
    """The error of a token that is refused. `why` quotes nothing of the token."""
    return NotAuthenticatedError(f"The token was refused: {why}. {advice}", code=code)


def read_header(token: object, *, algorithms: tuple[str, ...], max_bytes: int) -> Header:
    """The header of a token, whose length is looked at before anything else.

    Keys that it brings along or points to (jwk, jku, x5c, x5u) are not looked at.

    Raises:
        NotAuthenticatedError: it is no signed token, or not signed with one of the algorithms.
    """
    if not isinstance(token, str):
        raise refused("token_malformed", "it is no string")
    if len(token) > max_bytes:
        raise refused("token_too_large", f"it is longer than {max_bytes:,} bytes (max_bytes)")
    if not _COMPACT.fullmatch(token):
        raise refused("token_malformed", "it is not three parts of base64url with dots between them")
    header = _json_object(token.partition(".")[0])
    if header is None:
        raise refused("token_malformed", "its header is no JSON object")
    algorithm, key_id = header.get("alg"), header.get("kid")
    if algorithm not in algorithms:
        allowed = ", ".join(algorithms)
        raise refused("token_algorithm", f"it is not signed with an algorithm allowed here ({allowed})")
    if not isinstance(key_id, str | None) or ("kid" in header and key_id is None):
        raise refused("token_malformed", "the key id in its header is no string")
    if "crit" in header or header.get("b64", True) is not True:
        raise refused("token_malformed", "its header demands an extension that is not supported (crit, b64)")
    return Header(token, algorithm, key_id)


def signed_claims(header: Header, key: Key, *, issuer: str | None, audiences: tuple[str, ...] | None) -> dict[str, Any]:
    """The claims that the key has signed, by this issuer for one of these audiences. Their times are not looked at.

    Raises:
        NotAuthenticatedError: it has not, or they are somebody else's.
    """
    jwt = pyjwt()
    try:
        claims: dict[str, Any] = jwt.decode(
            header.token,
            key.material,
            algorithms=[header.algorithm],
            audience=audiences,
            issuer=issuer,
            options=_NO_TIMES,
        )
        return claims
    except jwt.InvalidSignatureError:
        refusal = refused("token_signature", "its signature is not that of the key")
    except jwt.InvalidAlgorithmError:
        refusal = refused("token_algorithm", "its algorithm is not that of the key")
    except (jwt.InvalidIssuerError, jwt.InvalidAudienceError, jwt.MissingRequiredClaimError):
        refusal = refused("token_foreign", "it is of another issuer or audience than is demanded here (iss, aud)")
    except jwt.exceptions.InvalidSubjectError:
        refusal = refused("token_claims", "its subject is no string")
    except Exception:  # of PyJWT and of what it stands on: whatever cannot be decoded is no token
        refusal = refused("token_malformed", "it cannot be decoded")
    raise refusal  # here, for the errors above hold what they could not decode


def expiry(claims: Mapping[str, Any], *, now: float, leeway: float, max_lifetime: float) -> float:
    """The moment from which a token is refused, in UTC epoch seconds.

    Raises:
        NotAuthenticatedError: that is over, its beginning is yet to come, or it is made to live too long.
    """
    ends, issued, begins = (_moment(claims, name) for name in ("exp", "iat", "nbf"))
    if ends is None:
        raise refused("token_lifetime", "it never expires; a token must have an expiry (exp)")
    last = math.floor(ends) + leeway
    if now >= last:
        raise refused("token_expired", "it has expired")
    if max(issued or 0, begins or 0) > now + leeway:
        raise refused("token_not_yet_valid", "it is not valid yet (nbf, iat), or the clocks differ (leeway)")
    lifetime = ends - issued if issued is not None else ends - now - leeway
    if lifetime > max_lifetime:
        raise refused(
            "token_lifetime",
            f"it lives for more than {max_lifetime:g} seconds (max_lifetime, from iat to exp)",
            "Let the issuer make tokens of a shorter life.",
        )
    return last


def _json_object(part: str) -> dict[str, Any] | None:
    try:
        said = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (ValueError, RecursionError):
        return None
    return said if isinstance(said, dict) else None


def _moment(claims: Mapping[str, Any], name: str) -> float | None:
    """A claim that is a number of seconds; None where it is left out."""
    if name not in claims:
        return None
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not -_EXACT < value < _EXACT:
        raise refused("token_malformed", f"its {name} is no number of seconds")
    return value

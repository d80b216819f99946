"""From a bearer token to a verified `Identity`.

A token is refused with `NotAuthenticatedError`, whose ``code`` tells why:

==========================  ===========================================================================
``token_too_large``         longer than ``max_bytes``; nothing of it was parsed
``token_malformed``         no signed JWT, or a header or claim of the wrong type
``token_algorithm``         not signed with one of the algorithms pinned
``token_signature``         the signature is not that of the key
``token_foreign``           of another issuer or audience, or of a key that the key set lacks
``token_expired``           its time is over
``token_not_yet_valid``     its time has not begun
``token_lifetime``          it never expires, or it was made for longer than ``max_lifetime``
``token_claims``            its claims name no user, or a plan, session or tag that cannot be one
``key_set_unavailable``     503: the key set cannot be fetched, so nothing is known of the token
==========================  ===========================================================================

No message quotes the token, its claims or a key.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from .._settings import SystemClock
from ..errors import ConfigurationError, NotAuthenticatedError
from ..identity import Identity
from ..types import Clock
from ._fetching import checked
from ._key_set import Flight, KeySet, OneKey
from ._keys import ASYMMETRIC, of_pem, of_secret, pinned, pyjwt
from ._tokens import Header, expiry, read_header, refused, signed_claims

_FOR_KEY_SETS = tuple(name for name in ASYMMETRIC if name != "ES256K")


class JWTVerifier:
    """Verifies JSON Web Tokens (RFC 7519) and makes identities of them. Safe to share among threads and event loops.

    ::

        verifier = JWTVerifier(jwks_url="https://issuer.example/.well-known/jwks.json",
                               issuer="https://issuer.example/", audience="my-api")
        identity = verifier.verify(token)                # or: await verifier.verify_async(token)

    The key comes from exactly one of:

    - ``secret``: of HMAC, at least as long as the hash; HS256 unless ``algorithms`` says otherwise
    - ``public_key``: a PEM; RS256, EdDSA or the algorithm of its curve unless ``algorithms`` says otherwise
    - ``jwks_url``: a key set, fetched over HTTPS; the asymmetric algorithms that each of its keys is for

    Args:
        issuer: the ``iss`` demanded. One, because a user's id is unique with its issuer only.
        audience: the ``aud`` demanded, one of these. A token that has an audience is refused where this is left out.
        leeway: seconds by which the issuer's clock may differ.
        max_lifetime: seconds from ``iat`` to ``exp``; of a token without ``iat``, from now on. Two hours by default:
            short, and above the 60 to 90 minutes that large issuers give.
        max_bytes: the longest token.
        user_claim, plan_claim, session_claim: the claims that become ``user_id``, ``plan`` and ``session_id``; None
            for no plan or session. The user's must be there; without the plan's, ``plan_for`` is asked.
        tags: name of a tag to the claim that it is taken from, where there is one.
        timeout: seconds in total for fetching the key set, retries included.
        jwks_max_age: seconds after which the key set is fetched anew; so long a key that was withdrawn may serve.
        jwks_max_stale: seconds beyond that for which its keys are used while its server is away.
        jwks_min_interval: seconds between fetches for keys that the set does not have, or that failed.
        jwks_allow_http: fetch the key set without TLS from another machine.
        clock: an object with ``time()`` and ``monotonic()``; the system's by default.

    Raises:
        ConfigurationError: an argument is wrong, or PyJWT or cryptography is missing.
    """

    def __init__(
        self,
        *,
        secret: str | bytes | None = None,
        public_key: str | bytes | None = None,
        jwks_url: str | None = None,
        algorithms: Sequence[str] | None = None,
        issuer: str | None = None,
        audience: str | Sequence[str] | None = None,
        leeway: float = 1.0,
        max_lifetime: float = 7_200.0,
        max_bytes: int = 8_192,
        user_claim: str = "sub",
        plan_claim: str | None = "plan",
        session_claim: str | None = None,
        tags: Mapping[str, str] | None = None,
        timeout: float = 5.0,
        jwks_max_age: float = 300.0,
        jwks_max_stale: float = 3_600.0,
        jwks_min_interval: float = 10.0,
        jwks_allow_http: bool = False,
        clock: Clock | None = None,
    ) -> None:
        sources = {"secret": secret, "public_key": public_key, "jwks_url": jwks_url}
        given = [name for name, value in sources.items() if value is not None]
        if len(given) != 1:
            said = " and ".join(f"{name}=" for name in given) or "none"
            raise ConfigurationError(f"JWTVerifier takes one of secret=, public_key= and jwks_url=, not {said}.")
        _check_numbers(above=False, leeway=leeway, jwks_max_stale=jwks_max_stale)
        _check_numbers(
            above=True,
            max_lifetime=max_lifetime,
            max_bytes=max_bytes,
            timeout=timeout,
            jwks_max_age=jwks_max_age,
            jwks_min_interval=jwks_min_interval,
        )
        _check_names(issuer=issuer, user_claim=user_claim, plan_claim=plan_claim, session_claim=session_claim)
        audiences = _checked_audiences(audience)
        self._clock: Clock = clock if clock is not None else SystemClock()
        self._issuer, self._audiences = issuer, audiences
        self._leeway, self._max_lifetime, self._max_bytes = leeway, max_lifetime, max_bytes
        self._user_claim, self._plan_claim, self._session_claim = user_claim, plan_claim, session_claim
        self._tags = _checked_tags(tags)
        self._keys: OneKey | KeySet
        if jwks_url is not None:
            parts = checked(jwks_url, allow_http=jwks_allow_http)
            self._algorithms = pinned(algorithms, "a key set", ASYMMETRIC) or _FOR_KEY_SETS
            pyjwt()
            self._source = f"jwks_url of {parts.hostname}"
            self._keys = KeySet(
                jwks_url,
                algorithms=self._algorithms,
                timeout=timeout,
                max_age=jwks_max_age,
                max_stale=jwks_max_stale,
                min_interval=jwks_min_interval,
                clock=self._clock,
            )
        else:
            self._source = given[0]
            key = of_secret(secret, algorithms) if secret is not None else of_pem(public_key, algorithms)
            self._algorithms = key.algorithms
            self._keys = OneKey(key)

    def verify(self, token: str) -> Identity:
        """The identity that a token proves. Blocks where its key has to be fetched first.

        Raises:
            NotAuthenticatedError: it proves none. See the module for the codes.
        """
        header = self._header(token)
        if (flight := self._flight(header)) is not None:
            flight.wait()
        return self._identity(header)

    async def verify_async(self, token: str) -> Identity:
        """The same for event loops (asyncio), which go on while a key is fetched."""
        header = self._header(token)
        if (flight := self._flight(header)) is not None:
            await flight.wait_async()
        return self._identity(header)

    def at_hand(self, token: str) -> bool:
        """Whether `verify` will answer this token, well or not, without waiting for the network. Starts nothing."""
        try:
            header = self._header(token)
        except NotAuthenticatedError:
            return True
        return not self._keys.must_wait(header.key_id, header.algorithm)

    def __repr__(self) -> str:
        return (
            f"JWTVerifier({self._source}, algorithms={list(self._algorithms)}, issuer={self._issuer!r}, "
            f"audience={list(self._audiences) if self._audiences else None})"
        )

    def _header(self, token: object) -> Header:
        return read_header(token, algorithms=self._algorithms, max_bytes=self._max_bytes)

    def _flight(self, header: Header) -> Flight | None:
        return self._keys.flight(header.key_id, header.algorithm)

    def _identity(self, header: Header) -> Identity:
        key = self._keys.key(header.key_id, header.algorithm)
        claims = signed_claims(header, key, issuer=self._issuer, audiences=self._audiences)
        expires = expiry(claims, now=self._clock.time(), leeway=self._leeway, max_lifetime=self._max_lifetime)
        try:
            return Identity(
                user_id=claims.get(self._user_claim),  # type: ignore[arg-type]  # Identity looks at it
                session_id=claims.get(self._session_claim) if self._session_claim else None,
                plan=claims.get(self._plan_claim) if self._plan_claim else None,
                tags={tag: claims[claim] for tag, claim in self._tags.items() if claims.get(claim) is not None},
                verified=True,
                expires=expires,
            )
        except ValueError as exc:
            said = f"a claim of it cannot be used: {exc}"
        raise refused("token_claims", said)


def _check_numbers(*, above: bool, **given: object) -> None:
    """Numbers above 0, or of at least 0."""
    for name, value in given.items():
        fits = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not fits or value < 0 or (above and not value):  # type: ignore[operator]
            least = "above 0" if above else "of at least 0"
            raise ConfigurationError(f"{name}= must be a number {least}, not {value!r}.")


def _check_names(**given: object) -> None:
    """Names of claims, and of the issuer; that of the user's must be there."""
    for name, text in given.items():
        if not isinstance(text, str | None) or text == "":
            raise ConfigurationError(f"{name}= must be a string with something in it, not {text!r}.")
    if given["user_claim"] is None:
        raise ConfigurationError("user_claim= must name a claim: without a user there is no identity.")


def _checked_audiences(given: str | Sequence[str] | None) -> tuple[str, ...] | None:
    audiences = (given,) if isinstance(given, str) else None if given is None else tuple(given)
    if audiences is not None and not (audiences and all(isinstance(one, str) and one for one in audiences)):
        raise ConfigurationError("audience= must be one or more names, none of them empty; or leave it out.")
    return audiences


def _checked_tags(tags: Mapping[str, str] | None) -> dict[str, str]:
    chosen = dict(tags or {})
    try:
        Identity("somebody", tags=dict.fromkeys(chosen, "something"))
    except ValueError as exc:
        raise ConfigurationError(f"tags= maps names of tags to claims: {exc}") from exc
    if not all(isinstance(claim, str) and claim for claim in chosen.values()):
        raise ConfigurationError("tags= maps names of tags to names of claims: every claim must be a string.")
    return chosen

"""Who is calling: `Identity`, and the context that `identify` sets.

Three ways to say it, strongest first: the arguments of the call, a client bound by ``with_identity``, and `identify`.
They are laid over one another field by field, so a request's middleware may name the user and the call the feature.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

ANONYMOUS = "anonymous"
"""The user of calls that name none. It has limits of its own, shared by all such calls."""

_LONGEST = 256
_MOST_TAGS = 32
_NO_TAGS: Mapping[str, str] = MappingProxyType({})


def _text(name: str, value: object) -> str:
    """A name that can be a key, a label and a line in a log.

    Raises:
        ValueError: it is not a printable string of 1 to 256 characters with something visible in it.
    """
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a string, not {type(value).__name__}.")
    if not value.strip() or len(value) > _LONGEST or not value.isprintable():
        raise ValueError(f"{name} must be 1 to {_LONGEST} printable characters that are not all spaces.")
    return value


def _tags(value: object) -> Mapping[str, str]:
    if value is None:
        return _NO_TAGS
    if not isinstance(value, Mapping):
        raise ValueError(f"tags must be a mapping of strings to strings, not {type(value).__name__}.")
    if len(value) > _MOST_TAGS:
        raise ValueError(f"tags has {len(value)} entries: {_MOST_TAGS} are the most.")
    if not value:
        return _NO_TAGS
    return MappingProxyType({_text("a tag's name", k): _text(f"tag {k!r}", v) for k, v in value.items()})


class Claim(NamedTuple):
    """What one of the three ways says of the caller; None where it says nothing. `claim_of` checks what goes in."""

    user_id: str | None = None
    feature: str | None = None
    session_id: str | None = None
    plan: str | None = None
    tags: Mapping[str, str] = _NO_TAGS
    verified: bool = False
    expires: float | None = None
    """UTC epoch seconds from which on it holds no longer."""
    proof: Callable[[], Any] | None = None
    """Verifies a token, and answers with its `Identity`, or, on async clients, with a coroutine of it."""

    @property
    def user(self) -> str:
        """Who pays: the user, or `ANONYMOUS` where none is named."""
        return ANONYMOUS if self.user_id is None else self.user_id

    def as_identity(self) -> Identity:
        """The caller as checks see him."""
        return Identity(self.user, self.feature, self.session_id, self.plan, self.tags, self.verified, self.expires)

    def over(self, weaker: Claim) -> Claim:
        """This claim laid over a weaker one. Naming another user drops what was known of the weaker one's."""
        if self == NOTHING or weaker == NOTHING:
            return weaker if self == NOTHING else self
        whose = weaker if self.user_id is None and self.proof is None else self
        return Claim(
            user_id=whose.user_id,
            feature=self.feature if self.feature is not None else weaker.feature,
            session_id=self.session_id if self.session_id is not None else weaker.session_id,
            plan=whose.plan,
            tags={**weaker.tags, **self.tags} if self.tags and weaker.tags else self.tags or weaker.tags,
            verified=whose.verified,
            expires=whose.expires,
            proof=whose.proof,
        )

    def proved(self, identity: Identity) -> Claim:
        """This claim with what its token turned out to say of the caller."""
        return self._replace(user_id=None, proof=None).over(identity.claim())


NOTHING = Claim()


@dataclass(frozen=True, slots=True)
class Identity:
    """A caller. Made by a verifier with ``verified=True``, or by an application that knows its user.

    ``plan`` overrides ``plan_for``. Every string is 1 to 256 printable characters. From ``expires`` on, in UTC epoch
    seconds, calls in its name are denied.

    Raises:
        ValueError: a value is something else.
    """

    user_id: str
    feature: str | None = None
    session_id: str | None = None
    plan: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    verified: bool = False
    expires: float | None = None

    def __post_init__(self) -> None:
        _text("user_id", self.user_id)
        for name in ("feature", "session_id", "plan"):
            if getattr(self, name) is not None:
                _text(name, getattr(self, name))
        object.__setattr__(self, "tags", _tags(self.tags))

    def claim(self) -> Claim:
        """The same as a `Claim`, to be laid over weaker ones."""
        return Claim(self.user_id, self.feature, self.session_id, self.plan, self.tags, self.verified, self.expires)

    def __reduce__(self) -> tuple[Any, ...]:
        # A read-only view of a mapping cannot be pickled, and identities travel to worker processes.
        values = self.user_id, self.feature, self.session_id, self.plan, dict(self.tags), self.verified, self.expires
        return Identity, values


class Verifier(Protocol):
    """Makes an identity of a token: a `JWTVerifier`, or one of your own.

    A verifier that may have to wait has two methods more: ``at_hand(token)`` tells whether it can answer at once, and
    the coroutine ``verify_async(token)`` is what async clients then wait for.
    """

    def verify(self, token: str) -> Identity:
        """The verified identity. Raises `NotAuthenticatedError` where the token proves none."""
        ...


_context: ContextVar[Claim] = ContextVar("safe_llm_identity", default=NOTHING)


def current() -> Claim:
    """What `identify` says here and now."""
    return _context.get()


def add(claim: Claim) -> None:
    """Lay a claim over what the context says, for as long as the context lasts or `identify` puts it back."""
    _context.set(claim.over(_context.get()))


def claim_of(
    identity: Identity | None = None,
    *,
    user_id: str | None = None,
    feature: str | None = None,
    session_id: str | None = None,
    tags: Mapping[str, str] | None = None,
) -> Claim:
    """The claim that these arguments make.

    Raises:
        ValueError: a value is not a printable string of 1 to 256 characters.
    """
    if identity is not None and not isinstance(identity, Identity):
        raise ValueError(f"identity must be an Identity, not {type(identity).__name__}; a bare name is user_id=.")
    for name, value in (("user_id", user_id), ("feature", feature), ("session_id", session_id)):
        if value is not None:
            _text(name, value)
    named = Claim(user_id, feature, session_id, None, _tags(tags))
    if identity is None:
        return named
    if user_id is not None and user_id != identity.user_id:
        raise ValueError("identity and user_id name two different users: pass one of them.")
    return named._replace(user_id=None).over(identity.claim())


@contextmanager
def identify(
    identity: Identity | None = None,
    *,
    user_id: str | None = None,
    feature: str | None = None,
    session_id: str | None = None,
    tags: Mapping[str, str] | None = None,
) -> Iterator[None]:
    """Say who is calling, for every guarded call inside the ``with`` block, in this thread or task.

    Takes an `Identity`, or its parts. A block inside another adds to it.

    Raises:
        ValueError: a value is not a printable string of 1 to 256 characters.
    """
    claim = claim_of(identity, user_id=user_id, feature=feature, session_id=session_id, tags=tags)
    token = _context.set(claim.over(_context.get()))
    try:
        yield
    finally:
        _context.reset(token)

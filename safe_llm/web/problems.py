"""From an error to the answer that a client is given: status, headers, and an RFC 9457 problem as its body."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from http import HTTPStatus
from typing import Any, NamedTuple

from .._lines import HungUpError
from ..errors import DeadlineExceededError, DeniedError, OutputRejectedError, SafeLLMError
from .headers import Header, challenge, of_denial


class Answer(NamedTuple):
    """A whole answer."""

    status: int
    headers: list[Header]
    body: bytes

    @property
    def line(self) -> str:
        """The status as WSGI wants it."""
        return f"{self.status} {HTTPStatus(self.status).phrase}"


def refusal_in(error: BaseException | None) -> SafeLLMError | None:
    """The refusal that an error is, holds (a group does), or was made from (``raise … from``).

    Not one that merely was being handled when something else failed: that is the application's own failure.
    """
    return next((found for found in _causes(error) if isinstance(found, _TOLD)), None)


def is_hung_up(error: BaseException) -> bool:
    """Whether an error came of a stream that was cut because the client had left."""
    return any(isinstance(found, HungUpError) for found in _causes(error, contexts=True))


def answer_to(error: SafeLLMError, now: float, authorization: Sequence[str] = ()) -> Answer:
    """The answer to a refusal. `now` is UTC epoch seconds, `authorization` what the request's headers of it said."""
    problem = _problem(error)
    status = int(problem["status"])
    body = json.dumps(problem).encode()
    headers = [("Content-Type", "application/problem+json"), ("Content-Length", str(len(body)))]
    retry_after = getattr(error, "retry_after", None)
    if retry_after is not None:
        headers.append(("Retry-After", str(max(math.ceil(retry_after), 0))))
    if status == HTTPStatus.UNAUTHORIZED:
        headers.append(("WWW-Authenticate", challenge(authorization)))
    return Answer(status, headers + of_denial(error, now), body)


_TOLD = (DeniedError, DeadlineExceededError, OutputRejectedError)


def _problem(error: SafeLLMError) -> dict[str, Any]:
    if isinstance(error, DeniedError):
        return error.to_problem()
    if isinstance(error, DeadlineExceededError):
        return _plain(HTTPStatus.GATEWAY_TIMEOUT, "Deadline exceeded", "deadline_exceeded", str(error))
    # 502: to the client this is a gateway, and what it got from the model is not fit to be passed on.
    return _plain(HTTPStatus.BAD_GATEWAY, "Output rejected", "output_rejected", str(error))


def _plain(status: HTTPStatus, title: str, code: str, detail: str) -> dict[str, Any]:
    return {"type": "about:blank", "title": title, "status": int(status), "detail": detail, "code": code}


def _causes(error: BaseException | None, *, contexts: bool = False) -> Iterator[BaseException]:
    """An error and what it was made of, each once."""
    waiting, seen = [error], set[int]()
    while waiting:
        found = waiting.pop()
        if found is None or id(found) in seen:
            continue
        seen.add(id(found))
        yield found
        waiting += [found.__cause__, found.__context__] if contexts else [found.__cause__]
        if isinstance(found, BaseExceptionGroup):
            waiting += reversed(found.exceptions)

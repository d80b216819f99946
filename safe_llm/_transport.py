"""What sync and async share below the path: one sending, as the SDK's hooks and the response see it.

A `Sending` is in force while the SDK sends one call. The client's hooks note the attempts and the response in it; a
response that is still open is given a stream of ours, through which every byte passes to whoever reads it, parsed or
raw. So there is one place that meters, hides the usage nobody asked for, holds the deadline, and learns of the end.
"""

from __future__ import annotations

import asyncio
import sys
import zlib
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar, copy_context
from typing import Any, TypeVar

import openai
from openai._constants import RAW_RESPONSE_HEADER
from pydantic_core import from_json

from .deadline import Deadline, clip_timeouts
from .effects import Effect
from .endpoints import Unguarded
from .errors import DeadlineExceededError, OutputRejectedError
from .metering import Meter, text_or_none
from .types import Admission, Outcome

T = TypeVar("T")

_LARGEST_BODY = 64 * 1024 * 1024
"""Bytes of one plain answer that are kept to find its usage in. A larger one is charged as unknown."""

_GZIP_OR_ZLIB = zlib.MAX_WBITS | 32
_NEVER_SENT = ("ConnectError", "ConnectTimeout", "PoolTimeout", "UnsupportedProtocol", "ProxyError")
"""Classes of httpx and httpx2 that are raised before any of the request has left."""


class Sending:
    """One call while it is on the wire."""

    def __init__(self, admission: Admission, monotonic: Callable[[], float]) -> None:
        self.admission = admission
        self.monotonic = monotonic
        self.context = copy_context()
        """The caller's, as the call began. What ends a stream may run anywhere, and its record belongs to the call."""
        self.deadline: Deadline | None = None
        if admission.ends is not None:
            self.deadline = Deadline(max(admission.ends - monotonic(), 0.0), monotonic)
        self.attempts = 0
        self.doubtful = False
        """An attempt before the last one may have been billed."""
        # Not the response itself: timers of an event loop keep this alive, and a dropped response must be collected.
        self.headers: Mapping[str, str] | None = None
        self.request: Any = None
        self.meter = Meter(admission.call.endpoint, hide_usage=admission.hide_usage)
        self.output = admission.output
        self.body: bytearray | None = None
        """Of an answer that is no stream of events, as far as it is kept."""
        self._keeps_body = False
        self._held = b""
        """Events that may be handed on once all checks have been run."""
        self._unpack: Callable[[bytes], bytes] | None = None
        self._may_be_events = False
        """The answer is called JSON, but was asked for as events, and is read as such if it is."""
        self.first_token: float | None = None
        self.stream: Any = None
        """Our stream in a response that is still open."""
        self.bounded = True
        """The transport itself obeys the deadline. Otherwise each step of an async stream is timed here."""

    def inside(self, perform: Callable[[Effect], Any]) -> Callable[[Effect], Any]:
        """`perform`, in the context of the call."""
        return lambda effect: self.context.run(perform, effect)

    # Seen by the client's hooks ---------------------------------------------------------------------------------------

    def attempt(self, request: Any, number: int) -> None:
        """An attempt is about to be sent.

        Raises:
            DeadlineExceededError: there is no time left for it.
        """
        if self.deadline is not None:
            clip_timeouts(request, self.deadline)
        self.attempts = number
        if self.admission.call.stream or request.headers.get(RAW_RESPONSE_HEADER) == "stream":
            # Every byte of what is streamed to the caller is read here as it passes; it must not be compressed.
            request.headers["Accept-Encoding"] = "identity"

    def allows_retry(self, asked: float | None) -> bool:
        """Whether a retry after what the provider asked for, or the SDK's own pause, can begin inside the deadline."""
        pause = asked if asked is not None and asked > 0 else min(0.5 * 2 ** (self.attempts - 1), 8.0)
        return self.deadline is None or pause < self.deadline.remaining()

    def retry(self, delay: float) -> float:
        """A retry is about to be waited for.

        Raises:
            DeadlineExceededError: it would begin after the deadline.
        """
        self.doubtful |= not _never_sent(sys.exception())
        if self.deadline is not None and delay >= self.deadline.remaining():
            raise self.too_late()
        return delay

    def too_late(self) -> DeadlineExceededError:
        """The error of this call's deadline."""
        return DeadlineExceededError(self.admission.deadline_seconds or 0.0, request=self.request)

    # The answer's bytes -----------------------------------------------------------------------------------------------

    def receives(self, response: Any, *, as_stream: bool) -> bool:
        """Take note of a response; whether its bytes are still to come. `as_stream`: the SDK will read it as events."""
        self.headers, self.request = response.headers, response.request
        if isinstance(self.admission.call.endpoint, Unguarded):
            return False  # it is recorded when it is handed over
        kind = str(response.headers.get("content-type", "")).lower()
        is_json = "json" in kind
        if is_json and self.admission.call.stream and response.is_closed:
            is_json = _begins_as_json(response.content)  # the SDK reads it as events, whatever it is called
        if kind.startswith("text/event-stream") or (self.admission.call.stream and not is_json):
            if not response.is_closed:
                self._decode(response)
                return True
            if as_stream and "content-encoding" not in response.headers:
                return _reopen(response)
            self.meter.feed(response.content)  # the caller has it whole, usage and all
            self.meter.end()
            if self.output is not None:
                self._held += self.output.feed(response.content) + self.output.end()
            return False
        self._keeps_body = is_json or not kind or self.output is not None  # nothing else tells usage
        self.body = bytearray()
        self._may_be_events = self.admission.call.stream
        if response.is_closed:
            self.feed(response.content)
            self.end()
            return False
        self._decode(response)
        return True

    def _decode(self, response: Any) -> None:
        """An open response that came compressed, as it was asked not to, is unpacked here, where it is checked."""
        encoding = str(response.headers.get("content-encoding", "identity")).lower()
        if self.output is None or self.output.watches or encoding == "identity":
            return
        if encoding in ("gzip", "x-gzip", "deflate"):
            self._unpack = zlib.decompressobj(_GZIP_OR_ZLIB).decompress
            del response.headers["content-encoding"]
        else:
            self.output.cannot_read("it is compressed")

    def feed(self, data: bytes) -> bytes:
        """Bytes have come; those to hand on."""
        if self._unpack is not None:
            data = self._unpack(data)
        if self._may_be_events and data.strip():
            self._may_be_events = False
            if not _begins_as_json(data):
                self.body = None
        if self.body is not None:
            if self._keeps_body and len(self.body) <= _LARGEST_BODY:
                self.body += data
            if self.output is None or self.output.watches:
                return data
            return self._unread(bytes(self.body), "it is too large") if len(self.body) > _LARGEST_BODY else b""
        out = self.meter.feed(data)
        if self.first_token is None and self.meter.has_text:
            self.first_token = self.monotonic()
        return out if self.output is None else self._checked(out)

    async def step(self, chunk: Awaitable[T]) -> T:
        """Wait for the next bytes of an async stream whose transport does not know the deadline."""
        if self.deadline is None:
            return await chunk
        async with asyncio.timeout(self.deadline.remaining()):
            return await chunk

    def end(self) -> bytes:
        """No more bytes will come; what is left to hand on before the application's own checks have been run."""
        if self.output is None:
            return b"" if self.body is not None else self.meter.end()
        if self.body is not None:
            self.output.read(bytes(self.body))
            return b""
        return self._checked(self.meter.end()) + self.output.end()

    def cut(self) -> bytes:
        """The stream broke off; what may be handed on of what was held back."""
        return b"" if self.output is None or self.body is not None else self.output.end(cut=True)

    def release(self) -> bytes:
        """All checks have been run; what is left to hand on.

        Raises:
            OutputRejectedError: it is not to be handed on.
        """
        assert self.output is not None
        rest = self._held + self.output.release()
        if self.output.watches and self.body is not None:
            rest = b""  # it was handed on as it came
        if self.output.rejection is not None:
            raise self.output.rejection
        return rest

    def rewrite(self, response: Any) -> None:
        """All checks have been run on a response whose body came with it: give it what they left.

        Raises:
            OutputRejectedError: it is not to be handed on.
        """
        rest = self.release()
        if self.output is not None and not self.output.watches and rest != response.content:
            response._content = rest
            if "content-length" in response.headers:
                response.headers["content-length"] = str(len(rest))

    @property
    def rejection(self) -> OutputRejectedError | None:
        """Why no more of the answer is handed on."""
        return None if self.output is None else self.output.rejection

    def _checked(self, events: bytes) -> bytes:
        assert self.output is not None
        if self.meter.is_lost:
            return self._unread(events, "it has no end of an event that can be found")
        return self.output.feed(events) if events else b""

    def _unread(self, data: bytes, why: str) -> bytes:
        """What is to be handed on where the answer cannot be checked: nothing, or all of it from here on."""
        assert self.output is not None
        self.output.cannot_read(why)
        if self.output.rejection is not None:
            return b""
        held = self.output.end() + self.output.release() + data
        self.output = None
        return held

    def disown(self) -> None:
        """The call has ended before its stream was handed over: the stream is not to settle it."""
        if self.stream is not None:
            self.stream.disown()

    # How it ended -----------------------------------------------------------------------------------------------------

    def outcome(self, value: Any = None, error: BaseException | None = None, *, exhausted: bool = True) -> Outcome:
        """How the call ended: with a value, an error, or, for a stream, early."""
        ran_out = self.deadline is not None and self.deadline.expired
        if ran_out and type(error) in (openai.APITimeoutError, TimeoutError):
            late = self.too_late()
            late.__cause__ = error
            error = late
        outcome = Outcome(value=value, error=error, attempts=self.attempts, first_token=self.first_token)
        self._read_answer(outcome)
        outcome.ended = self._ended(outcome, error, exhausted)
        if self.meter.failed:
            outcome.fault = "APIError"
        outcome.unbilled = self._is_unbilled(error)
        headers = self.headers or getattr(getattr(error, "response", None), "headers", {})
        outcome.request_id = text_or_none(headers.get("x-request-id"))
        return outcome

    def _read_answer(self, outcome: Outcome) -> None:
        meter = self.meter
        if self.body:
            item = _json(self.body)
            if item is not None:
                meter.take(item)
        if meter.usage is None or not meter.ended:
            meter.read_rest()
        outcome.usage, outcome.response_model, outcome.tier = meter.usage, meter.model, meter.tier
        outcome.response_id, outcome.hosted_calls = meter.response_id, meter.hosted_calls
        outcome.pending = meter.pending and meter.usage is None
        if not meter.ended and meter.usage is not None:
            outcome.usage, outcome.at_least = None, meter.usage  # told on the way: the stream was cut
        known = meter.items and not meter.overflowed and self.admission.call.endpoint.streams_text
        outcome.text = meter.text if known else None

    def _ended(self, outcome: Outcome, error: BaseException | None, exhausted: bool) -> Any:
        if isinstance(error, OutputRejectedError):
            return "blocked"
        if isinstance(error, openai.APITimeoutError) or _is_timeout(error):
            return "timeout"
        if isinstance(error, Exception):
            return "error"
        if error is not None:
            return "aborted"
        if self.meter.failed:
            return "error"
        if outcome.usage is not None or self.meter.ended:
            return "ok"
        if not exhausted:
            return "aborted"
        metered = self.body is None and not isinstance(self.admission.call.endpoint, Unguarded)
        return "error" if metered else "ok"  # a stream that just stops is cut off

    def _is_unbilled(self, error: BaseException | None) -> bool:
        if error is None or self.doubtful or self.headers is not None:
            return False
        return self.attempts == 0 or isinstance(error, openai.APIStatusError) or _never_sent(error)


sending: ContextVar[Sending | None] = ContextVar("safe_llm_sending", default=None)
"""The sending that the SDK is at work on in this thread or task."""


def _never_sent(error: BaseException | None) -> bool:
    """Whether an error says that nothing of the request has left, or that the provider refused it."""
    while error is not None:
        name = type(error).__name__
        if name in _NEVER_SENT or name == "HTTPStatusError":
            return True
        error = error.__cause__
    return False


def _is_timeout(error: BaseException | None) -> bool:
    """Whether an error is a time-out of httpx or httpx2, which a stream raises as it is."""
    return any(cls.__name__ == "TimeoutException" for cls in type(error).__mro__)


def _begins_as_json(data: bytes) -> bool:
    return data.lstrip().startswith((b"{", b"["))


def _json(body: bytes | bytearray) -> Mapping[str, Any] | None:
    if not body or len(body) > _LARGEST_BODY:
        return None
    try:
        item = from_json(bytes(body))
    except ValueError:
        return None
    return item if isinstance(item, dict) else None


def _reopen(response: Any) -> bool:
    """Make a response whose body came with it, as from a mock transport, readable once more, through our stream."""
    library = sys.modules[type(response).__module__.partition(".")[0]]
    response.stream = library.ByteStream(response.content)
    del response._content
    response.is_stream_consumed = response.is_closed = False
    return True


def base_of(stream: Any, name: str) -> Any:
    """The class `name` of httpx or httpx2 that a response's stream derives from."""
    return next(cls for cls in type(stream).__mro__ if cls.__name__ == name)

"""Events as requests to a URL."""

from __future__ import annotations

import hmac
import http.client
import ipaddress
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from hashlib import sha256
from threading import Timer
from typing import Any
from urllib.parse import urlsplit

from ..errors import ConfigurationError
from ..types import Alert, Event, UsageRecord

TIMESTAMP = "Safe-LLM-Timestamp"
SIGNATURE = "Safe-LLM-Signature"
EVENT_ID = "Safe-LLM-Event-Id"

_AGAIN = frozenset((408, 425, 429, 500, 502, 503, 504))
_RESERVED = frozenset(name.lower() for name in ("Host", "Content-Length", TIMESTAMP, SIGNATURE, EVENT_ID))


class UndeliveredError(Exception):
    """A webhook was not delivered. Names neither its path nor its secret."""


class WebhookSink:
    """POSTs each alert, its ``model_dump_json()``, to a URL.

    With a `secret`, the receiver can tell that it is genuine and new::

        Safe-LLM-Timestamp: 1764072000                     seconds since 1970, of this attempt
        Safe-LLM-Signature: v1=<hex of HMAC-SHA256(secret, timestamp + "." + body)>
        Safe-LLM-Event-Id:  the same in every attempt

    `WebhookSink.verify` checks that. An attempt that fails to connect or is answered by 408, 425, 429 or 5xx is
    repeated, with growing pauses, while `timeout` lasts. Redirects are not followed: they count as a failure, as any
    other answer but 2xx does. Proxies of the environment are not used.

    Args:
        url: ``https``, or ``http`` to this machine itself. It may hold a secret, so no message or repr quotes it.
        secret: signs, where it is given.
        records: send usage records too, one request for each call.
        headers: added to each request, for example ``Authorization``.
        timeout: seconds for one event, all attempts and pauses together. Looking up the host's address is not bounded.
        attempts: the most for one event.
        tls: trusts other certificates than those of the system.

    Raises:
        ConfigurationError: the URL, a header or a number is wrong.
    """

    def __init__(
        self,
        url: str,
        *,
        secret: str | bytes | None = None,
        records: bool = False,
        headers: Mapping[str, str] | None = None,
        timeout: float = 10.0,
        attempts: int = 5,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._target = _Target(url, tls)
        if secret is not None and not secret:
            raise ConfigurationError("WebhookSink takes a secret that is not empty, or none.")
        if not timeout > 0 or attempts < 1:
            raise ConfigurationError("WebhookSink takes a timeout above 0 and attempts of 1 or more.")
        self._secret = secret.encode() if isinstance(secret, str) else secret
        self._headers = _checked(headers or {})
        self._records = records
        self._timeout = timeout
        self._attempts = attempts

    def __repr__(self) -> str:
        return f"WebhookSink({self._target.host!r})"

    def emit(self, event: Event) -> None:
        """Raises `UndeliveredError`."""
        if isinstance(event, UsageRecord) and not self._records:
            return
        import tenacity

        body = event.model_dump_json().encode()
        # The same alert is the same event, whoever sends it again.
        name = sha256(body).hexdigest()[:32] if isinstance(event, Alert) else event.record_id
        ends = time.monotonic() + self._timeout
        tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_TryAgain),
            wait=tenacity.wait_random_exponential(multiplier=0.25, max=5),
            stop=tenacity.stop_after_attempt(self._attempts) | tenacity.stop_before_delay(self._timeout),
            reraise=True,
        )(self._attempt, body, name, ends)

    @staticmethod
    def verify(secret: str | bytes, headers: Mapping[str, str], body: bytes, *, tolerance: float = 300.0) -> bool:
        """For the receiver: whether `body` was signed with `secret`, `tolerance` seconds ago at most.

        `headers` may spell names as they like. Whoever must not act twice also remembers ``Safe-LLM-Event-Id``.
        """
        given = {name.lower(): value for name, value in headers.items()}
        timestamp, signature = given.get(TIMESTAMP.lower(), ""), given.get(SIGNATURE.lower(), "")
        if not (timestamp.isascii() and timestamp.isdecimal()) or len(timestamp) > 12:
            return False
        genuine = hmac.compare_digest(_signature(secret, timestamp, body).encode(), signature.encode())
        return genuine and abs(time.time() - int(timestamp)) <= tolerance

    def _attempt(self, body: bytes, name: str, ends: float) -> None:
        timestamp = str(int(time.time()))
        headers = {"Content-Type": "application/json", "User-Agent": "safe_llm", **self._headers, EVENT_ID: name}
        headers[TIMESTAMP] = timestamp
        if self._secret is not None:
            headers[SIGNATURE] = _signature(self._secret, timestamp, body)
        try:
            status = self._target.post(body, headers, ends)
        except Exception as error:
            # Whatever a socket that is cut in the middle raises, it is of no use to quote.
            raise _TryAgain(f"{self!r} could not deliver an event: {type(error).__name__}.") from None
        if not 200 <= status < 300:
            kind = _TryAgain if status in _AGAIN else UndeliveredError
            raise kind(f"{self!r} could not deliver an event: it was answered with status {status}.")


class _TryAgain(UndeliveredError):
    pass


class _Target:
    """Where requests go."""

    def __init__(self, url: str, tls: ssl.SSLContext | None) -> None:
        try:
            parts = urlsplit(url)
            self.host, port = parts.hostname or "", parts.port
        except ValueError:  # its message would quote the URL
            raise ConfigurationError("WebhookSink takes a URL such as https://hooks.example.com/path.") from None
        if parts.scheme not in ("https", "http") or not self.host or not url.isascii() or not url.isprintable():
            raise ConfigurationError("WebhookSink takes a URL such as https://hooks.example.com/path.")
        if " " in url or parts.username is not None or parts.password is not None:
            raise ConfigurationError("WebhookSink takes a URL without spaces, user or password: pass headers=.")
        if parts.scheme == "http" and not _is_loopback(self.host):
            raise ConfigurationError(f"WebhookSink sends to {self.host!r} over https only: alerts name users.")
        self._tls = (tls or ssl.create_default_context()) if parts.scheme == "https" else None
        self._port = port or (443 if self._tls else 80)
        self._netloc = parts.netloc
        self._path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")

    def post(self, body: bytes, headers: Mapping[str, str], ends: float) -> int:
        """The status of the answer. Raises whatever goes wrong until `ends`, in monotonic seconds."""

        def left() -> float:
            seconds = ends - time.monotonic()
            if seconds <= 0:
                raise TimeoutError
            return seconds

        with _connected(self.host, self._port, left) as plain:
            # Time-outs of a socket are for each read; a peer that drips bytes would never meet one.
            cut = Timer(left(), socket.socket.shutdown, (plain, socket.SHUT_RDWR))
            cut.daemon = True
            with suppress(RuntimeError):  # an interpreter that is about to exit starts no thread
                cut.start()
            try:
                return self._exchange(plain, body, headers)
            finally:
                cut.cancel()

    def _exchange(self, plain: socket.socket, body: bytes, headers: Mapping[str, str]) -> int:
        sock = plain
        if self._tls is not None:
            # A copy of the descriptor, so that the one below can still be shut down from outside.
            sock = self._tls.wrap_socket(plain.dup(), server_hostname=self.host)
        connection = http.client.HTTPConnection(self.host, self._port)
        connection.sock = sock
        try:
            connection.putrequest("POST", self._path, skip_host=True, skip_accept_encoding=True)
            for name, value in {"Host": self._netloc, "Content-Length": str(len(body)), **headers}.items():
                connection.putheader(name, value)
            connection.endheaders(body)
            response = connection.getresponse()
            response.close()
            return response.status
        finally:
            connection.close()


def _connected(host: str, port: int, left: Callable[[], float]) -> socket.socket:
    error: OSError = OSError()
    for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(left())
            sock.connect(address)
            return sock
        except OSError as failed:
            sock.close()
            error = failed
    raise error


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


def _checked(headers: Mapping[str, Any]) -> dict[str, str]:
    for name, value in headers.items():
        if not isinstance(value, str) or any(sign in f"{name}{value}" for sign in "\r\n\0"):
            raise ConfigurationError(f"The header {name!r} of WebhookSink must be text of one line.")
        if name.lower() in _RESERVED:
            raise ConfigurationError(f"The header {name!r} is WebhookSink's own.")
    return dict(headers)


def _signature(secret: str | bytes, timestamp: str, body: bytes) -> str:
    key = secret.encode() if isinstance(secret, str) else secret
    return "v1=" + hmac.new(key, timestamp.encode() + b"." + body, sha256).hexdigest()

"""Fetching a key set over HTTP: one total time-out over everything, bounded size, no redirects."""

from __future__ import annotations

import asyncio
import ipaddress
import json
from typing import Any
from urllib.parse import SplitResult, urlsplit

import openai

from ..errors import ConfigurationError

_ATTEMPTS = 3
"""Within the one time-out."""

_MOST_BYTES = 524_288
"""Of a key set. Large providers' have 20,000, certificates included."""


class Unusable(Exception):
    """What the server answered is no key set, and would not be if it were asked again. Says why."""


def checked(url: object, *, allow_http: bool) -> SplitResult:
    """The parts of a key set's address.

    Raises:
        ConfigurationError: it is no address of HTTPS, nor one of HTTP on this machine.
    """
    try:
        parts = urlsplit(url) if isinstance(url, str) else urlsplit("")
        host = parts.hostname
    except ValueError:
        parts, host = urlsplit(""), None
    if parts.scheme not in ("https", "http") or not host:
        raise ConfigurationError("jwks_url= must be like https://issuer.example/.well-known/jwks.json.")
    if parts.scheme == "http" and not allow_http and not _loopback(host):
        raise ConfigurationError(
            "jwks_url= is http, over which anybody on the way can put keys of his own: use https. "
            "For a network that you trust, jwks_allow_http=True."
        )
    return parts


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def fetch(url: str, timeout: float) -> list[Any]:
    """The entries of the key set at this address, from a thread that has no event loop.

    It runs one of its own, for there alone a time-out can end whatever is going on: connecting, a handshake, headers
    that drip.

    Raises:
        Unusable: the answer is no key set.
        Exception: whatever else came between, `TimeoutError` after `timeout` seconds.
    """
    return asyncio.run(_fetch(url, timeout))


async def _fetch(url: str, timeout: float) -> list[Any]:
    import tenacity

    # Only errors: a retry of the cancellation would outlive the time-out.
    transient = tenacity.retry_if_exception(lambda e: isinstance(e, Exception) and not isinstance(e, Unusable))
    attempts = tenacity.AsyncRetrying(
        retry=transient,
        stop=tenacity.stop_after_attempt(_ATTEMPTS),
        wait=tenacity.wait_random_exponential(multiplier=0.1, max=1),
        reraise=True,
    )
    # The SDK's own kind of HTTP client: no further library, and its proxies and certificates from the environment.
    headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
    async with (
        asyncio.timeout(timeout),
        openai.DefaultAsyncHttpxClient(follow_redirects=False, timeout=timeout, headers=headers) as client,
    ):
        return await attempts(_once, client, url)


async def _once(client: Any, url: str) -> list[Any]:
    async with client.stream("GET", url) as response:
        status = response.status_code
        if status == 429 or status >= 500:
            raise OSError(f"status {status}")
        if status != 200:
            raise Unusable(f"status {status}; redirects are not followed")
        if response.headers.get("content-encoding", "identity") != "identity":
            raise Unusable("a compressed answer, which was not asked for")
        body = bytearray()
        async for piece in response.aiter_raw():
            body += piece
            if len(body) > _MOST_BYTES:
                raise Unusable(f"more than {_MOST_BYTES:,} bytes")
    return _entries(bytes(body))


def _entries(body: bytes) -> list[Any]:
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        said = None
    entries = said.get("keys") if isinstance(said, dict) else None
    if not isinstance(entries, list):
        raise Unusable("no JSON Web Key Set (RFC 7517, 5)")
    return entries

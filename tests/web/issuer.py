"""An issuer of the tests' own: keys of every kind, tokens, and a loopback server of its key set."""

from __future__ import annotations

import functools
import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

START = 1_800_000_000
"""Where a `FakeClock` starts."""

SECRET = "a secret of the tests, as long as the longest of the hashes: 64 bytes."


def private_key(algorithm: str, number: int = 0) -> Any:
    """A private key for an algorithm; another number, another key."""
    return _made(algorithm, number)


@functools.cache
def _made(algorithm: str, number: int) -> Any:
    if algorithm[:2] in ("RS", "PS"):
        return rsa.generate_private_key(65_537, 2_048)
    curves = {"ES256": ec.SECP256R1, "ES384": ec.SECP384R1, "ES512": ec.SECP521R1, "ES256K": ec.SECP256K1}
    if algorithm in curves:
        return ec.generate_private_key(curves[algorithm]())
    return (ed448.Ed448PrivateKey if number % 2 else ed25519.Ed25519PrivateKey).generate()


def public_pem(key: Any) -> bytes:
    pem: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return pem


def private_pem(key: Any) -> bytes:
    pem: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return pem


def jwk(algorithm: str, kid: str | None, number: int = 0, **members: Any) -> dict[str, Any]:
    """The public key as an entry of a key set; a member that is None is left out."""
    entry = jwt.get_algorithm_by_name(algorithm).to_jwk(private_key(algorithm, number).public_key(), as_dict=True)
    entry = {**entry, "kid": kid, "use": "sig", "alg": algorithm, **members}
    entry.pop("key_ops", None)
    return {name: value for name, value in {**entry, **members}.items() if value is not None}


def claims(**more: Any) -> dict[str, Any]:
    """Those of a good token of ten minutes; a claim that is None is left out."""
    whole = {"sub": "u1", "iat": START, "exp": START + 600, **more}
    return {name: value for name, value in whole.items() if value is not None}


def token(algorithm: str = "HS256", *, key: Any = None, kid: str | None = None, header: Any = None, **more: Any) -> str:
    """A signed token of `claims`."""
    headers = {**({} if kid is None else {"kid": kid}), **(header or {})}
    material = key if key is not None else SECRET if algorithm.startswith("HS") else private_key(algorithm)
    return jwt.encode(claims(**more), material, algorithm, headers=headers)


class KeySetServer:
    """Answers every GET with the key set of `keys`, or as `answer` says; counts the requests in `asked`."""

    def __init__(self, *keys: dict[str, Any]) -> None:
        self.keys: list[Any] = list(keys)
        self.answer: Callable[[BaseHTTPRequestHandler], None] | None = None
        self.asked = 0
        self.stopping = threading.Event()
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                with outer._lock:
                    outer.asked += 1
                if outer.answer is not None:
                    outer.answer(self)
                else:
                    say(self, json.dumps({"keys": outer.keys}).encode())

            def log_message(self, format: str, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # readers that go away are what some of the tests are about

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/jwks.json"

    def __enter__(self) -> KeySetServer:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


def say(handler: BaseHTTPRequestHandler, body: bytes, status: int = 200, **headers: str) -> None:
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(body)))
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def until(done: Callable[[], bool], seconds: float = 5.0) -> None:
    """Wait for something that another thread brings about."""
    ends = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < ends, "it did not come about in time"
        time.sleep(0.005)

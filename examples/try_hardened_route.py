"""Runs hardened_route.py as it would be run, and asks it by curl what its callers and its attackers would ask.

Needs no key: the provider is a stand-in on this machine, and so is the login that signs the tokens. Each command is
shown as it is run, with what came back. Ends with 1 if an answer is not the one expected.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from safe_llm.testing import FakeOpenAI

ISSUER = "https://login.example.com"
HELLO = '{"messages": [{"role": "user", "content": "Say hello."}]}'
SHOWN = ("content-type", "www-authenticate", "retry-after", "ratelimit-policy", "ratelimit")
"""Headers that are shown."""


class Step(NamedTuple):
    title: str
    command: str
    """For the shell; its variables are the service's URL, and the tokens of alice, bob and the staff."""
    status: int
    contains: str
    """A regular expression that the headers and the body together must match somewhere."""
    before: int = 0
    """How often the same is asked and answered by 200 before, unseen."""


def ask(rest: str = "", *, who: str = "ALICE", feature: str = "chat_support", body: str = HELLO) -> str:
    token = f' -H "Authorization: Bearer ${who}"' if who else ""
    return f"curl -sSi $URL/ask/{feature}{token} -H 'Content-Type: application/json' {rest}-d '{body}'"


def switch(on: str) -> str:
    return f'curl -sSi -X POST "$URL/admin/switch?on={on}" -H "Authorization: Bearer $STAFF"'


STREAM = HELLO.replace("}]}", '}], "stream": true}')
OTHER = HELLO.replace("hello.", "hello in Latin.")
LOOPED = HELLO.replace("hello.", "hello again.")
STEPS = (
    Step("an answer", ask(), 200, "Hello from the fake server"),
    Step("a stream", ask("-N ", body=STREAM), 200, r"(?s)text/event-stream.*data: \{.*data: \[DONE\]"),
    Step("401: no token", ask(who=""), 401, "(?i)www-authenticate: Bearer"),
    Step("401: a token that has expired", ask(who="EXPIRED"), 401, "token_expired"),
    Step("403: a feature that alice's plan lacks", ask(feature="document_analysis"), 403, "feature_not_allowed"),
    Step("413: a message that is too long", ask(body="@long.json"), 413, "message_too_long"),
    Step("413: a body that is not read to its end", ask(body="@huge.json"), 413, "max_body_bytes|too_large"),
    Step("429: a loop that asks the same again", ask(body=LOOPED), 429, r"(?i)retry-after: \d+", before=5),
    Step("503: the staff presses the switch", switch("false"), 200, '"on":false'),
    Step("     and nobody is served any more", ask(who="BOB"), 503, "switched_off"),
    Step("     until it is pressed again", switch("true"), 200, '"on":true'),
    Step("     then bob is served, whom nothing of this concerned", ask(who="BOB"), 200, "Hello"),
)


def main() -> int:
    if shutil.which("curl") is None:
        print("This shows everything by curl, which is not installed here. `make attack` asks without it.")
        return 1
    with tempfile.TemporaryDirectory() as folder:
        for name, text in (("long", "x" * 5_000), ("huge", "x" * 3_000_000)):
            Path(folder, f"{name}.json").write_text(HELLO.replace("Say hello.", text))
        with service(folder) as variables:
            wrong = [step.title for step in STEPS if not play(step, folder, variables)]
        wrong += [] if tell(Path(folder, "usage.jsonl")) else ["the records"]
    print(f"\nNOT as expected: {', '.join(wrong)}" if wrong else "\nEvery answer was the one expected.")
    return 1 if wrong else 0


def play(step: Step, folder: str, variables: dict[str, str]) -> bool:
    """Run a command and show it; whether its answer is the one expected."""
    environment = {"PATH": os.environ.get("PATH", ""), "no_proxy": "*", **variables}
    for _ in range(step.before + 1):
        done = subprocess.run(
            ["/bin/sh", "-c", step.command],
            cwd=folder,
            env=environment,
            capture_output=True,
            encoding="utf-8",
            timeout=30,
            check=False,
        )
    # A large body is announced first: what is said to that is not the answer.
    head, _, body = re.sub(r"^HTTP/1\.1 100 .*?\r?\n\r?\n", "", done.stdout, flags=re.S).partition("\n\n")
    status, *headers = head.splitlines() or [done.stderr]
    print(f"\n{step.title}" + (f" (after {step.before} that were answered)" if step.before else ""))
    print(f"$ {step.command}\n{status}")
    print("\n".join(line for line in headers if line.partition(":")[0].lower() in SHOWN))
    print(shortened(body))
    right = f" {step.status} " in f"{status} " and re.search(step.contains, f"{head}\n\n{body}") is not None
    if not right:
        print(f"EXPECTED {step.status}, and {step.contains}")
    return right


def tell(file: Path) -> bool:
    """Who spent what, from the service's own records; whether each answer has one, and none quotes what was said."""
    records = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    records = [record for record in records if "record_id" in record]
    print("\nAnd the records, one of each call, without a word of what was said:")
    for each in records:
        why = each["denial"]["code"] if each["denial"] else f"{each['total_tokens']} tokens, ${each['cost_usd']}"
        print(f"{each['user_id']:<6} {each['feature']:<18} {each['outcome']:<7} {why}")
    answered = sum(step.before + (step.status == 200) for step in STEPS if "/ask/" in step.command)
    right = sum(each["outcome"] == "ok" for each in records) == answered
    return right and "Say hello" not in file.read_text(encoding="utf-8")


def shortened(body: str) -> str:
    """The first and the last lines of a body, each no longer than a terminal is wide, or nearly."""
    lines = [line if len(line) < 300 else f"{line[:300]} ..." for line in body.split("\n") if line]
    return "\n".join(lines if len(lines) < 7 else [*lines[:3], f"... {len(lines) - 5} more ...", *lines[-2:]])


# What the service needs around it -------------------------------------------------------------------------------------


@contextlib.contextmanager
def service(folder: str) -> Iterator[dict[str, str]]:
    """The service in a process of its own, as `uvicorn` runs it; yields the variables of the commands."""
    key = ec.generate_private_key(ec.SECP256R1())
    # The socket itself is handed over: a port that is only known to be free may be somebody else's a moment later.
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        FakeOpenAI() as provider,
        login(key) as jwks_url,
    ):
        port, handle = listening.getsockname()[1], listening.fileno()
        said = {"OPENAI_BASE_URL": provider.base_url, "OPENAI_API_KEY": "none", "JWT_ISSUER": ISSUER}
        said |= {"JWKS_URL": jwks_url, "USAGE_LOG": f"{folder}/usage.jsonl"}
        command = [sys.executable, "-m", "uvicorn", "--factory", "hardened_route:make_app", "--fd", str(handle)]
        process = subprocess.Popen(
            [*command, "--app-dir", str(Path(__file__).parent), "--log-level", "warning"],
            env={**os.environ, **said},
            pass_fds=[handle],
        )
        try:
            wait_for(port, process)
            yield {"URL": f"http://127.0.0.1:{port}", **tokens(key)}
        finally:
            process.terminate()
            process.wait(10)


def tokens(key: ec.EllipticCurvePrivateKey) -> dict[str, str]:
    """Of alice and bob on the free plan, of the staff, and one of alice's that has ended."""
    now = int(time.time())

    def token(user: str, lifetime: int, plan: str) -> str:
        claims = {"sub": user, "plan": plan, "iss": ISSUER, "aud": "shop-assistant", "iat": now - 900}
        return jwt.encode({**claims, "exp": now + lifetime}, key, "ES256", headers={"kid": "1"})

    return {
        "ALICE": token("alice", 600, "free"),
        "BOB": token("bob", 600, "free"),
        "STAFF": token("stella", 600, "staff"),
        "EXPIRED": token("alice", -300, "free"),
    }


@contextlib.contextmanager
def login(key: ec.EllipticCurvePrivateKey) -> Iterator[str]:
    """Publishes the public key, as a login service does; yields the URL of the key set."""
    public: dict[str, Any] = ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
    content = json.dumps({"keys": [{**public, "kid": "1", "alg": "ES256", "use": "sig"}]}).encode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/jwks.json"
    finally:
        server.shutdown()
        server.server_close()


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    """Until the service answers."""
    ends = time.monotonic() + 30
    while time.monotonic() < ends and process.poll() is None:
        asking = HTTPConnection("127.0.0.1", port, timeout=1)
        with contextlib.suppress(OSError), contextlib.closing(asking):
            asking.request("GET", "/healthz")
            asking.getresponse()
            return
    raise SystemExit("The service did not start: what it said stands above.")


if __name__ == "__main__":
    sys.exit(main())

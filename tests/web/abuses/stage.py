"""Where the abuses play: one service at a time behind a real uvicorn, and all that may be done to it over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Self

import httpx
from fastapi import FastAPI
from openai import AsyncOpenAI

from examples import hardened_route, sprint_route
from safe_llm import AsyncSafeOpenAI
from safe_llm.sinks import LoggingSink
from safe_llm.testing import RecordingSink, Reply

from .host import Host, Log
from .provider import Provider
from .tokens import Issuer

PATIENCE = 2.5
"""Seconds after which whatever still goes on got through."""
PROVIDER_KEY = "sk-provider-0123456789abcdef"


class Target:
    """One of the two services, fresh, with a provider of its own, and what an attacker and its owner see of it."""

    name: str
    client: AsyncOpenAI

    def __init__(self, host: Host, issuer: Issuer, log: Log, policy: Mapping[str, Any]) -> None:
        self.host, self.issuer, self.log, self.policy = host, issuer, log, policy
        self.provider = Provider()
        self.url = f"http://127.0.0.1:{host.port}"
        self.answers: list[int] = []
        """The status of every answer; 0 where there was none."""

    def __enter__(self) -> Self:
        self.provider.start()
        self.host.app = self.app()
        return self

    def __exit__(self, *_: object) -> None:
        self.provider.release()
        self.provider.close()
        with contextlib.suppress(TimeoutError):
            self.host.do(self.client.close())

    def app(self) -> FastAPI:
        raise NotImplementedError

    def charged(self) -> Mapping[str, int]:
        """Tokens by user, as the service's own books have them."""
        raise NotImplementedError

    # What an attacker does --------------------------------------------------------------------------------------------

    def token(self, user: str = "mallory", plan: str | None = None, **changed: Any) -> str:
        return self.issuer.token(user, plan, **changed)

    def ask(
        self,
        text: str = "Say hello.",
        *,
        token: str | None = "",
        feature: str = "chat_support",
        timeout: float = 30.0,
        path: str | None = None,
        headers: Any = (),
        content: Any = None,
        **fields: Any,
    ) -> httpx.Response | None:
        """Ask once. Without a token it is mallory's; None sends none. None where there is no answer in time."""
        return asyncio.run(
            self.asking(
                text,
                token=token,
                feature=feature,
                timeout=timeout,
                path=path,
                headers=headers,
                content=content,
                **fields,
            )
        )

    def burst(self, calls: Sequence[Mapping[str, Any]]) -> None:
        """Ask all of this at once."""

        async def all_at_once() -> None:
            limits = httpx.Limits(max_connections=None)
            async with httpx.AsyncClient(trust_env=False, limits=limits) as client:
                await asyncio.gather(*(self.asking(client=client, **call) for call in calls))

        asyncio.run(all_at_once())

    async def asking(
        self,
        text: str = "Say hello.",
        *,
        token: str | None = "",
        feature: str = "chat_support",
        timeout: float = 30.0,
        path: str | None = None,
        headers: Any = (),
        content: Any = None,
        client: httpx.AsyncClient | None = None,
        **fields: Any,
    ) -> httpx.Response | None:
        named = list(dict(headers).items() if isinstance(headers, Mapping) else headers)
        if token is not None:
            named.insert(0, ("Authorization", f"Bearer {token or self.token()}"))
        if content is None:
            content = json.dumps({"messages": [{"role": "user", "content": text}], **fields}).encode()
        named.append(("Content-Type", "application/json"))
        async with contextlib.AsyncExitStack() as stack:
            if client is None:
                client = await stack.enter_async_context(httpx.AsyncClient(trust_env=False))
            url = self.url + (path or f"/ask/{feature}")
            try:
                async with asyncio.timeout(timeout):
                    answer = await client.post(url, content=content, headers=named, timeout=timeout)
            except (httpx.HTTPError, TimeoutError):
                self.answers.append(0)
                return None
        self.answers.append(answer.status_code)
        return answer

    def serves_others(self) -> bool:
        """Whether a caller who does nothing wrong is still answered."""
        self.provider.always(Reply())
        self.provider.release()
        answer = asyncio.run(self.asking("Hello.", token=self.token("somebody"), timeout=5))
        self.answers.pop()
        return answer is not None and answer.status_code == 200

    def stream(
        self,
        most: float = PATIENCE,
        *,
        lines: int | None = None,
        each: Callable[[], object] = lambda: None,
        token: str = "",
        **fields: Any,
    ) -> str:
        """Read a stream for at most so long, or so many lines, doing something after each; what was read."""
        body = {"messages": [{"role": "user", "content": "Tell me a story."}], "stream": True, **fields}
        bearer = token or self.token()
        headers = {"Authorization": f"Bearer {bearer}"}
        read: list[str] = []
        ends = time.monotonic() + most
        with (
            contextlib.suppress(httpx.HTTPError),
            httpx.Client(trust_env=False, timeout=most) as client,
            client.stream("POST", f"{self.url}/ask/chat_support", json=body, headers=headers) as answer,
        ):
            self.answers.append(answer.status_code)
            for line in answer.iter_lines():
                read.append(line)
                if time.monotonic() > ends or (lines is not None and len(read) >= lines):
                    break
                each()
        return "\n".join(read)

    def raw(self, data: Sequence[bytes], pause: float = 0) -> bytes:
        """Write bytes to the service's socket, pausing between them; what comes back within `PATIENCE`."""
        back = b""
        with socket.create_connection(("127.0.0.1", self.host.port)) as connection, contextlib.suppress(OSError):
            for piece in data:
                connection.sendall(piece)
                time.sleep(pause)
            connection.settimeout(PATIENCE)
            while b"\r\n\r\n" not in back and (read := connection.recv(65_536)):
                back += read
        self.answers.append(int(back.split(b" ", 2)[1]) if back.startswith(b"HTTP/") else 0)
        return back

    @contextlib.contextmanager
    def unread(self, data: bytes) -> Iterator[None]:
        """Write bytes to the service's socket, and leave what comes back unread within the block."""
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            connection.connect(("127.0.0.1", self.host.port))
            connection.sendall(data)
            yield

    # What is found afterwards -----------------------------------------------------------------------------------------

    @property
    def sent(self) -> int:
        """Requests that reached the provider."""
        return self.provider.count

    @property
    def crashed(self) -> bool:
        """Whether the service answered something by an error that it did not foresee."""
        return 500 in self.answers

    @property
    def said(self) -> str:
        """How it answered, in short: ``10 x 200, 30 x 429``."""
        counts = Counter(self.answers)
        return ", ".join(
            f"{n} x {status or 'none'}" if n > 1 else str(status or "none") for status, n in counts.items()
        )


class Sprint(Target):
    name = "sprint"

    def app(self) -> FastAPI:
        self.client = AsyncOpenAI(base_url=self.provider.base_url, api_key=PROVIDER_KEY)
        self._app = sprint_route.make_app(self.client)
        return self._app

    def charged(self) -> Mapping[str, int]:
        found: Mapping[str, int] = self._app.state.tokens
        return found


class Hardened(Target):
    name = "hardened"

    def app(self) -> FastAPI:
        self.sink = RecordingSink()
        self.client = AsyncSafeOpenAI(
            base_url=self.provider.base_url,
            api_key=PROVIDER_KEY,
            policy={**hardened_route.POLICY, **self.policy},
            quota_store="memory://",
            sinks=[self.sink, LoggingSink()],
        )
        return hardened_route.make_app(self.client, self.issuer.verifier)

    def charged(self) -> Mapping[str, int]:
        found: Counter[str] = Counter()
        for record in self.sink.records:
            found[record.user_id] += record.total_tokens
        return found

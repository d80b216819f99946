"""litellm's proxy as the provider: a server that nobody here wrote, started as a process of its own.

Behind it stands the fake provider, so what it forwards, and what it adds, can be told.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from scripted import COST, MODEL, WORDS, done, read

from safe_llm import BudgetExceededError, UsageRecord
from safe_llm.testing import FakeOpenAI, RecordingSink, Reply

pytestmark = pytest.mark.anyio

KEY = "sk-of-the-proxy-in-these-tests-alone"
START_SECONDS = 120
"""It takes about 15 s, most of it for imports; more on a busy machine."""
STOP_SECONDS = 10
ASK: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "How is the weather in Oslo?"}]}


@pytest.fixture(scope="session")
def upstream() -> Iterator[FakeOpenAI]:
    """What stands behind the proxy, which forwards to one address as long as it lives."""
    with FakeOpenAI() as server:
        yield server


@pytest.fixture(scope="session")
def proxy(upstream: FakeOpenAI, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a running proxy."""
    folder = tmp_path_factory.mktemp("litellm")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*COMMAND, "--config", str(configured(folder, upstream)), "--port", str(port)],
            cwd=folder,
            env=environment(folder),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_for(process, f"http://127.0.0.1:{port}/health/liveliness", folder / "log")
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
        process.kill()
        process.wait(STOP_SECONDS)


COMMAND = (str(Path(sys.executable).with_name("litellm")), "--host", "127.0.0.1", "--telemetry", "False")


def configured(folder: Path, upstream: FakeOpenAI) -> Path:
    forwarding = {"model": f"openai/{MODEL}", "api_base": upstream.base_url, "api_key": "none", "max_retries": 0}
    settings = {
        "model_list": [{"model_name": MODEL, "litellm_params": forwarding}],
        "litellm_settings": {"num_retries": 0, "telemetry": False},
        "router_settings": {"num_retries": 0, "disable_cooldowns": True},
    }
    file = folder / "config.yaml"
    file.write_text(json.dumps(settings))  # which is YAML, too
    return file


def environment(folder: Path) -> dict[str, str]:
    """Nothing of this process's own but what it takes to run; the price list that comes with the package."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "SSL_CERT_FILE") if name in os.environ}
    offline = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "HF_HUB_OFFLINE": "1"}
    return {**kept, **offline, "HOME": str(folder), "LITELLM_MASTER_KEY": KEY}


def wait_for(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    ends = time.monotonic() + START_SECONDS
    while time.monotonic() < ends and process.poll() is None:
        with suppress(httpx.HTTPError):
            if httpx.get(url, timeout=1, trust_env=False).is_success:
                return
        time.sleep(0.1)
    pytest.fail(f"litellm's proxy did not start:\n{log.read_text(errors='replace')[-2_000:]}")


@pytest.fixture
async def client(kind: Any, proxy: str, sink: RecordingSink) -> AsyncIterator[Any]:
    policy = {"plans": {"default": {"limits": ["100 requests/day", "$1/day"]}}, "time": {"deadline_seconds": 90}}
    client = kind(base_url=proxy, api_key=KEY, sinks=[sink], policy=policy, max_retries=0)
    yield client.with_identity(user_id="u1", feature="travel")
    await done(client.close())


def facts(record: UsageRecord) -> tuple[Any, ...]:
    who = record.user_id, record.feature, record.endpoint, record.stream, record.outcome
    return *who, record.input_tokens, record.output_tokens, record.usage_source, record.cost_usd


async def test_a_plain_answer_costs_what_the_proxy_says_itself(
    client: Any, upstream: FakeOpenAI, sink: RecordingSink
) -> None:
    """Its price list is not the one that is used here."""
    upstream.script(WORDS)
    answer = await done(client.chat.completions.with_raw_response.create(**ASK))
    assert answer.parse().choices[0].message.content == "It rains in Oslo."
    assert facts(sink.last) == ("u1", "travel", "chat.completions", False, "ok", 1_000, 300, "provider", COST)
    assert Decimal(answer.headers["x-litellm-response-cost"]) == sink.last.cost_usd


async def test_a_stream_costs_the_same(client: Any, upstream: FakeOpenAI, sink: RecordingSink) -> None:
    upstream.script(WORDS)
    chunks = await read(await done(client.chat.completions.create(**ASK, stream=True)))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "It rains in Oslo."
    assert facts(sink.last) == ("u1", "travel", "chat.completions", True, "ok", 1_000, 300, "provider", COST)


async def test_responses_are_accounted_for_too(
    client: Any, upstream: FakeOpenAI, sink: RecordingSink, stream: bool
) -> None:
    upstream.script(WORDS)
    answer = await done(client.responses.create(model=MODEL, input="How is the weather in Oslo?", stream=stream))
    if stream:
        *_, last = await read(answer)
        answer = last.response
    assert answer.output_text == "It rains in Oslo."
    assert facts(sink.last) == ("u1", "travel", "responses", stream, "ok", 1_000, 300, "provider", COST)


async def test_the_cap_reaches_the_provider_and_who_is_calling_does_not(client: Any, upstream: FakeOpenAI) -> None:
    upstream.script(WORDS)
    await done(client.chat.completions.create(**ASK))
    request = upstream.requests[-1]
    assert request.body["max_completion_tokens"] == 1_000
    assert not any(name in f"{request.body} {dict(request.headers)}" for name in ("u1", "travel", "safe_llm"))


async def test_a_stream_that_breaks_off_behind_the_proxy_is_estimated(
    client: Any, upstream: FakeOpenAI, sink: RecordingSink
) -> None:
    upstream.script(replace(WORDS, cut=2, drip=0.1))  # slowly, so that the proxy has passed on what came before the cut
    with pytest.raises(openai.APIError):
        await read(await done(client.chat.completions.create(**ASK, stream=True)))
    record = sink.last
    assert (record.outcome, record.usage_source, record.output_tokens) == ("error", "estimated", 2)
    assert record.cost_usd is not None
    assert 0 < record.cost_usd < COST


async def test_a_usage_that_the_proxy_counts_in_place_of_the_provider_is_taken_for_the_provider_s(
    client: Any, upstream: FakeOpenAI, sink: RecordingSink
) -> None:
    upstream.script(replace(WORDS, usage=None))
    await read(await done(client.chat.completions.create(**ASK, stream=True)))
    record = sink.last
    assert (record.outcome, record.usage_source) == ("ok", "provider")
    assert record.input_tokens <= record.input_tokens_estimated
    assert record.output_tokens == 5  # of "It rains in Oslo."


@pytest.mark.parametrize("status", [400, 429, 500])
async def test_a_refusal_that_the_proxy_passes_on_costs_nothing(
    client: Any, upstream: FakeOpenAI, sink: RecordingSink, status: int
) -> None:
    upstream.script(Reply(status=status))
    with pytest.raises(openai.APIStatusError) as caught:
        await done(client.chat.completions.create(**ASK))
    assert caught.value.status_code == status
    assert (sink.last.outcome, sink.last.cost_usd) == ("error", 0)


async def test_what_is_denied_does_not_reach_the_proxy(client: Any, upstream: FakeOpenAI, sink: RecordingSink) -> None:
    before = upstream.count
    broke = client.with_options(policy={"plans": {"default": {"limits": ["$0.0000001/day"]}}})
    with pytest.raises(BudgetExceededError):
        await done(broke.chat.completions.create(**ASK))
    assert (upstream.count, sink.last.outcome) == (before, "denied")

"""Settings: what comes from the environment, and what a client says of a setting that is wrong."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from safe_llm import (
    AsyncSafeAzureOpenAI,
    AsyncSafeOpenAI,
    ConfigurationError,
    MemoryQuotaStore,
    Policy,
    SafeAzureOpenAI,
    SafeOpenAI,
)
from safe_llm.testing import FakeOpenAI, RecordingSink

pytestmark = pytest.mark.anyio

ASK: dict[str, Any] = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Good morning"}]}
ALL_FOUR = [SafeOpenAI, AsyncSafeOpenAI, SafeAzureOpenAI, AsyncSafeAzureOpenAI]


async def done(result: Any) -> Any:
    """What a client of either colour answers."""
    return await result if inspect.isawaitable(result) else result


@pytest.fixture(params=ALL_FOUR)
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith(("SAFE_LLM_", "OPENAI_", "AZURE_")):
            monkeypatch.delenv(name)


def make(kind: Any, server: FakeOpenAI | None = None, **arguments: Any) -> Any:
    url = server.url if server else "http://127.0.0.1:9"
    azure = "Azure" in kind.__name__
    where = {"azure_endpoint": url, "api_version": "2026-01-01"} if azure else {"base_url": f"{url}/v1"}
    return kind(api_key="test", **where, **arguments)


@pytest.fixture
def policy_file(tmp_path: Path) -> Path:
    file = tmp_path / "policy.toml"
    file.write_text('timezone = "Asia/Tokyo"\n')
    return file


# The environment ------------------------------------------------------------------------------------------------------


async def test_the_policy_comes_from_the_file_that_the_environment_names(
    kind: Any, policy_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is read when a client is constructed, not when the package is imported."""
    before = make(kind)
    monkeypatch.setenv("SAFE_LLM_POLICY", str(policy_file))
    after = make(kind)
    assert (before.guard.policy.timezone, after.guard.policy.timezone) == ("UTC", "Asia/Tokyo")
    for client in (before, after):
        await done(client.close())


async def test_an_argument_goes_before_the_environment(
    kind: Any, server: FakeOpenAI, policy_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAFE_LLM_POLICY", str(policy_file))
    monkeypatch.setenv("SAFE_LLM_QUOTA_STORE", "nonsense://")
    monkeypatch.setenv("SAFE_LLM_HASH_KEY", "environment")
    sinks = [RecordingSink(), RecordingSink()]
    for sink, key in zip(sinks, ("argument", "environment"), strict=True):
        client = make(kind, server, policy={}, quota_store="memory://", hash_key=key, sinks=[sink])
        assert client.guard.policy.timezone == "UTC"
        await done(client.chat.completions.create(**ASK))
        await done(client.close())
    assert sinks[0].last.prompt_hash != sinks[1].last.prompt_hash


async def test_the_hash_key_comes_from_the_environment(
    kind: Any, server: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAFE_LLM_HASH_KEY", "k1")
    sink = RecordingSink()
    for arguments in ({}, {"hash_key": "k1"}, {"hash_key": b"k1"}, {"hash_key": "k2"}):
        client = make(kind, server, sinks=[sink], **arguments)
        await done(client.chat.completions.create(**ASK))
        await done(client.close())
    hashes = [record.prompt_hash for record in sink.records]
    assert len(set(hashes[:3])) == 1
    assert hashes[3] != hashes[0]


async def test_without_a_key_the_hash_is_the_same_in_all_clients_of_the_process(server: FakeOpenAI) -> None:
    sink = RecordingSink()
    for kind in ALL_FOUR:
        client = make(kind, server, sinks=[sink])
        await done(client.chat.completions.create(**ASK))
        await done(client.close())
    assert len({record.prompt_hash for record in sink.records}) == 1


def test_without_a_key_another_process_has_another_hash(server: FakeOpenAI) -> None:
    sink = RecordingSink()
    with make(SafeOpenAI, server, sinks=[sink]) as client:
        client.chat.completions.create(**ASK)
    code = (
        "from safe_llm import SafeOpenAI\n"
        f"client = SafeOpenAI(base_url={server.base_url!r}, api_key='test', sinks=[lambda e: print(e.prompt_hash)])\n"
        f"client.chat.completions.create(**{ASK!r})\n"
        "client.close()"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (len(run.stdout.strip()), run.stderr) == (64, "")
    assert run.stdout.strip() != sink.last.prompt_hash


async def test_the_store_comes_from_the_url_that_the_environment_names(
    kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    def from_url(url: str) -> MemoryQuotaStore:
        opened.append(url)
        return MemoryQuotaStore()

    monkeypatch.setattr(MemoryQuotaStore, "from_url", staticmethod(from_url))
    monkeypatch.setenv("SAFE_LLM_QUOTA_STORE", "memory://somewhere")
    await done(make(kind).close())
    assert opened == ["memory://somewhere"]


async def test_an_empty_variable_is_as_good_as_none(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SAFE_LLM_POLICY", "SAFE_LLM_QUOTA_STORE", "SAFE_LLM_HASH_KEY"):
        monkeypatch.setenv(name, "")
    client = make(kind)
    assert client.guard.policy == Policy()
    await done(client.close())


@pytest.mark.parametrize("value", ["/nowhere/policy.toml", "{file}"], ids=["missing", "wrong"])
def test_a_policy_file_that_is_wrong_is_named(
    kind: Any, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "policy.toml").write_text("[input]\nmax_turn = 3\n")
    path = value.format(file=tmp_path / "policy.toml")
    monkeypatch.setenv("SAFE_LLM_POLICY", path)
    with pytest.raises(ConfigurationError, match=r"policy\.toml"):
        make(kind)


async def test_by_default_clients_do_not_share_their_counters(server: FakeOpenAI) -> None:
    policy = {"plans": {"default": {"limits": ["1 requests/day"]}}}
    for kind in ALL_FOUR:
        client = make(kind, server, policy=policy, sinks=[])
        await done(client.chat.completions.create(**ASK, user_id="u1"))
        await done(client.close())
    assert server.count == 4


async def test_by_default_records_are_lines_of_the_log(
    kind: Any, server: FakeOpenAI, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="safe_llm")
    client = make(kind, server)
    await done(client.chat.completions.create(**ASK, user_id="u1"))
    await done(client.close())
    (line,) = [record.getMessage() for record in caplog.records if record.name == "safe_llm"]
    assert '"user_id":"u1"' in line


# What is wrong --------------------------------------------------------------------------------------------------------


async def an_async_function(*arguments: Any) -> Any:
    raise AssertionError("never called")


class AsyncCheck:
    name = "slow"
    inspect = staticmethod(an_async_function)


class AsyncStore:
    reserve = settle = peek = close = staticmethod(an_async_function)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "policy type": ({"policy": 5}, "policy= takes a Policy, a mapping or the path of a TOML file, not int"),
    "policy key": ({"policy": {"inptu": {}}}, "Unknown key 'inptu': did you mean 'input'"),
    "policy file": ({"policy": "/nowhere/p.toml"}, "/nowhere/p.toml"),
    "limit": ({"policy": {"limits": ["ten requests"]}}, "ten requests"),
    "store URL": ({"quota_store": "mermory://"}, "did you mean memory://"),
    "store address": ({"quota_store": "localhost"}, "named by a URL"),
    "store type": ({"quota_store": object()}, "quota_store="),
    "plan_for": ({"plan_for": "pro"}, "plan_for= takes a callable"),
    "sink": ({"sinks": [5]}, "cannot be a sink"),
    "sink class": ({"sinks": [RecordingSink]}, "cannot be a sink"),
    "async sink": ({"sinks": [an_async_function]}, "cannot be a sink"),
    "empty key": ({"hash_key": ""}, "hash_key="),
    "key type": ({"hash_key": 5}, "hash_key="),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_setting_is_named_with_how_to_mend_it(kind: Any, name: str) -> None:
    arguments, says = WRONG[name]
    with pytest.raises(ConfigurationError) as caught:
        make(kind, **arguments)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_store_s_password_is_not_quoted(kind: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        make(kind, quota_store="rediz://user:hunter2@host")
    assert "hunter2" not in str(caught.value)


ASYNC: dict[str, dict[str, Any]] = {
    "store": {"quota_store": AsyncStore()},
    "plan_for": {"plan_for": an_async_function},
    "check": {"checks": [AsyncCheck()]},
}


@pytest.mark.parametrize("name", ASYNC)
async def test_what_is_async_is_for_async_clients(kind: Any, name: str) -> None:
    if kind in (SafeOpenAI, SafeAzureOpenAI):
        with pytest.raises(ConfigurationError, match="use the async client"):
            make(kind, **ASYNC[name])
    else:
        client = make(kind, **ASYNC[name])
        assert client.guard.policy == Policy()
        await client._client.aclose()


def test_the_arguments_of_ours_are_keyword_only(kind: Any) -> None:
    with pytest.raises(TypeError):
        kind({"mode": "shadow"})

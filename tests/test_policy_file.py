"""A policy that stands in a file: changes are taken up whole, and what is no policy is not."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from safe_llm import Policy, RateLimitExceededError, StoreUnavailableError
from safe_llm.testing import FakeOpenAI, RecordingSink, Reply

pytestmark = pytest.mark.anyio

ASK: dict[str, Any] = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Good morning"}]}
Make = Callable[..., Any]


def limited(number: int) -> str:
    return f'[plans.default]\nlimits = ["{number} requests/day"]\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "policy.toml"
    file.write_text(limited(1))
    return file


@pytest.fixture
def make(kind: Any, server: FakeOpenAI, sink: RecordingSink, file: Path) -> Make:
    def make(**arguments: Any) -> Any:
        base = {"base_url": server.base_url, "api_key": "test", "sinks": [sink], "policy": file}
        return kind(**{**base, **arguments})

    return make


async def done(result: Any) -> Any:
    return await result if asyncio.iscoroutine(result) else result


async def chat(client: Any, **arguments: Any) -> Any:
    return await done(client.chat.completions.create(**ASK, **arguments))


async def test_the_next_call_obeys_the_changed_file_and_counts_go_on(
    make: Make, file: Path, sink: RecordingSink
) -> None:
    client = make()
    await chat(client)
    with pytest.raises(RateLimitExceededError):
        await chat(client)
    file.write_text(limited(2))
    await chat(client)
    with pytest.raises(RateLimitExceededError, match="2 requests/day"):
        await chat(client)
    versions = [record.policy_version for record in sink.records]
    old, new = (Policy(plans={"default": {"limits": [f"{n} requests/day"]}}).version for n in (1, 2))
    assert versions == [old, old, new, new]
    assert client.guard.policy.version == new
    await done(client.close())


async def test_the_file_that_the_environment_names_moves_too(
    make: Make, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAFE_LLM_POLICY", str(file))
    client = make(policy=None)
    await chat(client)
    file.write_text(limited(2))
    await chat(client)
    await done(client.close())


async def test_copies_and_bound_clients_move_along(make: Make, file: Path, sink: RecordingSink) -> None:
    client = make()
    bound = client.with_identity(user_id="alice")
    copied = client.with_options(max_retries=0)
    other = client.with_options(sinks=[sink, lambda event: None])  # has a guard of its own
    guard = client.guard
    file.write_text(limited(0))
    for one in (client, bound, copied, other):
        with pytest.raises(RateLimitExceededError):
            await chat(one)
    assert guard.policy.plans["default"].limits[0].amount == 0
    for one in (other, client):
        await done(one.close())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[plans.default\n", "not valid TOML"),
        ('[plans.default]\nlimitz = ["1 requests/day"]\n', "limitz"),
        ('[plans.default]\nlimits = ["many requests/day"]\n', "many"),
        (None, "cannot be read"),
    ],
    ids=["no TOML", "an unknown key", "a bad limit", "gone"],
)
async def test_a_file_that_is_no_policy_leaves_the_old_one_in_force_and_is_told_once(
    make: Make, file: Path, sink: RecordingSink, text: str | None, said: str
) -> None:
    client = make()
    version = client.guard.policy.version
    file.unlink() if text is None else file.write_text(text)
    await chat(client)
    with pytest.raises(RateLimitExceededError):
        await chat(client)
    assert {record.policy_version for record in sink.records} == {version}
    (alert,) = [alert for alert in sink.alerts if alert.kind == "policy_invalid"]
    assert said in alert.message
    assert version in alert.message
    file.write_text(limited(3))
    await chat(client)
    assert [alert.kind for alert in sink.alerts].count("policy_invalid") == 1
    await done(client.close())


async def test_a_second_change_of_the_same_size_in_the_same_tick_is_seen(make: Make, file: Path) -> None:
    client = make()
    file.write_text(limited(5))
    seen = os.stat(file)
    assert client.guard.policy.plans["default"].limits[0].amount == 5
    file.write_text(limited(7))
    os.utime(file, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    assert client.guard.policy.plans["default"].limits[0].amount == 7
    await done(client.close())


async def test_a_file_that_is_about_to_be_written_is_not_taken_for_an_empty_policy(make: Make, file: Path) -> None:
    client = make()
    file.write_text("")
    assert client.guard.policy.plans["default"].limits[0].text == "1 requests/day"
    long_ago = time.time() - 60
    os.utime(file, (long_ago, long_ago))  # so it stayed
    assert client.guard.policy == Policy()
    await done(client.close())


async def test_a_change_that_is_made_while_the_client_is_made_is_found(make: Make, file: Path) -> None:
    client = make()
    long_ago = time.time() - 60
    file.write_text(limited(9))
    os.utime(file, (long_ago, long_ago))
    assert client.guard.policy.plans["default"].limits[0].amount == 9
    await done(client.close())


async def test_a_call_that_is_under_way_keeps_the_policy_that_it_began_with(
    make: Make, file: Path, server: FakeOpenAI, sink: RecordingSink
) -> None:
    client = make()
    server.script(Reply(text="one two three"))
    stream = await chat(client, stream=True)
    version = client.guard.policy.version
    file.write_text(limited(2))
    assert client.guard.policy.version != version
    if hasattr(stream, "__aiter__"):
        async for _ in stream:
            pass
    else:
        for _ in stream:
            pass
    assert sink.last.policy_version == version
    await done(client.close())


class Away:
    """A quota store that cannot be reached."""

    def reserve(self, *_: Any) -> Any:
        raise OSError

    settle = peek = reserve

    def close(self) -> None: ...


async def test_what_to_do_without_a_store_may_change_as_well(make: Make, file: Path, sink: RecordingSink) -> None:
    client = make(quota_store=Away())
    with pytest.raises(StoreUnavailableError):
        await chat(client)
    file.write_text('on_store_error = "allow"\n' + limited(1))
    await chat(client)
    assert sink.last.degraded
    await done(client.close())


async def test_a_program_that_changes_its_folder_keeps_its_policy(
    make: Make, file: Path, tmp_path: Path, sink: RecordingSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    client = make(policy="policy.toml")
    other = tmp_path / "elsewhere"
    other.mkdir()
    (other / "policy.toml").write_text(limited(99))
    monkeypatch.chdir(other)
    assert client.guard.policy.plans["default"].limits[0].amount == 1
    copied = client.with_options(checks=[])
    assert copied.guard.policy.plans["default"].limits[0].amount == 1
    assert sink.alerts == []
    for one in (copied, client):
        await done(one.close())


async def test_a_policy_of_the_program_s_own_does_not_move(make: Make, file: Path) -> None:
    client = make(policy=Policy.from_file(file))
    version = client.guard.policy.version
    file.write_text(limited(2))
    assert client.guard.policy.version == version
    await done(client.close())

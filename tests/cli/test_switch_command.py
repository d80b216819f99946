"""``safe-llm switch``: a command of one process stops the calls of another."""

from __future__ import annotations

import asyncio
import getpass
import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from commands import CALL, in_a_process, invoke, told

from safe_llm import AsyncSafeOpenAI, SafeOpenAI, SwitchedOffError
from safe_llm.testing import FakeOpenAI


class Running:
    """A client that goes on running, of either kind, and what becomes of its calls."""

    def __init__(self, kind: Any, url: str, server: FakeOpenAI) -> None:
        self.server = server
        self.loop = asyncio.new_event_loop() if kind is AsyncSafeOpenAI else None
        self.client = kind(api_key="none", base_url=server.base_url, quota_store=url, sinks=[])

    def do(self, result: Any) -> Any:
        return result if self.loop is None else self.loop.run_until_complete(result)

    def passes(self, **identity: str) -> bool:
        """Whether a call passes; one that does not is not sent."""
        before = self.server.count
        try:
            self.do(self.client.chat.completions.create(**CALL, **identity))
        except SwitchedOffError:
            assert self.server.count == before
            return False
        assert self.server.count == before + 1
        return True

    def close(self) -> None:
        self.do(self.client.close())
        if self.loop is not None:
            self.loop.close()


@pytest.fixture
def running(kind: Any, shared_url: str, server: FakeOpenAI) -> Iterator[Running]:
    client = Running(kind, shared_url, server)
    yield client
    client.close()


def test_a_switch_of_another_process_stops_a_running_client_at_its_next_call(running: Running, shared_url: str) -> None:
    """And lets it go on, at its next call too."""
    assert running.passes(user_id="u1", feature="chat")
    off = in_a_process(
        "switch", "off", "--feature", "chat", "--reason", "it leaks", "--by", "dana", SAFE_LLM_QUOTA_STORE=shared_url
    )
    assert (off.returncode, off.stderr) == (0, "")
    assert not running.passes(user_id="u1", feature="chat")
    assert running.passes(user_id="u1", feature="search")
    (event,) = running.do(running.client.guard.switches())
    assert (event.scope, event.by, event.reason) == ({"feature": "chat"}, "dana", "it leaks")
    on = in_a_process("switch", "on", "--feature", "chat", "--store", shared_url)
    assert (on.returncode, on.stderr) == (0, "")
    assert running.passes(user_id="u1", feature="chat")


def test_each_thing_that_a_switch_names_stops_what_it_says(running: Running, shared_url: str) -> None:
    for option, value in (("--user", "u1"), ("--plan", "default"), ("--model", CALL["model"]), ("--feature", "chat")):
        assert running.passes(user_id="u1", feature="chat")
        told("switch", "off", option, value, "--reason", "test", "--store", shared_url)
        assert not running.passes(user_id="u1", feature="chat")
        told("switch", "on", option, value, "--store", shared_url)
    told("switch", "off", "--user", "u1", "--feature", "chat", "--reason", "both", "--store", shared_url)
    assert running.passes(user_id="u1", feature="search")
    assert running.passes(user_id="u2", feature="chat")
    assert not running.passes(user_id="u1", feature="chat")


def test_all_stops_the_whole_application(running: Running, shared_url: str) -> None:
    told("switch", "off", "--all", "--reason", "fire", "--store", shared_url)
    assert not running.passes(user_id="u1")
    assert not running.passes()
    told("switch", "on", "--all", "--store", shared_url)
    assert running.passes(user_id="u1")


def test_leaving_everything_out_stops_nothing(application: SafeOpenAI, sqlite_url: str) -> None:
    for action in ("off", "on"):
        done = invoke("switch", action, "--store", sqlite_url)
        assert (done.exit_code, done.stdout) == (2, "")
        assert "--all" in done.stderr
    done = invoke("switch", "off", "--all", "--feature", "chat", "--store", sqlite_url)
    assert (done.exit_code, done.stdout) == (2, "")
    assert application.guard.switches() == []
    application.chat.completions.create(**CALL)


def test_a_name_that_no_call_can_have_is_refused(sqlite_url: str) -> None:
    done = invoke("switch", "off", "--feature", "", "--reason", "x", "--store", sqlite_url)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "feature must be" in done.stderr


def test_the_list_tells_who_when_and_why(sqlite_url: str) -> None:
    assert told("switch", "list", "--store", sqlite_url)["switches"] == []
    assert "No kill switch is off." in invoke("switch", "list", "--store", sqlite_url).stdout
    done = told("switch", "off", "--user", "u1", "--reason", "abuse", "--store", sqlite_url)
    assert (done["action"], done["scope"], done["changed"]) == ("off", {"user": "u1"}, True)
    (listed,) = told("switch", "list", "--store", sqlite_url)["switches"]
    assert listed == done["switches"][0]
    assert (listed["reason"], listed["by"]) == ("abuse", f"{getpass.getuser()}@{socket.gethostname()}")
    shown = invoke("switch", "list", "--store", sqlite_url).stdout
    assert "user 'u1'" in shown
    assert "abuse" in shown


def test_a_system_that_does_not_know_its_user_switches_all_the_same(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container that runs under a number."""

    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found: 1234")

    monkeypatch.setattr(getpass, "getuser", nobody)
    (event,) = told("switch", "off", "--user", "u1", "--reason", "x", "--store", sqlite_url)["switches"]
    assert event["by"].endswith(f"@{socket.gethostname()}")


def test_turning_twice_is_harmless_and_says_who_was_first(sqlite_url: str) -> None:
    off = "switch", "off", "--feature", "chat", "--store", sqlite_url
    told(*off, "--reason", "first", "--by", "dana")
    assert told(*off, "--reason", "second", "--by", "erin")["changed"] is False
    shown = invoke(*off, "--reason", "third").stdout
    assert "was off already, by dana since" in shown
    assert "first" in shown
    on = "switch", "on", "--feature", "chat", "--store", sqlite_url
    assert told(*on)["changed"] is True
    assert told(*on)["changed"] is False
    assert "was not switched off" in invoke(*on).stdout


def test_what_is_still_off_is_told_to_whoever_switches_on(sqlite_url: str) -> None:
    told("switch", "off", "--all", "--reason", "fire", "--store", sqlite_url)
    told("switch", "off", "--feature", "chat", "--reason", "x", "--store", sqlite_url)
    shown = invoke("switch", "on", "--feature", "chat", "--store", sqlite_url).stdout
    assert "switched on again" in shown
    assert "the whole application" in shown


def test_no_reason_is_noted_and_does_not_stand_in_the_way(sqlite_url: str) -> None:
    done = invoke("switch", "off", "--feature", "chat", "--store", sqlite_url)
    assert done.exit_code == 0
    assert "No --reason" in done.stderr
    assert "(no reason given)" in invoke("switch", "list", "--store", sqlite_url).stdout


def test_a_name_that_the_policy_does_not_know_is_told(sqlite_url: str, tmp_path: Any) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text("[features.chat_support]\n")
    options = "--reason", "x", "--store", sqlite_url, "--policy", str(policy)
    assert "no feature 'chat_suport'" in invoke("switch", "off", "--feature", "chat_suport", *options).stderr
    assert "no plan 'pro'" in invoke("switch", "off", "--plan", "pro", *options).stderr
    assert invoke("switch", "off", "--feature", "chat_support", "--plan", "default", *options).stderr == ""


def test_a_broken_policy_does_not_keep_anybody_from_switching_off(sqlite_url: str, tmp_path: Any) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text("nonsense = 1\n")
    done = invoke("switch", "off", "--all", "--reason", "x", "--store", sqlite_url, SAFE_LLM_POLICY=str(policy))
    assert (done.exit_code, done.stderr) == (0, "")


def test_a_switch_that_the_log_does_not_know_is_counted(application: SafeOpenAI, sqlite_url: str) -> None:
    """As where a process died between the switch and its entry."""
    from safe_llm import switches
    from safe_llm.effects import drive

    drive(switches.switch_off(switches.switch({"user": "u9"})), application.guard._now)
    assert told("limits", "alice", "--store", sqlite_url)["unlogged_switches"] == 1
    assert "1 more is off" in invoke("switch", "list", "--store", sqlite_url).stdout


def test_json_goes_to_the_output_alone(sqlite_url: str) -> None:
    done = invoke("switch", "off", "--feature", "chat", "--json", "--store", sqlite_url)
    assert json.loads(done.stdout)["changed"] is True
    assert "No --reason" in done.stderr

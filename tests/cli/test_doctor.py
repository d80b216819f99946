"""``safe-llm doctor``: what is in order is said to be, and each thing that is not is found, with what to do."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from commands import in_a_process, invoke

from benchmarks.servers import given_postgres, postgres_server, redis_server, with_options
from safe_llm.cli import checkup, store_checkup
from safe_llm.cli.checkup import Requirement, machine
from safe_llm.cli.store_checkup import store


def by_name(*arguments: str, code: int = 0, **environment: str) -> dict[str, dict[str, str]]:
    """The doctor's findings."""
    done = invoke("doctor", "--json", *arguments, **environment)
    assert done.exit_code == code, done.stdout
    told = json.loads(done.stdout)
    assert told["healthy"] is (code == 0)
    return {finding["name"]: finding for finding in told["findings"]}


def statuses(url: str) -> dict[str, str]:
    return {finding.name: finding.status for finding in store(url)}


# This machine ---------------------------------------------------------------------------------------------------------


def test_a_sound_machine_with_a_store_of_a_file_is_all_in_order(sqlite_url: str) -> None:
    found = by_name("--store", sqlite_url, SAFE_LLM_HASH_KEY="k" * 32)
    prices = found.pop("prices")  # whose age is a matter of when this runs
    assert prices["found"].startswith(f"genai-prices {importlib.metadata.version('genai-prices')}; the last change")
    assert {finding["status"] for finding in found.values()} == {"ok"}
    assert {"store", "clock", "python", "openai (the SDK)", "deadline", "o200k_base", "cl100k_base"} <= found.keys()
    assert found["openai (the SDK)"]["found"].startswith(importlib.metadata.version("openai"))


def test_it_runs_as_a_program_without_a_key_and_shows_a_line_for_each(sqlite_url: str) -> None:
    done = in_a_process("doctor", SAFE_LLM_QUOTA_STORE=sqlite_url)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"^ok +openai \(the SDK\) +[0-9.]+; supported is", done.stdout, re.M)
    assert "SAFE_LLM_HASH_KEY is not set" in done.stdout
    assert "→ " in done.stdout


def version_of(monkeypatch: pytest.MonkeyPatch, package: str, answer: str | None) -> None:
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name == package:
            if answer is None:
                raise importlib.metadata.PackageNotFoundError(name)
            return answer
        return real(name)

    monkeypatch.setattr(checkup, "version", version)


@pytest.mark.parametrize(("answer", "status"), [("2.45.0", "ok"), ("2.44.9", "failure"), ("4.0", "failure")])
def test_an_sdk_outside_the_supported_range_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, answer: str, status: str
) -> None:
    version_of(monkeypatch, "openai", answer)
    (finding,) = [finding for finding in machine(None) if finding.name == "openai (the SDK)"]
    assert (finding.status, finding.found.split(";")[0]) == (status, answer)
    assert bool(finding.advice) is (status == "failure")


@pytest.mark.parametrize(("answer", "status"), [(None, "ok"), ("5.9", "warning")])
def test_an_optional_package_may_be_missing_and_should_not_be_old(
    monkeypatch: pytest.MonkeyPatch, answer: str | None, status: str
) -> None:
    version_of(monkeypatch, "redis", answer)
    (finding,) = [finding for finding in machine(None) if finding.name in ("redis", "[redis]")]
    assert finding.status == status
    assert "pip install" in finding.advice
    assert "safe-llm[redis]" in finding.advice


def test_requirements_are_read_as_pip_writes_them() -> None:
    assert Requirement.read("psycopg[binary,pool]>=3.3; extra == 'postgres'") == (
        "psycopg",
        ((">=", (3, 3)),),
        "postgres",
    )
    openai = Requirement.read("openai<4,>=2.45")
    assert openai is not None
    assert [openai.allows(found) for found in ("2.45", "2.45.0", "3.57.0", "4", "4.0.0", "2.9", "4.0.0rc1")] == [
        *(True, True, True, False, False, False, False)
    ]


def test_a_deadline_that_does_not_reach_the_sdk_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when a release of the HTTP library renames what the deadline rests on."""
    monkeypatch.setattr("safe_llm.deadline._core_of", lambda pool: None)
    found = by_name(code=1)
    assert found["deadline"]["status"] == "failure"
    assert "not total for the sync and async client" in found["deadline"]["found"]


def test_other_ranks_than_openais_are_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(checkup.RANKS, "cl100k_base", ("gpt-4", "0" * 64))
    found = by_name(code=1)
    assert (found["cl100k_base"]["status"], found["o200k_base"]["status"]) == ("failure", "ok")


def test_an_examination_that_breaks_is_a_failure_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(checkup.RANKS, "no_base", ("gpt-4", ""))
    found = by_name(code=1)
    assert found["rank files"]["status"] == "failure"
    assert found["policy"]["status"] == "ok"


def test_old_prices_are_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    class Later(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime.now(tz) + timedelta(days=3650)

    monkeypatch.setattr(checkup, "datetime", Later)
    prices = by_name()["prices"]
    assert (prices["status"], prices["advice"]) == ("warning", "pip install -U genai-prices")


@pytest.mark.parametrize(("key", "status"), [("", "warning"), ("guessable", "warning"), ("k" * 32, "ok")])
def test_the_hash_key_is_judged_and_never_shown(key: str, status: str) -> None:
    finding = by_name(SAFE_LLM_HASH_KEY=key)["hash key"]
    assert finding["status"] == status
    assert not key or key not in json.dumps(finding)


@pytest.mark.parametrize(("text", "status"), [("", "ok"), ('mode = "shadow"', "warning"), ("nonsense = 1", "failure")])
def test_the_policy_is_looked_at_too(tmp_path: Path, text: str, status: str) -> None:
    file = tmp_path / "policy.toml"
    file.write_text(text)
    finding = by_name("--policy", str(file), code=int(status == "failure"))["policy"]
    assert finding["status"] == status


# The store ------------------------------------------------------------------------------------------------------------


def test_no_store_is_a_warning_for_it_is_fine_for_one_process() -> None:
    assert statuses("") == statuses("memory://") == {"store": "warning"}


def test_a_file_that_is_not_there_is_told_and_not_made(tmp_path: Path) -> None:
    assert statuses(f"sqlite:///{tmp_path}/quotas.db") == {"store": "warning"}
    assert statuses(f"sqlite:///{tmp_path}/nowhere/quotas.db") == {"store": "failure"}
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_no_store_and_one_that_others_may_read_are_found(tmp_path: Path, sqlite_url: str) -> None:
    (tmp_path / "text.db").write_text("a text" * 1000)
    assert statuses(f"sqlite:///{tmp_path}/text.db") == {"store": "failure"}
    os.chmod(sqlite_url.removeprefix("sqlite:///"), 0o644)
    assert statuses(sqlite_url)["store's file"] == "warning"


def test_a_full_disk_is_warned_of(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_checkup, "_ROOM", 2**80)
    assert statuses(sqlite_url)["store's disk"] == "warning"


@pytest.mark.parametrize("url", ["redis://walter:hunter2@127.0.0.1:1/0", "postgresql://walter:hunter2@127.0.0.1:1/x"])
def test_a_store_that_is_away_is_a_failure_and_its_password_is_not_shown(url: str) -> None:
    done = invoke("doctor", "--store", url)
    assert done.exit_code == 1
    assert "cannot be used" in done.stdout
    assert "127.0.0.1" in done.stdout
    assert "hunter2" not in done.output
    assert "walter" not in done.output


def test_a_wrong_url_is_a_failure_that_says_how_one_reads() -> None:
    found = by_name("--store", "redix://:hunter2@host", code=1)
    assert "did you mean redis://" in found["store"]["found"]
    assert "hunter2" not in json.dumps(found)


def test_nothing_is_left_counted_in_the_store(application: Any, sqlite_url: str) -> None:
    before = application.guard.usage(user_id="alice")
    assert statuses(sqlite_url)["store"] == "ok"
    assert application.guard.usage(user_id="alice") == before
    assert application.guard.switches() == []


@pytest.mark.parametrize(
    ("off", "status"), [(0.0, "ok"), (-0.9, "ok"), (5.0, "warning"), (-5.0, "warning"), (40.0, "failure")]
)
def test_clocks_that_differ_are_found(off: float, status: str) -> None:
    finding = store_checkup._clock(lambda: time.time() - off)
    assert finding.status == status
    assert (("before" if off > 0 else "behind") in finding.found) is (status != "ok")


# Servers --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def own_redis() -> Iterator[Any]:
    with redis_server() as server:
        yield server


def test_a_redis_without_an_append_only_file_is_warned_of(own_redis: Any) -> None:
    assert statuses(own_redis.url) == {
        "store": "ok",
        "clock": "ok",
        "redis": "ok",
        "eviction": "ok",
        "durability": "warning",
    }
    with own_redis.client() as client:
        client.config_set("appendonly", "yes")
    assert statuses(own_redis.url)["durability"] == "ok"


@pytest.mark.parametrize(
    ("most", "policy", "status"),
    [("0", "allkeys-lru", "ok"), ("1gb", "noeviction", "ok"), ("1gb", "allkeys-lru", "failure")],
)
def test_a_redis_that_may_evict_counters_is_a_failure(own_redis: Any, most: str, policy: str, status: str) -> None:
    with own_redis.client() as client:
        client.config_set("maxmemory-policy", policy)
        client.config_set("maxmemory", most)
    assert statuses(own_redis.url)["eviction"] == status


def test_an_old_redis_is_a_failure() -> None:
    (finding, *_) = store_checkup._redis_settings({"redis_version": "6.0.16", "maxmemory_policy": "noeviction"})
    assert (finding.status, finding.name) == ("failure", "redis")


def test_a_password_that_a_driver_quotes_is_not_shown(own_redis: Any) -> None:
    """Redis's own messages quote no password; whatever does is told by its class alone."""
    from safe_llm.cli.running import reason

    url = with_options("redis://walter:hunt%40er2@host:6379/0", password="s3cret")
    for word in ("hunt@er2", "hunt%40er2", "s3cret"):
        assert reason(ValueError(f"cannot read {word}"), url) == "ValueError"
    assert reason(ValueError("refused by host"), url) == "ValueError: refused by host"


@pytest.fixture(scope="module")
def postgres_url() -> Iterator[str]:
    given = given_postgres()
    if given is not None:
        yield given
        return
    with postgres_server() as server:
        yield server.url


def test_a_postgres_is_looked_at_over_its_own_connection(postgres_url: str) -> None:
    found = statuses(postgres_url)
    assert found.pop("durability") in ("ok", "warning")
    assert found == {"store": "ok", "clock": "ok", "postgres": "ok"}

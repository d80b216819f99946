"""Old records go, a user's records are handed out and erased, and those who write meanwhile lose nothing."""

from __future__ import annotations

import gzip
import json
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from safe_llm import JSONLinesSink, SQLiteSink
from safe_llm.errors import ConfigurationError
from safe_llm.reports.reading import read
from safe_llm.reports.retention import Removed, erase, export, prune
from safe_llm.types import Alert, Event, UsageRecord

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
Make = Callable[..., Path]


def record(number: int = 0, **fields: object) -> UsageRecord:
    values = {"user_id": "ann", "endpoint": "chat.completions", "outcome": "ok", "timestamp": NOW, **fields}
    return UsageRecord.model_validate({"record_id": str(number), **values})


def alert(user: str, **fields: Any) -> Alert:
    values = {"kind": "debt", "timestamp": NOW, "scope": {"user": user}, "message": f"about {user}", **fields}
    return Alert.model_validate(values)


@pytest.fixture(params=["jsonl", "rotated", "gz", "sqlite"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    """Writes events to a file of each kind."""

    def make(*events: Event) -> Path:
        if request.param == "sqlite":
            database = SQLiteSink(tmp_path / "usage.db")
            database.emit_batch(list(events))
            database.close()
            return tmp_path / "usage.db"
        path = tmp_path / "usage.jsonl"
        sink = JSONLinesSink(path, max_bytes=4_096 if request.param == "rotated" else None, keep=1_000)
        for event in events:
            sink.emit(event)
        if request.param == "gz":
            (tmp_path / "usage.jsonl.1.gz").write_bytes(gzip.compress(path.read_bytes()))
            path.write_bytes(b"")
        return path

    return make


def left(path: Path) -> list[str]:
    reading = read(path)
    found = [row["record_id"] for row in reading]
    assert reading.skipped == 0
    return found + [row["message"] for row in reading.alerts]


# What goes and what stays ---------------------------------------------------------------------------------------------


def test_records_and_alerts_of_before_a_moment_go(make: Make) -> None:
    hours = [NOW + timedelta(hours=number) for number in range(20)]
    path = make(*(record(number, timestamp=hour) for number, hour in enumerate(hours)), alert("a"), alert("b"))
    assert prune(path, NOW) == Removed(0, 0)
    assert prune(path, NOW + timedelta(microseconds=1)) == Removed(1, 2)
    assert prune([path], hours[12].timestamp()) == Removed(11, 0)
    assert left(path) == [str(number) for number in range(12, 20)]
    assert prune(path, NOW + timedelta(days=1)) == Removed(8, 0)
    assert left(path) == []


def test_a_users_records_are_handed_out_and_erased_and_nobody_elses(make: Make) -> None:
    users = ["ann", "bob", "an", "ann ", "anné", "Ann"]
    path = make(*(record(number, user_id=users[number % 6]) for number in range(60)), alert("ann"), alert("bob"))
    mine = [str(number) for number in range(0, 60, 6)]
    handed = list(export(path, "ann"))
    assert [row.get("record_id", row.get("message")) for row in handed] == [*mine, "about ann"]
    assert handed[0] == json.loads(record(0).model_dump_json())
    assert erase(path, "ann") == Removed(10, 1)
    assert left(path) == [*(str(number) for number in range(60) if number % 6), "about bob"]
    assert list(export(path, "ann")) == []
    assert erase(path, "ann") == Removed(0, 0)


@pytest.mark.parametrize("user", ['"', "\\", "é\u2028", "\U0001f600", "' OR 1=1 --", "%", "a" * 256])
def test_whatever_a_user_is_called_it_is_that_one_who_is_erased(make: Make, user: str) -> None:
    path = make(record(1, user_id=user), record(2), record(3, user_id=user + "x"), alert(user))
    assert len(list(export(path, user))) == 2
    assert erase(path, user) == Removed(1, 1)
    assert left(path) == ["2", "3"]


def test_nothing_of_an_erased_user_is_left_in_the_files(make: Make, tmp_path: Path) -> None:
    secret = "user-5d1f9c6e"
    path = make(*(record(number, user_id=secret if number % 2 else "bob") for number in range(40)), alert(secret))
    erase(path, secret)
    for entry in tmp_path.iterdir():
        content = entry.read_bytes()
        assert secret.encode() not in (gzip.decompress(content) if entry.suffix == ".gz" else content)


def test_what_others_wrote_otherwise_is_found_and_foreign_and_torn_lines_stay(tmp_path: Path) -> None:
    path = tmp_path / "usage.jsonl"
    escaped = record(1).model_dump_json().replace('"ann"', r'"\u0061nn"')
    foreign = ["not ours, ann", '{"user_id":"ann"}', "[1]", "", '{"record_id":"9","timest']
    torn = '{"record_id":"8","user_id":"ann","feat'
    path.write_text("\n".join([escaped, *foreign, torn, record(2, user_id="bob").model_dump_json(), ""]))
    assert prune(path, NOW - timedelta(1)) == Removed(0, 0)
    assert erase(path, "ann") == Removed(2, 0)
    assert path.read_text().splitlines()[:-1] == foreign
    assert prune(path, NOW + timedelta(1)) == Removed(1, 0)
    assert path.read_text().splitlines() == foreign


def test_an_older_file_of_which_nothing_is_left_goes_whole(tmp_path: Path) -> None:
    path = tmp_path / "usage.jsonl"
    sink = JSONLinesSink(path, max_bytes=4_096)
    for number in range(10):
        sink.emit(record(number, timestamp=NOW + timedelta(hours=number)))
    before = len(list(tmp_path.iterdir()))
    prune(path, NOW + timedelta(hours=8))
    assert 1 <= len(list(tmp_path.iterdir())) < before
    sink.emit(record(10))
    assert left(path) == ["8", "9", "10"]


def test_a_file_keeps_its_mode_and_no_other_is_left_behind(tmp_path: Path) -> None:
    path = tmp_path / "usage.jsonl"
    sink = JSONLinesSink(path)
    for number in range(4):
        sink.emit(record(number, user_id="ann" if number % 2 else "bob"))
    path.chmod(0o640)
    erase(path, "ann")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert [entry.name for entry in tmp_path.iterdir()] == ["usage.jsonl"]


def test_a_file_of_which_nothing_goes_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "usage.jsonl"
    JSONLinesSink(path).emit(record())
    before = path.stat()
    assert erase(path, "bob") == prune(path, NOW) == Removed(0, 0)
    assert path.stat().st_ino == before.st_ino
    assert path.stat().st_mtime_ns == before.st_mtime_ns


def test_a_missing_file_and_a_moment_without_a_time_zone_are_refused(tmp_path: Path) -> None:
    for change in (lambda path: prune(path, 0.0), lambda path: erase(path, "ann")):
        with pytest.raises(ConfigurationError, match=r"nothing\.jsonl"):
            change(tmp_path / "nothing.jsonl")
    with pytest.raises(ConfigurationError, match=r"nothing\.jsonl"):
        export(tmp_path / "nothing.jsonl", "ann")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="needs a time zone"):
        prune(tmp_path / "nothing.jsonl", datetime(2026, 1, 1))


# Beside those who write -----------------------------------------------------------------------------------------------

WRITER = """
import sys
from datetime import datetime, UTC
from safe_llm import JSONLinesSink, SQLiteSink
from safe_llm.types import UsageRecord
who, made = sys.argv[1:]
sink = eval(made)
print("ready", flush=True)
sys.stdin.readline()
for number in range(600):
    user = "ann" if number % 3 else "bob"
    sink.emit(UsageRecord(record_id=f"{who}-{number}", timestamp=datetime.now(UTC), user_id=user, endpoint="chat",
                          outcome="ok"))
"""


@pytest.mark.parametrize(
    "made",
    ["JSONLinesSink({!r})", "JSONLinesSink({!r}, max_bytes=20_000, keep=1_000)", "SQLiteSink({!r})"],
    ids=["jsonl", "rotated", "sqlite"],
)
def test_two_who_erase_beside_two_who_write_cost_nobody_a_record(tmp_path: Path, made: str) -> None:
    path = tmp_path / "usage"
    made, pipe = made.format(str(path)), subprocess.PIPE
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, who, made.format(str(path))], stdin=pipe, stdout=pipe, text=True
        )
        for who in ("w0", "w1")
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    erased = []

    def go_on_erasing() -> None:
        while any(writer.poll() is None for writer in writers):
            erased.append(erase(path, "ann").records)

    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.close()
    threads = [threading.Thread(target=go_on_erasing) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    for writer in writers:
        assert writer.wait(30) == 0
        writer.stdout.close()  # type: ignore[union-attr]
    erased.append(erase(path, "ann").records)
    assert sorted(left(path)) == sorted(f"{who}-{number}" for who in ("w0", "w1") for number in range(0, 600, 3))
    assert sum(erased) == 2 * 400
    assert not [entry for entry in tmp_path.iterdir() if entry.suffix == ".tmp"]


def test_a_sink_of_this_process_goes_on_after_its_file_was_read_and_changed(tmp_path: Path) -> None:
    """Looking into a SQLite file must not take its locks away from a connection of the same process."""
    path = tmp_path / "usage.db"
    sink = SQLiteSink(path)
    for number in range(10):
        sink.emit(record(number, user_id="ann" if number % 2 else "bob"))
        assert len(list(read(path))) == number // 2 + number % 2 + 1
        erase(path, "ann")
    held = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('PRAGMA journal_mode = DELETE')"
    refused = subprocess.run(
        [sys.executable, "-c", held, str(path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert "database is locked" in refused.stderr  # we still hold the file
    sink.close()
    assert left(path) == ["0", "2", "4", "6", "8"]


def test_one_who_is_killed_while_erasing_has_changed_nothing(tmp_path: Path) -> None:
    path = tmp_path / "usage.jsonl"
    sink = JSONLinesSink(path)
    sink.emit_batch([record(number, user_id="ann" if number % 2 else "bob") for number in range(1000)])
    before = path.read_bytes()
    script = """
import os, sys
from safe_llm.reports import retention
os.replace = lambda *_: os._exit(9)
retention.erase(sys.argv[1], "ann")
"""
    assert subprocess.run([sys.executable, "-c", script, str(path)], timeout=60, check=False).returncode == 9
    assert path.read_bytes() == before
    sink.emit(record(1000))
    assert erase(path, "ann") == Removed(501, 0)
    assert os.path.exists(path)

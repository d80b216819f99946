"""JSONLinesSink: a file that several processes may share."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from safe_llm.errors import ConfigurationError
from safe_llm.sinks import Dispatcher, JSONLinesSink, SinkStats
from safe_llm.types import Alert, Sink, UsageRecord

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
ALERT = Alert(kind="debt", timestamp=NOW, message="a provider billed more than was reserved")


def record(number: int = 0, **fields: object) -> UsageRecord:
    values = {"user_id": "u1", "endpoint": "chat.completions", "outcome": "ok", **fields}
    return UsageRecord.model_validate({"record_id": str(number), "timestamp": NOW, **values})


def lines(path: Path) -> list[dict[str, object]]:
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def test_each_event_is_one_line_of_json_from_which_it_can_be_read_again(tmp_path: Path) -> None:
    path = tmp_path / "usage.jsonl"
    events = [record(1, user_id="Zoë\u2028\n", tags={"team": "a\r\nb"}), record(2, cost_usd="0.000000001")]
    sink = JSONLinesSink(path)
    for event in events:
        sink.emit(event)
    with path.open(encoding="utf-8") as file:
        assert [UsageRecord.model_validate_json(line) for line in file] == events


def test_records_have_a_record_id_and_alerts_a_kind_and_never_both(tmp_path: Path) -> None:
    path = tmp_path / "usage.jsonl"
    sink = JSONLinesSink(path)
    sink.emit(record())
    sink.emit(ALERT)
    assert [("record_id" in line, "kind" in line) for line in lines(path)] == [(True, False), (False, True)]


def test_a_line_has_the_fields_of_the_record_and_no_place_for_a_prompt_or_an_answer(tmp_path: Path) -> None:
    path = tmp_path / "usage.jsonl"
    JSONLinesSink(path).emit(record(prompt_hash="ab12", messages=[{"content": "my prompt"}], prompt="my prompt"))
    (line,) = lines(path)
    assert list(line) == list(UsageRecord.model_fields)
    assert "my prompt" not in path.read_text()


def test_the_file_is_made_for_its_owner_alone_and_an_existing_one_keeps_mode_and_content(tmp_path: Path) -> None:
    new, old = tmp_path / "new.jsonl", tmp_path / "old.jsonl"
    old.write_text("{}\n")
    old.chmod(0o640)
    for path in (new, old):
        JSONLinesSink(path).emit(record())
    assert stat.S_IMODE(new.stat().st_mode) == 0o600
    assert stat.S_IMODE(old.stat().st_mode) == 0o640
    assert len(lines(old)) == 2


@pytest.mark.parametrize("place", ["missing/usage.jsonl", "."])
def test_a_path_that_cannot_be_appended_to_is_refused_at_once_and_named(tmp_path: Path, place: str) -> None:
    with pytest.raises(ConfigurationError, match="Name a file in a directory that exists") as caught:
        JSONLinesSink(tmp_path / place)
    assert str(tmp_path) in str(caught.value)
    assert isinstance(caught.value.__cause__, OSError)


def test_a_file_that_was_moved_away_is_left_at_once(tmp_path: Path) -> None:
    path, moved = tmp_path / "usage.jsonl", tmp_path / "usage.jsonl.1"
    sink = JSONLinesSink(path)
    sink.emit(record(1))
    path.rename(moved)
    sink.emit(record(2))
    assert [line["record_id"] for line in lines(moved)] == ["1"]
    assert [line["record_id"] for line in lines(path)] == ["2"]


def test_a_relative_path_stays_where_it_was_when_the_process_moves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sink = JSONLinesSink("usage.jsonl")
    monkeypatch.chdir("/")
    sink.emit(record())
    assert len(lines(tmp_path / "usage.jsonl")) == 1


def test_several_processes_append_whole_lines_to_one_file(tmp_path: Path) -> None:
    path = tmp_path / "usage.jsonl"
    script = """
import sys
from datetime import datetime, UTC
from safe_llm.sinks import *
from safe_llm.types import UsageRecord
dispatcher = Dispatcher([JSONLinesSink(sys.argv[1])])
for number in range(1000):
    dispatcher.emit(UsageRecord(record_id=f"{sys.argv[2]}-{number}", timestamp=datetime.now(UTC), user_id="u" * number,
                                endpoint="chat", outcome="ok"))
"""
    processes = [subprocess.Popen([sys.executable, "-c", script, str(path), str(who)]) for who in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    written = [line["record_id"] for line in lines(path)]
    for who in range(3):
        mine = [identity for identity in written if str(identity).startswith(f"{who}-")]
        assert mine == [f"{who}-{number}" for number in range(1000)]
    assert len(written) == 3000


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="the system does not list descriptors")
def test_no_descriptor_stays_open(tmp_path: Path) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    sink = JSONLinesSink(tmp_path / "usage.jsonl")
    sink.emit(record())
    assert sorted(os.listdir("/proc/self/fd")) == before


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no full disk to offer")
def test_a_full_disk_counts_as_a_failure() -> None:
    dispatcher = Dispatcher([JSONLinesSink("/dev/full")])
    dispatcher.emit(record())
    assert dispatcher.close(30)
    assert dispatcher.stats() == [SinkStats("JSONLinesSink", 0, 1, 0)]


def test_a_write_that_takes_only_part_of_a_line_is_carried_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "usage.jsonl"
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:100]))
    JSONLinesSink(path).emit(record(7))
    assert [line["record_id"] for line in lines(path)] == ["7"]


def test_it_is_a_sink(tmp_path: Path) -> None:
    assert isinstance(JSONLinesSink(tmp_path / "usage.jsonl"), Sink)

"""JSONLinesSink in a crowd: several processes, rotation, and one that is killed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from test_jsonl_sink import ALERT, lines, record
from writers import Writer, assert_complete

from safe_llm.errors import ConfigurationError
from safe_llm.reports.reading import read
from safe_llm.sinks import Dispatcher, JSONLinesSink, SinkStats


def ids(path: Path) -> list[str]:
    return [row["record_id"] for row in read(path)]


def files(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


# Rotation -------------------------------------------------------------------------------------------------------------


def test_a_file_that_would_grow_too_large_is_renamed_and_the_oldest_of_those_goes(tmp_path: Path) -> None:
    path = tmp_path / "usage.jsonl"
    sink = JSONLinesSink(path, max_bytes=8_000, keep=3)
    for number in range(100):
        sink.emit(record(number))
    assert files(tmp_path) == ["usage.jsonl", "usage.jsonl.1", "usage.jsonl.2", "usage.jsonl.3"]
    assert all(entry.stat().st_size <= 8_000 for entry in tmp_path.iterdir())
    left = [int(name) for name in ids(path)]
    assert left == list(range(left[0], 100))
    assert len(left) > 3 * (8_000 // len(record(99).model_dump_json() + "\n"))


def test_a_batch_is_spread_over_as_many_files_as_it_needs(tmp_path: Path) -> None:
    path = tmp_path / "usage.jsonl"
    JSONLinesSink(path, max_bytes=8_000, keep=99).emit_batch([record(number) for number in range(100)])
    assert ids(path) == [str(number) for number in range(100)]
    assert all(entry.stat().st_size <= 8_000 for entry in tmp_path.iterdir())


def test_a_line_that_is_larger_than_a_file_may_be_has_a_file_for_itself(tmp_path: Path) -> None:
    path = tmp_path / "usage.jsonl"
    sink = JSONLinesSink(path, max_bytes=4_096)
    for number, tags in enumerate([{}, {"t": "x" * 9_000}, {}]):
        sink.emit(record(number, tags=tags))
    assert ids(path) == ["0", "1", "2"]
    assert files(tmp_path) == ["usage.jsonl", "usage.jsonl.1", "usage.jsonl.2"]


def test_a_rotation_that_was_cut_short_costs_nothing(tmp_path: Path) -> None:
    """Killed after it had moved the older files: the number 1 is missing, and the current file still in its place."""
    path = tmp_path / "usage.jsonl"
    for number, name in enumerate(["usage.jsonl.3", "usage.jsonl.2", "usage.jsonl"]):
        JSONLinesSink(tmp_path / name).emit(record(number, tags={"t": "x" * 4_000}))
    JSONLinesSink(path, max_bytes=4_096, keep=3).emit(record(3))
    assert ids(path) == ["0", "1", "2", "3"]


@pytest.mark.parametrize("wrong", [{"max_bytes": 100}, {"max_bytes": -1}, {"max_bytes": 10_000, "keep": 0}])
def test_bounds_that_make_no_sense_are_refused(tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigurationError, match="max_bytes of 4096 or more, and keep of 1 or more"):
        JSONLinesSink(tmp_path / "usage.jsonl", **wrong)


def test_what_is_no_file_is_never_rotated(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    sink = JSONLinesSink(pipe, max_bytes=4_096)
    for number in range(20):
        sink.emit(record(number, tags={"t": "x" * 1_000}))
    assert os.read(reader, 1 << 20).count(b"\n") == 20
    os.close(reader)
    assert files(tmp_path) == ["pipe"]


# Torn lines -----------------------------------------------------------------------------------------------------------


def test_the_part_of_a_line_that_a_killed_process_left_spoils_no_other(tmp_path: Path) -> None:
    path = tmp_path / "usage.jsonl"
    JSONLinesSink(path).emit(record(1))
    with path.open("a") as file:
        file.write('{"record_id":"2","times')
    JSONLinesSink(path).emit(record(3))
    reading = read(path)
    assert [row["record_id"] for row in reading] == ["1", "3"]
    assert reading.skipped == 1


def test_a_full_disk_leaves_no_part_of_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "usage.jsonl"
    dispatcher = Dispatcher([JSONLinesSink(path)])
    dispatcher.emit(record(1))
    assert dispatcher.flush(30)
    write = os.write

    def full(file: int, data: bytes) -> int:
        monkeypatch.setattr(os, "write", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        return write(file, data[:50])

    monkeypatch.setattr(os, "write", full)
    dispatcher.emit(record(2))
    assert dispatcher.flush(30)
    monkeypatch.setattr(os, "write", write)
    dispatcher.emit(record(3))
    assert dispatcher.close(30)
    assert [line["record_id"] for line in lines(path)] == ["1", "3"]
    assert dispatcher.stats() == [SinkStats("JSONLinesSink", 2, 1, 0)]


# In a crowd -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limits", ["", ", max_bytes=200_000, keep=1_000"], ids=["one file", "rotated"])
def test_four_processes_lose_and_tear_nothing_though_a_fifth_is_killed(tmp_path: Path, limits: str) -> None:
    path = tmp_path / "usage.jsonl"
    made = f"JSONLinesSink({str(path)!r}{limits})"
    victim = Writer("victim", 10**6, made)
    writers = [Writer(f"w{number}", 3_000, made) for number in range(4)]
    Writer.start(victim, *writers)
    certain = victim.kill_when_busy()
    for writer in writers:
        writer.wait()
    reading = read(path)
    assert_complete((row["record_id"] for row in reading), *writers, killed=victim, certain=certain)
    assert reading.skipped <= 1
    assert sum(alert["message"] != "victim" for alert in reading.alerts) == 4 * 30
    assert (len(files(tmp_path)) > 20) == bool(limits)
    assert all(entry.stat().st_size <= 200_000 for entry in tmp_path.iterdir()) or not limits


@pytest.mark.parametrize("limits", ["", ", max_bytes=4_096, keep=1_000"], ids=["one file", "rotated"])
def test_four_processes_that_write_single_lines_and_rotate_all_the_time_lose_and_tear_nothing(
    tmp_path: Path, limits: str
) -> None:
    path = tmp_path / "usage.jsonl"
    made = f"JSONLinesSink({str(path)!r}{limits})"
    writers = [Writer(f"w{number}", 500, made, directly=True) for number in range(4)]
    Writer.start(*writers)
    for writer in writers:
        writer.wait()
    reading = read(path)
    assert_complete((row["record_id"] for row in reading), *writers)
    assert reading.skipped == 0
    assert (len(files(tmp_path)) > 300) == bool(limits)
    assert all(entry.stat().st_size <= 4_096 for entry in tmp_path.iterdir()) or not limits


def test_a_reader_beside_writers_that_rotate_sees_every_record_once(tmp_path: Path) -> None:
    path = tmp_path / "usage.jsonl"
    made = f"JSONLinesSink({str(path)!r}, max_bytes=50_000, keep=1_000)"
    JSONLinesSink(path).emit(ALERT)
    writers = [Writer(f"w{number}", 2_000, made) for number in range(2)]
    Writer.start(*writers)
    seen = 0
    while any(writer.is_busy for writer in writers):
        reading = read(path)
        found = [row["record_id"] for row in reading]
        assert reading.skipped == 0
        assert len(set(found)) == len(found) >= seen
        seen = len(found)
    for writer in writers:
        writer.wait()
    assert_complete(ids(path), *writers)

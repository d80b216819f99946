"""Records are read back from the files that sinks write, whatever else stands in those."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safe_llm.errors import ConfigurationError
from safe_llm.reports.reading import epoch, nano_usd, read
from safe_llm.sinks import JSONLinesSink
from safe_llm.types import Alert, Event, UsageRecord, usd

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
ALERT = Alert(kind="debt", timestamp=NOW, message="a provider billed more than was reserved")


def record(number: int = 0, **fields: object) -> UsageRecord:
    values = {"user_id": "u1", "endpoint": "chat.completions", "outcome": "ok", **fields}
    return UsageRecord.model_validate({"record_id": str(number), "timestamp": NOW, **values})


def write(path: Path, *events: Event) -> Path:
    sink = JSONLinesSink(path)
    for event in events:
        sink.emit(event)
    return path


def ids(*paths: Path) -> list[str]:
    return [row["record_id"] for row in read(paths)]


def test_a_record_is_read_as_its_json_and_alerts_stand_apart(tmp_path: Path) -> None:
    events = [record(1, cost_usd="0.0000001", tags={"team": "a"}), ALERT, record(2)]
    reading = read(write(tmp_path / "usage.jsonl", *events))
    assert list(reading) == [json.loads(events[0].model_dump_json()), json.loads(events[2].model_dump_json())]
    assert list(reading.alerts) == [json.loads(ALERT.model_dump_json())]
    assert reading.skipped == 0
    assert reading.bytes_read == reading.bytes_total == (tmp_path / "usage.jsonl").stat().st_size


@pytest.mark.parametrize(
    "line",
    [
        *(b'{"record_id":"9","timest', b"\xff\xfe", b"[1]", b"3", b"null", b'"record_id"', b"{}", b'{"kind":"debt"}'),
        *(b'{"record_id":"9"}', b'{"level":"info","message":"hello"}', b"[" * 100_000, b'{"kind":"\\ud800"}'),
        b'{"record_id":"9","timestamp":1,"user_id":"u","endpoint":"e","outcome":"ok"}',
        b'{"record_id":[],"timestamp":[],"user_id":[],"endpoint":[],"outcome":[]}',
    ],
    ids=lambda line: line[:30],
)
def test_a_torn_or_foreign_line_is_skipped_and_counted_and_costs_no_other(tmp_path: Path, line: bytes) -> None:
    path = write(tmp_path / "usage.jsonl", record(1))
    with path.open("ab") as file:
        file.write(line + b"\n\n")
    write(path, record(2))
    reading = read(path)
    assert [row["record_id"] for row in reading] == ["1", "2"]
    assert reading.skipped == 1
    assert not reading.alerts


def test_the_files_that_a_file_was_rotated_into_are_read_with_it_the_oldest_first(tmp_path: Path) -> None:
    path = tmp_path / "usage.jsonl"
    for number in (2, 10):
        write(tmp_path / f"usage.jsonl.{number}", record(number))
    (tmp_path / "usage.jsonl.11.gz").write_bytes(gzip.compress(write(tmp_path / "other", record(11)).read_bytes()))
    write(path, record(0))
    assert ids(path) == ["11", "10", "2", "0"]
    assert ids(*tmp_path.glob("usage.jsonl*")) == ids(path)  # each of them once
    assert ids(tmp_path / "usage.jsonl.2") == ["2"]
    path.unlink()
    assert ids(path) == ["11", "10", "2"]


def test_a_compressed_file_that_was_cut_short_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    whole = gzip.compress(write(tmp_path / "usage.jsonl", *map(record, range(2000))).read_bytes())
    (tmp_path / "cut.gz").write_bytes(whole[: len(whole) // 2])
    reading = read(tmp_path / "cut.gz")
    assert [row["record_id"] for row in reading] == [
        str(number) for number in range(len(list(read(tmp_path / "cut.gz"))))
    ]
    assert reading.skipped == 1


def test_a_missing_or_forbidden_file_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"nothing\.jsonl"):
        read(tmp_path / "nothing.jsonl")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read(tmp_path)


def test_reading_changes_no_file_and_makes_none(tmp_path: Path) -> None:
    path = write(tmp_path / "usage.jsonl", record(1))
    path.chmod(0o400)
    before = path.read_bytes()
    assert ids(path) == ["1"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["usage.jsonl"]
    assert path.read_bytes() == before


@given(st.integers(-(10**18), 10**18))
def test_money_is_read_as_it_was_written(amount: int) -> None:
    row = json.loads(record(cost_usd=usd(amount)).model_dump_json())
    assert nano_usd(row["cost_usd"]) == amount


@pytest.mark.parametrize(
    "amount", [None, "", ".", "x", "NaN", "Infinity", "1E-10", "1..2", "²", 1, 1.5, [], Decimal(1)]
)
def test_what_is_no_amount_of_whole_nano_usd_is_unknown_and_never_zero(amount: object) -> None:
    assert nano_usd(amount) is None


@given(st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1)))
def test_a_timestamp_is_read_as_it_was_written(moment: datetime) -> None:
    moment = moment.replace(tzinfo=UTC)
    row = json.loads(record().model_copy(update={"timestamp": moment}).model_dump_json())
    assert datetime.fromtimestamp(epoch(row["timestamp"]), UTC) - moment < timedelta(microseconds=1)

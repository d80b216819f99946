"""SQLiteSink: records and alerts that can be asked for, in a file that processes share."""

from __future__ import annotations

import json
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from calls import POLICY, all_kinds, done
from hypothesis import given
from hypothesis import strategies as st
from test_jsonl_sink import ALERT, record
from writers import Writer, assert_complete

from safe_llm import SQLiteSink
from safe_llm.errors import ConfigurationError
from safe_llm.reports.reading import nano_usd, read
from safe_llm.sinks import Dispatcher, SinkStats
from safe_llm.stores import open_store
from safe_llm.testing import FakeOpenAI, RecordingSink
from safe_llm.types import UsageRecord, nano, usd

pytestmark = pytest.mark.anyio


@contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path)) as connection:
        connection.row_factory = sqlite3.Row
        yield connection


def asked(path: Path, question: str) -> list[Any]:
    with opened(path) as connection:
        return connection.execute(question).fetchall()


async def test_the_rows_show_what_the_records_show(
    kind: Any, server: FakeOpenAI, sink: RecordingSink, tmp_path: Path
) -> None:
    path = tmp_path / "usage.db"
    client = kind(base_url=server.base_url, api_key="k", policy=POLICY, sinks=[sink, SQLiteSink(path)])
    await all_kinds(client, server)
    await done(client.close())

    rows = asked(path, "SELECT * FROM records ORDER BY rowid")
    assert [UsageRecord.model_validate_json(row["json"]) for row in rows] == sink.records
    for row, each in zip(rows, sink.records, strict=True):
        assert row["time"] == each.timestamp.timestamp()
        assert row["denial_code"] == (each.denial.code if each.denial else None)
        assert row["cost_nano_usd"] == (None if each.cost_usd is None else each.cost_usd * 10**9)
        same = set(row.keys()) & set(UsageRecord.model_fields)
        assert len(same) == 20
        assert {name: row[name] for name in same} == {name: getattr(each, name) for name in same}
    assert list(read(path)) == [json.loads(each.model_dump_json()) for each in sink.records]


def test_its_docstring_says_how_to_ask(tmp_path: Path) -> None:
    sink = SQLiteSink(tmp_path / "usage.db")
    for user, cost in (("ann", "0.1"), ("bob", "0.7"), ("ann", "0.2")):
        sink.emit(record(user_id=user, cost_usd=cost))
    assert SQLiteSink.__doc__ is not None
    question = SQLiteSink.__doc__.split("::")[1].split(";")[0]
    then = record().timestamp.timestamp() + 60
    rows = asked(tmp_path / "usage.db", question.replace("unixepoch()", str(then)))
    assert [tuple(row) for row in rows] == [("bob", 0.7), ("ann", 0.3)]


def test_alerts_have_a_table_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "usage.db"
    dispatcher = Dispatcher([SQLiteSink(path)])
    for event in (record(1), ALERT, record(2)):
        dispatcher.emit(event)
    assert dispatcher.close(30)
    (row,) = asked(path, "SELECT * FROM alerts")
    assert (row["kind"], row["message"], row["time"]) == ("debt", ALERT.message, ALERT.timestamp.timestamp())
    reading = read(path)
    assert [each["record_id"] for each in reading] == ["1", "2"]
    assert list(reading.alerts) == [json.loads(ALERT.model_dump_json())]
    assert (reading.skipped, reading.bytes_read) == (0, reading.bytes_total)


@given(st.integers(-(10**18), 10**18))
def test_money_is_exact(amount: int) -> None:
    from safe_llm.sinks.sqlite import _nano

    assert _nano(usd(amount)) == amount
    assert nano_usd(str(usd(amount))) == amount


def test_sums_of_money_are_exact_where_floats_are_not(tmp_path: Path) -> None:
    sink = SQLiteSink(tmp_path / "usage.db")
    costs = [Decimal("0.1"), Decimal("0.2"), Decimal("1000000.000000001"), None]
    sink.emit_batch([record(cost_usd=cost) for cost in costs])
    (row,) = asked(tmp_path / "usage.db", "SELECT SUM(cost_nano_usd) total, COUNT(cost_nano_usd) known FROM records")
    assert tuple(row) == (nano("1000000.300000001"), 3)


# Processes ------------------------------------------------------------------------------------------------------------


def test_four_processes_lose_nothing_though_a_fifth_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "usage.db"
    made = f"SQLiteSink({str(path)!r})"
    victim = Writer("victim", 10**6, made)
    writers = [Writer(f"w{number}", 3_000, made) for number in range(4)]
    Writer.start(victim, *writers)
    certain = victim.kill_when_busy()
    for writer in writers:
        writer.wait()
    reading = read(path)
    assert_complete((row["record_id"] for row in reading), *writers, killed=victim, certain=certain)
    assert reading.skipped == 0
    assert sum(alert["message"] != "victim" for alert in reading.alerts) == 4 * 30
    assert asked(path, "PRAGMA integrity_check")[0][0] == "ok"


def test_a_forked_child_and_its_parent_both_go_on_writing(tmp_path: Path) -> None:
    path = tmp_path / "usage.db"
    script = """
import os, sys
from datetime import datetime, UTC
from safe_llm import SQLiteSink
from safe_llm.sinks import Dispatcher
from safe_llm.types import UsageRecord
dispatcher = Dispatcher([SQLiteSink(sys.argv[1])])

def emit(who, count):
    for number in range(count):
        dispatcher.emit(UsageRecord(record_id=f"{who}-{number}", timestamp=datetime.now(UTC), user_id="u",
                                    endpoint="chat", outcome="ok"))

emit("before", 300)
children = []
for child in range(3):
    pid = os.fork()
    if not pid:
        emit(f"child{child}", 300)
        sys.exit()
    children.append(pid)
    emit(f"parent{child}", 300)
print([os.waitpid(pid, 0)[1] for pid in children])
"""
    ended = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, timeout=120, check=True
    )
    assert (ended.stdout, ended.stderr) == ("[0, 0, 0]\n", "")
    names = [row["record_id"] for row in read(path)]
    assert len(names) == len(set(names)) == 7 * 300


def test_a_file_that_another_process_keeps_locked_is_waited_for_and_then_counted_as_failed(tmp_path: Path) -> None:
    path = tmp_path / "usage.db"
    dispatcher = Dispatcher([SQLiteSink(path, timeout=0.1)])
    with opened(path) as other:
        other.execute("BEGIN IMMEDIATE")
        dispatcher.emit(record(1))
        assert dispatcher.flush(30)
        other.rollback()
    dispatcher.emit(record(2))
    assert dispatcher.close(30)
    assert [row["record_id"] for row in read(path)] == ["2"]
    assert dispatcher.stats() == [SinkStats("SQLiteSink", 1, 1, 0)]


# Files ----------------------------------------------------------------------------------------------------------------


def test_the_file_is_made_for_its_owner_alone_and_no_side_file_is_left(tmp_path: Path) -> None:
    path = tmp_path / "usage.db"
    sink = SQLiteSink(path)
    sink.emit(record())
    assert {stat.S_IMODE(entry.stat().st_mode) for entry in tmp_path.iterdir()} == {0o600}
    sink.close()
    assert [entry.name for entry in tmp_path.iterdir()] == ["usage.db"]
    sink.emit(record())  # opened again
    sink.close()
    assert len(list(read(path))) == 2


@pytest.mark.parametrize("place", ["missing/usage.db", ".", "text"])
def test_a_file_that_cannot_be_written_is_refused_at_once_and_named(tmp_path: Path, place: str) -> None:
    (tmp_path / "text").write_text("something else " * 100)
    with pytest.raises(ConfigurationError, match="cannot be written") as caught:
        SQLiteSink(tmp_path / place)
    assert str(tmp_path) in str(caught.value)


def test_a_file_of_something_else_is_left_alone(tmp_path: Path) -> None:
    store, other = tmp_path / "store.db", tmp_path / "other.db"
    open_store(f"sqlite:///{store}").close()
    with opened(other) as connection:
        connection.execute("CREATE TABLE mine (x)")
    for path in (store, other):
        before = path.read_bytes()
        with pytest.raises(ConfigurationError, match="belongs to another program"):
            SQLiteSink(path)
        assert path.read_bytes() == before
        with pytest.raises(ConfigurationError, match="Is it SQLiteSink's"):
            list(read(path))


def test_a_file_of_a_newer_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "usage.db"
    SQLiteSink(path).close()
    with opened(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(ConfigurationError, match="the format 99"):
        SQLiteSink(path)


def test_a_relative_path_stays_where_it_was_when_the_process_moves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sink = SQLiteSink("usage.db")
    sink.close()
    monkeypatch.chdir("/")
    sink.emit(record())
    sink.close()
    assert len(list(read(tmp_path / "usage.db"))) == 1


def test_text_that_is_hostile_to_sql_is_text(tmp_path: Path) -> None:
    path = tmp_path / "usage.db"
    user = "x'); DROP TABLE records; --\u2028\x00é"
    SQLiteSink(path).emit(record(user_id=user))
    (row,) = asked(path, "SELECT user_id FROM records")
    assert row["user_id"] == user
    assert [each["user_id"] for each in read(path)] == [user]

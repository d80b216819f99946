"""Processes that write to one file through a sink, all at once, and may be killed."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterable

_SCRIPT = """
import sys
from datetime import datetime, UTC
from safe_llm import JSONLinesSink, SQLiteSink
from safe_llm.sinks import Dispatcher
from safe_llm.types import Alert, UsageRecord

who, count, made, directly = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4] == "True"
sink = eval(made)
dispatcher = Dispatcher([sink])
emit = sink.emit if directly else dispatcher.emit
now = datetime.now(UTC)
print("ready", flush=True)
sys.stdin.readline()
for number in range(count):
    emit(UsageRecord(record_id=f"{who}-{number}", timestamp=now, user_id="u" * (number % 300 + 1),
                     endpoint="chat", outcome="ok", cost_usd="0.000000001"))
    if number % 100 == 0:
        emit(Alert(kind="debt", timestamp=now, message=who))
    if number % 500 == 499:
        dispatcher.flush(60)  # or the queue would overflow
        print(number + 1, flush=True)
"""


class Writer:
    """A process that writes `count` records, named ``who-0``, ``who-1``, …, and an alert with every hundredth.

    Through a dispatcher, in batches as they come, or `directly`, one by one.
    """

    def __init__(self, who: str, count: int, made: str, *, directly: bool = False) -> None:
        command = [sys.executable, "-c", _SCRIPT, who, str(count), made, str(directly)]
        self.who, self.count = who, count
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, bufsize=1)

    @staticmethod
    def start(*writers: Writer) -> None:
        """All of them at once, when all of them are ready."""
        for writer in writers:
            assert writer._process.stdout is not None
            assert writer._process.stdout.readline() == "ready\n"
        for writer in writers:
            assert writer._process.stdin is not None
            writer._process.stdin.write("go\n")

    @property
    def is_busy(self) -> bool:
        return self._process.poll() is None

    def wait(self) -> None:
        """Until it has ended, as it should."""
        self._process.communicate(timeout=120)
        assert self._process.returncode == 0

    def kill_when_busy(self) -> int:
        """Kill it in the middle of its work; how many of its records were certainly delivered."""
        assert self._process.stdout is not None
        delivered = int(self._process.stdout.readline())
        self._process.kill()
        rest = self._process.communicate(timeout=60)[0].split()
        assert self._process.returncode == -9
        return int(rest[-1]) if rest else delivered


def assert_complete(found: Iterable[str], *writers: Writer, killed: Writer | None = None, certain: int = 0) -> None:
    """Every record of the writers is there once, in order; of the one that was killed, those up to some moment."""
    by_writer: dict[str, list[int]] = {}
    for name in found:
        who, _, number = name.partition("-")
        by_writer.setdefault(who, []).append(int(number))
    for writer in writers:
        assert by_writer.pop(writer.who) == list(range(writer.count))
    if killed is not None:
        left = by_writer.pop(killed.who)
        assert left == list(range(len(left)))
        assert certain <= len(left) < killed.count
    assert Counter(by_writer) == Counter()

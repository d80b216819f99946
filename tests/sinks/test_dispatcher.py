"""Events reach the sinks, and no sink reaches the calls."""

from __future__ import annotations

import gc
import logging
import subprocess
import sys
import textwrap
import threading
import time
from collections import deque
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from queue import Queue, SimpleQueue

import pytest

from safe_llm.errors import ConfigurationError
from safe_llm.reports.reading import read
from safe_llm.sinks import Dispatcher, LoggingSink, SinkLike, SinkStats, base
from safe_llm.types import Event, UsageRecord

SECRET = "the exception quotes this"


def record(number: int = 0) -> UsageRecord:
    return UsageRecord(
        record_id=str(number), timestamp=datetime.now(UTC), user_id="user-of-the-event", endpoint="chat", outcome="ok"
    )


def run(script: str, *arguments: str) -> str:
    """The output of a Python process that ends normally, in time, and without a word on stderr."""
    prelude = "import os, sys, time, safe_llm.sinks.base as base; from safe_llm.sinks import *\n"
    done = subprocess.run(
        [sys.executable, "-c", prelude + textwrap.dedent(script), *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout


class Recorder:
    """Keeps events, and in which threads they came."""

    def __init__(self, *, inline: bool = False) -> None:
        self.inline = inline
        self.events: list[Event] = []
        self.threads: set[threading.Thread] = set()
        self.closed = 0

    def emit(self, event: Event) -> None:
        self.threads.add(threading.current_thread())
        self.events.append(event)

    def close(self) -> None:
        self.closed += 1


class Failing:
    inline = False

    def emit(self, event: Event) -> None:
        raise ValueError(SECRET)

    close = None


class FailingInline(Failing):
    inline = True


class Gated:
    """Hangs in each event until the gate is opened."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.entered = threading.Event()
        self.thread: threading.Thread | None = None
        self.events: list[Event] = []

    def emit(self, event: Event) -> None:
        self.thread = threading.current_thread()
        self.entered.set()
        assert self.gate.wait(30)
        self.events.append(event)


# In place, or in a thread -------------------------------------------------------------------------------------------


def test_an_inline_sink_has_the_event_when_emit_returns_in_the_thread_of_the_call() -> None:
    sink = Recorder(inline=True)
    event = record()
    Dispatcher([sink]).emit(event)
    assert sink.events == [event]
    assert sink.threads == {threading.current_thread()}


def test_inline_sinks_are_called_in_the_order_given() -> None:
    order: list[str] = []

    def first(event: Event) -> None:
        order.append("first")

    def second(event: Event) -> None:
        order.append("second")

    first.inline = second.inline = True  # type: ignore[attr-defined]
    dispatcher = Dispatcher([first, second])
    dispatcher.emit(record())
    dispatcher.emit(record())
    assert order == ["first", "second"] * 2


def test_the_append_of_a_list_is_called_in_place() -> None:
    events: list[Event] = []
    last: deque[Event] = deque(maxlen=1)
    queue: SimpleQueue[Event] = SimpleQueue()
    dispatcher = Dispatcher([events.append, last.append, queue.put])
    sent = [record(1), record(2)]
    for event in sent:
        dispatcher.emit(event)
    assert (events, list(last), queue.qsize()) == (sent, sent[1:], 2)


def test_a_callable_that_may_block_is_called_in_another_thread() -> None:
    queue: Queue[tuple[Event, threading.Thread]] = Queue()
    dispatcher = Dispatcher([lambda event: queue.put((event, threading.current_thread()))])
    dispatcher.emit(record())
    _, thread = queue.get(timeout=30)
    assert thread is not threading.current_thread()
    assert thread.daemon


def test_a_queued_sink_gets_every_event_in_order_from_one_thread() -> None:
    sink = Recorder()
    dispatcher = Dispatcher([sink])
    sent = [record(number) for number in range(2_000)]
    for event in sent:
        dispatcher.emit(event)
    assert dispatcher.flush(30)
    assert sink.events == sent
    assert len(sink.threads) == 1


def test_without_an_event_there_is_no_thread() -> None:
    def never_called(event: Event) -> None: ...

    dispatcher = Dispatcher([never_called])
    assert dispatcher.flush(0)
    assert dispatcher.close(0)
    assert not any("never_called" in thread.name for thread in threading.enumerate())
    dispatcher.emit(record())
    assert any("never_called" in thread.name for thread in threading.enumerate())


@pytest.mark.parametrize("sink", [LoggingSink, "stderr", None, 3])
def test_what_cannot_be_a_sink_is_refused_by_name(sink: object) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot be a sink\. Give an object with a method emit"):
        Dispatcher([sink])  # type: ignore[list-item]


def test_a_coroutine_function_is_refused_for_nothing_would_await_it() -> None:
    async def sink(event: Event) -> None: ...

    class Async:
        emit = staticmethod(sink)

    wrong: list[SinkLike] = [sink, Async()]  # type: ignore[list-item]
    for each in wrong:
        with pytest.raises(ConfigurationError, match="not a coroutine function"):
            Dispatcher([each])


# Failing --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("failing", [Failing(), FailingInline()])
def test_a_failing_sink_is_logged_once_and_counted_and_its_neighbours_go_on(
    failing: Failing, caplog: pytest.LogCaptureFixture
) -> None:
    events: list[Event] = []
    dispatcher = Dispatcher([failing, events.append])
    for _ in range(3):
        dispatcher.emit(record())
    assert dispatcher.flush(30)
    name = type(failing).__name__
    assert dispatcher.stats() == [SinkStats(name, 0, 3, 0), SinkStats("list.append", 3, 0, 0)]
    assert [(r.name, r.levelname) for r in caplog.records] == [("safe_llm", "WARNING")]
    assert name in caplog.text
    assert "ValueError" in caplog.text


@pytest.mark.parametrize("failing", [Failing(), FailingInline()])
def test_the_log_of_a_failure_quotes_neither_the_exception_nor_the_event(
    failing: Failing, caplog: pytest.LogCaptureFixture
) -> None:
    dispatcher = Dispatcher([failing])
    dispatcher.emit(record())
    assert dispatcher.flush(30)
    assert caplog.records
    assert all(r.exc_info is None for r in caplog.records)
    assert SECRET not in caplog.text
    assert "user-of-the-event" not in caplog.text


def test_a_logging_filter_that_raises_does_not_fail_the_call() -> None:
    def broken(_: logging.LogRecord) -> bool:
        raise RuntimeError

    logger = logging.getLogger("safe_llm")
    logger.addFilter(broken)
    try:
        dispatcher = Dispatcher([LoggingSink(level=logging.ERROR)])
        dispatcher.emit(record())
    finally:
        logger.removeFilter(broken)
    assert dispatcher.stats() == [SinkStats("LoggingSink", 0, 1, 0)]


def test_a_sink_that_exits_ends_only_its_thread_and_the_next_event_starts_another() -> None:
    script = """
        import threading
        threads = []
        def sink(event):
            threads.append(threading.current_thread())
            if event == "exit":
                sys.exit()
        dispatcher = Dispatcher([sink])
        dispatcher.emit("exit")
        while not threads:
            time.sleep(0.001)
        threads[0].join()
        dispatcher.emit("go on")
        print(dispatcher.flush(20), len(set(threads)))
    """
    assert run(script) == "True 2\n"


def test_where_no_thread_can_be_had_the_event_waits_and_a_flush_delivers_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    sink = Recorder()
    dispatcher = Dispatcher([sink])
    dispatcher.emit(record())
    dispatcher.emit(record())
    assert sink.events == []
    assert dispatcher.close()
    assert len(sink.events) == 2
    assert sink.closed == 1


# Hanging and flooding -------------------------------------------------------------------------------------------------


def test_a_hanging_sink_holds_up_neither_the_call_nor_its_neighbours() -> None:
    hanging, neighbour = Gated(), SimpleQueue[Event]()
    dispatcher = Dispatcher([hanging, lambda event: neighbour.put(event)])
    dispatcher.emit(record())
    assert hanging.entered.wait(30)
    dispatcher.emit(record())
    for _ in range(2):
        neighbour.get(timeout=30)
    assert not dispatcher.flush(0.01)
    assert hanging.events == []
    hanging.gate.set()
    assert dispatcher.flush(30)
    assert len(hanging.events) == 2


def test_a_full_queue_drops_and_counts_and_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    hanging = Gated()
    dispatcher = Dispatcher([hanging], room=5)
    dispatcher.emit(record(0))
    assert hanging.entered.wait(30)  # the first event is in the sink's hands, no longer in the queue
    for number in range(1, 11):
        dispatcher.emit(record(number))
    assert dispatcher.stats() == [SinkStats("Gated", 0, 0, 5)]
    assert [r.levelname for r in caplog.records] == ["WARNING"]
    assert "Gated is too slow" in caplog.text
    hanging.gate.set()
    assert dispatcher.flush(30)
    assert [event.record_id for event in hanging.events if isinstance(event, UsageRecord)] == list("012345")
    assert dispatcher.stats() == [SinkStats("Gated", 6, 0, 5)]


def test_in_a_flood_from_many_threads_every_event_is_delivered_or_counted_as_dropped() -> None:
    delivered: list[Event] = []
    in_place: list[Event] = []
    dispatcher = Dispatcher([lambda event: delivered.append(event), in_place.append], room=20)
    event = record()

    def flood() -> None:
        for _ in range(2_000):
            dispatcher.emit(event)

    threads = [threading.Thread(target=flood) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert dispatcher.flush(30)
    queued, inline = dispatcher.stats()
    assert queued.delivered == len(delivered)
    assert queued.delivered + queued.dropped == 16_000
    assert inline == SinkStats("list.append", 16_000, 0, 0)
    assert len(in_place) == 16_000


def test_what_is_lost_is_told_once_more_in_all_when_the_sinks_are_closed(caplog: pytest.LogCaptureFixture) -> None:
    hanging = Gated()
    dispatcher = Dispatcher([hanging, Failing()], room=5)
    dispatcher.emit(record(0))
    assert hanging.entered.wait(30)
    for number in range(1, 11):
        dispatcher.emit(record(number))
    hanging.gate.set()
    assert dispatcher.close(30)
    assert dispatcher.close(30)
    told = [r.getMessage() for r in caplog.records]
    assert told.count("The sink Gated lost 5 events.") == 1
    lost = dispatcher.stats()[1]
    assert told.count(f"The sink Failing lost {lost.failed + lost.dropped} events.") == 1


def test_whose_time_is_over_before_it_has_taken_all_is_named(caplog: pytest.LogCaptureFixture) -> None:
    hanging, quick = Gated(), Recorder()
    dispatcher = Dispatcher([hanging, quick])
    dispatcher.emit(record(0))
    dispatcher.emit(record(1))
    assert not dispatcher.close(0.2)
    hanging.gate.set()
    assert "Gated was too slow to do all before the end" in caplog.text
    assert "Recorder" not in caplog.text
    assert dispatcher.flush(30)


# In batches, and with what the thread of the call knows ---------------------------------------------------------------


class Batching(Recorder):
    """Takes events together, and fails at some."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.sizes: list[int] = []

    def emit_batch(self, events: list[Event]) -> None:
        assert self.gate.wait(30)
        self.sizes.append(len(events))
        if any(isinstance(event, UsageRecord) and event.record_id == "fail" for event in events):
            raise OSError
        self.events += events


def test_a_sink_may_take_what_waits_in_batches_in_order_and_bounded() -> None:
    sink = Batching()
    dispatcher = Dispatcher([sink])
    sent = [record(number) for number in range(2_000)]
    for event in sent:
        dispatcher.emit(event)
    sink.gate.set()
    assert dispatcher.flush(30)
    assert sink.events == sent
    assert max(sink.sizes) == base.BATCH
    assert len(sink.sizes) <= 2 + 2_000 // base.BATCH
    assert dispatcher.stats() == [SinkStats("Batching", 2_000, 0, 0)]


def test_a_batch_that_fails_counts_whole_and_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    sink = Batching()
    dispatcher = Dispatcher([sink])
    sink.gate.set()
    for _ in range(2):
        for number in ("1", "fail", "2"):
            dispatcher.emit(record().model_copy(update={"record_id": number}))
        assert dispatcher.flush(30)
    delivered, failed = dispatcher.stats()[0][1:3]
    assert failed >= 2
    assert delivered + failed == 6
    assert caplog.text.count("Batching failed with OSError") == 1


def test_a_batch_is_never_left_behind_in_a_flood_from_many_threads() -> None:
    sink = Batching()
    sink.gate.set()
    dispatcher = Dispatcher([sink], room=200)
    threads = [threading.Thread(target=lambda: [dispatcher.emit(record()) for _ in range(500)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert dispatcher.flush(30)
    (stats,) = dispatcher.stats()
    assert stats.delivered == len(sink.events)
    assert stats.delivered + stats.dropped == 4_000


def test_what_a_sink_captures_in_the_thread_of_the_call_comes_with_the_event() -> None:
    who: ContextVar[str] = ContextVar("who")
    seen: list[tuple[str, str, bool]] = []
    main = threading.current_thread()

    class Capturing:
        def capture(self) -> str:
            assert threading.current_thread() is main
            return who.get()

        def emit(self, event: UsageRecord, captured: str) -> None:
            seen.append((event.record_id, captured, threading.current_thread() is main))

    dispatcher = Dispatcher([Capturing()])  # type: ignore[list-item]
    for number, name in enumerate(["ann", "bob"]):
        who.set(name)
        dispatcher.emit(record(number))
    who.set("eve")
    assert dispatcher.flush(30)
    assert seen == [("0", "ann", False), ("1", "bob", False)]


def test_a_capture_that_fails_costs_neither_the_call_nor_the_event(caplog: pytest.LogCaptureFixture) -> None:
    class Capturing(Recorder):
        def capture(self) -> str:
            raise ValueError(SECRET)

    sink = Capturing()
    dispatcher = Dispatcher([sink])
    dispatcher.emit(record())
    dispatcher.emit(record())
    assert dispatcher.flush(30)
    assert len(sink.events) == 2
    assert caplog.text.count("failed to capture, with ValueError") == 1
    assert SECRET not in caplog.text


# Deferred work --------------------------------------------------------------------------------------------------------


def test_one_flush_waits_for_deferred_work_and_for_the_events_that_it_emits() -> None:
    sink = Recorder()
    dispatcher = Dispatcher([sink])
    gate = threading.Event()

    def settle() -> None:
        assert gate.wait(30)
        dispatcher.emit(record())

    dispatcher.defer(settle)
    assert not dispatcher.flush(0.01)
    gate.set()
    assert dispatcher.flush(30)
    assert len(sink.events) == 1


def test_deferred_work_that_fails_is_logged_by_class_and_the_next_is_done(caplog: pytest.LogCaptureFixture) -> None:
    done = threading.Event()

    def settle() -> None:
        raise ValueError(SECRET)

    dispatcher = Dispatcher()
    dispatcher.defer(settle)
    dispatcher.defer(done.set)
    assert dispatcher.flush(30)
    assert done.is_set()
    assert "settle" in caplog.text
    assert "ValueError" in caplog.text
    assert SECRET not in caplog.text


def test_destructors_may_defer_anywhere_even_in_the_middle_of_another_defer() -> None:
    script = """
        import gc
        done = []
        dispatcher = Dispatcher()

        class Stream:
            def __init__(self):
                self.cycle = self  # left to the collector

            def __del__(self):
                dispatcher.defer(lambda: done.append(1))

        gc.set_threshold(1)  # collect at nearly every allocation, those inside defer included
        for round in range(3000):
            Stream()
            dispatcher.defer(lambda: done.append(1))
            if round % 500 == 0:
                dispatcher.close()  # the next destructor has to start the thread
        gc.set_threshold(0)
        gc.collect()
        print(dispatcher.flush(20), len(done))
    """
    assert run(script) == "True 6000\n"


def test_a_destructor_that_defers_while_the_interpreter_is_torn_down_does_not_hang_it() -> None:
    script = """
        class Stream:
            def __del__(self, defer=Dispatcher().defer, say=os.write):
                defer(print)
                say(1, b"deferred")
        sys.modules["a_late_survivor"] = Stream()
    """
    assert run(script) == "deferred"


# Closing, collecting, exiting -----------------------------------------------------------------------------------------


def test_close_delivers_what_is_queued_and_only_then_closes_each_sink_once() -> None:
    class Slow(Recorder):
        def emit(self, event: Event) -> None:
            time.sleep(0.001)
            assert not self.closed
            super().emit(event)

    slow, inline = Slow(), Recorder(inline=True)
    dispatcher = Dispatcher([slow, inline])
    for number in range(20):
        dispatcher.emit(record(number))
    assert dispatcher.close(30)
    assert dispatcher.close(30)
    assert len(slow.events) == len(inline.events) == 20
    assert (slow.closed, inline.closed) == (1, 1)


def test_close_ends_the_threads() -> None:
    sink = Recorder()
    dispatcher = Dispatcher([sink])
    dispatcher.emit(record())
    assert dispatcher.close(30)
    (thread,) = sink.threads
    thread.join(30)
    assert not thread.is_alive()


def test_an_event_after_close_is_delivered_and_the_sink_closed_again() -> None:
    sink = Recorder()
    dispatcher = Dispatcher([sink])
    dispatcher.close(30)
    dispatcher.emit(record())
    assert dispatcher.close(30)
    assert len(sink.events) == 1
    assert sink.closed == 2


def test_no_event_is_lost_between_closing_and_starting_again() -> None:
    sink = Recorder()
    dispatcher = Dispatcher([sink], room=100_000)
    stop = threading.Event()

    def keep_closing() -> None:
        while not stop.is_set():
            dispatcher.close(30)

    closer = threading.Thread(target=keep_closing)
    closer.start()
    event = record()
    for _ in range(5_000):
        dispatcher.emit(event)
    stop.set()
    closer.join()
    assert dispatcher.flush(30)
    assert len(sink.events) == 5_000


def test_close_is_bounded_when_a_sink_hangs() -> None:
    hanging = Gated()
    dispatcher = Dispatcher([hanging])
    dispatcher.emit(record())
    began = time.monotonic()
    assert not dispatcher.close(0.05)
    assert 0.05 <= time.monotonic() - began < 5
    hanging.gate.set()
    assert dispatcher.flush(30)


def test_a_sink_that_fails_to_close_is_logged_and_the_others_are_closed(caplog: pytest.LogCaptureFixture) -> None:
    class Stubborn(Recorder):
        def close(self) -> None:
            raise ValueError(SECRET)

    other = Recorder()
    assert Dispatcher([Stubborn(), Stubborn(inline=True), other]).close(30)
    assert other.closed == 1
    assert caplog.text.count("Stubborn failed to close, with ValueError") == 2
    assert SECRET not in caplog.text


def test_a_collected_dispatcher_still_delivers_and_its_thread_ends() -> None:
    hanging = Gated()
    dispatcher = Dispatcher([hanging])
    dispatcher.emit(record())
    dispatcher.emit(record())
    assert hanging.entered.wait(30)
    del dispatcher
    gc.collect()
    hanging.gate.set()
    assert hanging.thread is not None
    hanging.thread.join(30)
    assert not hanging.thread.is_alive()
    assert len(hanging.events) == 2


def test_a_normal_exit_delivers_what_is_queued_even_of_a_client_that_is_gone() -> None:
    script = """
        class Slow:
            def emit(self, event):
                time.sleep(0.05)
                os.write(1, event)
            def close(self):
                os.write(1, b"closed")

        def main():
            dispatcher = Dispatcher([Slow()])
            for event in (b"1", b"2", b"3"):
                dispatcher.emit(event)
        main()
    """
    assert run(script) == "123closed"


def test_a_normal_exit_does_deferred_work_and_delivers_its_events_before_it_closes_the_sinks() -> None:
    script = """
        class Out:
            def emit(self, event):
                os.write(1, event)
            def close(self):
                os.write(1, b" closed")

        dispatcher = Dispatcher([Out()])
        def settle():
            time.sleep(0.05)
            dispatcher.emit(b"settled")
        dispatcher.defer(settle)
    """
    assert run(script) == "settled closed"


def test_the_end_of_a_forked_multiprocessing_child_is_a_normal_exit() -> None:
    script = """
        import multiprocessing
        dispatcher = Dispatcher([lambda event: (time.sleep(0.05), os.write(1, event))])
        child = multiprocessing.get_context("fork").Process(target=dispatcher.emit, args=(b"child",))
        child.start()
        child.join()
        print("", child.exitcode)
    """
    assert run(script) == "child 0\n"


def test_hanging_sinks_delay_a_normal_exit_by_one_bound_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "EXIT_SECONDS", 0.1)
    hanging = [Gated() for _ in range(100)]
    dispatchers = [Dispatcher([sink]) for sink in hanging]
    for dispatcher in dispatchers:
        dispatcher.emit(record())
    began = time.monotonic()
    base._close_all()
    assert 0.1 <= time.monotonic() - began < 5
    for sink in hanging:
        sink.gate.set()
    assert all(dispatcher.flush(30) for dispatcher in dispatchers)


def test_after_a_fork_the_child_delivers_its_own_events_and_the_parent_those_that_were_queued() -> None:
    script = """
        import threading, warnings
        warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of a fork beside threads, as here
        gate = threading.Event()
        who = "parent"
        def sink(event):
            gate.wait(10)
            os.write(1, f"{who} {event}\\n".encode())
        dispatcher = Dispatcher([sink])
        dispatcher.emit("in hand")
        while dispatcher._outlets[0].worker.backlog:
            time.sleep(0.001)
        dispatcher.emit("queued")
        dispatcher._counting.acquire()  # another thread of the parent may hold it at the fork
        if (child := os.fork()) == 0:
            who = "child"
            gate.set()
            dispatcher.emit("of the child")
            os._exit(not dispatcher.flush(10))
        dispatcher._counting.release()
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        gate.set()
        dispatcher.flush(10)
    """
    assert run(script) == "child of the child\n0\nparent in hand\nparent queued\n"


ENDINGS = {
    "end": "pass",
    "exit": "sys.exit(3)",
    "exception": "raise ValueError",
    "interrupted": "import signal; os.kill(os.getpid(), signal.SIGINT); time.sleep(30)",
    "terminated": "import signal; signal.signal(signal.SIGTERM, lambda *_: sys.exit(3)); "
    "os.kill(os.getpid(), signal.SIGTERM); time.sleep(30)",
    "exit in a thread": "import threading; threading.Thread(target=sys.exit).start()",
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_however_a_process_comes_to_its_end_by_itself_nothing_is_lost(ending: str, tmp_path: Path) -> None:
    """An exit, an exception that nobody catches, an interrupt from the keyboard, SIGTERM where it is made an exit."""
    script = f"""
import os, sys, time
from datetime import datetime, UTC
from safe_llm import JSONLinesSink, SQLiteSink
from safe_llm.sinks import Dispatcher
from safe_llm.types import UsageRecord
dispatcher = Dispatcher([JSONLinesSink(sys.argv[1]), SQLiteSink(sys.argv[2])])
for number in range(3000):
    dispatcher.emit(UsageRecord(record_id=str(number), timestamp=datetime.now(UTC), user_id="u", endpoint="chat",
                                outcome="ok"))
{ENDINGS[ending]}
"""
    paths = [tmp_path / "usage.jsonl", tmp_path / "usage.db"]
    subprocess.run([sys.executable, "-c", script, *map(str, paths)], capture_output=True, timeout=60, check=False)
    for path in paths:
        assert [row["record_id"] for row in read(path)] == [str(number) for number in range(3000)]


def test_an_event_in_the_middle_of_counting_does_not_lock_the_thread() -> None:
    """The garbage collector may end a stream anywhere in a thread, and so emit its record there."""
    script = """
        from safe_llm.testing import RecordingSink
        sink = RecordingSink()
        dispatcher = Dispatcher([sink])
        with dispatcher._counting, sink._lock:
            dispatcher.emit("event")
        print(dispatcher.stats()[0].delivered, len(sink.events))
    """
    assert run(script) == "1 1\n"

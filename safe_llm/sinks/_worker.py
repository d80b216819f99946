"""A thread that does one thing after the other for others who do not wait."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue

from ._exit import be_first

PAUSE = 0.005
"""Seconds that a thread rests when it has done all there was. Being woken for each event would cost the calls, which
share the interpreter with it, more than the work itself; and what comes meanwhile can be done together."""


class Worker:
    """A daemon thread that runs jobs in order. It starts with the first job, and again with one after `stop` or a fork.

    Nothing here waits for a lock that an interrupted frame might hold: `SimpleQueue.put` is re-entrant, `_running` is
    only ever tried, and `Thread.start` takes a re-entrant one. So `put` may be called from a destructor, which can run
    anywhere in its thread, in the middle of another `put` too.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.renew()

    def renew(self) -> None:
        """Starts afresh in a forked child: the thread stayed with the parent, and what is queued will be run there."""
        self._jobs: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._running = threading.Lock()  # held while there is a thread

    @property
    def backlog(self) -> int:
        """Jobs that wait."""
        return self._jobs.qsize()

    def put(self, job: Callable[[], object]) -> None:
        """Runs `job` soon. It must see to its own exceptions."""
        self._jobs.put(job)
        self._wake()

    def mark(self) -> threading.Event:
        """An event that is set once every job put so far is done."""
        done = threading.Event()
        if self._running.locked() or self.backlog:
            self._jobs.put(done.set)
            self._wake(or_run_here=True)
        else:
            done.set()
        return done

    def stop(self) -> None:
        """Ends the thread behind the jobs put so far."""
        if self._running.locked():
            self._jobs.put(None)

    def _wake(self, or_run_here: bool = False) -> None:
        # Once the interpreter is being torn down, Python 3.11 would wait forever for a new thread to begin.
        if sys.is_finalizing() or not self._running.acquire(blocking=False):
            return
        be_first()
        try:
            threading.Thread(target=self._run, name=self.name, daemon=True).start()
        except RuntimeError:  # the system has no more threads, or Python 3.12 is about to exit and allows no more
            if or_run_here:
                self._jobs.put(None)
                self._run()
            else:  # the job waits for the next one, or for a flush
                self._running.release()

    def _run(self) -> None:
        try:
            while (job := self._jobs.get()) is not None:
                job()
                del job  # it would keep the dispatcher alive for as long as the next one is waited for
                if not self.backlog:
                    time.sleep(PAUSE)
        finally:
            self._running.release()
        if self.backlog:  # put after the last job was taken, by one who still saw a thread
            self._wake()

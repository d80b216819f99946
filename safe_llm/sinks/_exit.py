"""What is still to be done at a normal exit: the end of the script, ``sys.exit``, an exception that nobody catches."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable

_functions: list[Callable[[], None]] = []


def before_exit(function: Callable[[], None]) -> Callable[[], None]:
    """Calls `function` at a normal exit, the last one that was given first. It must not raise."""
    _functions.append(function)
    return function


@atexit.register
def _run() -> None:
    for function in reversed(_functions):
        function()


_hooked = 0


def be_first() -> None:
    """Called as late as when there begins to be something to do: hooks of atexit run in reverse order, and what a sink
    delivers to may have one of its own, as OpenTelemetry's providers have, which must run after ours.

    A forked multiprocessing child need not call the hooks of atexit when it ends (Python 3.11 does not), but calls
    finalizers that were made in it. That module is not imported for this: in such a child, it is there.
    """
    global _hooked
    atexit.unregister(_run)
    atexit.register(_run)
    util = sys.modules.get("multiprocessing.util")
    if util is not None and _hooked != os.getpid():
        _hooked = os.getpid()
        util.Finalize(None, _run, exitpriority=0)

"""``make attack``: all abuses against both services, and the table of the two."""

from __future__ import annotations

import sys

from rich.console import Console

from . import ABUSES
from .play import play, show


def main() -> int:
    """Play the abuses whose row or name has one of the arguments, or all; 0 where every one gets through the sprint's
    route and none through the hardened one."""
    console = Console(width=None if sys.stdout.isatty() else 160)
    named = sys.argv[1:]
    chosen = [abuse for abuse in ABUSES if not named or any(name in abuse.id for name in named)]
    with console.status("Playing ..."):
        results = list(play(chosen))
    show(results, console)
    return 0 if all(result.sprint.through and not result.hardened.through for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())

"""The command ``safe-llm``, which comes with ``pip install "safe-llm[cli]"``.

Its commands stand in `app`; nothing here needs the extra, so that a bare install can say what is missing.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line. Exits with 2 where the extra is not installed."""
    try:
        from .app import app
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich"):
            raise
        sys.stderr.write(f'safe-llm needs {error.name}, which is not installed: pip install "safe-llm[cli]"\n')
        raise SystemExit(2) from error
    app(prog_name="safe-llm")

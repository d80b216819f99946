"""Commands, run in this process and in one of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from safe_llm.cli.app import app

ROOT = Path(__file__).parents[2]
CALL: dict[str, Any] = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Say hello."}]}


def invoke(*arguments: str, **environment: str) -> Result:
    """Run a command in this process, with no store and no policy but those of `environment`."""
    env = {"SAFE_LLM_QUOTA_STORE": None, "SAFE_LLM_POLICY": None, "SAFE_LLM_HASH_KEY": None, **environment}
    return CliRunner().invoke(app, list(arguments), env=env, catch_exceptions=False)


def told(*arguments: str, **environment: str) -> Any:
    """The JSON that a command prints which succeeds."""
    done = invoke(*arguments, "--json", **environment)
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


PROGRAM = "from safe_llm.cli import main; main()"


def in_a_process(*arguments: str, program: str = PROGRAM, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command as a shell does."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", program, *arguments],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8", "PATH": "/usr/bin:/bin", **environment},
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )

"""``make example``: the hardened route in a process of its own, asked by curl."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


def run(*command: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run a program from the root of the repository, with no more of an environment than it needs."""
    return subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"] if path is None else path, "PYTHONPATH": f"{ROOT}:{ROOT / 'examples'}"},
        capture_output=True,
        encoding="utf-8",
        timeout=90,
        check=False,
    )


@curl
def test_the_example_shows_each_answer_as_it_is_expected_and_ends_by_itself() -> None:
    done = run("examples/try_hardened_route.py")
    assert (done.returncode, done.stderr) == (0, "")
    for status in (200, 401, 403, 413, 429, 503):
        assert f"HTTP/1.1 {status} " in done.stdout
    assert done.stdout.count("$ curl ") == 12
    assert "retry-after: " in done.stdout.lower()
    assert "text/event-stream" in done.stdout
    assert done.stdout.endswith("Every answer was the one expected.\n")


@curl
def test_the_example_fails_if_an_answer_is_not_the_one_expected() -> None:
    wrong = "import sys, try_hardened_route as t; t.STEPS = (t.STEPS[0]._replace(status=401),); sys.exit(t.main())"
    done = run("-c", wrong)
    assert done.returncode == 1
    assert "EXPECTED 401" in done.stdout
    assert "NOT as expected: an answer" in done.stdout


def test_without_curl_the_example_says_so(tmp_path: Path) -> None:
    done = run("examples/try_hardened_route.py", path=str(tmp_path))
    assert done.returncode == 1
    assert "curl, which is not installed" in done.stdout

"""The SDK's test suite, from its source distribution, run against the SDK that is installed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
import tomllib
from importlib.metadata import version
from pathlib import Path

from .settings import BASE_URL, RESULTS, USE_OURS

CACHE = Path(sys.prefix) / "dropin"
"""Beside the environment that it is for, so both are made anew together."""

_NOT_FOR_TESTS = ("ty", "ruff", "mypy", "pyright", "nox", "pandas-stubs", "types-.*")
"""What the SDK's developers have installed for other work than running tests."""

_NOT_OF_THE_SDK = ("tests/test_uv_workflows.py",)
"""Tests of the repository's own release work; they never load the SDK."""

POLICY = Path(__file__).with_name("policy.toml")
"""For our clients: everything is open, and nothing is limited."""

_ACCOUNTS = ("OPENAI_", "AZURE_", "AWS_", "GOOGLE_", "SAFE_LLM_")
"""What the environment variables of a developer's own accounts and settings begin with; no test is to meet them."""


def prepare() -> Path:
    """The unpacked suite of the SDK that is installed; at first, download it and install what its tests need."""
    release = f"openai-{version('openai')}"
    folder = CACHE / release
    if not folder.exists():
        _pip("download", "--no-deps", "--no-binary=openai", f"--dest={CACHE}", release.replace("-", "=="))
        with tarfile.open(CACHE / f"{release}.tar.gz") as archive:
            archive.extractall(CACHE / "unpacking", filter="data")
        _pip("install", *_requirements(CACHE / "unpacking" / release))
        (CACHE / "unpacking" / release).rename(folder)  # last, so that what stands there is complete
    return folder


def _requirements(folder: Path) -> list[str]:
    """What the SDK's developers install to run its tests, at the versions that they name, and the SDK's extras."""
    project = tomllib.loads((folder / "pyproject.toml").read_text())
    groups, rye = project.get("dependency-groups", {}), project.get("tool", {}).get("rye", {})
    developers = groups.get("dev") or rye["dev-dependencies"]
    others = re.compile(rf"({'|'.join(_NOT_FOR_TESTS)})\b(?!-)")
    extras = ",".join(project["project"]["optional-dependencies"])
    return [
        f"openai[{extras}]=={project['project']['version']}",
        *(requirement for requirement in developers if not others.match(requirement)),
        *("httpx>=0.28,<1", "httpx-aiohttp>=0.1"),  # legacy clients, for which the SDK has tests of its own
        "pytest-timeout>=2.3",
    ]


def _pip(command: str, *arguments: str) -> None:
    quiet = ("--quiet", "--disable-pip-version-check")
    subprocess.run([sys.executable, "-m", "pip", command, *quiet, *arguments], check=True, timeout=900)


def run(folder: Path, name: str, base_url: str, *options: str, ours: bool = False) -> dict[str, str]:
    """Run the suite against a mock of the API; each test's outcome. `ours`: with our classes in place of the SDK's."""
    results = CACHE / f"{name}.json"
    results.unlink(missing_ok=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(_ACCOUNTS)}
    environment |= {"PYTHONPATH": str(Path(__file__).parents[1]), "OPENAI_TEST_LEGACY_HTTPX": "1"}
    environment |= {BASE_URL: base_url, RESULTS: str(results)}
    environment |= {USE_OURS: "1", "SAFE_LLM_POLICY": str(POLICY)} if ours else {}
    command = [
        *(sys.executable, "-m", "pytest", "-p", "dropin.plugin", "-p", "no:cacheprovider"),
        *("--override-ini", "addopts=", "--timeout", "60", "-q", "--tb=short"),
        *(f"--ignore={path}" for path in _NOT_OF_THE_SDK),
        *options,
    ]
    with (CACHE / f"{name}.log").open("w") as log:
        subprocess.run(command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT, timeout=900)
    if not results.exists():
        raise SystemExit(f"The run did not end: see {CACHE / name}.log")
    outcomes: dict[str, str] = json.loads(results.read_text())
    return outcomes

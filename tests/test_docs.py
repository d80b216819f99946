"""What the documents say is true: their code runs, their policies are policies, their tables are those of the classes.

Links between them are checked by `make docs`, which knows the anchors that headings make.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import get_args
from urllib.parse import urlsplit

import pytest
from pydantic import BaseModel

from safe_llm import Alert, ConfigurationError, Policy
from safe_llm.policy import IdentityRules
from safe_llm.testing import FakeOpenAI
from scripts import reference
from scripts.reference import policy

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("docs/*.md"), *ROOT.glob("*.md")])


def blocks(page: Path, language: str) -> Iterator[tuple[int, str]]:
    """The code of a language, indented blocks included, with the number of the line before it."""
    text = page.read_text(encoding="utf-8")
    for block in re.finditer(rf"^( *)```{language}\n(.*?)^\1```$", text, re.S | re.M):
        lines = [line.removeprefix(block[1]) for line in block[2].splitlines()]
        yield text[: block.start(2)].count("\n"), "\n".join(lines) + "\n"


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


def program(page: Path) -> str:
    """All Python of a page as one program, in which each line has the number that it has in the page."""
    code = ""
    for before, block in blocks(page, "python"):
        code += "\n" * (before - code.count("\n")) + block
    return code


@pytest.mark.parametrize("page", [page for page in PAGES if program(page) and page.parent != ROOT], ids=named)
def test_the_python_of_a_page_runs_from_top_to_bottom(page: Path, tmp_path: Path) -> None:
    _, shown = next(blocks(ROOT / "docs/quickstart.md", "toml"))
    (tmp_path / "policy.toml").write_text(shown, encoding="utf-8")
    code = tmp_path / page.with_suffix(".py").name
    code.write_text(program(page), encoding="utf-8")
    with FakeOpenAI() as server:
        environment = {"OPENAI_API_KEY": "none", "OPENAI_BASE_URL": server.base_url, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-W", "error", str(code)],
            cwd=tmp_path,
            env={**environment, "PATH": os.environ["PATH"]},
            capture_output=True,
            encoding="utf-8",
            timeout=60,
            check=False,
        )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "text", [pytest.param(block, id=f"{named(p)}:{n}") for p in PAGES for n, block in blocks(p, "toml")]
)
def test_what_is_shown_as_a_policy_is_one(text: str) -> None:
    assert Policy(**tomllib.loads(text)).version


def test_what_is_no_policy_would_be_found() -> None:
    with pytest.raises(ConfigurationError, match="max_token"):
        test_what_is_shown_as_a_policy_is_one("[output]\nmax_token = 5")


@pytest.mark.parametrize("page", sorted(ROOT.glob("docs/*.md")), ids=named)
def test_the_generated_tables_are_those_of_the_classes(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert reference.renewed(text) == text, "python -m scripts.reference writes them anew"


def test_each_key_of_the_policy_has_its_words_type_and_default_in_the_reference() -> None:
    text = (ROOT / "docs/policy.md").read_text(encoding="utf-8")
    for name, section in [("", Policy), *policy.sections()]:
        for key in section.model_fields:
            assert f"`{key}`" in text or f"`[{key}" in text, (name, key)
    assert ("`required`", "boolean", "`false`", "Deny a call that names no user.") in policy.keys(IdentityRules)


def test_a_key_without_words_stops_the_making_of_the_reference() -> None:
    class Silent(BaseModel):
        key: int = 1

    with pytest.raises(KeyError, match="key"):
        list(policy.keys(Silent))


def test_every_kind_of_alert_is_explained() -> None:
    text = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    kinds = get_args(Alert.model_fields["kind"].annotation)
    assert [kind for kind in kinds if f"| `{kind}` |" not in text] == []


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_external_links_are_well_formed(page: Path) -> None:
    """Whether anybody answers there, a closed network cannot tell."""
    for link in re.findall(r"\]\((\w+:[^)\s]*)\)", page.read_text(encoding="utf-8")):
        url = urlsplit(link)
        assert url.scheme == "https", link
        assert re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)+", url.netloc), link
        assert re.fullmatch(r"[!-~]+", link), link


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_files_that_html_names_are_there(page: Path) -> None:
    """Sphinx checks the links of Markdown, and not those of HTML inside it: pictures for dark and light, say."""
    for path in re.findall(r'(?:src|srcset|href)="([^"#:]+)"', page.read_text(encoding="utf-8")):
        assert (page.parent / path).is_file(), path

"""Sphinx for the Markdown of the whole repository: what reads well on GitHub is the source, unchanged.

The root of the repository is the source folder, so that a link from any of its documents to any other is checked,
anchors included. `make docs` builds it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from sphinx.addnodes import pending_xref

ROOT = Path(__file__).parents[1]

project = "safe_llm"
copyright = "the safe_llm authors"
extensions = ["myst_parser"]
root_doc = "docs/README"
include_patterns = ["*.md", "docs/*.md"]
exclude_patterns = [".*", "benchmarks", "build", "dist", "examples", "safe_llm", "scripts", "tests"]
myst_heading_anchors = 4  # those that GitHub makes
nitpicky = True
html_theme = "furo"
html_title = "safe_llm"
html_copy_source = False
html_show_sourcelink = False
html_additional_pages = {"index": "redirect.html"}  # the root of the site is not the root of the documents
templates_path = ["_templates"]


def add_contents(app: Any, docname: str, source: list[str]) -> None:
    """The pages of the site, in order, are those that the first one links."""
    if docname == root_doc:
        pages = dict.fromkeys(re.findall(r"\]\(([^)#]+)\.md\)", source[0]))
        source[0] += "\n".join(["\n```{toctree}", ":hidden:", "", *pages, "```", ""])


def leave_folders(app: Any, doctree: Any) -> None:
    """A folder has a page on GitHub and none here: what links it stays as text."""
    here = (ROOT / app.env.current_document.docname).parent
    for link in list(doctree.findall(pending_xref)):
        if link["reftype"] == "myst" and (here / link["reftarget"]).is_dir():
            link.replace_self(link.children)


def setup(app: Any) -> None:
    app.connect("source-read", add_contents)
    app.connect("doctree-read", leave_folders)

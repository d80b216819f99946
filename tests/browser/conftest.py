"""A headless Chromium, and pages of many kinds opened in it from disk."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

sys.path.insert(0, str(Path(__file__).parents[1] / "reports"))

from kinds import KINDS
from made_records import month_of_alerts

from safe_llm.reports.overview import Overview
from safe_llm.reports.page import Report, render
from safe_llm.reports.steering import Steering

ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)
"""Without these, it looks for updates and other hosts by itself."""


@dataclass
class Opened:
    """A page, and what it complained of or asked for while it was open."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    assert chromium, "there is no chromium: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(ARGUMENTS))
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The files of all kinds of pages."""
    folder = tmp_path_factory.mktemp("pages")
    found = {}
    for kind, records in KINDS.items():
        overview = Overview().read(records())
        steering = Steering.of(month_of_alerts() if kind == "month" else (), overview.calendar, overview.span)
        found[kind] = folder / f"{kind}.html"
        found[kind].write_text(render(Report(overview, steering, ["usage.jsonl"])), encoding="utf-8")
    return found


@pytest.fixture
def opened(browser: Browser, pages: dict[str, Path]) -> Callable[..., Any]:
    """Open a kind of page: ``with opened("month", width=390) as it``."""

    @contextmanager
    def open_page(kind: str, *, width: int = 1280, scheme: Any = "light", scripts: bool = True) -> Iterator[Opened]:
        is_phone = width < 600
        context = browser.new_context(
            viewport={"width": width, "height": 844 if is_phone else 900},
            color_scheme=scheme,
            is_mobile=is_phone,
            has_touch=is_phone,
            java_script_enabled=scripts,
        )
        it = Opened(context.new_page())
        it.page.on("console", lambda message: it.complaints.append(message.text))
        it.page.on("pageerror", lambda error: it.complaints.append(str(error)))
        it.page.on("dialog", lambda dialog: it.complaints.append(dialog.message))
        it.page.on("request", lambda request: it.requests.append(request.url))
        it.page.goto(pages[kind].as_uri())
        if scripts:
            it.page.wait_for_selector("html[data-drawn]", timeout=30_000)
        yield it
        context.close()

    return open_page

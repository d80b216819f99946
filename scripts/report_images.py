"""Takes the pictures of the report that the README shows, of a page that ``safe-llm report`` has written.

make test-page                                                    # installs the browser and what drives it
.venv-browser/bin/python -m scripts.report_images report.html     # into docs/images
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

IMAGES = Path(__file__).parents[1] / "docs" / "images"
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]

DESKTOP: dict[str, Any] = {"viewport": {"width": 1280, "height": 1180}}
PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "device_scale_factor": 1.5}


def opened(browser: Browser, page: Path, scheme: Any, device: dict[str, Any]) -> Page:
    tab = browser.new_context(color_scheme=scheme, **device).new_page()
    tab.goto(page.resolve().as_uri())
    tab.wait_for_selector("html[data-drawn]", timeout=60_000)
    return tab


def scroll(tab: Page, id: str, above: int) -> None:
    tab.evaluate(f"window.scrollTo(0, document.getElementById('{id}').getBoundingClientRect().top - {above})")
    tab.wait_for_timeout(300)


def main() -> None:
    page = Path(sys.argv[1])
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=ARGUMENTS)
        IMAGES.mkdir(parents=True, exist_ok=True)
        opened(browser, page, "light", DESKTOP).screenshot(path=IMAGES / "report-light.png")
        tab = opened(browser, page, "dark", DESKTOP)
        scroll(tab, "title-speed", 100)
        tab.screenshot(path=IMAGES / "report-dark.png")
        for name, scheme, id in (
            ("phone-light", "light", "title-highlights"),
            ("phone-dark", "dark", "title-spending"),
        ):
            tab = opened(browser, page, scheme, PHONE)
            scroll(tab, id, 24)
            tab.screenshot(path=IMAGES / f"report-{name}.png")
        browser.close()


if __name__ == "__main__":
    main()

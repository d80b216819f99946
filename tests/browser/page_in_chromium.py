"""The page in a real browser: every chart is drawn, filters are exact, nothing is asked of a network.

Not part of ``make test``, which needs no browser: ``make test-page``.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from kinds import KINDS
from made_records import HOSTILE, month
from playwright.sync_api import Page

from safe_llm.reports.facts import EXACT
from safe_llm.reports.words import visible

Open = Callable[..., Any]

CHARTS = {"spend": "bar", "tokens": "bar", "denials": "bar", "latency": "scatter", "first_token": "scatter"}
SIZES = [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")]


def tables(page: Page) -> Any:
    """The texts and exact values of all tables, row by row, without bars."""
    return page.evaluate(
        """() => Object.fromEntries([...document.querySelectorAll("table")].map((table) => [
          table.id,
          [...table.rows].map((row) => [...row.cells].map((cell) => {
            const data = cell.querySelector("data");
            const bar = cell.querySelector("rect");
            return [cell.textContent, data && data.value, bar && Number(bar.getAttribute("width")).toFixed(1)];
          })),
        ]))"""
    )


def drawn(page: Page, id: str) -> int:
    """How many bars or lines of a chart can be seen."""
    marks = {"bar": ".bars .point path", "scatter": ".scatterlayer .lines path, .scatterlayer .points path"}[CHARTS[id]]
    return int(
        page.evaluate(
            """([id, marks]) => {
              const seen = (box) => box.width + box.height > 1;
              const found = [...document.querySelectorAll(`#chart-${id} :is(${marks})`)];
              return found.filter((mark) => seen(mark.getBoundingClientRect())).length;
            }""",
            [id, marks],
        )
    )


def cost(records: list[Any]) -> Decimal:
    whole = Decimal(0)
    for record in records:
        whole = EXACT.add(whole, Decimal(record["cost_usd"] or 0))
    return whole


# Drawn ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "scheme"), SIZES)
def test_every_chart_is_drawn_and_nothing_is_complained_of(opened: Open, width: int, scheme: str) -> None:
    with opened("month", width=width, scheme=scheme) as it:
        assert {id: drawn(it.page, id) > 0 for id in CHARTS} == dict.fromkeys(CHARTS, True)
        assert drawn(it.page, "spend") > 60
        assert it.page.locator("#chart-spend .scatterlayer .point").count() == 3, "days with alerts are marked"
        assert it.page.evaluate("document.documentElement.scrollWidth") == width, "nothing is wider than the screen"
        for id in CHARTS:
            box = it.page.locator(f"#chart-{id} .main-svg").first.bounding_box()
            assert box
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= width
        assert it.complaints == []
        assert len(it.requests) == 1, "the file itself"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [1280, 390])
def test_little_much_and_unknown_are_drawn_without_complaint(opened: Open, kind: str, width: int) -> None:
    with opened(kind, width=width) as it:
        assert it.complaints == []
        assert it.page.evaluate("document.documentElement.scrollWidth") == width


@pytest.mark.parametrize("kind", KINDS)
def test_scripts_change_no_table_as_long_as_nothing_is_filtered(opened: Open, kind: str) -> None:
    with opened(kind, scripts=False) as still, opened(kind) as live:
        assert tables(live.page) == tables(still.page)
        for figure in ("spend", "calls", "tokens", "denied", "failed", "speed"):
            for part in ("value", "rest"):
                selector = f"#figure-{figure}-{part}"
                assert live.page.text_content(selector) == still.page.text_content(selector)


def until(page: Page, expression: str) -> None:
    """Wait for something to become true. Playwright's own way evaluates text in the page, which its policy forbids."""
    for _ in range(250):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(20)
    raise AssertionError(expression)


def test_colours_follow_what_is_chosen(opened: Open) -> None:
    with opened("month", scheme="light") as it:
        background = "getComputedStyle(document.body).backgroundColor"
        fill = "getComputedStyle(document.querySelector('#chart-spend .bars .point path')).fill"
        light = it.page.evaluate(f"[{background}, {fill}]")
        it.page.select_option("#appearance", "dark")
        until(it.page, f"{fill} !== {light[1]!r}")
        assert it.page.evaluate(background) != light[0]
        assert it.complaints == []


# Filtered -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("chosen", "holds"),
    [
        ({"feature": "review"}, lambda r: r["feature"] == "review"),
        ({"feature": "(none)"}, lambda r: r["feature"] is None),
        ({"model": "gpt-4o", "plan": "pro"}, lambda r: (r["model"], r["plan"]) == ("gpt-4o", "pro")),
        (
            {"from": "10 Nov 2026", "until": "12 Nov 2026"},
            lambda r: "2026-11-10" <= r["timestamp"][:10] <= "2026-11-12",
        ),
        ({"feature": visible(HOSTILE[0])}, lambda r: r["feature"] == HOSTILE[0]),
        ({"model": "my-deployment"}, lambda r: r["model"] == "my-deployment"),
        ({"feature": "review", "model": "my-deployment"}, lambda r: False),
    ],
)
def test_a_filter_leaves_exactly_the_records_that_it_names(opened: Open, chosen: dict[str, str], holds: Any) -> None:
    records = [record for record in month() if holds(record)]
    with opened("month") as it:
        for id, label in chosen.items():
            it.page.select_option(f"#filter-{id}", label=label)
        found = tables(it.page)
        for id in ("users", "features", "models", "plans"):
            *rows, foot = found[f"table-{id}"][1:]
            assert Decimal(foot[1][1]) == cost(records)
            assert foot[3][0] == f"{len(records):,}"
            assert sum(int(row[3][0].replace(",", "")) for row in rows) == len(records)
            assert EXACT.add(cost([]), sum(Decimal(row[1][1]) for row in rows)) == cost(records)
        spend = it.page.get_attribute("#figure-spend-value data", "value")
        assert Decimal(spend) == cost(records)
        assert it.page.text_content("#status") == f"{len(records):,} of {len(list(month())):,} calls are shown."
        assert it.complaints == []


def test_the_leaders_of_a_filtered_day_are_its_own(opened: Open) -> None:
    by_user: dict[str, list[Any]] = {}
    for record in month():
        if record["timestamp"].startswith("2026-11-20"):
            by_user.setdefault(record["user_id"], []).append(record)
    ranked = sorted(by_user, key=lambda user: (cost(by_user[user]), len(by_user[user])), reverse=True)
    with opened("month") as it:
        it.page.select_option("#filter-until", label="20 Nov 2026")
        it.page.select_option("#filter-from", label="20 Nov 2026")
        rows = tables(it.page)["table-users"][1:11]
        assert [Decimal(row[1][1]) for row in rows] == [cost(by_user[user]) for user in ranked[:10]]


def test_reset_shows_everything_again(opened: Open) -> None:
    with opened("month") as it:
        before = tables(it.page)
        it.page.select_option("#filter-feature", label="chat")
        assert tables(it.page) != before
        it.page.click("button[type=reset]")
        until(it.page, "document.getElementById('status').textContent.startsWith('All')")
        assert tables(it.page) == before


def test_a_period_never_ends_before_it_begins(opened: Open) -> None:
    with opened("month") as it:
        it.page.select_option("#filter-until", label="5 Nov 2026")
        it.page.select_option("#filter-from", label="9 Nov 2026")
        assert it.page.evaluate("document.getElementById('filter-until').selectedOptions[0].label") == "9 Nov 2026"


# For everybody --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "scheme"), SIZES)
def test_no_rule_of_accessibility_is_broken(opened: Open, width: int, scheme: str) -> None:
    """Contrast, names, order of headings and the rest of what axe can see, with the tables open."""
    with opened("month", width=width, scheme=scheme) as it:
        it.page.evaluate("document.querySelectorAll('details').forEach((details) => { details.open = true; })")
        found = Axe().run(it.page).response["violations"]
        assert [(rule["id"], [node["html"][:200] for node in rule["nodes"][:3]]) for rule in found] == []


def test_the_keyboard_reaches_everything_in_order(opened: Open) -> None:
    with opened("month") as it:
        names = []
        for _ in range(9):
            it.page.keyboard.press("Tab")
            names.append(it.page.evaluate("document.activeElement.id || document.activeElement.textContent"))
        filters = [f"filter-{id}" for id in ("feature", "model", "plan", "from", "until")]
        assert names[:8] == ["Skip to the report", "appearance", *filters, "Reset"]
        outline = it.page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none"


# Nobody's names do anything -------------------------------------------------------------------------------------------


def test_names_and_foreign_scripts_do_nothing(opened: Open) -> None:
    with opened("month") as it:
        for name in HOSTILE:
            it.page.select_option("#filter-feature", label=visible(name))
            box = it.page.locator("#chart-spend").bounding_box()
            assert box
            it.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        assert it.page.title() == "LLM usage report"
        assert it.page.locator("img, .chart a").count() == 0
        assert it.complaints == []
        it.page.evaluate(
            """() => { const script = document.createElement("script");
            script.textContent = "document.title = 'owned'"; document.body.append(script); }"""
        )
        assert it.page.title() == "LLM usage report"
        reached = it.page.evaluate("fetch('http://127.0.0.1:9/').then(() => 'reached', () => 'refused')")
        assert reached == "refused"
        assert "Content Security Policy" in " ".join(it.complaints)


def test_the_page_holds_plotly_as_it_was_shipped(pages: dict[str, Path]) -> None:
    import plotly.offline

    assert plotly.offline.get_plotlyjs() in pages["one"].read_text(encoding="utf-8")

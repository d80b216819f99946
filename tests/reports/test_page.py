"""The page is one file that needs nothing else, says what the records say, and lets no name in them do anything."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable
from datetime import timedelta
from decimal import Decimal
from functools import reduce
from html.parser import HTMLParser
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from made_records import HOSTILE, START, alert, denied, month, month_of_alerts, record
from strategies import RECORDS, expected

from safe_llm.reports.data import embedded
from safe_llm.reports.facts import EXACT
from safe_llm.reports.overview import Overview
from safe_llm.reports.page import Report, render
from safe_llm.reports.sheets import sheets
from safe_llm.reports.steering import Steering
from safe_llm.reports.words import visible

TABLES = ("spend", "users", "features", "models", "plans", "tokens", "latency", "first_token", "denials", "limits")
CHARTS = ("spend", "tokens", "latency", "first_token", "denials")
VOID = {"meta", "link", "br", "hr", "img", "input", "rect"}


class Page(HTMLParser):
    """What a page holds: elements with their attributes and texts, scripts, and rows of tables."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.scripts: list[tuple[dict[str, str], str]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.texts: list[str] = []
        self.values: dict[str, list[str]] = {}
        self.open: list[str] = []
        self._table = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        self.elements.append((tag, attributes))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "script":
            self.scripts.append((attributes, ""))
        if tag == "table":
            self._table = attributes["id"].removeprefix("table-")
            self.tables[self._table] = []
            self.values[self._table] = []
        if tag == "tr":
            self.tables[self._table].append([])
        if tag in ("th", "td"):
            self.tables[self._table][-1].append("")
        if tag == "data" and "table" in self.open:
            self.values[self._table].append(attributes["value"])

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["script"]:
            attributes, text = self.scripts[-1]
            self.scripts[-1] = (attributes, text + data)
        elif "style" not in self.open:
            self.texts.append(data)
            if "th" in self.open or "td" in self.open:
                self.tables[self._table][-1][-1] += data

    @property
    def text(self) -> str:
        return " ".join("".join(self.texts).split())

    @property
    def data(self) -> Any:
        (found,) = [text for attributes, text in self.scripts if attributes.get("id") == "data"]
        return json.loads(found)

    def with_id(self, id: str) -> tuple[str, dict[str, str]]:
        (found,) = [element for element in self.elements if element[1].get("id") == id]
        return found


def reported(records: Iterable[Any], alerts: Iterable[Any] = (), **fields: Any) -> str:
    overview = Overview().read(records)
    steering = Steering.of(alerts, overview.calendar, overview.span)
    return render(Report(overview, steering, ["usage.jsonl"], **fields))


@pytest.fixture(scope="module")
def html() -> str:
    return reported(month(), month_of_alerts(), skipped=3)


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


# One file -------------------------------------------------------------------------------------------------------------


def test_the_page_names_no_other_file_and_no_address(html: str, page: Page) -> None:
    for tag, attributes in page.elements:
        assert tag not in ("img", "iframe", "object", "embed", "base", "audio", "video", "source")
        assert "src" not in attributes, "nothing is loaded"
        for name in ("href", "action", "formaction", "poster", "srcset", "xlink:href"):
            assert attributes.get(name, "#").startswith(("#", "data:,"))
    style = html[html.index("<style>") : html.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style


def test_only_the_pages_own_scripts_can_run(page: Page) -> None:
    (policy,) = [a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    directives = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert directives["default-src"] == "'none'"
    assert directives["base-uri"] == directives["form-action"] == "'none'"
    assert "connect-src" not in directives
    run = [text for attributes, text in page.scripts if attributes.get("type") != "application/json"]
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in run]
    assert directives["script-src"] == " ".join(f"'sha256-{found}'" for found in hashes)


def test_there_is_no_handler_and_no_style_in_an_attribute(page: Page) -> None:
    for _, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on") or name == "style"]


# For everybody --------------------------------------------------------------------------------------------------------


def test_the_page_has_landmarks_a_language_and_a_title(page: Page) -> None:
    tags = [tag for tag, _ in page.elements]
    assert [tags.count(tag) for tag in ("header", "main", "footer", "h1", "title")] == [1] * 5
    assert ("html", {"lang": "en"}) in page.elements
    headings = [int(tag[1]) for tag in tags if re.fullmatch("h[1-6]", tag)]
    assert all(after <= before + 1 for before, after in pairwise(headings))


def test_every_control_and_every_section_has_a_name(page: Page) -> None:
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    labelled = {attributes["for"] for tag, attributes in page.elements if tag == "label"}
    for tag, attributes in page.elements:
        if tag == "select":
            assert attributes["id"] in labelled
        if tag in ("section", "figure", "form") or "tabindex" in attributes:
            named = attributes.get("aria-labelledby")
            assert named in ids if named else attributes["aria-label"]


@pytest.mark.parametrize("id", CHARTS)
def test_every_chart_says_what_it_shows_and_has_a_table(page: Page, id: str) -> None:
    _, attributes = page.with_id(f"chart-{id}")
    assert attributes["role"] == "img"
    assert attributes["aria-label"]
    assert len(page.tables[id]) > 2


def test_all_tables_are_there_with_headings_and_captions(page: Page) -> None:
    assert set(page.tables) == set(TABLES)
    for rows in page.tables.values():
        assert len({len(row) for row in rows}) == 1
    tags = [tag for tag, _ in page.elements]
    assert tags.count("caption") == len(TABLES)
    assert all(attributes.get("scope") in ("col", "row") for tag, attributes in page.elements if tag == "th")


# True -----------------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(RECORDS)
def test_tables_and_data_add_up_to_the_records_exactly(records: list[dict[str, Any]]) -> None:
    overview = Overview().read(records)
    calls, given_, written, cost, unpriced = expected(records)
    for id, sheet in sheets(overview).items():
        if id in ("users", "features", "models", "plans"):
            assert Decimal(sheet.foot[1].exact or "") == cost
            assert sheet.foot[3].text == f"{calls:,}"
            assert reduce(EXACT.add, (Decimal(row[1].exact or "") for row in sheet.rows), Decimal(0)) == cost
            assert sum(int(row[3].text.replace(",", "")) for row in sheet.rows) == calls
            assert sum(int(row[5].exact or "") for row in sheet.rows) == given_ + written
        if id == "spend":
            assert Decimal(sheet.foot[1].exact or "") == cost
    data = embedded(overview, Steering())
    units = sum(int(cell[11]) for cell in data["cells"])
    assert EXACT.scaleb(Decimal(units), -data["places"]) == cost
    assert sum(cell[4] for cell in data["cells"]) == calls
    assert sum(cell[10] for cell in data["cells"]) == unpriced


def test_the_page_shows_the_exact_sum(page: Page) -> None:
    records = list(month())
    cost = expected(records)[3]
    value = f"{cost:f}".rstrip("0")
    assert value in page.values["users"]
    assert f"{len(records):,} calls" in page.text


def test_rankings_name_the_dearest_first_and_end_with_all(page: Page) -> None:
    _, first, *_, last = page.tables["models"]
    assert first[0] == "gpt-4o"
    assert last[0] == "All"
    assert last[2] == "100 %"


def test_what_is_not_known_is_said(page: Page) -> None:
    assert "The price of 1 call is not known: it is in no sum of money." in page.text
    assert "The usage of 30 calls was not told by the provider" in page.text
    assert "3 lines of the files could not be read as records." in page.text


def test_where_prices_are_unknown_sums_are_lower_bounds() -> None:
    page = Page(reported([record(cost_usd=None), record(model="b", cost_usd=Decimal(2))]))
    assert "≥ $2.00" in page.text
    assert {row[0]: row[1] for row in page.tables["models"][1:]} == {
        "b": "$2.00",
        "gpt-4o-mini": "unknown",
        "All": "≥ $2.00",
    }


def test_shadow_mode_is_told_from_denials() -> None:
    page = Page(reported([denied(outcome="ok"), denied(), record()]))
    assert page.tables["denials"][1:] == [["10 requests/minute", "1", "100 %", "1"], ["All", "1", "100 %", "1"]]
    assert "would have been denied, had the policy not been in shadow mode" in page.text


def test_alerts_and_limits_stand_on_the_page(page: Page) -> None:
    assert "2026-11-11 14:00 Unusual volume alice" in page.text
    assert "User 'alice' has made 96 calls in this hour; usual are 2." in page.text
    assert page.tables["limits"][1][:4] == ["$0.50/day", "alice", "100 %", "1"]


def test_a_filter_offers_every_feature_model_plan_and_day(page: Page) -> None:
    data = page.data
    options = [a for tag, a in page.elements if tag == "option"]
    assert len(options) == 3 + 3 + sum(len(data["names"][f]) for f in data["names"]) + 2 * len(data["whens"])
    assert len(data["whens"]) == 30


def test_days_without_calls_have_their_place() -> None:
    data = Page(reported([record(), record(START + timedelta(days=200))])).data
    assert len(data["whens"]) == 201


# Nobody's names do anything -------------------------------------------------------------------------------------------


def test_names_are_shown_and_nothing_else(html: str, page: Page) -> None:
    shown = {row[0] for table in ("features", "models", "plans", "denials") for row in page.tables[table]}
    shown |= {text for names in page.data["names"].values() for text, _ in names}
    for name in HOSTILE:
        assert visible(name) in shown
    assert not [tag for tag, _ in page.elements if tag in ("b", "a") and _.get("href", "#main") != "#main"]
    assert "\u202e" not in html
    assert "\x1b" not in html
    assert "49" not in {row[0] for row in page.tables["features"]}, "no name is a template"


def test_a_name_in_an_alert_or_a_file_is_shown_and_nothing_else() -> None:
    name = HOSTILE[1]
    overview = Overview().read([record()])
    steering = Steering.of(
        [alert(message=name, scope={name: name}), alert(kind="limit_threshold", limit=name, percent=90, message="")],
        overview.calendar,
        overview.span,
    )
    page = Page(render(Report(overview, steering, [name])))
    assert page.text.count(name) == 5
    assert not [tag for tag, _ in page.elements if tag == "img"]


def test_the_page_has_no_hash_of_a_prompt_and_no_request_id() -> None:
    html = reported([record(prompt_hash="feedfacecafe", request_id="req_1234", session_id="session-1234")])
    assert not [text for text in ("feedfacecafe", "req_1234", "session-1234") if text in html]


# Little and much ------------------------------------------------------------------------------------------------------


def test_no_record_is_a_page_that_says_so() -> None:
    page = Page(reported([]))
    assert "Nothing to report" in page.text
    assert "No records" in page.text


def test_alerts_without_records_are_shown() -> None:
    assert "Unusual volume" in Page(reported([], [alert()])).text


def test_many_names_are_folded_and_still_add_up() -> None:
    records = [record(feature=f"f{n}", model=f"m{n}", plan=f"p{n}", user_id=f"u{n}") for n in range(200)]
    page = Page(reported(records))
    assert len(page.data["names"]["feature"]) == 25
    assert sum(cell[4] for cell in page.data["cells"]) == 200
    assert page.tables["features"][-2][0] == "(others)"


def test_many_users_and_days_keep_the_page_small() -> None:
    records = [
        record(START + timedelta(days=day), f"u{day * 31 % 997}-{number}", feature=f"f{number}")
        for day in range(300)
        for number in range(20)
    ]
    assert len(reported(records)) - len(reported([])) < 6_000_000


def test_more_rules_than_can_be_kept_are_folded_and_still_add_up() -> None:
    records = [denied(limit=f"{n} requests/day") for n in range(300) for _ in range(1 + (n == 7))]
    overview = Overview(most_rows=100).read(records)
    assert len(overview.denials) <= 100
    assert sum(overview.denials.values()) == 301
    page = Page(render(Report(overview)))
    assert page.tables["denials"][1][:2] == ["7 requests/day", "2"]
    assert page.tables["denials"][-2][0] == "(others)"
    assert page.tables["denials"][-1][1] == "301"


def test_years_are_shown_by_month_without_gaps() -> None:
    data = Page(reported([record(START + timedelta(days=2 * day)) for day in range(500)])).data
    assert data["unit"] == "month"
    assert (data["whens"][0], data["whens"][-1], len(data["whens"])) == ("2026-11", "2029-07", 33)


def test_more_cells_than_a_page_can_carry_are_folded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("safe_llm.reports.page._MOST_CELLS", 50)
    records = [record(feature=f"f{n % 10}", model=f"m{n % 7}", plan=f"p{n % 3}") for n in range(210)]
    data = Page(reported(records)).data
    assert len(data["cells"]) <= 50
    assert sum(cell[4] for cell in data["cells"]) == 210


def test_merged_users_are_told() -> None:
    overview = Overview(most_rows=20).read([record(user_id=f"u{n}", cost_usd=Decimal(n)) for n in range(60)])
    page = Page(render(Report(overview)))
    assert "There were too many users to keep apart" in page.text
    assert "more than" in page.text
    assert page.tables["users"][-1][3] == "60"

"""Both services under the same abuses: a real uvicorn, real HTTP, real tokens, and the provider's word for it."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest
from abuses import ABUSES, ROWS
from abuses.play import Result, play, show
from rich.console import Console


@pytest.fixture(scope="module")
def results() -> list[Result]:
    """What became of each abuse; printed, for whoever runs pytest with -s."""
    found = list(play(ABUSES))
    show(found, Console(file=sys.stdout, width=160))
    return found


def test_the_list_has_abuses_of_all_eight_rows() -> None:
    per_row = Counter(abuse.row for abuse in ABUSES)
    assert set(per_row) == {row.name for row in ROWS}
    assert len(per_row) == 8
    assert len(ABUSES) >= 40
    assert min(per_row.values()) >= 5


def test_the_threat_model_speaks_of_each_row_and_of_each_item_of_the_two_catalogues() -> None:
    text = (Path(__file__).parents[2] / "docs" / "threat-model.md").read_text(encoding="utf-8")
    items = [*(row.name for row in ROWS), *(f"LLM{number:02d} " for number in range(1, 11))]
    items += [f"AML.T00{number} " for number in (34, 29, 51, 54, 56, 57)]
    assert [item for item in items if f"| {item}" not in text] == []


def test_each_abuse_has_a_name_of_its_own() -> None:
    assert not [name for name, times in Counter(abuse.id for abuse in ABUSES).items() if times > 1]


def test_every_abuse_gets_through_the_sprints_route(results: list[Result]) -> None:
    assert [result.abuse.id for result in results if result.sprint.through is None] == []


def test_not_one_gets_through_the_hardened_route(results: list[Result]) -> None:
    assert {r.abuse.id: r.hardened.through for r in results if r.hardened.through is not None} == {}


def test_the_hardened_route_never_fails_by_an_error_it_did_not_foresee(results: list[Result]) -> None:
    assert [result.abuse.id for result in results if "500" in result.hardened.answers] == []


def test_whoever_else_calls_is_served_by_both(results: list[Result]) -> None:
    """So a service that simply answers nobody would not pass for a hardened one."""
    assert [r.abuse.id for r in results if not r.sprint.spared] == []
    assert [r.abuse.id for r in results if r.abuse.spares and not r.hardened.spared] == []


def test_bursts_are_admitted_to_the_exact_number(results: list[Result]) -> None:
    agreed = {r.abuse.id: (r.hardened.sent, r.abuse.exactly) for r in results if r.abuse.exactly is not None}
    assert agreed
    assert {name: counts for name, counts in agreed.items() if counts[0] != counts[1]} == {}


def test_the_hardened_route_costs_a_fraction(results: list[Result]) -> None:
    sprint, hardened = (sum(getattr(r, name).cost for r in results) for name in ("sprint", "hardened"))
    assert sprint > 20 * hardened > 0

"""The comparison behind ``make test-dropin``: that it can fail, and that its mock of the API answers in kind."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from openai.pagination import SyncCursorPage
from openai.types import CreateEmbeddingResponse, ImagesResponse
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response
from pydantic import TypeAdapter

from safe_llm import Policy
from scripts.dropin import comparison
from scripts.dropin.comparison import Comparison, compare, legitimate
from scripts.dropin.provider import ANSWER_HEADER, provider
from scripts.dropin.samples import sample
from scripts.dropin.suite import POLICY

PASSING = {f"t.py::test[{number}]": "passed" for number in range(comparison.LEAST_PASSING)}
ONE = "t.py::test[0]"


def with_ours(outcome: str = "passed", reasons: dict[str, str] | None = None) -> Comparison:
    """The comparison when all tests pass with theirs, and all but one with ours."""
    return compare(PASSING, {**PASSING, ONE: outcome}, reasons or {})


def test_the_same_outcomes_hold() -> None:
    assert with_ours().holds


@pytest.mark.parametrize("outcome", ["failed", "skipped"])
def test_a_test_that_differs_and_is_not_listed_does_not_hold(outcome: str) -> None:
    found = with_ours(outcome=outcome)
    assert not found.holds
    assert found.different == [ONE]
    assert any(ONE in line for line in found.lines())


def test_a_test_that_did_not_run_with_ours_does_not_hold() -> None:
    assert not compare(PASSING, {}, {}).holds


def test_a_listed_difference_holds_and_does_not_count() -> None:
    found = with_ours(outcome="failed", reasons={"t.py::test[0]": "why"})
    assert found.holds
    assert found.listed == {"why": [ONE]}
    assert found.share == 1


def test_a_star_in_the_list_stands_for_any_text_and_a_bracket_for_itself() -> None:
    assert with_ours(outcome="failed", reasons={"t.py::*[0]": "why"}).holds
    assert not with_ours(outcome="failed", reasons={"t.py::tes[t]*": "why"}).holds


@pytest.mark.parametrize("pattern", ["t.py::test[0]", "gone.py::*"])
def test_what_is_listed_in_vain_does_not_hold(pattern: str) -> None:
    assert not with_ours(reasons={pattern: "why"}).holds


def test_a_suite_of_which_little_passes_shows_nothing() -> None:
    few = dict(list(PASSING.items())[1:])
    assert not compare(few, few, {}).holds


def test_every_listed_difference_has_a_reason() -> None:
    assert all(reason.strip() for reason in legitimate().values())


def test_the_policy_of_the_run_is_valid_and_opens_every_route() -> None:
    assert Policy.from_file(POLICY).routes.allow == ("*",)


@pytest.mark.parametrize(
    "kind",
    [ChatCompletion, ChatCompletionChunk, CreateEmbeddingResponse, ImagesResponse, Response, SyncCursorPage[Response]],
    ids=str,
)
def test_a_sample_is_valid_for_its_type(kind: Any) -> None:
    assert TypeAdapter(kind).validate_python(sample(kind))


def test_the_provider_answers_as_the_request_asks() -> None:
    with provider() as base_url:
        asked = httpx.post(f"{base_url}/any", headers={ANSWER_HEADER: '["text/plain", "text"]'}, content=b"body")
        assert (asked.status_code, asked.headers["content-type"], asked.text) == (200, "text/plain", "text")
        assert httpx.get(f"{base_url}/any").status_code == 404

"""Who is calling: what counts as a name, and how the three ways of saying it are laid over one another."""

from __future__ import annotations

import asyncio
import contextvars
import pickle
import threading
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safe_llm.identity import ANONYMOUS, NOTHING, Claim, Identity, claim_of, current, identify

WRONG_NAMES = [
    "",
    " ",
    "   ",
    "x" * 257,
    "a\nb",
    "a\tb",
    "\x00",
    "\u200b",
    "\ud800",
    "a\u2028b",
    7,
    0,
    False,
    b"u1",
    ["u1"],
    {},
]
RIGHT_NAMES = ["u", "x" * 256, "Zoë", "用户", "a b", " u1 ", "user@example.com", "None", "🙂"]

# Names ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", RIGHT_NAMES)
def test_a_name_is_kept_as_it_was_given(value: str) -> None:
    assert claim_of(user_id=value).user_id == Identity(value).user_id == value


@pytest.mark.parametrize("value", WRONG_NAMES)
@pytest.mark.parametrize("name", ["user_id", "feature", "session_id"])
def test_what_is_no_name_raises_and_never_becomes_a_user(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name):
        claim_of(**{name: value})
    with pytest.raises(ValueError, match=name), identify(**{name: value}):
        pass
    with pytest.raises(ValueError, match=name):
        Identity(**{"user_id": "u1", name: value})


@pytest.mark.parametrize("value", WRONG_NAMES)
def test_a_plans_name_obeys_the_same_rule(value: Any) -> None:
    with pytest.raises(ValueError, match="plan"):
        Identity("u1", plan=value)


@pytest.mark.parametrize("value", WRONG_NAMES)
def test_tags_obey_the_same_rule_in_names_and_values(value: Any) -> None:
    with pytest.raises(ValueError, match="tag 'team'"):
        claim_of(tags={"team": value})
    if value.__hash__ is not None:
        with pytest.raises(ValueError, match="a tag's name"):
            Identity("u1", tags={value: "blue"})


@pytest.mark.parametrize("tags", ["team", ["team"], 7, {f"tag {number}": "x" for number in range(33)}])
def test_tags_are_a_mapping_of_at_most_32(tags: Any) -> None:
    with pytest.raises(ValueError, match="tags"):
        claim_of(tags=tags)


def test_a_message_about_a_wrong_name_does_not_repeat_it() -> None:
    with pytest.raises(ValueError, match="user_id") as caught:
        claim_of(user_id="secret\n" * 3)
    assert "secret" not in str(caught.value)


def test_none_means_not_given() -> None:
    assert claim_of(user_id=None, feature=None, session_id=None, tags=None) == claim_of(tags={}) == NOTHING
    assert Identity("u1", None, None, None).claim() == claim_of(user_id="u1")


# Layers ---------------------------------------------------------------------------------------------------------------


def test_the_user_of_a_call_that_names_none_is_anonymous() -> None:
    assert NOTHING.user == ANONYMOUS == "anonymous"
    assert Claim("u1").user == "u1"


def test_claims_are_laid_over_one_another_field_by_field() -> None:
    weaker = Claim("u1", "chat", "s1", "pro", {"team": "blue", "tier": "1"}, verified=True)
    assert Claim(feature="docs", tags={"team": "red"}).over(weaker) == Claim(
        "u1", "docs", "s1", "pro", {"team": "red", "tier": "1"}, verified=True
    )


def test_naming_a_user_drops_the_plan_and_the_verification_of_the_weaker_one() -> None:
    weaker = Claim("u1", "chat", "s1", "pro", verified=True)
    assert Claim("u2").over(weaker) == Claim("u2", "chat", "s1", None, verified=False)


optional = st.one_of(st.none(), st.sampled_from(["a", "b"]))
claims = st.builds(
    Claim,
    optional,
    optional,
    optional,
    st.none(),
    st.dictionaries(st.sampled_from("xy"), st.sampled_from("12")),
    st.just(False),
    st.none(),
    st.none(),
)


@given(claims, claims, claims)
def test_layers_may_be_folded_from_either_end(first: Claim, second: Claim, third: Claim) -> None:
    assert first.over(second).over(third) == first.over(second.over(third))


@given(claims)
def test_nothing_changes_nothing(claim: Claim) -> None:
    assert claim.over(NOTHING) == NOTHING.over(claim) == claim


def test_an_identity_and_details_beside_it_are_one_claim() -> None:
    who = Identity("u1", "chat", "s1", "pro", {"team": "blue"}, verified=True)
    assert claim_of(who) == who.claim()
    assert claim_of(who, user_id="u1", feature="docs", tags={"tier": "1"}) == Claim(
        "u1", "docs", "s1", "pro", {"team": "blue", "tier": "1"}, verified=True
    )


def test_an_identity_and_another_user_beside_it_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="two different users"):
        claim_of(Identity("u1"), user_id="u2")


@pytest.mark.parametrize("value", ["u1", {"user_id": "u1"}, 7, Claim("u1")])
def test_only_an_identity_is_an_identity(value: Any) -> None:
    with pytest.raises(ValueError, match="must be an Identity"):
        claim_of(value)


# identify() -----------------------------------------------------------------------------------------------------------


def test_identify_holds_inside_its_block_and_a_block_inside_adds_to_it() -> None:
    assert current() == NOTHING
    with identify(user_id="u1", tags={"team": "blue"}):
        with identify(feature="chat"):
            assert current() == Claim("u1", "chat", tags={"team": "blue"})
        with identify(user_id="u2"):
            assert current() == Claim("u2", tags={"team": "blue"})
        assert current() == Claim("u1", tags={"team": "blue"})
    assert current() == NOTHING


def test_identify_takes_a_whole_identity_and_forgets_it_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), identify(Identity("u1", verified=True)):
        1 // (not current().verified)
    assert current() == NOTHING


def test_tasks_and_threads_do_not_see_one_anothers_callers() -> None:
    seen: dict[str, str] = {}

    async def serve(user: str) -> None:
        with identify(user_id=user):
            await asyncio.sleep(0)
            seen[user] = current().user

    async def main() -> None:
        await asyncio.gather(*(serve(f"u{number}") for number in range(10)))

    with identify(user_id="outside"):
        thread = threading.Thread(target=contextvars.Context().run, args=(lambda: seen.update(thread=current().user),))
        thread.start()
        thread.join()
    asyncio.run(main())
    assert seen == {"thread": ANONYMOUS, **{f"u{number}": f"u{number}" for number in range(10)}}


# Identity -------------------------------------------------------------------------------------------------------------


def test_an_identity_cannot_be_changed_from_outside() -> None:
    tags = {"team": "blue"}
    who = Identity("u1", tags=tags)
    tags["team"] = "red"
    assert who.tags == {"team": "blue"}
    with pytest.raises(TypeError):
        who.tags["team"] = "red"  # type: ignore[index]  # the mistake that is meant
    with pytest.raises(AttributeError):
        who.user_id = "u2"  # type: ignore[misc]  # the mistake that is meant


def test_a_mapping_of_any_kind_serves_as_tags() -> None:
    class Tags(Mapping[str, str]):
        def __getitem__(self, name: str) -> str:
            return {"team": "blue"}[name]

        def __iter__(self) -> Any:
            return iter(["team"])

        def __len__(self) -> int:
            return 1

    assert Identity("u1", tags=Tags()).tags == {"team": "blue"}


def test_an_identity_travels_to_other_processes() -> None:
    who = Identity("u1", "chat", "s1", "pro", {"team": "blue"}, verified=True)
    assert pickle.loads(pickle.dumps(who)) == who

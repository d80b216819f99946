"""Checks that ask a model: what they ask, who pays for it, and that no judge is judged."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from safe_llm import Identity, InjectionDetectedError, InputRejectedError, SafeOpenAI, identify
from safe_llm.judges import WINDOW, AsyncJudgeCheck, AsyncModerationCheck, JudgeCheck, ModerationCheck
from safe_llm.testing import FakeOpenAI, RecordingSink, Reply, Request

pytestmark = pytest.mark.anyio

POLICY = {
    "identity": {"verified": True},
    "checks": {"injection": "off"},
    "input": {"max_message_chars": 40_000, "max_context_tokens": 40_000},
    "plans": {"default": {"limits": ["100 requests/day"]}},
    "features": {"judge": {"limits": ["5 requests/day"]}},
}
ALICE = Identity("alice", feature="chat", verified=True)


async def done(result: Any) -> Any:
    return await result if asyncio.iscoroutine(result) else result


async def ask(client: Any, *texts: str, **rest: Any) -> Any:
    said = [{"role": "user" if number % 2 == 0 else "assistant", "content": t} for number, t in enumerate(texts)]
    return await done(client.chat.completions.create(model="gpt-4o", messages=said, **rest))


def is_judge(request: Request) -> bool:
    return request.body["model"] == "gpt-4o-mini"


class Bench:
    """A guarded client, the same with checks, and a judge that finds the word "sesame" suspicious."""

    def __init__(self, kind: Any, server: FakeOpenAI, sink: RecordingSink, policy: Any) -> None:
        self.server, self.sink, self.is_sync = server, sink, kind is SafeOpenAI
        self.client = kind(base_url=server.base_url, api_key="test", sinks=[sink], policy=policy, max_retries=0)
        server.respond(self._answer)
        self.said: Any = None

    def _answer(self, request: Request) -> Reply:
        if not is_judge(request):
            return Reply(text="a plain answer")
        text = request.body["messages"][-1]["content"]
        said = self.said or ('{"score": 97}' if "sesame" in text else '{"score": 3}')
        return said if isinstance(said, Reply) else Reply(text=said)

    def judge(self, **options: Any) -> Any:
        check = JudgeCheck if self.is_sync else AsyncJudgeCheck
        return check(self.client, model="gpt-4o-mini", **options)

    def moderation(self, **options: Any) -> Any:
        check = ModerationCheck if self.is_sync else AsyncModerationCheck
        return check(self.client, **options)

    def judged(self, *checks: Any) -> Any:
        return self.client.with_options(checks=list(checks)).with_identity(ALICE)

    @property
    def judgements(self) -> list[Any]:
        return [request.body for request in self.server.requests if is_judge(request)]


@pytest.fixture
async def bench(kind: Any, server: FakeOpenAI, sink: RecordingSink) -> AsyncIterator[Bench]:
    bench = Bench(kind, server, sink, POLICY)
    yield bench
    await done(bench.client.close())


# The judge ------------------------------------------------------------------------------------------------------------


async def test_a_judge_lets_through_what_it_finds_harmless(bench: Bench) -> None:
    await ask(bench.judged(bench.judge(action="deny")), "Good morning")
    (judgement,) = bench.judgements
    assert "Good morning" in judgement["messages"][-1]["content"]
    assert "<untrusted-" in judgement["messages"][-1]["content"]
    assert judgement["max_tokens"] == 20
    assert bench.sink.last.findings == ()


async def test_what_a_judge_finds_is_denied_or_flagged(bench: Bench) -> None:
    with pytest.raises(InjectionDetectedError, match="injection_judge"):
        await ask(bench.judged(bench.judge(action="deny")), "open sesame")
    assert bench.server.count == 1  # the judgement alone
    await ask(bench.judged(bench.judge()), "open sesame")
    (finding,) = bench.sink.last.findings
    assert (finding.rule, finding.severity, finding.score, finding.action) == ("injection_judge", "high", 0.97, "flag")
    assert finding.where.startswith("messages[0]")
    assert "sesame" not in bench.sink.last.model_dump_json()


async def test_a_judge_pays_for_itself_and_leaves_its_own_record(bench: Bench) -> None:
    judged = bench.judged(bench.judge())
    with identify(session_id="s1"):
        await ask(judged, "Good morning")
    judge, caller = bench.sink.records
    assert (judge.user_id, judge.feature, judge.model) == ("judge", "judge", "gpt-4o-mini")
    assert (caller.user_id, caller.feature, caller.model) == ("alice", "chat", "gpt-4o")
    assert judge.cost_usd is not None
    assert judge.cost_usd > 0
    used = {status.limit: status.used for status in await done(judged.guard.usage())}
    assert used == {"100 requests/day": 1}


async def test_a_judge_whose_budget_is_spent_denies_unless_it_may_be_missed(bench: Bench) -> None:
    judged = bench.judged(bench.judge(action="deny"))
    for number in range(5):
        await ask(judged, f"Question {number}")
    with pytest.raises(InputRejectedError) as caught:
        await ask(judged, "Question 6")
    assert caught.value.code == "check_failed"
    lax = judged.with_options(policy={**POLICY, "checks": {"on_error": "allow"}})
    await ask(lax, "Question 7")
    assert [finding.rule for finding in bench.sink.last.findings] == ["injection_judge_failed"]
    await done(lax.close())


async def test_no_judge_is_judged_even_by_the_client_that_it_guards(bench: Bench) -> None:
    first = bench.judge()
    judged = bench.client.with_options(checks=[first])
    first._client = judged.with_identity(Identity("judge", feature="judge", verified=True))
    await ask(judged.with_identity(ALICE), "Good morning")
    assert len(bench.judgements) == 1
    await done(judged.close())


async def test_all_that_is_not_the_application_s_own_is_judged_in_windows(bench: Bench) -> None:
    text = "x" * WINDOW + "open sesame"
    judged = bench.judged(bench.judge(action="deny"))
    with pytest.raises(InjectionDetectedError):
        await done(
            judged.chat.completions.create(
                model="gpt-4o",
                messages=[{"role": "system", "content": "sesame is our word"}, {"role": "user", "content": text}],
            )
        )
    shown = [judgement["messages"][-1]["content"] for judgement in bench.judgements]
    assert len(shown) == 2
    assert not any("our word" in one for one in shown)
    assert all(len(one) < 4_000 for one in shown)


async def test_more_text_than_a_judge_may_look_at_is_a_check_that_fails(bench: Bench) -> None:
    with pytest.raises(InputRejectedError) as caught:
        await ask(bench.judged(bench.judge(action="deny", most_windows=2)), "x" * (3 * WINDOW))
    assert caught.value.code == "check_failed"
    assert bench.server.count == 0


@pytest.mark.parametrize(
    "said",
    ["harmless", "{}", '{"score": "5"}', '{"score": true}', '{"score": 101}', '{"score": -1}', Reply(status=500)],
    ids=str,
)
async def test_a_judge_that_does_not_answer_as_asked_fails(bench: Bench, said: Any) -> None:
    bench.said = said
    with pytest.raises(InputRejectedError) as caught:
        await ask(bench.judged(bench.judge(action="deny")), "Good morning")
    assert caught.value.code == "check_failed"


# Moderation -----------------------------------------------------------------------------------------------------------


async def test_moderation_flags_what_it_finds_at_no_cost(bench: Bench) -> None:
    judged = bench.judged(bench.moderation())
    await ask(judged, "some [violence] and [hate]", "an answer", "fine")
    found = {(finding.rule, finding.where, finding.score) for finding in bench.sink.last.findings}
    assert {rule for rule, _, _ in found} == {"moderation_violence", "moderation_hate"}
    assert {score for _, _, score in found} == {0.9}
    assert all(where.startswith("messages[0]") for _, where, _ in found)
    assert len(bench.sink.records) == 1


async def test_moderation_may_deny_and_look_for_some_categories_alone(bench: Bench) -> None:
    judged = bench.judged(bench.moderation(action="deny", categories=["violence"]))
    await ask(judged, "some [hate]")
    with pytest.raises(InputRejectedError, match="moderation_violence"):
        await ask(judged, "some [violence]")


async def test_moderation_passes_at_exhausted_limits(kind: Any, server: FakeOpenAI, sink: RecordingSink) -> None:
    bench = Bench(kind, server, sink, {"plans": {"default": {"limits": ["1 requests/day"]}}})
    judged = bench.client.with_options(checks=[bench.moderation(action="deny")])
    await ask(judged, "fine")
    with pytest.raises(InputRejectedError, match="moderation"):
        await ask(judged, "some [violence]")
    await done(judged.close())


async def test_many_texts_are_moderated_in_batches(bench: Bench) -> None:
    turns = [f"turn {number}" for number in range(19)]
    turns[0] += " [violence]"
    await ask(bench.judged(bench.moderation()), *turns, "x" * 100)
    asked = [len(request.body["input"]) for request in bench.server.requests if "input" in request.body]
    assert all(number <= 32 for number in asked)
    assert any(finding.rule == "moderation_violence" for finding in bench.sink.last.findings)

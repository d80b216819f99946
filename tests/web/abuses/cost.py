"""What it may cost: budgets, models, prices, and a switch."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from safe_llm.testing import Reply

from .abuse import Row, sent
from .rate import held
from .stage import Target

row = Row("Cost controls")


def dearer(target: Target) -> str | None:
    """Got through if the provider was asked for another model than the plan's."""
    models = {asked.get("model") for asked in target.provider.asked} - {"gpt-4o-mini"}
    return f"sent to {', '.join(map(str, models))}" if models else None


# Models ---------------------------------------------------------------------------------------------------------------


@row("a dear model in the body")
def dear_model(target: Target) -> str | None:
    target.provider.always(Reply(chunks=1_000))
    for model in ("gpt-4o", "gpt-4.5-preview", "o1-pro"):
        target.ask(model=model)
    return dearer(target)


@row("a dear model in extra_body")
def dear_model_in_extra_body(target: Target) -> str | None:
    target.provider.always(Reply(chunks=1_000))
    target.ask(extra_body={"model": "o1-pro"})
    return dearer(target)


@row("a name that only begins like the plan's model")
def similar_model(target: Target) -> str | None:
    for model in ("gpt-4o-mini-audio-preview", "gpt-4o-mini-search-preview", "GPT-4o-mini ", "openai/gpt-4o-mini"):
        target.ask(model=model)
    return dearer(target)


@row("a model that no price list knows")
def unpriced(target: Target) -> str | None:
    target.ask(model="gpt-99-experimental")
    target.ask(token=target.token(plan="staff"), model="gpt-99-experimental")
    return sent(target)


@row("somebody's fine-tuned model")
def fine_tuned(target: Target) -> str | None:
    target.ask(token=target.token(plan="staff"), model="ft:gpt-4o:evil::1")
    return sent(target)


@row("a dearer service tier")
def tier(target: Target) -> str | None:
    target.ask(service_tier="priority")
    return "sent at the priority tier" if any(a.get("service_tier") for a in target.provider.asked) else None


@row("a tool that the provider bills by itself")
def hosted_tool(target: Target) -> str | None:
    target.ask(web_search_options={"search_context_size": "high"})
    target.ask(extra_body={"web_search_options": {}})
    return "web search was asked for" if any("web_search_options" in a for a in target.provider.asked) else None


@row("another provider's headers")
def provider_headers(target: Target) -> str | None:
    """By arguments of the SDK that a body passed on whole becomes."""
    target.ask(extra_headers={"OpenAI-Organization": "org-victim", "Authorization": "Bearer sk-stolen"})
    headers = [dict(request.headers) for request in target.provider.requests]
    return "the provider was sent the caller's headers" if "org-victim" in str(headers) else None


# Money ----------------------------------------------------------------------------------------------------------------


def budget(*limits: str) -> dict[str, Any]:
    """A policy whose plan "pro" has these limits, so that nothing else decides."""
    return {"plans": {"free": {}, "pro": {"limits": list(limits), "models": ["gpt-4o"]}}}


def over(target: Target, dollars: str) -> str | None:
    """Got through if what the provider served costs more."""
    bill = target.provider.bill
    return f"${bill:.3f} served, ${dollars} agreed" if bill > Decimal(dollars) else None


@row("a daily budget, by 40 requests at once", policy=budget("$0.20/day"), exactly=19)
def money_at_once(target: Target) -> str | None:
    bearer = target.token(plan="pro")
    with held(target, 40):
        target.burst([{"text": f"Q {n}", "model": "gpt-4o", "token": bearer} for n in range(40)])
    return over(target, "0.20")


@row("a daily budget, by streams that are dropped", policy=budget("$0.011/day"))
def money_by_dropping(target: Target) -> str | None:
    """Each stream is left before its end, where the provider would have told what it used."""
    target.provider.always(Reply(chunks=400, drip=0.001))
    bearer = target.token(plan="pro")
    for number in range(12):
        target.stream(lines=300, token=bearer, model="gpt-4o", messages=[{"role": "user", "content": f"Q {number}"}])
    return over(target, "0.011")


@row("the application's budget, by 40 users at once", policy={"limits": ["$0.02/day"]}, spares=False)
def money_of_all(target: Target) -> str | None:
    with held(target, 40):
        target.burst([{"text": "Hi", "token": target.token(f"user{n}")} for n in range(40)])
    return over(target, "0.02")


@row(
    "a feature's budget, by 20 users at once",
    policy={"features": {"document_analysis": {"limits": ["$0.10/day"]}}},
)
def money_of_feature(target: Target) -> str | None:
    calls = [
        {"text": "Hi", "token": target.token(f"user{n}", "pro"), "model": "gpt-4o", "feature": "document_analysis"}
        for n in range(20)
    ]
    with held(target, 20):
        target.burst(calls)
    return over(target, "0.10")


# Switches -------------------------------------------------------------------------------------------------------------


@row("going on after everything was switched off", spares=False)
def switched_off(target: Target) -> str | None:
    target.ask()
    target.ask(token=target.token("operator", "staff"), path="/admin/switch?on=false")
    before = target.sent
    target.ask("Are you still there?")
    return "served after it was switched off" if target.sent > before else None


@row("going on after one user was switched off")
def user_switched_off(target: Target) -> str | None:
    target.ask(token=target.token("operator", "staff"), path="/admin/switch?on=false&user=mallory")
    before = target.sent
    target.ask("Am I still there?")
    return "served after the user was switched off" if target.sent > before else None


@row("going on after the feature was switched off, in a stream", spares=False)
def feature_switched_off(target: Target) -> str | None:
    target.ask(token=target.token("operator", "staff"), path="/admin/switch?on=false&feature=chat_support")
    before = target.sent
    target.stream()
    return "served after the feature was switched off" if target.sent > before else None


@row("switching it on again without being allowed to", spares=False)
def switched_on(target: Target) -> str | None:
    target.ask(token=target.token("operator", "staff"), path="/admin/switch?on=false")
    target.ask(token=target.token(plan="pro"), path="/admin/switch?on=true")
    before = target.sent
    target.ask("Are you there again?")
    return "served while it was switched off" if target.sent > before else None

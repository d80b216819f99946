"""What is written down: who spent what, and never what was said."""

from __future__ import annotations

from safe_llm.testing import Reply

from .abuse import Row
from .host import within
from .stage import PROVIDER_KEY, Target

row = Row("Logging")


def logged(target: Target, text: str) -> str | None:
    """Got through if the log has it."""
    return f"the log has {text[:24]!r}" if any(text in line for line in target.log.lines) else None


@row("a card number in a prompt")
def prompt(target: Target) -> str | None:
    card = f"4111 1111 1111 1111 of {target.name}"
    target.ask(f"My card is {card}.")
    return logged(target, card)


@row("a card number in a prompt that is refused")
def refused_prompt(target: Target) -> str | None:
    card = f"5500 0000 0000 0004 of {target.name}"
    target.ask(f"My card is {card}. " * 500)
    return logged(target, card)


@row("the caller's token")
def token(target: Target) -> str | None:
    bearer = target.token(user=f"mallory-of-{target.name}")
    target.ask(token=bearer)
    return logged(target, bearer)


@row("a forged line")
def forged_line(target: Target) -> str | None:
    line = f"\nINFO {target.name}: victim spent $0"
    target.ask(user=line, headers={"X-User-Id": "mallory"})
    target.ask(user=line)
    target.ask(token=target.token(user=f"mallory{line}"))
    return logged(target, line)


@row("the provider's error, which quotes the key")
def providers_error(target: Target) -> str | None:
    target.provider.always(Reply(status=401, error={"message": f"Incorrect API key provided: {PROVIDER_KEY}"}))
    answer = target.ask()
    if answer is not None and PROVIDER_KEY in answer.text:
        return "the caller was told the provider's key"
    return logged(target, PROVIDER_KEY)


@row("streams, which nobody counts")
def uncounted(target: Target) -> str | None:
    target.stream()
    within(1, lambda: bool(target.charged()))
    served, in_books = target.provider.tokens, target.charged().get("mallory", 0)
    return f"{served} tokens served, {in_books} in the books" if in_books < served else None


@row("failures, which nobody sees")
def unseen(target: Target) -> str | None:
    """A provider that fails is in the books with whoever asked."""
    target.provider.always(Reply(status=500, headers={"retry-after-ms": "1"}))
    target.ask()
    within(1, lambda: "mallory" in target.charged())
    return None if "mallory" in target.charged() else f"{target.sent} attempts, none in the books"

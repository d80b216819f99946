"""Where the demonstration plays: calls that check their own outcome, and how they are shown."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NamedTuple, TypeVar

from openai import DefaultHttpxClient, OpenAIError, Stream
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..client import SafeOpenAI
from ..errors import Amount, DeniedError, SafeLLMError
from ..testing import FakeOpenAI, RecordingSink
from ..types import UsageRecord

DeniedT = TypeVar("DeniedT", bound=DeniedError)

Call = dict[str, Any]
"""The arguments of ``client.chat.completions.create``."""

_COLOURS = {"allowed": "green", "denied": "yellow", "FAILED": "bold red"}


class WrongOutcomeError(Exception):
    """A step did not do what it says."""


def expect(found: object, wanted: object, what: str) -> None:
    """Raise `WrongOutcomeError` unless `found` equals `wanted`."""
    if found != wanted:
        raise WrongOutcomeError(f"{what}: {wanted} expected, {found} found")


def dollars(amount: Amount | None) -> str:
    """USD, exact, without trailing zeros."""
    return "unknown" if amount is None else f"${Decimal(amount).normalize():f}"


def total(amounts: Iterable[Decimal | None]) -> Decimal | None:
    """The sum, unknown where a part of it is."""
    found = list(amounts)
    known = [amount for amount in found if amount is not None]
    return sum(known, Decimal(0)) if len(known) == len(found) else None


@dataclass
class Stage:
    """A client, its records, and the stand-in for the provider; None where the provider itself answers."""

    client: SafeOpenAI
    sink: RecordingSink
    server: FakeOpenAI | None = None

    @classmethod
    @contextmanager
    def local(cls, **options: Any) -> Iterator[Stage]:
        """A stage with a stand-in for the provider on this machine."""
        # A proxy of the environment must not come between this machine and itself.
        http_client = DefaultHttpxClient(trust_env=False)
        with (
            FakeOpenAI() as server,
            cls.live(base_url=server.base_url, api_key="none", http_client=http_client, **options) as stage,
        ):
            stage.server = server
            yield stage

    @classmethod
    @contextmanager
    def live(cls, **options: Any) -> Iterator[Stage]:
        """A stage with the provider itself, and with counters of its own whatever the environment says."""
        sink = RecordingSink()
        with SafeOpenAI(quota_store="memory://", sinks=[sink], **options) as client:
            yield cls(client, sink)

    @property
    def sent(self) -> int:
        """Requests that reached the provider."""
        return self.server.count if self.server else sum(record.attempts for record in self.sink.records)

    def ask(self, call: Call) -> UsageRecord:
        """Make a call that must come through, and read a stream to its end; its record.

        What the stand-in received must be what the record says was sent.
        """
        answer = self.client.chat.completions.create(**call)
        if isinstance(answer, Stream):
            deque(answer, maxlen=0)
        record = self.sink.last
        expect(record.outcome, "ok", "the call's outcome")
        expect(record.cost_usd is not None, True, "its cost is known")
        if self.server:
            received = self.server.requests[-1].body
            expect(received.get("max_completion_tokens"), record.max_tokens, "the cap that was sent")
            expect(len(received["messages"]), len(call["messages"]) - record.trimmed_messages, "messages sent")
        return record

    def refused(self, call: Call, error: type[DeniedT]) -> DeniedT:
        """Make a call that must be denied before it is sent; the denial."""
        before = self.sent
        try:
            self.ask(call)
        except error as denial:
            expect(self.sent, before, "requests sent")
            expect(self.sink.last.outcome, "denied", "the call's outcome")
            return denial
        raise WrongOutcomeError("the call came through and should have been denied")


class Step(NamedTuple):
    """One line of the demonstration."""

    title: str
    play: Callable[[Stage], tuple[str, str]]
    """Makes the calls. Returns a verdict of one or two words, and what happened. Raises where it went otherwise."""
    sends: Sequence[Call] = ()
    """The calls that reach the provider."""
    scripted: bool = False
    """Needs a provider that does as it is told."""


def worst_case(stage: Stage, steps: Sequence[Step]) -> Decimal | None:
    """USD that the steps cost at most where the provider itself answers."""
    calls = [call for step in steps if not step.scripted for call in step.sends]
    return total(stage.client.guard.quote(**call).max_usd for call in calls)


def play(stage: Stage, steps: Sequence[Step], console: Console) -> bool:
    """Play the steps in order, one line each, and show who spent what; whether all did what they say."""
    right = True
    for step in steps:
        try:
            if step.scripted and not stage.server:
                verdict, said = "skipped", "needs a provider that does as it is told"
            else:
                verdict, said = step.play(stage)
        except (WrongOutcomeError, OpenAIError) as error:
            verdict, said, right = "FAILED", _told(error), False
        line = Text.assemble((f"{verdict:<9}", _COLOURS.get(verdict, "cyan")), f"{step.title:<17}", said)
        console.print(line, soft_wrap=True)
    console.print("\nWho spent what, from the usage records:")
    console.print(ledger(stage.sink.records))
    return right


def _told(error: Exception) -> str:
    # A provider's message may quote the key; ours quote nothing.
    ours = isinstance(error, WrongOutcomeError | SafeLLMError)
    return str(error) if ours else type(error).__name__


def ledger(records: Sequence[UsageRecord]) -> Table:
    """Who spent what, from nothing but the records."""
    table = Table(box=box.SIMPLE_HEAD, show_footer=True, show_edge=False, pad_edge=False)
    by_user: dict[str, list[UsageRecord]] = {}
    for record in records:
        by_user.setdefault(f"{record.user_id} ({record.plan})", []).append(record)
    rows = [_row(user, theirs) for user, theirs in by_user.items()]
    for heading, footer in zip(_HEADINGS, _row("all", records), strict=True):
        # Costs begin with their dollars, so they line up on the left however many decimals they have.
        table.add_column(heading, footer, justify="left" if heading in ("user (plan)", "cost") else "right")
    for row in rows:
        table.add_row(*row)
    return table


_HEADINGS = ("user (plan)", "allowed", "denied", "tokens in", "tokens out", "cost")


def _row(user: str, records: Sequence[UsageRecord]) -> tuple[str, ...]:
    denied = sum(record.outcome == "denied" for record in records)
    given, generated = sum(r.input_tokens for r in records), sum(r.output_tokens for r in records)
    cost = dollars(total(record.cost_usd for record in records))
    return user, str(len(records) - denied), str(denied), f"{given:,}", f"{generated:,}", cost

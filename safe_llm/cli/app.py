"""The commands."""

from __future__ import annotations

import os
from typing import Annotated

import typer
from rich.console import Console

from .demo import PLANS, POLICY, STEPS
from .doctor import doctor
from .limits import limits
from .policy import policy
from .report import report
from .retention import records
from .simulate import simulate
from .stage import Stage, dollars, play, worst_case
from .switch import switch
from .usage import usage

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="markdown",  # which wraps a docstring's lines anew
    pretty_exceptions_show_locals=False,  # they may hold a store's password
)


@app.callback()
def commands() -> None:
    """Guard, budget and record every LLM call."""


app.command()(usage)
app.command()(simulate)
app.command()(report)
app.command()(limits)
app.command()(doctor)
app.add_typer(switch, name="switch")
app.add_typer(policy, name="policy")
app.add_typer(records, name="records")


@app.command()
def demo(
    live: Annotated[bool, typer.Option("--live", help="Call OpenAI itself, with OPENAI_API_KEY; asks first.")] = False,
) -> None:
    """Show what safe_llm does, by real calls to a stand-in for the provider on this machine. Needs no key.

    Exits with 0 only if every step did what it says.
    """
    if live and not os.environ.get("OPENAI_API_KEY"):
        typer.echo("--live calls OpenAI itself: set OPENAI_API_KEY, or leave --live out.", err=True)
        raise typer.Exit(2)
    # A pipe has no width of its own; the lines are made for 100 columns.
    console = Console(width=100, highlight=False)
    with (Stage.live if live else Stage.local)(policy=POLICY, plan_for=PLANS) as stage:
        if live:
            most = dollars(worst_case(stage, STEPS))
            typer.confirm(f"This calls OpenAI with your key and costs at most {most}. Go on?", abort=True)
        provider = "OpenAI" if live else "a stand-in for OpenAI on this machine"
        console.print(f"Real calls by SafeOpenAI, over HTTP, to {provider}:\n")
        if not play(stage, STEPS, console):
            raise typer.Exit(1)

"""Usage as a table for a terminal, and as JSON for programs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from .sums import Sums
from .usage import OTHERS, Group, Usage
from .words import counted, exact, label, money, number, spent, visible

if TYPE_CHECKING:
    from rich.table import Table

_FIGURES = ("calls", "denied", "tokens in", "tokens out", "cost")


def table(usage: Usage, tree: Group) -> Table:
    """A row for each group, those inside it indented below, and the total at the foot."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(box=box.SIMPLE_HEAD, show_footer=True, show_edge=False, pad_edge=False)
    made.add_column(visible(usage.by.replace(",", " / ")), "all", overflow="fold")
    for heading, figure in zip(_FIGURES, _figures(tree.sums), strict=True):
        made.add_column(heading, figure, justify="right", no_wrap=True)
    for group, depth in _walk(tree, 0):
        # As text, not as markup: a user may be called [red].
        name = Text("  " * depth + _label(group), style="bold" if group.groups else "")
        made.add_row(name, *_figures(group.sums))
    return made


def _walk(group: Group, depth: int) -> Iterator[tuple[Group, int]]:
    for inner in group.groups:
        yield inner, depth
        yield from _walk(inner, depth + 1)


def _label(group: Group) -> str:
    return f"({group.left_out:,} others)" if group.name is OTHERS else label(group.name)


def _figures(sums: Sums) -> tuple[str, ...]:
    return (
        number(sums.calls),
        number(sums.denied),
        number(sums.input_tokens),
        number(sums.output_tokens),
        spent(sums.cost, sums.unpriced),
    )


def remarks(usage: Usage, sums: Sums, skipped: int) -> list[str]:
    """What the figures do not tell by themselves: what is unknown, estimated, or left out."""
    found = []
    if sums.unpriced:
        found.append(f"{counted(sums.unpriced, 'call')} of unknown price: in no cost above.")
    if sums.estimated:
        found.append(
            f"{counted(sums.estimated, 'call')} whose usage the provider did not tell: "
            f"{money(sums.cost_estimated)} of the cost rests on estimates."
        )
    if sums.would_be_denied:
        found.append(
            f"{counted(sums.would_be_denied, 'call')} would have been denied, had the policy not been in shadow mode."
        )
    if wrong := skipped + usage.unreadable:
        found.append(f"{counted(wrong, 'line')} could not be read: in no figure above.")
    if usage.merged:
        found.append(f"{counted(usage.merged, 'small group')} merged: figures of small groups may be too low.")
    return found


def as_json(usage: Usage, tree: Group, skipped: int) -> dict[str, Any]:
    """The same for programs: money as text with all its digits, groups inside groups.

    A group's name is None where its calls have none; what was left out is told apart, under ``others``.
    """
    names = [name for name, _ in usage.dimensions]
    return {
        "by": names,
        "timezone": usage.calendar.timezone,
        "first_day": usage.first,
        "last_day": usage.last,
        "skipped_lines": skipped + usage.unreadable,
        "merged_groups": usage.merged,
        "total": _sums(tree.sums),
        **_inside(tree, names),
    }


def _inside(group: Group, names: list[str]) -> dict[str, Any]:
    if not names:
        return {}
    named = [inner for inner in group.groups if inner.name is not OTHERS]
    rest = [inner for inner in group.groups if inner.name is OTHERS]
    return {
        "groups": [{names[0]: inner.name, **_sums(inner.sums), **_inside(inner, names[1:])} for inner in named],
        "others": {"groups": rest[0].left_out, **_sums(rest[0].sums)} if rest else None,
    }


def _sums(sums: Sums) -> dict[str, Any]:
    figures = asdict(sums)
    cost, estimated = figures.pop("cost"), figures.pop("cost_estimated")
    return figures | {
        "total_tokens": sums.total_tokens,
        "cost_usd": exact(cost),
        "cost_usd_estimated": exact(estimated),
    }

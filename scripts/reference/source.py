"""What the source says of a class, as Markdown."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import pairwise

_SECTION = re.compile(r"^(Args|Attributes|Raises):\n((?:(?: {4}.*)?(?:\n|$))+)", re.MULTILINE)


@cache
def body(cls: type) -> list[ast.stmt]:
    (node,) = ast.parse(inspect.getsource(cls)).body
    assert isinstance(node, ast.ClassDef)
    return node.body


def words(cls: type) -> dict[str, str]:
    """What the docstring beneath each field says, bases included."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if base.__module__.startswith("safe_llm"):
            for field, after in pairwise(body(base)):
                if isinstance(field, ast.AnnAssign) and isinstance(after, ast.Expr):
                    found[ast.unparse(field.target)] = markdown(ast.literal_eval(after.value))
    return found


def markdown(text: str) -> str:
    """A docstring's words on one line."""
    return re.sub(r"``(.+?)``", r"`\1`", " ".join(text.split()))


def about(cls: type) -> Iterator[str]:
    """The paragraphs of a class's docstring, without its sections. Code is shown as text: nobody runs it."""
    text = _SECTION.sub("", inspect.getdoc(cls) or "").strip("\n")
    for paragraph in re.split(r"\n\n(?! {4})", text):
        said, _, shown = paragraph.partition("::\n\n")
        if said.startswith("==="):
            shown, said = re.sub(r"(?m)^=.*\n?|``", "", said), ""
        if said.startswith("- "):
            yield re.sub(r"``(.+?)``", r"`\1`", said)
        elif said:
            yield markdown(said) + ":" * bool(shown)
        if shown:
            yield "```text\n" + inspect.cleandoc("\n" + shown) + "\n```"


def section(cls: type, name: str) -> dict[str, str]:
    """The entries of a section of the docstring: ``Args`` or ``Attributes``."""
    found = dict(_SECTION.findall(inspect.getdoc(cls) or ""))
    entries = inspect.cleandoc("\n" + found.get(name, ""))
    split = (entry.partition(": ") for entry in re.split(r"\n(?=\w)", entries) if entry)
    return {names: markdown(text) for names, _, text in split}


def code(names: str) -> str:
    """Names as code, each by itself."""
    return ", ".join(f"`{name}`" for name in names.split(", "))


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    head = list(head)
    return "\n".join([line(head), "|" + "---|" * len(head), *map(line, rows)])

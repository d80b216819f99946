"""Writes the tables of docs/policy.md and docs/reference.md from the classes that they are about.

    python -m scripts.reference

What stands between `<!-- generated: NAME -->` and `<!-- end -->` is replaced; all else is written by hand. Types,
defaults and bounds come from the classes, words from the docstrings beneath their fields, which only the source has.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from safe_llm import errors, types
from safe_llm.policy import DEFAULT_LIMITS, Feature, HostedTool, Plan, Policy
from safe_llm.pricing import PriceEntry

DOCS = Path(__file__).parents[1] / "docs"
_BLOCK = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)

RECORDS = (types.UsageRecord, types.Denial, types.Finding, types.ShadowDecision, types.Alert)
ANSWERS = (types.LimitStatus, types.Quote, types.SwitchEvent)
"""What `client.guard` answers."""


# What the source says -------------------------------------------------------------------------------------------------


@cache
def _body(cls: type) -> list[ast.stmt]:
    (node,) = ast.parse(inspect.getsource(cls)).body
    assert isinstance(node, ast.ClassDef)
    return node.body


def words(cls: type) -> dict[str, str]:
    """What the docstring beneath each field says, bases included."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if base.__module__.startswith("safe_llm"):
            body = _body(base)
            for field, after in pairwise(body):
                if isinstance(field, ast.AnnAssign) and isinstance(after, ast.Expr):
                    found[ast.unparse(field.target)] = markdown(ast.literal_eval(after.value))
    return found


def about(cls: type) -> str:
    """The docstring of a class, up to its first section."""
    return markdown(re.split(r"\n\n(?:Attributes|Raises|Args):", inspect.getdoc(cls) or "")[0])


def markdown(text: str) -> str:
    """A docstring's words on one line."""
    return re.sub(r"``(.+?)``", r"`\1`", " ".join(text.split()))


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    head = list(head)
    return "\n".join([line(head), "|" + "---|" * len(head), *map(line, rows)])


# The policy -----------------------------------------------------------------------------------------------------------


def kind(schema: Mapping[str, Any]) -> str:
    """A type of a JSON schema, in the words of TOML."""
    if "enum" in schema or "const" in schema:
        return " or ".join(f"`{toml(value)}`" for value in schema.get("enum", [schema.get("const")]))
    if "anyOf" in schema:
        kinds = [kind(each) for each in schema["anyOf"] if each.get("type") != "null"]
        return "price" if "decimal_places" in str(schema) else " or ".join(dict.fromkeys(kinds))
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return "[limit](#limits)" if name == "Limit" else "section"
    if schema["type"] == "array":
        return f"list: {kind(schema['items'])}"
    if schema["type"] == "object":
        return f"table: {kind(schema['additionalProperties'])}"
    bounds = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤"}
    limits = ", ".join(f"{sign} {schema[key]:_}" for key, sign in bounds.items() if key in schema)
    return f"{schema['type']} {limits}".rstrip()


def toml(value: Any) -> str:
    """A value as it stands in a policy."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return f"{int(value):_}" if value == int(value) else f"{value}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml, value))}]"
    return "{}" if isinstance(value, dict) else f'"{value}"'


def keys(cls: type[BaseModel]) -> Iterator[tuple[str, str, str, str]]:
    """Key, type, default and meaning of each key that is no section with a table of its own."""
    said = words(cls)
    for name, schema in cls.model_json_schema(mode="validation")["properties"].items():
        is_section = "$ref" in schema or (cls is Policy and "additionalProperties" in schema)
        if not is_section:
            default = "" if schema["default"] is None else f"`{toml(schema['default'])}`"
            yield f"`{name}`", kind(schema), default, said[name]


def _key_table(cls: type[BaseModel]) -> str:
    return table(("Key", "Type", "Default", ""), keys(cls))


def sections() -> Iterator[tuple[str, type[BaseModel]]]:
    """Each section of the top that is one class, with its name."""
    for name, field in Policy.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield name, field.annotation


def policy() -> Iterator[str]:
    yield "### The top"
    yield about(Policy)
    yield _key_table(Policy)
    for name, cls in sections():
        yield f"### `[{name}]`"
        yield sentence(cls)
        places = [place.kind for place in (Plan, Feature) if name in place.model_fields]
        yield f"*May be overridden by a {', then a '.join(places)}.*" if places else "*At the top alone.*"
        yield _key_table(cls)
        if name == "routes":
            yield f"Each of `hosted_tools`: {about(HostedTool)[0].lower()}{about(HostedTool)[1:]}"
            yield _key_table(HostedTool)
    for name, place in (("plans", Plan), ("features", Feature)):
        yield f"### `[{name}.NAME]`"
        yield sentence(place)
        yield _key_table(place)
        inner = ", ".join(f"`{key}`" for key, _ in sections() if key in place.model_fields)
        yield f"And {inner}: tables with the keys of the section of that name, each of which it overrides by itself."
        if place is Plan:
            yield "In a policy that writes no plan `default`, that is:"
            yield f"```toml\n[plans.default]\nlimits = {toml(DEFAULT_LIMITS)}\n```"
    yield '### `[prices."NAME"]`'
    yield sentence(PriceEntry)
    yield _key_table(PriceEntry)


def sentence(cls: type) -> str:
    """What a section is about: its docstring without its name in front."""
    text = re.sub(r"^`\[.+?\]`: ", "", about(cls))
    return text[0].upper() + text[1:]


# Errors and records ---------------------------------------------------------------------------------------------------


def tree() -> Iterator[str]:
    drawn = inspect.getdoc(errors) or ""
    yield "```text\n" + inspect.cleandoc(drawn.split("::\n\n")[1].split("\n\nA message")[0]) + "\n```"


def failures() -> Iterator[str]:
    def walk(cls: type) -> Iterator[type]:
        yield cls
        for child in cls.__subclasses__():
            yield from walk(child)

    rows = []
    for cls in walk(errors.SafeLLMError):
        denied = issubclass(cls, errors.DeniedError) and cls is not errors.DeniedError
        code, status = (f"`{cls.code}`", f"{cls.status_code}") if denied else ("", "")
        rows.append((f"`{cls.__name__}`", code, status, about(cls)))
    yield table(("Error", "`code`", "`status_code`", ""), rows)
    for cls in (errors.DeniedError, errors.OutputRejectedError, errors.DeadlineExceededError):
        yield f"### `{cls.__name__}`"
        yield table(("Attribute", ""), _attributes(cls))


def _attributes(cls: type) -> Iterator[tuple[str, str]]:
    listed = (inspect.getdoc(cls) or "").partition("Attributes:\n")[2]
    for entry in re.split(r"\n(?=    \w)", inspect.cleandoc(" \n" + listed).replace("\n", "\n    ")):
        names, _, text = entry.strip().partition(": ")
        yield ", ".join(f"`{name}`" for name in names.split(", ")), markdown(text)


def fields(*classes: type) -> Iterator[str]:
    for cls in classes:
        yield f"### `{cls.__name__}`"
        yield about(cls)
        said = words(cls)
        rows = []
        for node in _body(cls):
            if isinstance(node, ast.AnnAssign):
                name = ast.unparse(node.target)
                written = ast.unparse(node.annotation).replace("Outcomes", ast.unparse(_outcomes()))
                rows.append((f"`{name}`", f"`{written}`".replace("'", '"'), said.get(name, "")))
        yield table(("Field", "Type", ""), rows)


def _outcomes() -> ast.expr:
    tree = ast.parse(inspect.getsource(types))
    (value,) = [n.value for n in tree.body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "Outcomes"]
    return value


PARTS: Mapping[str, Callable[[], Iterable[str]]] = {
    "policy": policy,
    "tree": tree,
    "errors": failures,
    "records": lambda: fields(*RECORDS),
    "answers": lambda: fields(*ANSWERS),
    "checks": lambda: fields(types.Content, types.Part),
}


def renewed(text: str) -> str:
    """A document with its generated parts as the classes are now."""
    return _BLOCK.sub(lambda block: block[1] + "\n" + "\n\n".join(PARTS[block[2]]()) + "\n\n" + block[3], text)


def main() -> None:
    for page in DOCS.glob("*.md"):
        text = page.read_text(encoding="utf-8")
        if renewed(text) != text:
            page.write_text(renewed(text), encoding="utf-8")
            print(f"written: docs/{page.name}")


if __name__ == "__main__":
    main()

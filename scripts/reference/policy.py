"""Every key of the policy."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from safe_llm.policy import DEFAULT_LIMITS, Feature, HostedTool, Plan, Policy
from safe_llm.pricing import PriceEntry

from .source import about, table, words


def kind(schema: Mapping[str, Any]) -> str:
    """A type of a JSON schema, in the words of TOML."""
    if "enum" in schema or "const" in schema:
        return " or ".join(f"`{toml(value)}`" for value in schema.get("enum", [schema.get("const")]))
    if "anyOf" in schema:
        kinds = [kind(each) for each in schema["anyOf"] if each.get("type") != "null"]
        return "price" if "decimal_places" in str(schema) else " or ".join(dict.fromkeys(kinds))
    if "$ref" in schema:
        return "[limit](#limits)" if schema["$ref"].endswith("/Limit") else "section"
    if schema["type"] == "array":
        return f"list: {kind(schema['items'])}"
    if schema["type"] == "object":
        return f"table: {kind(schema['additionalProperties'])}"
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤"}
    bounds = ", ".join(f"{sign} {schema[key]:_}" for key, sign in signs.items() if key in schema)
    return f"{schema['type']} {bounds}".rstrip()


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


def sections() -> Iterator[tuple[str, type[BaseModel]]]:
    """Each section of the top that is one class, with its name."""
    for name, field in Policy.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield name, field.annotation


def _key_table(cls: type[BaseModel]) -> str:
    return table(("Key", "Type", "Default", ""), keys(cls))


def _sentences(cls: type) -> str:
    """What a section is about: its docstring without its name in front."""
    text = re.sub(r"^`\[.+?\]`: ", "", " ".join(about(cls)))
    return text[0].upper() + text[1:]


def keys_of_all() -> Iterator[str]:
    yield "### The top"
    yield _key_table(Policy)
    for name, cls in sections():
        yield f"### `[{name}]`"
        yield _sentences(cls)
        places = [place.kind for place in (Plan, Feature) if name in place.model_fields]
        yield f"*May be overridden by a {', then a '.join(places)}.*" if places else "*At the top alone.*"
        yield _key_table(cls)
        if name == "routes":
            yield f"Each of `hosted_tools`. {_sentences(HostedTool)}"
            yield _key_table(HostedTool)
    for name, place in (("plans", Plan), ("features", Feature)):
        yield f"### `[{name}.NAME]`"
        yield _sentences(place)
        yield _key_table(place)
        inner = ", ".join(f"`{key}`" for key, _ in sections() if key in place.model_fields)
        yield f"And {inner}: tables with the keys of the section of that name, each of which it overrides by itself."
        if place is Plan:
            yield "In a policy that writes no plan `default`, that is:"
            yield f"```toml\n[plans.default]\nlimits = {toml(DEFAULT_LIMITS)}\n```"
    yield '### `[prices."NAME"]`'
    yield _sentences(PriceEntry)
    yield _key_table(PriceEntry)

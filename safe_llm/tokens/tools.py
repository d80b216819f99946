"""Tool definitions as a model reads them: TypeScript in a namespace.

The provider does not publish the form. This one follows what it publishes for its open models
(github.com/openai/harmony) and was fitted to recorded requests: most counts come out within one token. What a model
is not known to read is kept as JSON, so that it counts for something.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Schema = Mapping[str, Any]

MAX_DEPTH = 12
"""Levels of nesting that are rendered; what lies deeper stays JSON."""

_RENDERED = frozenset(
    {"name", "parameters", "strict", "type", "title", "description", "properties", "required", "additionalProperties"}
    | {"items", "enum", "const", "default", "anyOf", "oneOf", "allOf", "$ref", "$defs", "definitions"}
)


def compact(value: object) -> str:
    """JSON without blanks, and with letters as they are."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, default=str)


def typescript(tools: Sequence[Schema]) -> str:
    """All `tools` of a request as one text. Those of both APIs are understood, and legacy functions."""
    lines = ["namespace functions {", ""]
    for tool in tools:
        function = _mapping(_mapping(tool).get("function", tool))
        if "name" in function:
            lines += [*_function(function), ""]
        else:
            lines += [compact(tool), ""]
    return "\n".join([*lines, "} // namespace functions"])


def _function(function: Schema) -> Iterator[str]:
    parameters = _mapping(function.get("parameters"))
    yield from _comments(function)
    if properties := _mapping(parameters.get("properties")):
        yield from _comments(parameters)
        yield f"type {function['name']} = (_: {{"
        yield from _properties(properties, parameters, 0)
        yield "}) => any;"
        for key in ("$defs", "definitions"):
            yield from (f"type {name} = {_type(schema, 0)};" for name, schema in _mapping(parameters.get(key)).items())
    else:
        yield f"type {function['name']} = () => any;"


def _properties(properties: Schema, schema: Schema, depth: int) -> Iterator[str]:
    required = schema.get("required")
    for name, value in properties.items():
        yield from _comments(_mapping(value))
        optional = "" if isinstance(required, list) and name in required else "?"
        default = f" // default: {compact(value['default'])}" if "default" in _mapping(value) else ""
        yield f"{name}{optional}: {_type(value, depth)},{default}"


def _type(schema: object, depth: int) -> str:
    if not isinstance(schema, Mapping) or depth > MAX_DEPTH:
        return compact(schema)
    for key in ("anyOf", "oneOf", "allOf"):
        if isinstance(choices := schema.get(key), list):
            return " | ".join(_choice(choice, depth + 1) for choice in choices)
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if isinstance(values := schema.get("enum"), list):
        return " | ".join(map(compact, values))
    if "const" in schema:
        return compact(schema["const"])
    if properties := _mapping(schema.get("properties")):
        return "\n  ".join(("{", *_properties(properties, schema, depth + 1))) + "\n}"
    match schema.get("type", "any"):
        case "array":
            return f"{_type(schema.get('items', {}), depth + 1)}[]"
        case "integer":
            return "number"
        case str(name):
            return name
    return compact(schema)


def _choice(schema: object, depth: int) -> str:
    # A type within a union has no line of its own for comments.
    return compact(schema) if _mapping(schema).keys() - _RENDERED else _type(schema, depth)


def _comments(schema: Schema) -> Iterator[str]:
    """Title, description, and whatever has no place in a type: formats, patterns, bounds."""
    if title := schema.get("title"):
        yield f"// {title}\n//"
    if description := schema.get("description"):
        yield "// " + str(description).replace("\n", "\n// ")
    for key, value in schema.items():
        if key not in _RENDERED:
            yield f"// {key}: {compact(value)}"


def _mapping(value: object) -> Schema:
    return value if isinstance(value, Mapping) else {}

"""Small JSON that is valid for a type of the SDK: what a provider might answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date, datetime
from enum import Enum
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel
from typing_extensions import is_typeddict

_PLAIN: dict[Any, Any] = {
    str: "text",
    int: 1,
    float: 1.0,
    bool: True,
    bytes: "text",
    datetime: "2026-01-01T00:00:00Z",
    date: "2026-01-01",
    NoneType: None,
    None: None,
}
_DEEPEST_ITEMS = 4
"""Levels below which lists are empty; types that hold lists of themselves end there."""


def sample(type_: Any, level: int = 0) -> Any:
    """JSON of the type: first member of a union, one item in a list; below the top, no field that may be None."""
    type_ = getattr(type_, "__value__", type_)  # what a ``type X = …`` stands for
    if type_ in _PLAIN:
        return _PLAIN[type_]
    origin, arguments = get_origin(type_), get_args(type_)
    if origin is Annotated:
        return sample(arguments[0], level)
    if origin is Literal:
        return arguments[0]
    if origin in (Union, UnionType):
        return sample(next(member for member in arguments if member is not NoneType), level)
    kind = origin or type_
    if not isinstance(kind, type):
        return {}
    if issubclass(kind, BaseModel):
        return _model(type_, level)
    if is_typeddict(kind):
        hints = get_type_hints(kind)
        return {name: sample(hints[name], level + 1) for name in sorted(kind.__required_keys__)}  # type: ignore[attr-defined]
    if issubclass(kind, Enum):
        return next(iter(kind)).value
    if issubclass(kind, Mapping):
        return {}
    if issubclass(kind, Iterable):
        return [sample(item, level + 1) for item in arguments[:1]] if level <= _DEEPEST_ITEMS else []
    return {}


def _model(model: type[BaseModel], level: int) -> dict[str, Any]:
    return {
        field.alias or name: sample(field.annotation, level + 1)
        for name, field in model.model_fields.items()
        if level == 0 or field.default is not None
    }

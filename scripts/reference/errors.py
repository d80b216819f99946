"""Every error."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

from safe_llm import errors

from .source import about, code, section, table


def tree() -> Iterator[str]:
    """As it is drawn at the top of the file."""
    _, _, drawn = (inspect.getdoc(errors) or "").partition("::\n\n")
    yield "```text\n" + inspect.cleandoc("\n" + drawn.partition("\n\n")[0]) + "\n```"


def table_of_all() -> Iterator[str]:
    rows = []
    for cls in _walk(errors.SafeLLMError):
        denied = issubclass(cls, errors.DeniedError) and cls is not errors.DeniedError
        shown = (f"`{cls.code}`", str(cls.status_code)) if denied else ("", "")
        rows.append((f"`{cls.__name__}`", *shown, " ".join(about(cls))))
    yield table(("Error", "`code`", "`status_code`", ""), rows)
    for cls in _walk(errors.SafeLLMError):
        attributes = section(cls, "Attributes")
        if attributes:
            yield f"### `{cls.__name__}`"
            yield table(("Attribute", ""), ((code(names), text) for names, text in attributes.items()))


def _walk(cls: type[errors.SafeLLMError]) -> Iterator[type[errors.SafeLLMError]]:
    yield cls
    for child in cls.__subclasses__():
        yield from _walk(child)

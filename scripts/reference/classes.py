"""The fields of what one reads, and the arguments of what one makes."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator, Mapping

import safe_llm
from safe_llm import types, web
from safe_llm.checks import Pattern
from safe_llm.judges import JudgeCheck, ModerationCheck
from safe_llm.testing import FakeClock, FakeOpenAI, RecordingSink

from .source import about, body, code, section, table, words

GROUPS: Mapping[str, tuple[type, ...]] = {
    "clients": (safe_llm.SafeOpenAI,),
    "web": (web.JWTVerifier, web.SafeLLMMiddleware, web.SafeLLMWSGIMiddleware),
    "stores": (
        *(safe_llm.MemoryQuotaStore, safe_llm.SQLiteQuotaStore, safe_llm.RedisQuotaStore),
        *(safe_llm.PostgresQuotaStore, safe_llm.KeyValueQuotaStore),
    ),
    "sinks": (
        *(safe_llm.LoggingSink, safe_llm.JSONLinesSink, safe_llm.SQLiteSink),
        *(safe_llm.OpenTelemetrySink, safe_llm.PrometheusSink, safe_llm.WebhookSink),
    ),
    "own_checks": (Pattern, ModerationCheck, JudgeCheck),
    "testing": (FakeOpenAI, FakeClock, RecordingSink),
}
"""By the part of a document that shows them."""

_ALIASES = {"Outcomes"}
"""Of types, which nobody knows by their names."""


def fields(*classes: type) -> Iterator[str]:
    for cls in classes:
        yield f"### `{cls.__name__}`"
        yield from about(cls)
        said = words(cls)
        nodes = [node for node in body(cls) if isinstance(node, ast.AnnAssign)]
        named = [(ast.unparse(node.target), node.annotation) for node in nodes]
        rows = [(code(name), f"`{_spelled(kind)}`", said.get(name, "")) for name, kind in named if name != "_"]
        if rows:
            yield table(("Field", "Type", ""), rows)


def _spelled(annotation: ast.expr) -> str:
    text = ast.unparse(annotation)
    if text in _ALIASES:
        (text,) = (
            ast.unparse(node.value)
            for node in ast.parse(inspect.getsource(types)).body
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == text
        )
    return text.replace("'", '"')


def arguments(group: str) -> Iterator[str]:
    for cls in GROUPS[group]:
        yield f"### `{cls.__name__}`"
        yield from about(cls)
        parameters = inspect.signature(cls).parameters
        rows = []
        for names, text in section(cls, "Args").items():
            given = [parameters[name].default for name in names.split(", ")]
            shown = [f"`{each!r}`" for each in given if each not in (None, inspect.Parameter.empty)]
            rows.append((code(names), ", ".join(shown).replace("'", '"'), text))
        if rows:
            yield table(("Argument", "Default", ""), rows)

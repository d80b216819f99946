"""Hosted tools: those that the provider runs by itself, and bills beyond what a cap on tokens can bound."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from .reading import inside, malformed, objects, whole

_OWN = frozenset({"function", "custom", "local_shell", "apply_patch"})
"""Types of tools that the application runs itself."""

_FAMILIES = (
    *("web_search", "file_search", "code_interpreter", "computer", "image_generation", "mcp", "shell", "tool_search"),
    "programmatic_tool_calling",
)
"""Names of hosted tools without the versions that their types may carry: ``web_search_preview_2025_03_11``."""


def family(kind: str) -> str:
    """The name of a hosted tool, from its type; a type that is not known is a family of its own."""
    return next((name for name in _FAMILIES if kind.startswith(name)), kind)


def hosted_in(body: Mapping[str, Any], where: str = "tools") -> list[str]:
    """The types of the hosted tools that an object offers, those inside of its namespaces included.

    Raises:
        InputRejectedError: a tool has no type.
    """
    found = []
    for position, tool in enumerate(objects(body, "tools")):
        kind = tool.get("type")
        if not isinstance(kind, str):
            raise malformed(f"{where}[{position}] has no type")
        if kind == "namespace":
            found += hosted_in(tool, f"{where}[{position}].tools")
        elif kind not in _OWN and not (kind == "shell" and inside(tool, "environment").get("type") == "local"):
            found.append(kind)
    return found


def calls_in(answer: Mapping[str, Any]) -> Mapping[str, int]:
    """How often each family of hosted tools was called: the items of an answer, and what it tells of its searches."""
    output = answer.get("output")
    items: Iterable[Any] = output if isinstance(output, list) else ()
    kinds = (item.get("type") for item in items if isinstance(item, dict))
    calls = Counter(
        name
        for kind in kinds
        if isinstance(kind, str) and kind.endswith("_call") and (name := family(kind)) in _FAMILIES
    )
    # Not every item is billed: a search that opens a page is not.
    searches = whole(inside(inside(answer, "tool_usage"), "web_search").get("num_requests"))
    if searches is not None:
        calls["web_search"] = searches
    return calls

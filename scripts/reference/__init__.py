"""Writes the tables of the documents from the classes that they are about.

    python -m scripts.reference

What stands between `<!-- generated: NAME -->` and `<!-- end -->` is replaced; all else is written by hand. Types,
defaults and bounds come from the classes, words from the docstrings beneath their fields, which only the source has.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial

from safe_llm import types
from safe_llm.testing import Reply

from . import classes, errors, policy

PARTS: Mapping[str, Callable[[], Iterable[str]]] = {
    "policy": policy.keys_of_all,
    "tree": errors.tree,
    "errors": errors.table_of_all,
    "records": lambda: classes.fields(
        types.UsageRecord, types.Denial, types.Finding, types.ShadowDecision, types.Alert
    ),
    "answers": lambda: classes.fields(types.LimitStatus, types.Quote, types.SwitchEvent),
    "checks": lambda: classes.fields(types.Check, types.Content, types.Part),
    "reply": lambda: classes.fields(Reply),
    **{name: partial(classes.arguments, name) for name in classes.GROUPS},
}

_BLOCK = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def renewed(text: str) -> str:
    """A document with its generated parts as the classes are now."""
    return _BLOCK.sub(lambda block: block[1] + "\n" + "\n\n".join(PARTS[block[2]]()) + "\n\n" + block[3], text)

"""Public names that are imported when they are first used: what stands behind them is not needed by most programs."""

from __future__ import annotations

from typing import Any

from . import sinks, stores


def __getattr__(name: str) -> Any:
    for home in (stores, sinks):
        if name in home.__all__:
            return getattr(home, name)
    raise AttributeError(f"module 'safe_llm' has no attribute {name!r}")

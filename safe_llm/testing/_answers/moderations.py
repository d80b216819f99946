"""Moderations: free of charge. A text is flagged for the category that it names, as in "[violence]"."""

from __future__ import annotations

from typing import Any

from ..reply import Reply, Request

CATEGORIES = ("harassment", "hate", "illicit", "self-harm", "sexual", "violence")


def body(request: Request, reply: Reply) -> dict[str, Any]:
    given = request.body.get("input")
    texts = given if isinstance(given, list) else [given]
    model = reply.model or request.body.get("model") or "omni-moderation-latest"
    return {"id": f"modr-{request.id}", "model": model, "results": [_result(str(text)) for text in texts]}


def _result(text: str) -> dict[str, Any]:
    met = {category: f"[{category}]" in text for category in CATEGORIES}
    scores = {category: 0.9 if is_met else 0.01 for category, is_met in met.items()}
    applied = {category: ["text"] for category in CATEGORIES}
    return {
        "flagged": any(met.values()),
        "categories": met,
        "category_scores": scores,
        "category_applied_input_types": applied,
    }

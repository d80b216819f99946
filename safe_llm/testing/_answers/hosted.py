"""Calls of tools that the provider runs itself, as output items of the Responses API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..reply import Reply
from .images import IMAGE, OUTPUT_TOKENS

FIELDS: Mapping[str, Mapping[str, Any]] = {
    "web_search_call": {"action": {"type": "search", "query": "fake", "queries": ["fake"], "sources": []}},
    "file_search_call": {"queries": ["fake"], "results": None},
    "code_interpreter_call": {"code": "1 + 1", "container_id": "cntr_fake", "outputs": None},
    "mcp_call": {"arguments": "{}", "name": "fake", "server_label": "fake", "output": "fake", "error": None},
    "image_generation_call": {"result": IMAGE},
    "shell_call": {"call_id": "call_fake", "action": {"commands": ["true"]}, "environment": None},
    "computer_call": {"call_id": "call_fake", "action": {"type": "screenshot"}, "pending_safety_checks": []},
}
"""What an item of each type must have beside its id, type and status. Any other type has those alone."""


def hosted_items(reply: Reply, number: str) -> list[dict[str, Any]]:
    calls = [{"type": call} if isinstance(call, str) else call for call in reply.hosted_calls]
    return [
        {"id": f"{call['type']}_{number}_{position}", "status": "completed", **FIELDS.get(call["type"], {}), **call}
        for position, call in enumerate(calls)
    ]


def tool_usage(items: list[dict[str, Any]]) -> dict[str, Any]:
    """What the tools used that is not in the response's own usage: searches, and tokens of high-quality images."""
    kinds = [item["type"] for item in items]
    tokens = kinds.count("image_generation_call") * OUTPUT_TOKENS["high"]
    return {
        "image_gen": {
            "input_tokens": 0,
            "input_tokens_details": {"text_tokens": 0, "image_tokens": 0},
            "output_tokens": tokens,
            "output_tokens_details": {"text_tokens": 0, "image_tokens": tokens},
            "total_tokens": tokens,
        },
        "web_search": {"num_requests": kinds.count("web_search_call")},
    }

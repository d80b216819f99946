"""The compaction of a conversation: one opaque item, without the user's messages that the real API puts before it."""

from __future__ import annotations

import base64
from typing import Any

from ..reply import Reply, Request
from .draft import conversation, draft, words
from .responses import usage_of


def body(request: Request, reply: Reply) -> dict[str, Any]:
    prompt = conversation(request.body.get("input")) + words(request.body.get("instructions"))
    answer = draft(request, reply, prompt_tokens=prompt, cap=None)
    sealed = base64.b64encode("".join(answer.pieces).encode()).decode()
    return {
        "id": f"resp_{answer.number}",
        "object": "response.compaction",
        "created_at": answer.created,
        "output": [{"id": f"cmp_{answer.number}", "type": "compaction", "encrypted_content": sealed}],
        "usage": usage_of(answer.usage),
    }

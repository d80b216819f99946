"""Chat-template tokens in text that should only be read: they let it pretend to be another turn, or the system.

Only tokens that a model's own template has. A heading such as ``### System:`` and HTML's ``<s>`` are ordinary text.
"""

from __future__ import annotations

import re

_NAMES = frozenset(
    (
        *("im_start", "im_end", "im_sep", "endoftext", "endofprompt", "system", "user", "assistant", "end", "start"),
        *("message", "channel", "return", "call", "constrain", "tool", "tool_call", "tool_calls", "tool_response"),
        *(
            "start_header_id",
            "end_header_id",
            "begin_of_text",
            "end_of_text",
            "eot_id",
            "eom_id",
            "eot",
            "eom",
            "step_id",
        ),
        *("python_tag", "header_start", "header_end", "finetune_right_pad_id", "start_of_role", "end_of_role"),
        *("system_token", "user_token", "chatbot_token", "start_of_turn_token", "end_of_turn_token", "start_thinking"),
        *("end_thinking", "start_response", "end_response", "start_action", "end_action", "endofturn", "fim_prefix"),
        *("fim_middle", "fim_suffix", "fim_begin", "fim_hole", "fim_end", "vision_start", "vision_end", "image_pad"),
        *("begin_of_sentence", "end_of_sentence", "tool_calls_begin", "tool_calls_end", "tool_call_begin"),
        *(
            "tool_call_end",
            "tool_outputs_begin",
            "tool_outputs_end",
            "tool_output_begin",
            "tool_output_end",
            "tool_sep",
        ),
    )
)
"""Between ``<|`` and ``|>``: ChatML, Llama 3 and 4, Harmony, Phi, Command R, Granite, DeepSeek, Qwen, code models."""
_RESERVED = re.compile(r"reserved_(special_)?token_[0-9]+|extra_(id_)?[0-9]+")
_barred = re.compile(r"<\s{0,3}\|\s{0,3}([A-Za-z0-9_▁ ]{2,32})\|\s{0,3}>")
_others = re.compile(
    r"<(?:start|end)_of_turn>"  # Gemma
    r"|<<\s?/?SYS\s?>>|\[\s?/?\s?INST\s?\]"  # Llama 2
    r"|\[/?(?:SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|TOOL_CONTENT)\]"  # Mistral
)


def has_role_markers(shaped: str) -> bool:
    """Whether there is a chat-template token in the shapes of a text (`normalizing.shapes`)."""
    if "<" not in shaped and "[" not in shaped:
        return False
    return _others.search(shaped) is not None or any(map(_is_token, _barred.findall(shaped)))


def _is_token(name: str) -> bool:
    name = name.strip().lower().replace("▁", "_").replace(" ", "_")
    return name in _NAMES or _RESERVED.fullmatch(name) is not None

"""Tokens: exact counts where a decision needs them, and bounds that need no tokenizer everywhere else."""

from .chat import bound_tokens, is_plain, message_tokens, overhead_tokens, request_tokens, with_margin
from .images import audio_tokens, file_tokens, image_size, image_tokens
from .responses import as_message, item_tokens, response_overhead
from .text import Counter, encoding_for, exact, exact_up_to, input_tokens, lower_bound, upper_bound
from .tools import typescript

__all__ = [
    "Counter",
    "as_message",
    "audio_tokens",
    "bound_tokens",
    "encoding_for",
    "exact",
    "exact_up_to",
    "file_tokens",
    "image_size",
    "image_tokens",
    "input_tokens",
    "is_plain",
    "item_tokens",
    "lower_bound",
    "message_tokens",
    "overhead_tokens",
    "request_tokens",
    "response_overhead",
    "typescript",
    "upper_bound",
    "with_margin",
]

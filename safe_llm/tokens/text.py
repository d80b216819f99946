"""Text: which encoding a model uses, exact counts, and bounds that need no tokenizer.

The rank files ship with the library (``ranks/``): tiktoken's own loader downloads them on first use, without a
time-out and under a lock, so that in a closed network every caller after the first hangs. tiktoken is imported, and
a rank file unpacked (0.3 s, 80 MB), when the first exact count asks for it.
"""

from __future__ import annotations

import lzma
import re
from collections.abc import Callable, Iterator, Sequence
from importlib.resources import files
from threading import Lock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tiktoken

Counter = Callable[[str], int]
"""Tokens of a text: exact, or a bound."""

PIECE = 8_192
"""The most characters that are tokenized at once. Long runs of blanks overflow tiktoken's regex, which then raises a
BaseException."""

LONGEST_TOKEN = 128
"""Bytes of the longest token in either encoding."""

# Anchored, and closed before "o", "." and digits: gpt-4o and gpt-4.1 are o200k_base, gpt-4 and gpt-4-turbo are not.
_CL100K = re.compile(r"gpt-4(?![\w.])|gpt-3\.?5|text-embedding-|davinci-002|babbage-002")

# The patterns and special tokens are those of tiktoken_ext/openai_public.py (MIT), which builds them only together
# with a download.
_PATTERNS = {
    "o200k_base": "|".join(
        (
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
            r"\p{N}{1,3}",
            r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
            r"\s*[\r\n]+",
            r"\s+(?!\S)",
            r"\s+",
        )
    ),
    "cl100k_base": "|".join(
        (
            r"'(?i:[sdmt]|ll|ve|re)",
            r"[^\r\n\p{L}\p{N}]?+\p{L}++",
            r"\p{N}{1,3}+",
            r" ?[^\s\p{L}\p{N}]++[\r\n]*+",
            r"\s++$",
            r"\s*[\r\n]",
            r"\s+(?!\S)",
            r"\s",
        )
    ),
}
_SPECIAL_TOKENS = {
    "o200k_base": {"<|endoftext|>": 199999, "<|endofprompt|>": 200018},
    "cl100k_base": {
        "<|endoftext|>": 100257,
        "<|fim_prefix|>": 100258,
        "<|fim_middle|>": 100259,
        "<|fim_suffix|>": 100260,
        "<|endofprompt|>": 100276,
    },
}

_loading = Lock()
_loaded: dict[str, tiktoken.Encoding] = {}


def family(model: str) -> str:
    """`model` without the mark of a fine-tuned one, so that it begins with the name of its base."""
    return model.removeprefix("ft:")


def encoding_for(model: str) -> str:
    """The name of the encoding of `model`: "cl100k_base" for the GPT-4, GPT-3.5 and embedding families, else
    "o200k_base", which every model since GPT-4o uses. Fine-tuned names (``ft:…``) follow their base."""
    return "cl100k_base" if _CL100K.match(family(model)) else "o200k_base"


def upper_bound(text: str) -> int:
    """The most tokens that `text` can be, in any encoding over bytes: its length in UTF-8."""
    # A lone surrogate counts three bytes, as does the replacement character that tiktoken puts in its place.
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def lower_bound(text: str) -> int:
    """The fewest tokens that valid Unicode can be: `upper_bound` over the longest token, rounded up."""
    return -(-upper_bound(text) // LONGEST_TOKEN)


def exact(model: str) -> Counter:
    """A counter that tokenizes as `model` does, at about 8 MB/s. Special tokens count as the plain text they are.

    It may be shared by threads. Long texts belong off the event loop, and behind a limit of bytes.
    """
    encoding = encoding_for(model)
    return lambda text: sum(_pieces(text, encoding))


def exact_up_to(model: str, budget: int) -> Counter:
    """A counter for the texts of one request, which stops tokenizing once their sum has passed `budget` tokens.

    A sum within the budget is exact; one above it means that the true sum is above it, too. The counter adds up what
    it has seen: it serves one request, in one thread.
    """
    encoding = encoding_for(model)
    seen = 0

    def count(text: str) -> int:
        nonlocal seen
        tokens = lower_bound(text)
        if seen + tokens <= budget:
            tokens = 0
            for piece in _pieces(text, encoding):
                tokens += piece
                if seen + tokens > budget:
                    break
        seen += tokens
        return tokens

    return count


def input_tokens(value: object, count: Counter) -> int:
    """Tokens of the ``input`` of embeddings or the ``prompt`` of completions: a text, tokens, or a list of either."""
    if isinstance(value, str):
        return count(value)
    return sum(input_tokens(item, count) for item in value) if isinstance(value, Sequence) else 1


def unpack_ranks(packed: bytes) -> dict[bytes, int]:
    """Token to rank, from the packed form: xz over one byte of length and the token's bytes, in order of rank."""
    raw = lzma.decompress(packed)
    ranks: dict[bytes, int] = {}
    position = 0
    while position < len(raw):
        start, position = position + 1, position + 1 + raw[position]
        ranks[raw[start:position]] = len(ranks)
    return ranks


def _pieces(text: str, encoding: str) -> Iterator[int]:
    encode = _encoding(encoding).encode
    start = 0
    while start < len(text):
        end = start + PIECE
        if end < len(text):
            # No token spans the end of a word, so a cut there leaves the count as it is.
            end = max(text.rfind(" ", start + PIECE // 2, end), start + PIECE // 2)
        # Only this form of encode neither refuses the text of a special token nor counts it as one.
        yield len(encode(text[start:end], disallowed_special=()))
        start = end


def _encoding(name: str) -> tiktoken.Encoding:
    if name not in _loaded:
        with _loading:
            if name not in _loaded:
                _loaded[name] = _load(name)
    return _loaded[name]


def _load(name: str) -> tiktoken.Encoding:
    import tiktoken

    packed = files(__package__).joinpath("ranks", f"{name}.xz").read_bytes()
    return tiktoken.Encoding(
        name,
        pat_str=_PATTERNS[name],
        mergeable_ranks=unpack_ranks(packed),
        special_tokens=_SPECIAL_TOKENS[name],
    )

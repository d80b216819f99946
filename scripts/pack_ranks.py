"""Packs an official ``.tiktoken`` rank file into ``safe_llm/tokens/ranks/<name>.xz``.

    python scripts/pack_ranks.py o200k_base path/to/o200k_base.tiktoken

A rank file lists one token per line, base64 and rank. Packed, each token is one byte of length and its bytes, in order
of rank, compressed with xz: a third of the size, and nothing to parse. The official files are at
``https://openaipublic.blob.core.windows.net/encodings/<name>.tiktoken``; the PyPI wheels of litellm and bpe-openai
carry identical copies. Whatever does not have the official checksum is refused.
"""

from __future__ import annotations

import hashlib
import lzma
import sys
from base64 import b64decode
from pathlib import Path

from safe_llm.tokens.text import unpack_ranks

SHA256 = {  # as published in tiktoken_ext/openai_public.py
    "o200k_base": "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
    "cl100k_base": "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
}
FOLDER = Path(__file__).parents[1] / "safe_llm" / "tokens" / "ranks"


def pack(name: str, official: bytes) -> bytes:
    """The packed form of an official rank file, unpacked again and compared before it is returned."""
    digest = hashlib.sha256(official).hexdigest()
    if digest != SHA256[name]:
        raise SystemExit(f"not the official {name}: its sha256 is {digest}, expected {SHA256[name]}")
    ranks = {b64decode(token): int(rank) for token, rank in (line.split() for line in official.splitlines())}
    tokens = sorted(ranks, key=ranks.__getitem__)
    raw = b"".join(bytes([len(token)]) + token for token in tokens)
    packed = lzma.compress(raw, preset=9 | lzma.PRESET_EXTREME)
    if unpack_ranks(packed) != ranks:
        raise SystemExit(f"{name} does not survive packing: its ranks are not 0, 1, 2, … without a gap")
    return packed


def main() -> None:
    match sys.argv[1:]:
        case [name, path] if name in SHA256:
            target = FOLDER / f"{name}.xz"
            target.write_bytes(pack(name, Path(path).read_bytes()))
            print(f"{target}: {target.stat().st_size:,} bytes")
        case _:
            raise SystemExit(f"usage: pack_ranks.py {{{','.join(SHA256)}}} FILE.tiktoken")


if __name__ == "__main__":
    main()

"""Type-checks the programs of the SDK's README, with its own class names and with ours: what is right stays right.

    python -m scripts.dropin.readme FOLDER    # of the SDK's source distribution

Both are checked by mypy and pyright; with ours nothing may be wrong that is not wrong with the SDK's own.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

_BLOCK = re.compile(r"^```(?:python|py)\n(.*?)^```", re.DOTALL | re.MULTILINE)
_CLASS = re.compile(r"\b(Async)?(Azure)?OpenAI\b(?!\.)")
_IMPORT = re.compile(r"(?<![^\n ])from openai import (.+)$", re.MULTILINE)
_AWAITS = re.compile(r"^(await |async (with|for) |\w+ = await )", re.MULTILINE)


def programs(readme: str) -> list[str]:
    """The README's programs, each made to stand by itself: pieces of one get the client that they speak of."""
    return [_whole(block) for block in _BLOCK.findall(readme)]


def _whole(block: str) -> str:
    if not re.search(r"^\s*from openai import .*OpenAI", block, re.MULTILINE):
        awaits = "Async" if _AWAITS.search(block) or "AsyncOpenAI" in block else ""
        block = f"from openai import {awaits}OpenAI\n\nclient = {awaits}OpenAI()\n{block}"
    if not _AWAITS.search(block):
        return block
    lines = "".join(f"    {line}" if line.strip() else line for line in block.splitlines(keepends=True))
    return f"async def main() -> None:\n{lines}"


def with_ours(program: str) -> str:
    """The same with our class names, and nothing else changed."""

    def imports(match: re.Match[str]) -> str:
        names = [name.strip() for name in match[1].split(",")]
        ours = [name for name in names if _CLASS.fullmatch(name)]
        theirs = [name for name in names if name not in ours]
        lines = [
            f"from {module} import {', '.join(some)}"
            for module, some in (("openai", theirs), ("safe_llm", ours))
            if some
        ]
        return "; ".join(lines)

    return _CLASS.sub(r"\1Safe\2OpenAI", _IMPORT.sub(imports, program))


def problems(folder: Path) -> set[str]:
    """What mypy and pyright find wrong in a folder of programs, without our names in it."""
    here = Path(sys.executable).parent
    checks = (
        [here / "mypy", "--no-error-summary", "--no-incremental", "."],
        [here / "pyright", "--pythonpath", sys.executable, "."],
    )
    found: set[str] = set()
    for check in checks:
        done = subprocess.run(check, cwd=folder, capture_output=True, text=True, timeout=600)
        lines = [line.strip() for line in done.stdout.splitlines() if re.search(r"\berror\b", line)]
        found |= {line.replace("Safe", "").replace(str(folder), "").replace(" | Omit", "") for line in lines}
    return {line for line in found if not re.match(r"\d+ errors?", line)}


def main(folder: str) -> int:
    texts = programs((Path(folder) / "README.md").read_text())
    with tempfile.TemporaryDirectory() as scratch:
        sides = {}
        for side, change in (("theirs", str), ("ours", with_ours)):
            place = Path(scratch, side)
            place.mkdir()
            for number, text in enumerate(texts):
                (place / f"example_{number:02}.py").write_text(change(text))
            sides[side] = problems(place)
    wrong = sorted(sides["ours"] - sides["theirs"])
    print(
        f"{len(texts)} programs of the SDK's README: {len(sides['theirs'])} complaints with its own classes, ", end=""
    )
    print(f"{len(wrong)} more with ours.")
    print("\n".join(wrong))
    return 1 if wrong or not texts else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))

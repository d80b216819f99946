from pathlib import Path

from . import renewed

for page in (Path(__file__).parents[2] / "docs").glob("*.md"):
    text = page.read_text(encoding="utf-8")
    if renewed(text) != text:
        page.write_text(renewed(text), encoding="utf-8")
        print(f"written: docs/{page.name}")

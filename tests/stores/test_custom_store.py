"""The example of a custom backend keeps the contract, among processes too."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

from safe_llm.stores import AwaitableQuotaStore
from safe_llm.testing import SharedQuotaStoreConformance

EXAMPLE = Path(__file__).parents[2] / "examples" / "custom_store.py"
FileQuotaStore: Any = runpy.run_path(str(EXAMPLE))["FileQuotaStore"]


class TestFileQuotaStore(SharedQuotaStoreConformance):
    @pytest.fixture(autouse=True)
    def at(self, tmp_path: Path) -> None:
        self.path = tmp_path / "quota.json"

    def make_store(self) -> Any:
        return FileQuotaStore(self.path)

    def reopen(self) -> Any:
        return FileQuotaStore(self.path)


class TestAwaitableFileQuotaStore(TestFileQuotaStore):
    def make_store(self) -> Any:
        return AwaitableQuotaStore(FileQuotaStore(self.path))

    async def reopen(self) -> Any:
        return AwaitableQuotaStore(FileQuotaStore(self.path))

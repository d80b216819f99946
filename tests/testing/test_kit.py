from __future__ import annotations

import subprocess
import sys

import pytest

import safe_llm.testing


def test_the_kit_loads_without_pytest() -> None:
    code = "import sys, safe_llm.testing as kit; kit.FakeOpenAI; sys.exit('pytest' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_conformance_classes_are_there_when_asked_for() -> None:
    from safe_llm.testing.conformance import QuotaStoreConformance, SharedQuotaStoreConformance

    assert safe_llm.testing.QuotaStoreConformance is QuotaStoreConformance
    assert safe_llm.testing.SharedQuotaStoreConformance is SharedQuotaStoreConformance


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="FakeOpenIA"):
        safe_llm.testing.FakeOpenIA

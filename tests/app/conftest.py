"""Commands and configuration by themselves: without what the suite sets for every updater."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _only_what_a_test_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DRIFTGRAPH__WEB__LISTEN", raising=False)

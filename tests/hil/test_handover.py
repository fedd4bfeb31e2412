"""The hand-over measurement measures; how fast it was is for docs/consumers.md, not for a test."""

from __future__ import annotations

import pytest
from qkdd_hil.handover.__main__ import measure
from qkdd_hil.handover.run import row


@pytest.mark.parametrize("name", ["kms", "file"])
def test_a_place(name: str) -> None:
    found = measure(name, 4, 0.2)
    assert not found.missing
    assert found.rate > 0
    assert found.offered == pytest.approx(found.rate / 2, abs=0.1)
    assert found.blocks >= 4
    assert 0 < found.p50 <= found.p99 <= found.worst


def test_what_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QKDD_PYKMIP_SERVER", raising=False)
    assert "QKDD_PYKMIP_SERVER" in measure("kmip", 4, 0.2).missing


def test_percentiles() -> None:
    found = row("x", 1, 10.0, [float(number) for number in range(200)])
    assert (found.p50, found.p99, found.worst) == (100.0, 198.0, 199.0)

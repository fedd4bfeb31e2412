"""The benchmarks of whole rooms print rows of the agreed form, and what they measure really happens."""

from __future__ import annotations

import json
import os

import pytest

from qkdd.bench import cascade, pipeline

FIELDS = {"name", "value", "unit", "reference", "ratio", "must", "meets_must"}


def printed(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, object]]:
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert all(set(row) == FIELDS for row in rows)
    assert len({row["name"] for row in rows}) == len(rows)
    return {row["name"]: row for row in rows}


def test_cascade_over_a_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(cascade, "FRAME_BITS", 4096)
    monkeypatch.setattr(
        "sys.argv", ["cascade", "--json", "--seconds", "0.6", "--lanes", "3", "--frames", "4", "--rtt", "0.2"]
    )
    cascade.main()
    rows = printed(capsys)
    ratio = next(row for name, row in rows.items() if name.endswith("round trip / none"))
    assert ratio["must"] == 0.9
    assert all(float(str(row["value"])) > 0 for row in rows.values())


def test_a_run_too_short_for_a_block_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["cascade", "--seconds", "0.01", "--lanes", "2", "--frames", "50"])
    with pytest.raises(RuntimeError, match="no block was finished"):
        cascade.main()


@pytest.mark.slow
def test_pipeline(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Two processes, two links, a simulated way: key on both sides, rates that fit together, a node counted alone."""
    arguments = ["--links", "2", "--block", "300000", "--seconds", "1", "--rtt", "1", "--one-node", "bob"]
    monkeypatch.setattr("sys.argv", ["pipeline", "--json", *arguments])
    before = os.sched_getaffinity(0)
    pipeline.main()
    assert os.sched_getaffinity(0) == before
    rows = printed(capsys)

    def value(end: str) -> float:
        return float(str(next(row["value"] for name, row in rows.items() if name.endswith(end))))

    assert 0 < value("secret, at fraction 0.5") <= value("secret, by plan")
    assert value("secret, by plan") < value("sifted")
    assert 0 < value("alice 1 - kernel time / CPU time") < 1
    assert value("secret, at fraction 0.5") < float(
        str(next(row["value"] for name, row in rows.items() if "bob alone" in name))
    )

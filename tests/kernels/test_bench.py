"""The benchmark prints rows of the agreed form; its FFT reference is the same product."""

from __future__ import annotations

import json

import numpy as np
import pytest
from qkdd_native import bench

from qkdd import kernels


def test_rows_have_the_agreed_form(monkeypatch, capsys, variant):
    monkeypatch.setattr(bench, "REPEATS", 1)
    monkeypatch.setattr(bench, "TOEPLITZ_SIZES", ((2000, 0.5, None), (3000, 0.4, 1e9)))
    monkeypatch.setattr(bench, "CLICKS", 1000)
    monkeypatch.setattr(bench, "FRAME", 1000)
    monkeypatch.setattr("sys.argv", ["bench", "--json", "--variant", variant])
    bench.main()
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len({row["name"] for row in rows}) == len(rows) >= 10
    for row in rows:
        assert set(row) == {"name", "value", "unit", "reference", "ratio", "must", "meets_must", "variant"}
        assert row["value"] > 0
        assert (row["must"] is None) == (row["meets_must"] is None)
    assert rows[1]["meets_must"] is False


@pytest.mark.parametrize(("n", "m"), [(100, 50), (3000, 1200)])
def test_reference_is_the_same_product(n, m):
    rng = np.random.default_rng(n)
    key, seed = rng.integers(0, 2, n, dtype=np.uint8), rng.integers(0, 2, n + m - 1, dtype=np.uint8)
    assert (bench.fft_toeplitz(key, seed, m) == kernels.toeplitz(key, seed, m)).all()

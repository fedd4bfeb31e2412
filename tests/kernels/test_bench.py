"""The benchmark prints rows of the agreed form; its FFT reference is the same product."""

from __future__ import annotations

import json

import numpy as np
import pytest
from qkdd_native import bench, bench_ldpc

from qkdd import kernels


def test_rows_have_the_agreed_form(monkeypatch, capsys, variant):
    monkeypatch.setattr(bench, "REPEATS", 1)
    monkeypatch.setattr(bench, "TOEPLITZ_SIZES", ((2000, 0.5, None), (3000, 0.4, 1e9)))
    monkeypatch.setattr(bench, "TRANSFORM_LENGTH", 4096)
    monkeypatch.setattr(bench, "HASH_SIZES", (64, 16384))
    monkeypatch.setattr(bench, "openssl_ghash", lambda size: 1.0)
    monkeypatch.setattr(bench, "LDPC_FRAMES", 2)
    monkeypatch.setattr(bench, "LDPC_POINTS", (bench_ldpc.Point(0.05, 1.3, 1 << 14, 1e9),))
    monkeypatch.setattr(bench, "CLICKS", 1000)
    monkeypatch.setattr(bench, "CLOCK_RATE", 3e4)
    monkeypatch.setattr(bench, "CLOCK_STRENGTHS", (0.1,))
    monkeypatch.setattr(bench, "FRAME", 1000)
    monkeypatch.setattr(bench, "CASCADE_FRAMES", 2)
    monkeypatch.setattr(bench, "BIT_BLOCK", 1 << 16)
    monkeypatch.setattr("sys.argv", ["bench", "--json", "--variant", variant])
    before = kernels.variant()
    bench.main()
    kernels.select_variant(before)
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len({row["name"] for row in rows}) == len(rows) >= 10
    for row in rows:
        assert set(row) == {"name", "value", "unit", "reference", "ratio", "must", "meets_must", "variant"}
        assert row["value"] > 0 or "FER" in row["name"]
        assert (row["must"] is None) == (row["meets_must"] is None)
    by_name = {row["name"]: row for row in rows}
    assert by_name["toeplitz n=3000 m=1200"]["meets_must"] is False
    ldpc = [row for row in rows if row["name"].startswith("LDPC")]
    assert [row["meets_must"] for row in ldpc] == [True, True, False]
    assert by_name["PolyHash.update of 16384 bytes, beside `openssl speed ghash`"]["must"] == 0.9


@pytest.mark.parametrize(("n", "m"), [(100, 50), (3000, 1200)])
def test_reference_is_the_same_product(n, m):
    rng = np.random.default_rng(n)
    key, seed = rng.integers(0, 2, n, dtype=np.uint8), rng.integers(0, 2, n + m - 1, dtype=np.uint8)
    assert (bench.fft_toeplitz(key, seed, m) == kernels.toeplitz(key, seed, m)).all()


def test_plots_are_drawn(monkeypatch, tmp_path, variant):
    pytest.importorskip("matplotlib", reason="the extra `plots` is not installed")
    from qkdd_native import bench_plots

    monkeypatch.setattr(bench, "REPEATS", 1)
    small = {"clock-search": (20_000, 40_000), "ldpc": (1 << 14,)}  # with too few clicks there are no pairs to find
    monkeypatch.setattr(bench_plots, "WATERFALL_BITS", (1 << 14,))
    monkeypatch.setattr(bench_plots, "WATERFALL_F", (1.1, 1.4))
    monkeypatch.setattr(bench_plots, "WATERFALL_FRAMES", 2)
    plots = tuple((name, small.get(name, (500, 1000)), *rest) for name, _, *rest in bench_plots.PLOTS)
    monkeypatch.setattr(bench_plots, "PLOTS", plots)
    bench_plots.draw(tmp_path / "plots")
    drawn = sorted(path.name for path in (tmp_path / "plots").iterdir())
    assert drawn == sorted([*(f"{name}.svg" for name, *_ in plots), "ldpc-waterfall.svg"])
    assert len(drawn) >= 7

"""Codes of low rate for CV-QKD: fixed file, structure, thresholds of their design, decoding near them from soft observations."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import numpy as np
import pytest
from qkdd_native import ldpc

from qkdd import kernels

DESIGN = Path(__file__).parents[2] / "native" / "design"
RATES = (0.1, 0.05, 0.02)


def observations(code: kernels.LdpcCode, snr: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Bits and the log-likelihood ratios of amplitudes ±sqrt(snr) under noise of variance one."""
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 2, code.size, np.uint8)
    seen = (1.0 - 2.0 * bits) * np.sqrt(snr) + rng.normal(size=code.size)
    return bits, (2 * np.sqrt(snr) * seen).astype(np.float32)


def snr_of(rate: float, beta: float) -> float:
    """The signal-to-noise ratio at which this rate is the share beta of the Gaussian channel's capacity."""
    return float(2 ** (2 * rate / beta) - 1)


def test_the_family_is_what_both_sides_have() -> None:
    assert hashlib.sha256(ldpc.LOW_RATE.read_bytes()).hexdigest() == ldpc.LOW_RATE_SHA256
    codes = kernels.ldpc_low_rate_codes()
    assert [round(1 - code.leak, 6) for code in codes] == list(RATES)
    for code in codes:
        columns, shifts, starts = code.entries()
        degrees = np.bincount(columns, minlength=code.columns)
        core = int((degrees > 1).sum())
        assert core / code.columns < 0.13
        assert (degrees[: code.columns - core] == 1).all()  # one bit of degree one a check outside the core
        assert set(np.diff(starts)[: code.columns - core]) <= {3, 4}
        assert shifts.max() < 4096


@pytest.mark.slow
@pytest.mark.parametrize(("index", "beta"), [(0, 0.9), (2, 0.84)])
def test_frames_decode_near_capacity(index: int, beta: float, variant: str) -> None:
    if variant != "portable":
        pytest.skip("numpy decodes; the syndromes of all variants are tested elsewhere")
    code = kernels.ldpc_low_rate_codes()[index].adapted(400 * 256, 256)
    bits, llr = observations(code, snr_of(RATES[index], beta), 3)
    found, taken = kernels.decode_soft(code, code.syndrome(bits), llr, 120)
    assert found is not None
    assert 0 < taken <= 120
    assert (found == bits).all()


def test_far_below_the_threshold_nothing_is_made_up() -> None:
    code = kernels.ldpc_low_rate_codes()[0].adapted(400 * 64, 64)
    bits, llr = observations(code, snr_of(0.1, 1.3), 4)
    found, taken = kernels.decode_soft(code, code.syndrome(bits), llr, 10)
    assert found is None
    assert taken == 10


def test_a_quiet_channel_needs_no_iteration() -> None:
    code = kernels.ldpc_low_rate_codes()[1].adapted(400 * 64, 64)
    bits, llr = observations(code, 400.0, 5)
    found, taken = kernels.decode_soft(code, code.syndrome(bits), llr, 10)
    assert found is not None
    assert taken == 0
    assert (found == bits).all()


def test_sizes_are_checked() -> None:
    code = kernels.ldpc_low_rate_codes()[0].adapted(400 * 64, 64)
    bits, llr = observations(code, 1.0, 6)
    with pytest.raises(kernels.KernelArgument):
        kernels.decode_soft(code, code.syndrome(bits)[:-1], llr, 5)
    with pytest.raises(kernels.KernelArgument):
        kernels.decode_soft(code, code.syndrome(bits), llr[:-1], 5)


def test_thresholds_of_the_design(monkeypatch: pytest.MonkeyPatch) -> None:
    """Density evolution of the shipped degrees: within 4 % of the limit, and not better than capacity."""
    monkeypatch.setattr(sys, "path", [str(DESIGN), *sys.path])
    import awgn

    for rate, (core, twos, threes) in awgn.DESIGNED.items():
        outer = awgn.COLUMNS - core
        shape = np.array([[core / awgn.COLUMNS, twos / core, 2 + threes / outer]])
        limit = awgn.shannon(rate)
        assert awgn.capacity(limit) == pytest.approx(rate, abs=1e-6)
        assert awgn.converges(shape, rate, np.array([1.04 * limit]))[0]
        assert not awgn.converges(shape, rate, np.array([0.99 * limit]))[0]

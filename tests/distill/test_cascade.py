"""The Cascade machine on two frames side by side, over error rates, sizes, bursts and wrong estimates."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from qkdd import kernels
from qkdd.distill.cascade import PASSES, Cascade, error_estimate
from qkdd.distill.errors import BlockMalformed


class NumpyFrame:
    """Oracle of kernels.CascadeFrame: permutations by sorting random numbers, parities by summing."""

    def __init__(self, bits: NDArray[np.uint8], seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.orders = [rng.permutation(bits.size) for _ in range(PASSES)]
        self.places = [np.argsort(order) for order in self.orders]
        self._bits = bits.copy()

    def range_parities(self, pass_: int, starts: NDArray[np.uint32], stops: NDArray[np.uint32]) -> NDArray[np.uint8]:
        sums = np.concatenate([[0], np.cumsum(self._bits[self.orders[pass_]], dtype=np.int64)])
        return ((sums[stops] - sums[starts]) & 1).astype(np.uint8)

    def flip(self, positions: NDArray[np.uint32]) -> None:
        self._bits[positions] ^= 1

    def to_original(self, pass_: int, positions: NDArray[np.uint32]) -> NDArray[np.uint32]:
        return self.orders[pass_][positions].astype(np.uint32)

    def to_permuted(self, pass_: int, positions: NDArray[np.uint32]) -> NDArray[np.uint32]:
        return self.places[pass_][positions].astype(np.uint32)

    def bits(self) -> NDArray[np.uint8]:
        return self._bits


def converse(
    alice: NDArray[np.uint8], bob: NDArray[np.uint8], estimate: float, *, kernel: bool = True
) -> tuple[NDArray[np.uint8], int]:
    """(bob's corrected bits, parities of each side)."""
    seed = bytes(range(32))
    if kernel:
        frames = [kernels.CascadeFrame(bits, seed, PASSES) for bits in (alice, bob)]
    else:
        frames = [NumpyFrame(bits, 1) for bits in (alice, bob)]
    machines = [Cascade(alice.size, estimate, frame, correct=index == 1) for index, frame in enumerate(frames)]
    steps = [machine.run() for machine in machines]
    asks = [next(step, None) for step in steps]
    count = 0
    while asks[0] is not None:
        assert asks[1] is not None
        answers = []
        for mine, theirs in zip(*asks, strict=True):
            np.testing.assert_array_equal(mine.starts, theirs.starts)
            one = frames[0].range_parities(mine.pass_index, mine.starts, mine.stops)
            two = frames[1].range_parities(theirs.pass_index, theirs.starts, theirs.stops)
            answers.append(one ^ two)
            count += len(mine)
        asks = []
        for step in steps:
            try:
                asks.append(step.send(answers))
            except StopIteration:
                asks.append(None)
    assert asks[1] is None
    assert machines[0].error_count == machines[1].error_count
    return frames[1].bits(), count


def noisy(n: int, rate: float, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    rng = np.random.default_rng(seed)
    alice = rng.integers(0, 2, n, np.uint8)
    return alice, alice ^ (rng.random(n) < rate).astype(np.uint8)


@pytest.mark.parametrize("rate", [0.0, 0.001, 0.005, 0.02, 0.05, 0.08, 0.11])
@pytest.mark.parametrize("kernel", [True, False], ids=["kernel", "oracle"])
def test_corrects_at_every_rate(rate: float, kernel: bool) -> None:
    alice, bob = noisy(20_000, rate, 11)
    corrected, parities = converse(alice, bob, max(rate, 1e-4), kernel=kernel)
    np.testing.assert_array_equal(corrected, alice)
    if rate >= 0.005:
        limit = 20_000 * -(rate * math.log2(rate) + (1 - rate) * math.log2(1 - rate))
        assert parities < 1.25 * limit


@pytest.mark.parametrize("n", [1, 2, 3, 5, 16, 63, 64, 65, 1000])
def test_any_size(n: int) -> None:
    for seed in range(5):
        alice, bob = noisy(n, 0.1, seed)
        corrected, _ = converse(alice, bob, 0.1)
        np.testing.assert_array_equal(corrected, alice)


@pytest.mark.parametrize("factor", [0.3, 0.5, 2.0, 4.0])
def test_a_wrong_estimate_costs_parities_not_correctness(factor: float) -> None:
    alice, bob = noisy(20_000, 0.03, 2)
    corrected, _ = converse(alice, bob, 0.03 * factor)
    np.testing.assert_array_equal(corrected, alice)


def test_bursts() -> None:
    alice, _ = noisy(20_000, 0.0, 3)
    bob = alice.copy()
    bob[5000:5400] ^= 1
    corrected, _ = converse(alice, bob, 0.02)
    np.testing.assert_array_equal(corrected, alice)


def test_efficiency_at_two_percent_in_a_large_frame() -> None:
    n, rate = 200_000, 0.02
    alice, bob = noisy(n, rate, 4)
    actual = float(np.mean(alice != bob))
    corrected, parities = converse(alice, bob, rate)
    np.testing.assert_array_equal(corrected, alice)
    assert parities / (n * -(actual * math.log2(actual) + (1 - actual) * math.log2(1 - actual))) <= 1.12


def test_residual_frame_errors_are_rare() -> None:
    """300 short frames: with a residual rate of 1e-3, more than 3 failures happen with probability below 3e-4."""
    failures = 0
    for seed in range(300):
        alice, bob = noisy(1000, 0.03, 100 + seed)
        failures += int(not np.array_equal(converse(alice, bob, 0.03)[0], alice))
    assert failures <= 3


def test_contradicting_parities_end_with_a_refusal() -> None:
    """A peer that answers at random cannot keep the machine busy for ever."""
    rng = np.random.default_rng(1)
    for _ in range(20):
        n = 200
        machine = Cascade(n, 0.05, kernels.CascadeFrame(np.zeros(n, np.uint8), bytes(32), PASSES), correct=True)
        steps = machine.run()
        asked = 0
        try:
            ask = next(steps)
            while True:
                asked += sum(len(r) for r in ask)
                ask = steps.send([rng.integers(0, 2, len(r), np.uint8) for r in ask])
        except (StopIteration, BlockMalformed):
            assert asked < 20 * n


def test_estimate_is_never_zero() -> None:
    assert 0 < error_estimate(0, 10**6) < 1e-5

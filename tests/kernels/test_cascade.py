"""Cascade blocks: two of them side by side end with the same bits, whatever the size, the errors and the other node say."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from qkdd import kernels

SEED = bytes(range(32))
Bits = NDArray[np.uint8]


def open_block(
    bits: Bits, *, correct: bool, rate: float = 0.03, frame: int = 10_000, flight: int = 8, seed: bytes = SEED
):
    return kernels.CascadeBlock(
        kernels.pack_bits(bits),
        bits.size,
        seed,
        error_rate=rate,
        frame_bits=frame,
        in_flight=flight,
        correct=correct,
    )


def noisy(n: int, rate: float, seed: int) -> tuple[Bits, Bits]:
    rng = np.random.default_rng(seed)
    alice = rng.integers(0, 2, n, np.uint8)
    return alice, alice ^ (rng.random(n) < rate).astype(np.uint8)


def converse(alice: Bits, bob: Bits, **shape: float) -> tuple[Bits, int, int, bytes]:
    """(bob's corrected bits, parities of each side, corrections, hash of all that was said)."""
    ends = [open_block(bits, correct=index == 1, **shape) for index, bits in enumerate((alice, bob))]
    said = [b"", b""]
    parities, transcript = 0, hashlib.sha256()
    while True:
        said = [end.step(heard) for end, heard in zip(ends, reversed(said), strict=True)]
        assert ends[0].asked == ends[1].asked
        assert len(said[0]) == len(said[1]) == (ends[0].asked + 7) // 8
        transcript.update(said[0] + said[1])
        parities += ends[0].asked
        if not ends[0].asked:
            break
    packed, corrections = ends[1].close()
    if alice.size % 2:
        assert ends[0].end() == corrections
    else:
        unchanged, same = ends[0].close()
        assert same == corrections
        assert unchanged == kernels.pack_bits(alice)
    return kernels.unpack_bits(packed, alice.size), parities, corrections, transcript.digest()


def limit(n: int, errors: int) -> float:
    e = errors / n
    return n * -(e * math.log2(e) + (1 - e) * math.log2(1 - e))


@settings(max_examples=80, deadline=None)
@given(
    st.integers(1, 20_000),
    st.sampled_from([0.0, 0.001, 0.01, 0.03, 0.08, 0.2]),
    st.integers(64, 30_000),
    st.integers(1, 40),
    st.integers(0, 2**32),
)
def test_any_size_and_shape(n: int, rate: float, frame: int, flight: int, seed: int) -> None:
    alice, bob = noisy(n, rate, seed)
    corrected, _, corrections, _ = converse(alice, bob, rate=max(rate, 1e-4), frame=frame, flight=flight)
    np.testing.assert_array_equal(corrected, alice)
    assert corrections >= np.count_nonzero(alice != bob)  # more only where two wrong corrections met


@pytest.mark.parametrize("n", [1, 2, 3, 63, 64, 65, 4095, 4096, 4097, 8192, 12_345])
def test_borders_of_words_and_squares(n: int) -> None:
    for errors in ([0], [n - 1], [0, n - 1], list(range(n))[:: max(1, n // 9)]):
        alice = np.zeros(n, np.uint8)
        bob = alice.copy()
        bob[list(errors)] = 1
        corrected, _, corrections, _ = converse(alice, bob, rate=0.1, frame=1000)
        np.testing.assert_array_equal(corrected, alice)
        assert corrections == len(set(errors))


@pytest.mark.parametrize("rate", [0.01, 0.02, 0.03, 0.05, 0.08])
def test_efficiency(rate: float) -> None:
    """The best public variants reach 1.053, 1.057, 1.060, 1.065 and 1.082 in frames of 10^5 bits."""
    best = {0.01: 1.053, 0.02: 1.057, 0.03: 1.060, 0.05: 1.065, 0.08: 1.082}[rate]
    n = 16 * 102_400
    alice, bob = noisy(n, rate, 5)
    corrected, parities, corrections, _ = converse(alice, bob, rate=rate, frame=102_400, flight=16)
    np.testing.assert_array_equal(corrected, alice)
    assert parities / limit(n, corrections) <= best + 0.01


@pytest.mark.parametrize("factor", [0.1, 0.3, 0.5, 2.0, 4.0])
def test_a_wrong_estimate_costs_parities_not_correctness(factor: float) -> None:
    alice, bob = noisy(120_000, 0.03, 2)
    corrected, parities, corrections, _ = converse(alice, bob, rate=0.03 * factor, frame=30_000)
    np.testing.assert_array_equal(corrected, alice)
    assert parities <= 1.45 * limit(120_000, corrections)


@pytest.mark.parametrize("length", [16, 64, 1000, 20_000])
def test_bursts_cost_no_more_than_scattered_errors(length: int) -> None:
    n = 400_000
    alice, bob = noisy(n, 0.01, 3)
    rng = np.random.default_rng(4)
    for _ in range(max(1, 4000 // length)):
        at = int(rng.integers(0, n - length))
        bob[at : at + length] ^= rng.integers(0, 2, length, np.uint8)
    errors = int(np.count_nonzero(alice != bob))
    corrected, parities, _, _ = converse(alice, bob, rate=errors / n, frame=100_000)
    np.testing.assert_array_equal(corrected, alice)
    assert parities / limit(n, errors) <= 1.12


def test_residual_frame_errors_are_rare() -> None:
    """2000 frames of 1000 bits: the subsets leave a frame with an error with probability below 2^-16."""
    n = 2_000_000
    alice, bob = noisy(n, 0.03, 6)
    corrected, _, _, _ = converse(alice, bob, frame=1000, flight=500)
    np.testing.assert_array_equal(corrected, alice)


def test_what_is_said_is_fixed_for_all_time_and_on_every_variant() -> None:
    """Both nodes must ask for the same ranges, whatever machine or version: this hash never changes."""
    alice, bob = noisy(50_000, 0.02, 7)
    digest = converse(alice, bob, rate=0.02, frame=12_500, flight=3)[3]
    assert digest.hex() == "c5cf7001864c7ca1dfcd35cc52120d5d614f1fc5b5cc8374381fba49a3805319"


def test_frames_in_flight_hardly_change_the_parities() -> None:
    """Only where a round carries little, several halvings are asked for at once."""
    alice, bob = noisy(100_000, 0.03, 8)
    parities = [converse(alice, bob, flight=flight)[1] for flight in (1, 3, 100)]
    assert max(parities) < 1.02 * min(parities)


def test_the_seed_changes_the_passes() -> None:
    alice, bob = noisy(30_000, 0.03, 9)
    assert len({converse(alice, bob, seed=bytes([i]) + bytes(31))[3] for i in range(4)}) == 4


def test_contradicting_parities_come_to_an_end() -> None:
    """A peer that answers at random cannot keep the machine busy for ever."""
    rng = np.random.default_rng(1)
    ends = {"refused": 0, "finished": 0}
    for _ in range(30):
        n = 3000
        block = open_block(np.zeros(n, np.uint8), correct=True, rate=0.05, frame=1000)
        mine, asked = block.step(b""), 0
        try:
            while mine:
                asked += block.asked
                mine = block.step(kernels.pack_bits(rng.integers(0, 2, block.asked, np.uint8)))
            ends["finished"] += 1
        except kernels.KernelMalformed:
            ends["refused"] += 1
            with pytest.raises(kernels.KernelArgument):
                block.step(b"")
        assert asked < 20 * n
    assert ends["refused"]


def test_refusals() -> None:
    bits = np.ones(100, np.uint8)
    block = open_block(bits, correct=True)
    for kind, call in [
        (kernels.KernelArgument, lambda: open_block(np.zeros(0, np.uint8), correct=True)),
        (kernels.KernelArgument, lambda: open_block(bits, correct=True, seed=SEED[:-1])),
        (kernels.KernelArgument, lambda: open_block(bits, correct=True, rate=0.0)),
        (kernels.KernelArgument, lambda: open_block(bits, correct=True, rate=0.51)),
        (kernels.KernelArgument, lambda: open_block(bits, correct=True, rate=math.nan)),
        (kernels.KernelArgument, lambda: open_block(bits, correct=True, frame=63)),
        (kernels.KernelArgument, lambda: open_block(bits, correct=True, frame=(1 << 22) + 1)),
        (kernels.KernelArgument, lambda: open_block(bits, correct=True, flight=0)),
        (
            kernels.KernelMalformed,
            lambda: kernels.CascadeBlock(b"\xff", 7, SEED, error_rate=0.1, frame_bits=100, in_flight=1, correct=True),
        ),
        (kernels.KernelArgument, block.close),
        (kernels.KernelArgument, block.end),
        (kernels.KernelMalformed, lambda: block.step(b"\x00")),
    ]:
        with pytest.raises(kind):
            call()
    mine = block.step(b"")
    assert mine
    assert block.asked % 8
    with pytest.raises(kernels.KernelTruncated):
        block.step(mine[:-1])
    with pytest.raises(kernels.KernelMalformed):
        block.step(mine + b"\x00")
    with pytest.raises(kernels.KernelMalformed):
        block.step(mine[:-1] + b"\xff")
    assert "1" not in repr(block).replace("100", "")


def test_a_wiped_block_refuses_everything() -> None:
    block = open_block(np.ones(100, np.uint8), correct=True)
    block.wipe()
    with pytest.raises(kernels.KernelArgument):
        block.step(b"")
    with pytest.raises(kernels.KernelArgument):
        block.close()

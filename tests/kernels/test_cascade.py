"""Cascade frames: permutations are permutations, parities are parities, also after flips."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qkdd import kernels

SEED = bytes(range(32))


def everywhere(n: int) -> np.ndarray:
    return np.arange(n, dtype=np.uint32)


@settings(max_examples=60)
@given(st.integers(1, 9000), st.integers(1, 6), st.binary(min_size=32, max_size=32))
def test_every_pass_has_a_permutation_and_its_inverse(n, passes, seed):
    frame = kernels.CascadeFrame(np.zeros(n, np.uint8), seed, passes)
    for p in range(passes):
        permuted = frame.to_permuted(p, everywhere(n))
        assert (np.sort(permuted) == everywhere(n)).all()
        assert (frame.to_original(p, permuted) == everywhere(n)).all()


@settings(max_examples=40)
@given(st.integers(1, 9000), st.integers(0, 2**32), st.data())
def test_parities_before_and_after_flips(n, seed, data):
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 2, n, dtype=np.uint8)
    frame = kernels.CascadeFrame(bits, SEED, 3)
    early = data.draw(st.integers(0, 2))
    for round_ in range(3):
        for p in range(3) if round_ else range(early):  # some copies are made before flips, some after
            edges = np.sort(rng.integers(0, n + 1, (40, 2)), axis=1).astype(np.uint32)
            starts, stops = edges[:, 0].copy(), edges[:, 1].copy()
            sums = np.concatenate([[0], np.cumsum(bits[frame.to_original(p, everywhere(n))])])
            assert (frame.range_parities(p, starts, stops) == (sums[stops] - sums[starts]) % 2).all()
        flips = rng.integers(0, n, 7).astype(np.uint32)
        frame.flip(flips)
        np.bitwise_xor.at(bits, flips, 1)
        assert (frame.bits() == bits).all()


def test_word_boundaries():
    bits = np.ones(300, np.uint8)
    frame = kernels.CascadeFrame(bits, SEED, 1)
    edges = [
        (a, b) for a in (0, 1, 63, 64, 65, 127, 128, 299, 300) for b in (0, 1, 63, 64, 65, 128, 192, 299, 300) if a <= b
    ]
    starts, stops = (np.array(side, np.uint32) for side in zip(*edges, strict=True))
    assert (frame.range_parities(0, starts, stops) == (stops - starts) % 2).all()


def test_permutations_are_fixed_for_all_time():
    """Both sides of a link must agree, whatever machine or version: these hashes never change."""
    digest = hashlib.sha256()
    for n in (1, 2, 3, 100, 4095, 4096, 5000, 100_000):
        frame = kernels.CascadeFrame(np.zeros(n, np.uint8), SEED, 4)
        for p in range(4):
            digest.update(frame.to_permuted(p, everywhere(n)).astype("<u4").tobytes())
    assert digest.hexdigest() == "3f372636b7510da0d247ea11399dab49b1707c33e2f750575938b2c91d0398d6"


def test_seed_and_pass_change_the_permutation():
    n = 10_000
    seen = set()
    for seed in (SEED, bytes(31) + b"\x01", bytes(32), b"\x01" + bytes(31), bytes(8) + b"\x01" + bytes(23)):
        frame = kernels.CascadeFrame(np.zeros(n, np.uint8), seed, 3)
        seen |= {frame.to_permuted(p, everywhere(n)).tobytes() for p in range(3)}
    assert len(seen) == 15


@pytest.mark.parametrize(("n", "block"), [(10_000, 40), (100_000, 73)])
def test_bits_of_one_block_meet_again_as_rarely_as_by_chance(n, block):
    """What Cascade lives from: bits that share a block in one pass are spread in the others, bursts too."""
    frame = kernels.CascadeFrame(np.zeros(n, np.uint8), SEED, 6)
    blocks = [frame.to_permuted(p, everywhere(n)) // block for p in range(6)]
    order = [frame.to_original(p, everywhere(n)) for p in range(6)]
    for name, pairs in [("burst", everywhere(n)), *((f"pass {p}", order[p]) for p in range(3))]:
        for lag in (1, 2, block // 2):
            first, second = pairs[:-lag], pairs[lag:]
            for p in range(6):
                if name == f"pass {p}":
                    continue
                meetings = int((blocks[p][first] == blocks[p][second]).sum())
                expected = n * block / n  # probability block / n for each of n pairs
                assert meetings < 2 * expected + 6 * expected**0.5, (name, lag, p)


def test_refusals():
    frame = kernels.CascadeFrame(np.zeros(100, np.uint8), SEED, 2)
    u32 = lambda *values: np.array(values, np.uint32)  # noqa: E731
    for kind, call in [
        (kernels.KernelArgument, lambda: kernels.CascadeFrame(np.zeros(0, np.uint8), SEED, 2)),
        (kernels.KernelArgument, lambda: kernels.CascadeFrame(np.zeros(5, np.uint8), SEED[:-1], 2)),
        (kernels.KernelArgument, lambda: kernels.CascadeFrame(np.zeros(5, np.uint8), SEED, 0)),
        (kernels.KernelArgument, lambda: kernels.CascadeFrame(np.zeros(5, np.uint8), SEED, 65)),
        (kernels.KernelMalformed, lambda: kernels.CascadeFrame(np.full(5, 2, np.uint8), SEED, 2)),
        (kernels.KernelArgument, lambda: frame.range_parities(2, u32(0), u32(1))),
        (kernels.KernelArgument, lambda: frame.range_parities(0, u32(0, 1), u32(1))),
        (kernels.KernelArgument, lambda: frame.range_parities(-1, u32(0), u32(1))),
        (kernels.KernelOutOfRange, lambda: frame.range_parities(0, u32(2), u32(1))),
        (kernels.KernelOutOfRange, lambda: frame.range_parities(0, u32(0), u32(101))),
        (kernels.KernelOutOfRange, lambda: frame.flip(u32(1, 100))),
        (kernels.KernelOutOfRange, lambda: frame.to_original(0, u32(100))),
        (kernels.KernelOutOfRange, lambda: frame.to_permuted(1, u32(100))),
        (kernels.KernelArgument, lambda: frame.flip(np.array([1], np.int64))),
    ]:
        with pytest.raises(kind):
            call()
    assert not frame.bits().any()


def test_a_wiped_frame_refuses_everything():
    frame = kernels.CascadeFrame(np.ones(100, np.uint8), SEED, 2)
    frame.wipe()
    with pytest.raises(kernels.KernelArgument):
        frame.bits()

"""LDPC codes: syndromes against a dense matrix, equal results on every variant, decoding near the design point, refusals."""

from __future__ import annotations

import hashlib
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qkdd_native import ldpc
from qkdd_native.status import StatusError

from qkdd import kernels

ITERATIONS = 80
FRAME = 65_536


def entropy(p: float) -> float:
    return float(-p * np.log2(p) - (1 - p) * np.log2(1 - p))


def small_code(lifting: int = 64, seed: int = 0) -> kernels.LdpcCode:
    """A random code of 12 columns, 4 rows and 2 more for retries."""
    rng = np.random.default_rng(seed)
    parts = [np.sort(rng.choice(12, rng.integers(1, 9), replace=False)).astype(np.uint32) for _ in range(6)]
    starts = np.append(0, np.cumsum([len(part) for part in parts])).astype(np.uint32)
    shifts = rng.integers(0, lifting, int(starts[-1])).astype(np.uint32)
    table = np.minimum(np.arange(64), 40).astype(np.uint8)
    return kernels.LdpcCode(lifting, 12, 4, 2, 5, np.zeros(1, np.uint32), table, starts, np.concatenate(parts), shifts)


def dense(code: kernels.LdpcCode, rows: int) -> np.ndarray:
    """The matrix, entry by entry, from the definition."""
    z = code.lifting
    matrix = np.zeros((rows * z, code.size), np.uint8)
    for row in range(rows):
        for e in range(int(code._starts[row]), int(code._starts[row + 1])):
            for i in range(z):
                matrix[row * z + i, int(code._columns_of[e]) * z + (i + int(code._shifts[e])) % z] = 1
    return matrix


@settings(max_examples=20, deadline=None)
@given(st.sampled_from([64, 128, 192]), st.integers(0, 1000), st.integers(4, 6))
def test_syndromes_are_those_of_the_matrix(lifting: int, seed: int, rows: int) -> None:
    code = small_code(lifting, seed)
    bits = np.random.default_rng(seed).integers(0, 2, code.size, np.uint8)
    assert (code.syndrome(bits, rows) == dense(code, rows) @ bits % 2).all()


@settings(max_examples=20, deadline=None)
@given(st.sampled_from([64, 128, 192]), st.integers(0, 1000), st.integers(0, 40), st.booleans())
def test_what_is_found_has_the_syndrome(lifting: int, seed: int, weight: int, early: bool) -> None:
    code = small_code(lifting, seed)
    rng = np.random.default_rng(seed)
    errors = np.zeros(code.size, np.uint8)
    errors[rng.choice(code.size, weight, replace=False)] = 1
    syndrome = code.syndrome(errors, 4 if early else 6)
    found, taken = code.decode(syndrome, np.full(code.size, code.start, np.int8), 20)
    assert 0 <= taken <= 20
    if found is not None:
        assert (code.syndrome(found, 4 if early else 6) == syndrome).all()
    if weight == 0:
        assert found is not None
        assert not found.any()
        assert taken == 0


@pytest.mark.parametrize("index", [4, 21, 46])
def test_all_variants_take_the_same_way(index: int, variant: str) -> None:
    """Also where decoding fails: the iterations that a truncated run has taken and what it returns are equal."""
    code = kernels.ldpc_codes()[index].adapted(FRAME)
    rng = np.random.default_rng(3)
    p = _error_rate(code.leak / 1.3)
    errors = (rng.random(code.size) < p).astype(np.uint8)
    prior = np.where(rng.random(code.size) < 0.01, ldpc.KNOWN * (1 - 2 * errors.astype(np.int8)), code.start).astype(
        np.int8
    )
    here = code.decode(code.syndrome(errors), prior, ITERATIONS)
    kernels.select_variant("portable")
    there = code.decode(code.syndrome(errors), prior, ITERATIONS)
    kernels.select_variant(variant)
    assert here[1] == there[1]
    assert here[0] is not None
    assert (here[0] == there[0]).all()
    assert (here[0] == errors).all()


@pytest.mark.parametrize("vectors", [1, 3, 7, 8, 9, 11, 16, 23, 128])
def test_every_lifting_gives_what_the_portable_decoder_gives(vectors: int, variant: str) -> None:
    """Bytes of a column go to vectors in another way below, at and above eight of them; large priors saturate."""
    code = small_code(64 * vectors, vectors)
    rng = np.random.default_rng(vectors)
    for part in (200, 60, 12):
        errors = (rng.random(code.size) < 1 / part).astype(np.uint8)
        syndrome = code.syndrome(errors, 6)
        prior = rng.choice(
            np.array([-127, -3, 0, 4, 5, 100, 127], np.int8), code.size, p=[0.01, 0.01, 0.02, 0.4, 0.4, 0.1, 0.06]
        )
        for iterations in (1, 2, 12):
            kernels.select_variant("portable")
            wanted, taken = code.decode(syndrome, prior, iterations)
            kernels.select_variant(variant)
            found, used = code.decode(syndrome, prior, iterations)
            assert used == taken
            assert (found is None) == (wanted is None)
            assert found is None or (found == wanted).all()


def _error_rate(h: float) -> float:
    low, high = 1e-9, 0.5
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if entropy(middle) < h else (low, middle)
    return low


@pytest.mark.parametrize("index", range(0, 50, 6))
def test_frames_are_corrected_well_above_the_threshold(index: int) -> None:
    code = kernels.ldpc_codes()[index].adapted(FRAME)
    rng = np.random.default_rng(index)
    p = _error_rate(code.leak / (1.3 if code.leak < 0.09 else 1.2))
    errors = (rng.random(code.size) < p).astype(np.uint8)
    prior = np.full(code.size, code.start, np.int8)
    found, _ = code.decode(code.syndrome(errors, code.rows + code.extra), prior, ITERATIONS)
    assert found is not None
    assert (found == errors).all()


def test_rows_for_retries_correct_most_frames_that_fail_without_them() -> None:
    code = kernels.ldpc_codes()[36].adapted(FRAME)
    rng = np.random.default_rng(5)
    prior = np.full(code.size, code.start, np.int8)
    failed, still = 0, 0
    for _ in range(8):
        errors = (rng.random(code.size) < _error_rate(code.leak / 1.08)).astype(np.uint8)
        syndrome = code.syndrome(errors, code.rows + code.extra)
        found, taken = code.decode(syndrome[: code.rows * code.lifting], prior, ITERATIONS)
        if found is None:
            assert taken == ITERATIONS
            failed += 1
            found, _ = code.decode(syndrome, prior, ITERATIONS)
            still += found is None
    assert failed >= 3
    assert still <= failed // 2


def test_shortened_bits_are_never_touched() -> None:
    code = kernels.ldpc_codes()[36].adapted(FRAME)
    rng = np.random.default_rng(6)
    key = code.size * 9 // 10
    errors = np.zeros(code.size, np.uint8)
    errors[:key] = rng.random(key) < _error_rate(code.leak / 0.9 / 1.25)
    prior = np.full(code.size, code.start, np.int8)
    prior[key:] = ldpc.KNOWN
    found, _ = code.decode(code.syndrome(errors), prior, ITERATIONS)
    assert found is not None
    assert (found == errors).all()


def test_the_family_is_what_both_sides_of_a_link_have() -> None:
    """Two nodes must have the same matrices: the file is fixed by its hash, its codes cover the leaks in small steps."""
    assert hashlib.sha256(ldpc.FAMILY.read_bytes()).hexdigest() == ldpc.FAMILY_SHA256
    codes = kernels.ldpc_codes()
    leaks = [code.leak for code in codes]
    assert leaks[0] < 0.06
    assert leaks[-1] > 0.55
    assert all(1 < b / a < 1.09 for a, b in itertools.pairwise(leaks))
    for code in codes:
        assert code.size == 2**20
        assert cycles_of_four(code.adapted(FRAME)) == 0


def cycles_of_four(code: kernels.LdpcCode) -> int:
    seen: set[tuple[int, int, int]] = set()
    found = 0
    by_column: dict[int, list[tuple[int, int]]] = {}
    for row in range(code.rows + code.extra):
        for e in range(int(code._starts[row]), int(code._starts[row + 1])):
            by_column.setdefault(int(code._columns_of[e]), []).append((row, int(code._shifts[e])))
    for entries in by_column.values():
        for i, (row, shift) in enumerate(entries):
            for other, theirs in entries[:i]:
                key = (other, row, (shift - theirs) % code.lifting)
                found += key in seen
                seen.add(key)
    return found


def test_a_damaged_family_is_refused() -> None:
    data = ldpc.FAMILY.read_bytes()
    for damaged in (b"", data[:-1], data + b"\0", b"X" + data[1:], data[:12] + b"\xff" * 4 + data[16:]):
        with pytest.raises(StatusError):
            ldpc.parse(damaged, ldpc.LdpcCode)


def test_refusals() -> None:
    code = small_code()
    bits, prior = np.zeros(code.size, np.uint8), np.full(code.size, 5, np.int8)
    syndrome = code.syndrome(bits)
    u32 = lambda *values: np.array(values, np.uint32)  # noqa: E731
    table = np.zeros(64, np.uint8)
    for kind, call in [
        (kernels.KernelArgument, lambda: code.syndrome(bits[:-1])),
        (kernels.KernelArgument, lambda: code.syndrome(bits, 3)),
        (kernels.KernelArgument, lambda: code.syndrome(bits, 7)),
        (kernels.KernelMalformed, lambda: code.syndrome(bits + np.uint8(2))),
        (kernels.KernelMalformed, lambda: code.decode(syndrome + np.uint8(2), prior, 5)),
        (kernels.KernelArgument, lambda: code.decode(syndrome[:-1], prior, 5)),
        (kernels.KernelArgument, lambda: code.decode(syndrome, prior[:-1], 5)),
        (kernels.KernelArgument, lambda: code.decode(syndrome, np.full_like(prior, -128), 5)),
        (kernels.KernelArgument, lambda: code.decode(syndrome, prior.astype(np.int64), 5)),
        (kernels.KernelArgument, lambda: code.decode(syndrome, prior, -1)),
        (kernels.KernelArgument, lambda: kernels.LdpcCode(65, 2, 1, 0, 5, u32(0), table, u32(0, 1), u32(0), u32(0))),
        (kernels.KernelArgument, lambda: kernels.LdpcCode(64, 2, 1, 0, 5, u32(0), table, u32(0, 1), u32(2), u32(0))),
        (kernels.KernelArgument, lambda: kernels.LdpcCode(64, 2, 1, 0, 5, u32(0), table, u32(0, 1), u32(0), u32(64))),
        (kernels.KernelArgument, lambda: kernels.LdpcCode(64, 2, 1, 0, 5, u32(0), table, u32(0, 2), u32(1, 0), u32(0, 0))),
        (kernels.KernelArgument, lambda: kernels.LdpcCode(64, 2, 1, 0, 5, u32(0), table, u32(0, 0), u32(), u32())),
        (kernels.KernelArgument, lambda: kernels.LdpcCode(64, 2, 1, 0, 5, u32(), table, u32(0, 1), u32(0), u32(0))),
    ]:  # fmt: skip
        with pytest.raises(kind):
            call()

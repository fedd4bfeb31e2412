"""Cost of the kernels against size, drawn as SVG; called by `qkdd bench kernels --plots FOLDER`."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib import pyplot
from numpy.typing import NDArray

from qkdd_native import bench_clock, bench_ldpc, clock, hashing, tags

# between two powers of two too: a step there would be a cliff
TOEPLITZ = tuple(int(10**e) for e in np.arange(3, 8.01, 0.125))
CLICKS = tuple(int(10**e) for e in np.arange(4, 8.01, 0.25))
SEARCHES = tuple(int(10**e) for e in np.arange(4, 8.01, 0.5))
PIECE = 1 << 20  # values that are drawn and sorted at a time: a stream of 10^8 clicks takes no more memory than itself
HASH = tuple(int(10**e) for e in np.arange(1.5, 8.01, 0.25))


def least(call: Callable[[], object]) -> float:
    """CPU time of a call, the least of five: what others do on the machine only adds to it."""
    taken = []
    for _ in range(5):
        start = time.process_time()
        repeats = 0
        while time.process_time() - start < 0.01:
            call()
            repeats += 1
        taken.append((time.process_time() - start) / repeats)
    return min(taken)


def toeplitz_cost(n: int) -> float:
    """ns for a bit of key input at m = 0.4 n."""
    rng = np.random.default_rng(n)
    m = max(1, 2 * n // 5)
    key, seed = rng.integers(0, 2, n, dtype=np.uint8), rng.integers(0, 2, n + m - 1, dtype=np.uint8)
    return least(partial(hashing.toeplitz, key, seed, m)) / n * 1e9


def toeplitz_memory(n: int) -> float:
    """Bytes of workspace for a byte of packed key input."""
    return hashing.toeplitz_workspace(n, max(1, 2 * n // 5)) / (n / 8)


def clicks(n: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """n clicks on each side, 10^6 a second, a fifth of them in pairs."""
    rng = np.random.default_rng(n)
    a, b = np.empty((2, n), np.int64)
    for first in range(0, n, PIECE):
        size = min(PIECE, n - first)
        common = rng.integers(first * 10**6, (first + size) * 10**6, size // 5)
        for side in (a, b):
            alone = rng.integers(first * 10**6, (first + size) * 10**6, size - len(common))
            side[first : first + size] = np.sort(np.concatenate([common, alone]))
    return a, b


def click_cost(n: int) -> float:
    """ns for a click."""
    a, b = clicks(n)
    return least(lambda: tags.match_coincidences(a, b, 2000, 0.0, 1e-12, 0)) / (2 * n) * 1e9


def sift_cost(n: int) -> float:
    """ns for a click, with comparison of bases and packing."""
    a, b = clicks(n)
    a_marks, b_marks = np.random.default_rng(1).integers(0, 4, (2, n), dtype=np.uint8)
    sift = partial(tags.sift_coincidences, a, a_marks, b, b_marks, 2000, 0.0, 1e-12, 0)
    return least(sift) / (2 * n) * 1e9


def decoder_cost(n: int) -> float:
    """ns for a record of decode_t2."""
    words = np.random.default_rng(n).integers(0, 1 << 27, n, dtype=np.uint32)
    return least(lambda: tags.decode_t2(words, tags.T2State("hydraharp2", 5))) / n * 1e9


def gap_cost(n: int) -> float:
    """ns for a value, encoded and decoded."""
    rng, last = np.random.default_rng(n), 0
    values = np.empty(n, np.int64)
    for first in range(0, n, PIECE):
        piece = values[first : first + PIECE]
        np.cumsum(rng.geometric(1e-3, len(piece)), out=piece)
        piece += last
        last = int(piece[-1])

    def both() -> None:
        tags.gap_decode(tags.gap_encode(values), n)

    return least(both) / n * 1e9


def search_cost(n: int) -> float:
    """ms for a search of the clock within ±1 s and ±5 ppm at rho = 0.03; n clicks on bob's side in two seconds."""
    a, b = bench_clock.streams(np.random.default_rng(n), n / 2, 0.03, 2.0, 0.4, 3e-6, pieces=max(1, n // PIECE))
    return least(lambda: clock.clock_search(a, b, 0.0, 1e12, 5e-6, 500.0)) * 1e3


def hash_cost(size: int) -> float:
    """ns for a byte."""
    data = bytes(size)
    return least(lambda: hashing.poly_hash(data, bytes(16))) / size * 1e9


FRAMES = tuple(64 * 256 * k for k in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64))
WATERFALL_BITS = (1 << 14, 1 << 16, 1 << 18)
WATERFALL_F = (1.08, 1.10, 1.12, 1.14, 1.16, 1.18, 1.20, 1.22)
WATERFALL_FRAMES = 200


def ldpc_cost(n: int) -> float:
    """ns for a bit, decoded at 3 % and f = 1.2."""
    return 1e3 / bench_ldpc.measure(bench_ldpc.Point(0.03, 1.2, n, 0.0), max(3, (1 << 21) // n), n).speed


def draw_waterfall(folder: Path) -> None:
    """Frame error rate of LDPC against f at 2 %, for three lengths."""
    figure, axes = pyplot.subplots(figsize=(6, 3.2), layout="constrained")
    for bits in WATERFALL_BITS:
        frames = max(1, WATERFALL_FRAMES * WATERFALL_BITS[0] // bits * (4 if bits > WATERFALL_BITS[0] else 1))
        points = [bench_ldpc.measure(bench_ldpc.Point(0.02, f, bits, 0.0), frames, bits) for f in WATERFALL_F]
        axes.semilogy(
            [found.f for found in points],
            [max(found.failed, 0.5) / found.frames for found in points],
            marker=".",
            linewidth=1,
            label=f"{bits} bits, {frames} frames a point",
        )
    axes.set_xlabel("f, syndrome bits over n h(2 %)")
    axes.set_ylabel("frame error rate")
    axes.grid(which="both", linewidth=0.3)
    axes.legend(fontsize="small")
    figure.savefig(folder / "ldpc-waterfall.svg", metadata={"Date": None})
    pyplot.close(figure)


PLOTS: tuple[tuple[str, tuple[int, ...], Callable[[int], float], str, str], ...] = (
    ("toeplitz", TOEPLITZ, toeplitz_cost, "bits of key input n, m = 0.4 n", "ns for a bit"),
    (
        "toeplitz-memory",
        TOEPLITZ,
        toeplitz_memory,
        "bits of key input n, m = 0.4 n",
        "bytes for a packed byte of input",
    ),
    ("coincidences", CLICKS, click_cost, "clicks on each side", "ns for a click"),
    ("sifting", CLICKS, sift_cost, "clicks on each side", "ns for a click"),
    ("decode-t2", CLICKS, decoder_cost, "records", "ns for a record"),
    ("gaps", CLICKS, gap_cost, "values", "ns for a value, both ways"),
    ("clock-search", SEARCHES, search_cost, "bob's clicks in two seconds", "ms for a search"),
    ("ldpc", FRAMES, ldpc_cost, "bits of a frame", "ns for a bit, decoded"),
    ("poly-hash", HASH, hash_cost, "bytes", "ns for a byte"),
)


def draw(folder: Path, names: Collection[str] = ()) -> None:
    """Measure and write one SVG a plot into `folder`; names: only these."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, sizes, cost, across, up in PLOTS:
        if names and name not in names:
            continue
        figure, axes = pyplot.subplots(figsize=(6, 3.2), layout="constrained")
        axes.loglog(sizes, [cost(size) for size in sizes], marker=".", linewidth=1)
        axes.set_xlabel(across)
        axes.set_ylabel(up)
        axes.grid(which="both", linewidth=0.3)
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
        pyplot.close(figure)
    if not names or "ldpc-waterfall" in names:
        draw_waterfall(folder)

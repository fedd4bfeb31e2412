"""Speed of the kernels: `qkdd bench kernels --json`, one row a figure; `--plots FOLDER` draws cost against size.

CPU time of this process, median of `REPEATS`, one thread, seeded data. A row is {name, value, unit, reference, ratio, must,
meets_must}: `reference` is the same task done beside it in this run by numpy, scipy or OpenSSL, or null; `must` the figure that
the kernel is asked to reach on one core, or null.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from math import log2
from pathlib import Path
from statistics import median

import numpy as np
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from numpy.typing import NDArray
from scipy import fft

from qkdd_native import bench_clock, bench_ldpc, bits, cascade, clock, hashing, tags, variants

REPEATS = 5
TOEPLITZ_SIZES: tuple[tuple[int, float, float | None], ...] = (
    (200_000, 0.5, None),
    (int(0.7 * 2**20), 0.4, 400.0),
    (int(0.7 * 2**24), 0.4, 300.0),
    (int(0.7 * 2**27), 0.4, 200.0),
)
TRANSFORM_LENGTH = 1 << 24
HASH_SIZES = (64, 1024, 16384, 1 << 20)
FRAME = 102_400
IN_FLIGHT = 64
BIT_BLOCK = 1 << 24
CASCADE_FRAMES = 2000  # a run; frame error rates are over all runs
# f of the best public variant in frames of 10^5 bits (cascade-cpp, ten variants measured side by side)
BEST_CASCADE = {0.01: 1.053, 0.02: 1.057, 0.03: 1.060, 0.05: 1.065, 0.08: 1.082}
LDPC_FRAMES = 200  # a point; docs/performance.md has 10^4
LDPC_POINTS = bench_ldpc.POINTS
CLICKS = 1_000_000
CLOCK_RATE = 1e6
CLOCK_STRENGTHS = (0.05, 0.01)  # pairs / sqrt(clicks of alice * clicks of bob)


@dataclass(frozen=True, slots=True)
class Row:
    name: str
    value: float
    unit: str
    reference: float | None
    ratio: float | None
    must: float | None
    meets_must: bool | None


def row(name: str, value: float, unit: str, must: float | None = None, reference: float | None = None) -> Row:
    ratio = None if reference is None else value / reference
    return Row(name, value, unit, reference, ratio, must, None if must is None else value >= must)


def row_below(name: str, value: float, unit: str, must: float, reference: float | None = None) -> Row:
    """A figure that must not exceed `must`."""
    return replace(row(name, value, unit, must, reference), meets_must=value <= must)


def seconds(call: Callable[[], object]) -> float:
    """Median CPU time of a call; short calls are repeated within one measurement."""
    start = time.process_time()
    call()
    inner = max(1, int(0.02 / max(time.process_time() - start, 1e-6)))
    taken = []
    for _ in range(REPEATS):
        start = time.process_time()
        for _ in range(inner):
            call()
        taken.append((time.process_time() - start) / inner)
    return median(taken)


def streams(rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Two sides of CLICKS clicks in one second, a fifth of them in pairs with 0.3 ns of jitter."""
    common = rng.integers(0, 10**12, CLICKS // 5)
    jitter = np.rint(rng.normal(0, 300, len(common))).astype(np.int64)
    alone = rng.integers(0, 10**12, (2, CLICKS - len(common)))
    return np.sort(np.concatenate([common, alone[0]])), np.sort(np.concatenate([common + jitter, alone[1]]))


def fft_toeplitz(key: NDArray[np.uint8], seed: NDArray[np.uint8], m: int) -> NDArray[np.uint8]:
    """The same product by three real FFTs in double precision."""
    n = len(key)
    size = 1 << (n + m - 2).bit_length()
    product = fft.irfft(fft.rfft(seed, size) * fft.rfft(key, size), size)[n - 1 : n - 1 + m]
    return (np.rint(product).astype(np.int64) & 1).astype(np.uint8)


def toeplitz_rows(rng: np.random.Generator) -> Iterator[Row]:
    for n, fraction, must in TOEPLITZ_SIZES:
        m = int(n * fraction)
        key = rng.integers(0, 2, n, dtype=np.uint8)
        seed = rng.integers(0, 2, n + m - 1, dtype=np.uint8)
        taken = seconds(partial(hashing.toeplitz, key, seed, m))
        yield row(f"toeplitz n={n} m={m}", n / taken / 1e6, "Mbit/s of key input", must)
        length = 1 << (n + m - 2).bit_length()
        if length == TRANSFORM_LENGTH:
            three = 3 * seconds(partial(fft.rfft, rng.random(length), workers=1))
            yield row(f"toeplitz n={n} against 3 scipy real FFTs of {length}", three / taken, "times", 40.0)


def openssl_ghash(size: int) -> float | None:
    """GHASH in GB/s by `openssl speed`, which loops in C; None without the program."""
    program = shutil.which("openssl")
    if program is None:
        return None
    command = [program, "speed", "-mr", "-seconds", "1", "-bytes", str(size), "ghash"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return float(shown.strip().splitlines()[-1].split(":")[-1]) / 1e9


def hash_rows() -> Iterator[Row]:
    gmac = AESGCM(bytes(16))
    for size in HASH_SIZES:
        data = bytes(size)
        ours = size / seconds(partial(hashing.poly_hash, data, bytes(16))) / 1e9
        beside = size / seconds(partial(gmac.encrypt, bytes(12), b"", data)) / 1e9
        yield row(f"poly_hash {size} bytes, beside GMAC by cryptography", ours, "GB/s", None, beside)
        if size == 16384 and (ghash := openssl_ghash(size)) is not None:
            # both with the key set up before, and the same bytes again and again
            running = size / seconds(partial(hashing.PolyHash(bytes(16)).update, data)) / 1e9
            yield row(
                f"PolyHash.update of {size} bytes, beside `openssl speed ghash`", running, "GB/s", 0.9 * ghash, ghash
            )
            yield row(f"poly_hash {size} bytes with set-up of the key / `openssl speed ghash`", ours / ghash, "times")


def tag_rows(rng: np.random.Generator) -> Iterator[Row]:
    a, b = streams(rng)
    both = 2 * CLICKS / 1e6
    a_marks, b_marks = rng.integers(0, 4, (2, CLICKS), dtype=np.uint8)
    matching = seconds(lambda: tags.match_coincidences(a, b, 2000, 0.0, 1e-12, 0))
    sifting = seconds(lambda: tags.sift_coincidences(a, a_marks, b, b_marks, 2000, 0.0, 1e-12, 0))
    searching = seconds(lambda: np.searchsorted(b, a))
    yield row("match_coincidences", both / matching, "Mtags/s, both sides", 220.0, both / searching)
    yield row("sift_coincidences: match, sift, pack", both / sifting, "Mtags/s, both sides", 220.0, both / searching)
    yield row(
        "delay_histogram 2 us", both / seconds(lambda: tags.delay_histogram(a, b, -(10**6), 1000, 2000)), "Mtags/s"
    )
    rate, cells = 1 / 200_000 * (1 + 3e-6), 5_000_000
    counting = seconds(lambda: tags.clock_histogram(a, 0, rate, cells, 1 << 17))
    plain = seconds(lambda: np.bincount((a * rate).astype(np.int64) % (1 << 17), minlength=1 << 17))
    yield row("clock_histogram, folded to 2^17", CLICKS / 1e6 / counting, "Mtags/s", None, CLICKS / 1e6 / plain)
    rounded = a // 2000
    encoded = tags.gap_encode(rounded)
    yield from decoder_rows(rng)
    yield row("gap_encode", CLICKS / 1e6 / seconds(lambda: tags.gap_encode(rounded)), "Mtags/s")
    yield row("gap_decode", CLICKS / 1e6 / seconds(lambda: tags.gap_decode(encoded, CLICKS)), "Mtags/s")


def decoder_rows(rng: np.random.Generator) -> Iterator[Row]:
    """Every tag format that a driver uses; the figure of numpy is for the shifts and masks alone, without wraps and marks."""
    clicks = np.sort(rng.integers(0, 1 << 27, CLICKS)).astype(np.uint32)
    inputs = rng.integers(0, 4, CLICKS, dtype=np.uint32)
    words = np.asarray((clicks << 5) | (np.uint32(1) << inputs), np.uint32)
    wide = (np.sort(rng.integers(0, 1 << 50, CLICKS)).astype(np.uint64) << np.uint64(10)) | np.uint64(2)
    raw = wide.tobytes()
    records = np.asarray((inputs << 25) | (clicks >> 2), np.uint32)
    records[:: CLICKS // 100] = 0x80000000 | 63 << 25 | 1
    plain = seconds(lambda: ((words >> np.uint32(5)).astype(np.int64) * 2000, (words & np.uint32(15)).astype(np.uint8)))
    per, whole = CLICKS / 1e6, np.uint32(0xFFFFFFFF)
    taken = seconds(lambda: tags.decode_tdc1(words, tags.Tdc1State()))
    yield row("decode_tdc1", per / taken, "Mtags/s", 100.0, per / plain)
    yield row("decode_a1", per / seconds(lambda: tags.decode_a1(raw, False)), "Mtags/s", 100.0)
    for layout, mask in (("hydraharp2", whole), ("hydraharp1", whole), ("picoharp", np.uint32(0x3FFFFFFF))):
        taken = seconds(partial(_decode_t2, records & mask, layout))
        yield row(f"decode_t2 {layout}", per / taken, "Mtags/s", 100.0)


def _decode_t2(words: NDArray[np.uint32], layout: str) -> None:
    tags.decode_t2(words, tags.T2State(layout, 5))


def clock_rows() -> Iterator[Row]:
    """Search within ±1 s and ±5 ppm, two seconds of bob's clicks; bench_clock measures how often it succeeds."""
    for rho in CLOCK_STRENGTHS:
        rng = np.random.default_rng(3)
        a, b = bench_clock.streams(rng, CLOCK_RATE, rho, 2.0, 0.4, 3e-6)
        search = partial(clock.clock_search, a, b, 0.0, 1e12, 5e-6, 500.0)
        found = search()
        right = found is not None and abs(found.drift - 3e-6) <= found.drift_error
        taken = seconds(search)
        clicks = (len(a) + len(b)) / 1e6
        name = f"clock_search, {CLOCK_RATE:g} clicks/s a side, rho {rho:g}"
        yield row(f"{name}: right", float(right), "of 1", 1.0)
        yield row(name, clicks / taken, "Mtags/s, both sides")


def entropy(error: float) -> float:
    return -(error * log2(error) + (1 - error) * log2(1 - error))


def cascade_run(rng: np.random.Generator, frames: int, error: float) -> tuple[float, int, int, int]:
    """(CPU seconds of both nodes in one process, parities of alice, errors, frames left with an error)."""
    n = frames * FRAME
    key = rng.integers(0, 256, n // 8, dtype=np.uint8)
    noise = np.concatenate([np.packbits(rng.random(FRAME, dtype=np.float32) < error) for _ in range(frames)])
    errors = _ones(noise)
    open_block = partial(
        cascade.CascadeBlock, n=n, seed=bytes(32), error_rate=error, frame_bits=FRAME, in_flight=IN_FLIGHT
    )
    start = time.process_time()
    ends = [open_block(key.tobytes(), correct=False), open_block((key ^ noise).tobytes(), correct=True)]
    said, parities = [b"", b""], 0
    while True:
        said = [end.step(heard) for end, heard in zip(ends, reversed(said), strict=True)]
        if not said[0]:
            break
        parities += ends[0].asked
    corrected = ends[1].close()[0]
    taken = time.process_time() - start
    ends[0].wipe()
    # an upper bound: every wrong bit in a frame of its own
    return taken, parities, errors, min(frames, _ones(np.frombuffer(corrected, np.uint8) ^ key))


def _ones(packed: NDArray[np.uint8]) -> int:
    return int(np.bitwise_count(packed).sum(dtype=np.int64))


def cascade_rows(rng: np.random.Generator, frames: int) -> Iterator[Row]:
    """Both roles in one process. f over n h(actual errors); f_sec counts both nodes' parities (security-proofs S7.1)."""
    for error, best in BEST_CASCADE.items():
        runs = [cascade_run(rng, frames, error) for _ in range(REPEATS)]
        n, must = frames * FRAME, error == 0.02
        speed = median(n / taken for taken, *_ in runs) / 1e6
        f = median(parities / (n * entropy(max(errors, 1) / n)) for _, parities, errors, _ in runs)
        left = sum(run[3] for run in runs)
        name = f"Cascade, n={FRAME}, {error:.0%}"
        yield row(f"{name}, both roles on one core", speed, "Mbit/s", 100.0 if must else None)
        limit = min(1.06, best + 0.01) if must else best + 0.01
        yield row_below(f"{name}: f_parities", f, "", limit, best)
        yield row(f"{name}: f_sec", 2 * f, "")
        yield row_below(f"{name}: FER over {frames * REPEATS} frames", left / (frames * REPEATS), "", 1e-3)


def bit_rows(rng: np.random.Generator) -> Iterator[Row]:
    """In GB/s of what is read and written, beside a copy of as many bytes."""
    m = BIT_BLOCK
    key = rng.integers(0, 2, m, dtype=np.uint8)
    packed, k = bits.pack_bits(key), m // 20
    chosen = bits.random_subset(m, k, rng.bytes)
    labels, where = rng.integers(0, 4, m, dtype=np.uint8), rng.random(m) < 0.5
    copied = m / seconds(key.copy) / 1e9  # bytes a nanosecond that are read (and as many written)
    figures: list[tuple[str, float, Callable[[], object]]] = [
        ("pack_bits", m, partial(bits.pack_bits, key)),
        ("unpack_bits", m, partial(bits.unpack_bits, packed, m)),
        ("split_subset", 2 * m / 8, partial(bits.split_subset, packed, chosen, m, k)),
        ("class_counts", m, partial(bits.class_counts, labels)),
        ("class_counts under a mask", 2 * m, partial(bits.class_counts, labels, where)),
    ]
    for name, size, call in figures:
        yield row(f"{name}, {m} bits, beside a copy", size / seconds(call) / 1e9, "GB/s", None, copied)
    drawing = seconds(partial(bits.random_subset, m, k, rng.bytes))
    numbers = seconds(partial(rng.bytes, 4 * k))
    yield row(f"random_subset, {k} of {m}, without the random numbers", k / (drawing - numbers) / 1e6, "Mpositions/s")


def ldpc_rows() -> Iterator[Row]:
    """f is exact, FER over fresh frames; the speed is that of one node, which decodes."""
    for index, point in enumerate(LDPC_POINTS):
        found = bench_ldpc.measure(point, max(1, LDPC_FRAMES * (1 << 18) // max(point.bits, 1 << 18)), 1 + index)
        name = f"LDPC {point.p:.0%}, n={found.bits}"
        yield row_below(f"{name}: f, syndrome bits over n h(p)", found.f, "", point.f + 1e-4)
        yield row_below(f"{name}: FER over {found.frames} frames", found.failed / found.frames, "", bench_ldpc.FER_MUST)
        yield row(f"{name}: decoding", found.speed, "Mbit/s", point.must)


def rows() -> Iterator[Row]:
    rng = np.random.default_rng(1)
    yield from toeplitz_rows(rng)
    yield from hash_rows()
    yield from tag_rows(rng)
    yield from clock_rows()
    yield from ldpc_rows()
    yield from cascade_rows(rng, CASCADE_FRAMES)
    yield from bit_rows(rng)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m qkdd_native.bench", description="Speed of the kernels on one core."
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line instead of a table")
    parser.add_argument(
        "--plots", type=Path, metavar="FOLDER", help="draw cost against size there instead (extra `plots`)"
    )
    parser.add_argument("--plot", action="append", default=[], metavar="NAME", help="with --plots: only this one")
    parser.add_argument("--variant", choices=variants.NAMES, help="force a variant (default: the fastest)")
    arguments = parser.parse_args()
    variants.select(arguments.variant)
    if arguments.plots is not None:
        from qkdd_native import bench_plots  # needs matplotlib, which is an extra

        bench_plots.draw(arguments.plots, arguments.plot)
        return
    for figure in rows():
        if arguments.json:
            print(json.dumps({**asdict(figure), "variant": variants.variant()}))
        else:
            must = "" if figure.must is None else f"  must {figure.must:g}: {'yes' if figure.meets_must else 'no'}"
            print(f"{figure.name:<62}{figure.value:>10.2f} {figure.unit}{must}")


if __name__ == "__main__":
    main()

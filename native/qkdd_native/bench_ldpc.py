"""LDPC figures: f, frame error rate with its frame count, and speed, for error rates of 1 to 8 %. `python -m
qkdd_native.bench_ldpc`.

Each frame has fresh independent errors of exactly the stated probability; seeds are printed. f is exact: syndrome bits over n
h(p), n the bits of the shortened frame. A frame counts as failed when no pattern or another pattern is found.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from math import log2

import numpy as np

from qkdd_native import ldpc, variants


@dataclass(frozen=True, slots=True)
class Point:
    """Frames of at most `bits` bits with errors of probability p under f times the Shannon limit; must: Mbit/s asked for."""

    p: float
    f: float
    bits: int
    must: float
    iterations: int = 100


POINTS = (
    Point(0.01, 1.20, 1 << 18, 100.0),
    Point(0.02, 1.15, 1 << 17, 100.0),
    Point(0.03, 1.15, 1 << 17, 100.0),
    Point(0.05, 1.15, 1 << 18, 100.0),
    Point(0.08, 1.15, 1 << 18, 100.0),
    Point(0.02, 1.10, 1 << 20, 20.0, 250),
    Point(0.03, 1.10, 1 << 20, 20.0, 250),
    Point(0.05, 1.10, 1 << 20, 20.0, 250),
)
FER_MUST = 1e-2


@dataclass(frozen=True, slots=True)
class Outcome:
    """bits: of a frame; failed of `frames`; seconds: CPU time of decoding; iterations: mean."""

    point: Point
    rows: int
    bits: int
    lifting: int
    f: float
    frames: int
    failed: int
    undetected: int
    seconds: float
    iterations: float
    edges: float

    @property
    def speed(self) -> float:
        """Mbit/s of key."""
        return self.bits * self.frames / self.seconds / 1e6


def entropy(p: float) -> float:
    return -p * log2(p) - (1 - p) * log2(1 - p)


def measure(point: Point, frames: int, seed: int, codes: tuple[ldpc.LdpcCode, ...] | None = None) -> Outcome:
    """Decode `frames` frames under the code with the most rows that, shortened, discloses f n h(p) bits."""
    codes = codes or ldpc.family(ldpc.LdpcCode)
    leak = point.f * entropy(point.p)
    lifting = point.bits // codes[0].columns
    base = max((code for code in codes if code.leak <= leak), key=lambda code: code.leak)
    bits = int(base.rows * lifting / leak)
    code = base.adapted(bits, lifting)
    rng = np.random.default_rng(seed)
    known = np.zeros(code.size, np.bool_)
    known[bits:] = True
    known = np.ascontiguousarray(known.reshape(code.lifting, code.columns).T).reshape(-1)
    prior = np.where(known, ldpc.KNOWN, code.start).astype(np.int8)
    failed = undetected = taken = 0
    seconds = 0.0
    for _ in range(frames):
        errors = (rng.random(code.size, dtype=np.float32) < np.float32(point.p)).view(np.uint8)
        errors[known] = 0
        syndrome = code.syndrome(errors)
        start = time.process_time()
        found, used = code.decode(syndrome, prior, point.iterations)
        seconds += time.process_time() - start
        taken += used
        wrong = found is not None and bool((found != errors).any())
        failed += found is None or wrong
        undetected += wrong
    edges = int(code._starts[code.rows]) * code.lifting / bits
    f = code.rows * code.lifting / (bits * entropy(point.p))
    return Outcome(point, code.rows, bits, code.lifting, f, frames, failed, undetected, seconds, taken / frames, edges)


def outcomes(frames: int, seed: int) -> Iterator[Outcome]:
    """All points; frames of 2^20 bits are a quarter as many."""
    for index, point in enumerate(POINTS):
        yield measure(point, max(1, frames // (4 if point.bits > 1 << 18 else 1)), seed + index)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m qkdd_native.bench_ldpc", description=__doc__)
    parser.add_argument("--frames", type=int, default=100, help="frames a point")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--variant", choices=variants.NAMES)
    parser.add_argument("--point", type=int, action="append", help="only these points, counted from 0")
    arguments = parser.parse_args()
    variants.select(arguments.variant)
    for index in arguments.point or range(len(POINTS)):
        found = measure(POINTS[index], arguments.frames, arguments.seed + index)
        if arguments.json:
            print(json.dumps({**asdict(found), "speed": found.speed, "variant": variants.variant()}), flush=True)
        else:
            print(
                f"{found.point.p:.0%} f {found.f:.4f} n {found.bits} Z {found.lifting}: {found.failed} of {found.frames} failed, "
                f"{found.undetected} unnoticed, {found.iterations:.1f} iterations, {found.edges:.2f} edges a bit, "
                f"{found.speed:.0f} Mbit/s",
                flush=True,
            )


if __name__ == "__main__":
    main()

"""How often the search of a clock succeeds: `python -m qkdd_native.bench_clock`, one row a link strength.

Seeded streams with pairs on a background, bob's over two seconds; offset uniform within ±1 s, frequency within ±5 ppm, jitter
0.3 ns on each side. rho = pairs / sqrt(clicks of alice · clicks of bob); rho = 0 has no pairs, so every find is a false lock.
"""

from __future__ import annotations

import argparse
import time
from itertools import pairwise
from statistics import median

import numpy as np
from numpy.typing import NDArray

from qkdd_native import clock, variants
from qkdd_native.tags import Times

SECOND = 10**12
RANGE_S, CLOCK_ERROR, JITTER_PS = 1.0, 5e-6, 300.0


def streams(
    rng: np.random.Generator,
    rate: float,
    rho: float,
    span_s: float,
    offset_s: float,
    drift: float,
    pieces: int = 1,
) -> tuple[Times, Times]:
    """Both sides with `rate` clicks a second, alice's RANGE_S longer at both ends; t_a = t_b (1 + drift) + offset.

    pieces: of time, drawn and sorted one after the other, for streams as large as the memory. No pair lies on a boundary.
    """
    low, high = -RANGE_S * SECOND, (span_s + RANGE_S) * SECOND
    edges = np.linspace(0.0, span_s * SECOND, pieces + 1)
    a_parts = [_alone(rng, rate, low, 0.0)]
    b_parts: list[NDArray[np.float64]] = []
    for first, last in pairwise(edges):
        pairs = rng.uniform(first, last, rng.poisson(rho * rate * (last - first) / SECOND))
        if pieces > 1:
            pairs = pairs[np.minimum(pairs - first, last - pairs) > 20 * JITTER_PS]
        for parts in (a_parts, b_parts):
            alone = _alone(rng, rate * (1 - rho), first, last)
            parts.append(np.sort(np.concatenate([pairs + rng.normal(0, JITTER_PS, len(pairs)), alone])))
    a_parts.append(_alone(rng, rate, span_s * SECOND, high))
    a, b = np.concatenate(a_parts), np.concatenate(b_parts)
    if pieces == 1:
        a.sort()  # jitter at the two ends
    a *= 1 + drift
    a += offset_s * SECOND
    return np.rint(a, out=a).astype(np.int64), np.rint(b, out=b).astype(np.int64)


def _alone(rng: np.random.Generator, rate: float, low: float, high: float) -> NDArray[np.float64]:
    """Clicks without a partner, in order: float64 ps."""
    return np.sort(rng.uniform(low, high, rng.poisson(rate * (high - low) / SECOND)))


def trial(seed: int, rate: float, rho: float, span_s: float, depth: int) -> tuple[str, float]:
    """("found" | "missed" | "false", CPU seconds) of one search."""
    rng = np.random.default_rng(seed)
    offset_s, drift = float(rng.uniform(-RANGE_S, RANGE_S)), float(rng.uniform(-CLOCK_ERROR, CLOCK_ERROR))
    a, b = streams(rng, rate, rho, span_s, offset_s, drift)
    levels = clock.CLOCK_LEVELS[:depth]
    start = time.process_time()
    found = clock.clock_search(a, b, 0.0, RANGE_S * SECOND, CLOCK_ERROR, 500.0, levels)
    taken = time.process_time() - start
    if found is None:
        return "missed", taken
    right = (
        abs(found.offset_ps - offset_s * SECOND - drift * found.origin_ps) <= found.offset_error_ps
        and abs(found.drift - drift) <= found.drift_error
    )
    return ("found" if right and rho > 0 else "false"), taken


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m qkdd_native.bench_clock", description=__doc__)
    parser.add_argument("--rho", type=float, nargs="+", default=[0.05, 0.02, 0.01, 0.008, 0.006, 0.005, 0.0])
    parser.add_argument("--rate", type=float, default=2e5, help="clicks a second on each side")
    parser.add_argument("--span", type=float, default=2.0, help="bob's stretch, s")
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--depth", type=int, default=3, help="levels of the search, 1 to 4")
    arguments = parser.parse_args()
    variants.select(None)
    print("rho     seeds  found  missed  false locks  median CPU ms  largest")
    for rho in arguments.rho:
        done = [trial(seed, arguments.rate, rho, arguments.span, arguments.depth) for seed in range(arguments.seeds)]
        outcomes = [outcome for outcome, _ in done]
        taken = [1000 * cpu for _, cpu in done]
        print(
            f"{rho:<8g}{len(done):>5}{outcomes.count('found'):>7}{outcomes.count('missed'):>8}"
            f"{outcomes.count('false'):>13}{median(taken):>15.1f}{max(taken):>9.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()

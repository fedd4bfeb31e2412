"""Three ways of adapting an LDPC frame's rate, on the same frames: `python -m qkdd_native.bench_adaption`.

All start with the same disclosure and, when decoding fails, disclose more in two rounds of equal cost.

- held back: rows of the code that are sent later.
- punctured: a code with more rows, of whose frame p positions hold private random bits of alice, value 0 for bob; m - p bits
  tell of the key, and each opened position one more. No check has two of them, so their columns are independent and the m - p
  is exact (Elkouss, Martinez-Mateo, Martin, ISIT 2012). `circulants`: whole columns of degree two, as the daemon does; `random`:
  positions from a public seed.
- symmetric: the first round as held back; then bob names the d positions that his decoder doubts most and alice opens them
  (Kiktenko et al., Phys. Rev. Applied 8 (2017) 044017). Their places depend on both keys, so a round costs
  d + log2 binomial(n, d) bits (security-proofs S7.1); `symmetric, places free` counts d alone, as the paper does.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from math import lgamma, log

import numpy as np
from numpy.typing import NDArray

from qkdd_native import ldpc, soft, variants
from qkdd_native.bench_ldpc import entropy

# (code, code with as many rows more as the first holds back): leak 0.095 to 0.49
PAIRS = ((10, 12), (21, 24), (30, 32), (37, 39), (45, 47))
EFFICIENCIES = (1.06, 1.09, 1.12, 1.15)
ROUNDS = 2
ITERATIONS = 100
BELIEF_ITERATIONS = 40

Bits = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Outcome:
    """failed: after 0, 1 and 2 further rounds; f: mean of all bits that were disclosed over n h(p)."""

    way: str
    error: float
    bits: int
    start_f: float
    frames: int
    failed: tuple[int, ...]
    f: float


def error_rate(leak: float) -> float:
    """p with h(p) = leak, below one half."""
    low, high = 0.0, 0.5
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if entropy(middle) < leak else (low, middle)
    return high


def untainted(code: ldpc.LdpcCode, count: int, seed: int) -> NDArray[np.int64]:
    """`count` positions of degree two or three, in an order drawn from a seed, no two of them in one check."""
    columns_of, shifts, starts = code.entries()
    rows_of = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    checks_of: list[list[tuple[int, int]]] = [[] for _ in range(code.columns)]
    for row, column, shift in zip(rows_of, columns_of, shifts, strict=True):
        if row < code.rows:
            checks_of[column].append((int(row), int(shift)))
    taken = np.zeros((code.rows, code.lifting), np.bool_)
    chosen: list[int] = []
    for place in np.random.default_rng(seed).permutation(code.size):
        column, bit = divmod(int(place), code.lifting)
        checks = [(row, (bit - shift) % code.lifting) for row, shift in checks_of[column]]
        if len(checks) > 3 or any(taken[check] for check in checks):
            continue
        for check in checks:
            taken[check] = True
        chosen.append(int(place))
        if len(chosen) == count:
            return np.array(chosen)
    raise ValueError(f"only {len(chosen)} of {count} positions are untainted")


def circulants(code: ldpc.LdpcCode, count: int) -> NDArray[np.int64]:
    """The positions that the daemon punctures, in the order in which it opens them."""
    whole = (code.punctured(count)[:, None] * code.lifting + np.arange(code.lifting)).reshape(-1)
    return np.concatenate([whole[::2], whole[1::2]])


def opened_for(bits: int, n: int) -> int:
    """The most positions of n that can be named and opened for `bits` bits."""
    d = 0
    while d + 1 + (lgamma(n + 1) - lgamma(d + 2) - lgamma(n - d)) / log(2) <= bits:
        d += 1
    return d


class Frames:
    """Frames with the same errors for every way."""

    def __init__(self, pair: tuple[int, int], lifting: int, start_f: float, seed: int) -> None:
        codes = ldpc.family(ldpc.LdpcCode)
        plain, more = codes[pair[0]], codes[pair[1]]
        self.punctured = (more.rows - plain.rows) * lifting
        self.bits = more.columns * lifting - self.punctured
        self.plain, self.more = plain.adapted(self.bits, lifting), more.adapted(more.columns * lifting, lifting)
        self.first = plain.rows * lifting
        self.error = error_rate(self.first / self.bits / start_f)
        self.rng = np.random.default_rng(seed)
        # where private bits stand in a punctured frame, and where the key does
        self.circulants = circulants(self.more, more.rows - plain.rows)
        self.random = untainted(self.more, self.punctured, seed)
        known = np.zeros(self.plain.size, np.bool_)
        known[self.bits :] = True
        known = np.ascontiguousarray(known.reshape(lifting, self.plain.columns).T).reshape(-1)
        self.places = np.flatnonzero(~known)  # and in the plain one

    def draw(self) -> Bits:
        return (self.rng.random(self.bits, dtype=np.float32) < self.error).astype(np.uint8)

    def held_back(self, errors: Bits) -> tuple[int, int]:
        """(rounds until it was decoded, disclosed bits)."""
        code = self.plain
        frame, prior = np.zeros(code.size, np.uint8), np.full(code.size, code.KNOWN, np.int8)
        frame[self.places], prior[self.places] = errors, code.start
        for round_ in range(ROUNDS + 1):
            rows = code.rows + code.extra * round_ // ROUNDS
            found, _ = code.decode(code.syndrome(frame, rows), prior, ITERATIONS)
            if found is not None and (found == frame).all():
                return round_, rows * code.lifting
        return ROUNDS + 1, rows * code.lifting

    def blind(self, errors: Bits, order: NDArray[np.int64]) -> tuple[int, int]:
        """order: of the private positions, as they are opened."""
        code = self.more
        frame, prior = np.zeros(code.size, np.uint8), np.zeros(code.size, np.int8)
        keys = np.setdiff1d(np.arange(code.size), order)
        frame[keys], prior[keys] = errors, code.start
        frame[order] = self.rng.integers(0, 2, self.punctured, dtype=np.uint8)
        syndrome = code.syndrome(frame)
        for round_ in range(ROUNDS + 1):
            count = self.punctured * round_ // ROUNDS
            known = order[:count]
            prior[known] = np.where(frame[known], -code.KNOWN, code.KNOWN)
            found, _ = code.decode(syndrome, prior, ITERATIONS)
            if found is not None and (found == frame).all():
                return round_, self.first + count
        return ROUNDS + 1, self.first + count

    def symmetric(self, errors: Bits, free: bool) -> tuple[int, int]:
        code = self.plain
        frame, prior = np.zeros(code.size, np.uint8), np.full(code.size, code.KNOWN, np.int8)
        frame[self.places], prior[self.places] = errors, code.start
        syndrome, disclosed = code.syndrome(frame), self.first
        step = code.extra * code.lifting // ROUNDS
        for round_ in range(ROUNDS + 1):
            found, _ = code.decode(syndrome, prior, ITERATIONS)
            if found is not None and (found == frame).all():
                return round_, disclosed
            if round_ == ROUNDS:
                break
            llr = np.sign(prior) * np.where(np.abs(prior) == code.KNOWN, 30.0, log((1 - self.error) / self.error))
            doubt = np.abs(soft.beliefs(code, syndrome, llr.astype(np.float32), BELIEF_ITERATIONS))
            doubt[np.abs(prior) == code.KNOWN] = np.inf
            named = np.argsort(doubt, kind="stable")[: step if free else opened_for(step, self.bits)]
            prior[named] = np.where(frame[named], -code.KNOWN, code.KNOWN)
            disclosed += step
        return ROUNDS + 1, disclosed


def measure(
    pair: tuple[int, int], lifting: int, start_f: float, frames: int, seed: int, symmetric: bool
) -> Iterator[Outcome]:
    work = Frames(pair, lifting, start_f, seed)
    ways: dict[str, Callable[[Bits], tuple[int, int]]] = {
        "held back": work.held_back,
        "punctured, circulants": lambda errors: work.blind(errors, work.circulants),
        "punctured, random": lambda errors: work.blind(errors, work.random),
    }
    if symmetric:
        ways["symmetric"] = lambda errors: work.symmetric(errors, False)
        ways["symmetric, places free"] = lambda errors: work.symmetric(errors, True)
    rounds = np.zeros((len(ways), ROUNDS + 2), np.int64)
    disclosed = np.zeros(len(ways))
    for _ in range(frames):
        errors = work.draw()
        for index, way in enumerate(ways.values()):
            round_, bits = way(errors)
            rounds[index, round_] += 1
            disclosed[index] += bits
    limit = frames * work.bits * entropy(work.error)
    for index, name in enumerate(ways):
        failed = tuple(int(rounds[index, r + 1 :].sum()) for r in range(ROUNDS + 1))
        yield Outcome(name, work.error, work.bits, start_f, frames, failed, float(disclosed[index] / limit))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m qkdd_native.bench_adaption", description=__doc__)
    parser.add_argument("--frames", type=int, default=20, help="frames a point")
    parser.add_argument("--lifting", type=int, default=256, help="256 times as many bits a frame")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--symmetric", action="store_true", help="symmetric rounds too: slow, beliefs are in numpy")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    variants.select(None)
    for pair in PAIRS:
        for start_f in EFFICIENCIES:
            for found in measure(
                pair, arguments.lifting, start_f, arguments.frames, arguments.seed, arguments.symmetric
            ):
                if arguments.json:
                    print(json.dumps(asdict(found)), flush=True)
                else:
                    print(
                        f"{found.error:6.2%} n {found.bits} f {found.start_f:.2f} {found.way:<24} failed after 0, 1, 2 rounds "
                        f"{'/'.join(map(str, found.failed))} of {found.frames}, mean f {found.f:.4f}",
                        flush=True,
                    )


if __name__ == "__main__":
    main()

"""Search of a clock beside qcrypto's pfind: `python -m qkdd_native.bench_pfind PROGRAM`, two rows and more a link strength.

PROGRAM: pfind, built outside this repository. Both search the same streams: two epochs (1.07 s), as many clicks a second on each
side, offset uniform in 0 to 0.25 s, jitter 0.3 ns on each side, no difference of frequency (pfind has none in its model). Right:
within 5 ns (pfind), within its own bounds (ours). pfind always answers, so what is not right is false. Ours with
the frequency known and within ±5 ppm, with all levels of effort and with the first one only. CPU time of a search;
pfind's with its start and its reading of files, ours with the streams in memory. Files: types 1 and 2 of qcrypto's filespec.txt.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path
from statistics import fmean, median

import numpy as np
from numpy.typing import NDArray

from qkdd_native import clock, variants
from qkdd_native.tags import Times

EPOCHS, FIRST_EPOCH, EPOCH = 2, 4, 1 << 32  # an epoch in units of 125 ps
SPAN_PS, MOST_OFFSET_PS = EPOCHS * EPOCH * 125, 0.25e12
JITTER_PS = 300.0
_GAP_BITS = 25  # of a difference in a type 2 file


def streams(rng: np.random.Generator, rate: float, rho: float, offset_ps: float) -> tuple[Times, Times]:
    """Both sides over the same stretch: t_a = t_b + offset for the pairs that both see."""
    seconds = SPAN_PS / 1e12
    pairs = rng.uniform(0, SPAN_PS, rng.poisson(rho * rate * seconds))
    sides = [
        np.concatenate([
            pairs + rng.normal(0, JITTER_PS, len(pairs)),
            rng.uniform(0, SPAN_PS, rng.poisson((1 - rho) * rate * seconds)),
        ])
        for _ in range(2)
    ]  # fmt: skip
    a, b = (np.sort(np.rint(times).astype(np.int64)) for times in (sides[0], sides[1] - offset_ps))
    return a[(a >= 0) & (a < SPAN_PS)], b[b >= 0]


def _write(folder: Path, a_times: Times, b_times: Times) -> None:
    for side, times in (("1", a_times), ("2", b_times)):
        (folder / side).mkdir(exist_ok=True)
        for epoch in range(EPOCHS):
            here = times[(times >= epoch * EPOCH * 125) & (times < (epoch + 1) * EPOCH * 125)] // 125 - epoch * EPOCH
            words = _type_1(here, FIRST_EPOCH + epoch) if side == "1" else _type_2(here, FIRST_EPOCH + epoch)
            words.tofile(folder / side / f"{FIRST_EPOCH + epoch:08x}")


def _type_1(times: Times, epoch: int) -> NDArray[np.uint32]:
    """Times of 49 bits and a pattern of 4 in 64, the more significant word first."""
    records = (times.astype(np.uint64) + (np.uint64(epoch) << np.uint64(32))) << np.uint64(15) | np.uint64(1)
    words = np.empty((len(records) + 1, 2), np.uint32)
    words[:-1, 0], words[:-1, 1], words[-1] = records >> np.uint64(32), records & np.uint64(0xFFFFFFFF), 0
    return np.concatenate([np.array([1, epoch, len(records), 49, 4], np.uint32), words.ravel()])


def _type_2(times: Times, epoch: int) -> NDArray[np.uint32]:
    """Differences with a basis bit; differences of 0 and 1 are reserved, so those clicks are left out."""
    gaps = np.diff(times, prepend=0)
    while (gaps < 2).any():
        times = times[gaps >= 2]
        gaps = np.diff(times, prepend=0)
    if gaps.max(initial=0) >= 1 << _GAP_BITS:
        raise ValueError(f"a gap of more than {2**_GAP_BITS * 0.125e-6:.1f} ms: the rate is too low")
    bits = np.zeros((len(gaps) + 1, _GAP_BITS + 1), np.uint8)
    values = np.append(gaps, 1)  # 1 is the end
    for bit in range(_GAP_BITS):
        bits[:, bit] = values >> (_GAP_BITS - 1 - bit) & 1
    packed = np.packbits(bits.ravel())
    words = np.concatenate([packed, np.zeros(-len(packed) % 4 + 8, np.uint8)]).view(">u4").astype(np.uint32)
    return np.concatenate([np.array([2, epoch, len(gaps), _GAP_BITS, 1, 1], np.uint32), words])


def _pfind(program: Path, folder: Path, order: int) -> tuple[float, float]:
    """(b less a in ps, CPU seconds) of pfind with a transform of 2^order."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    files = ["-D", str(folder / "1"), "-d", str(folder / "2"), "-e", str(FIRST_EPOCH), "-n", str(EPOCHS)]
    result = subprocess.run([str(program), *files, "-q", str(order)], capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return float(result.stdout) * 125, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def compare(
    program: Path, orders: list[int], rate: float, rho: float, seed: int, folder: Path
) -> dict[str, tuple[str, float]]:
    """("found" | "missed" | "false", CPU seconds) of each search over the same streams."""
    rng = np.random.default_rng(seed)
    offset_ps = float(rng.uniform(0, MOST_OFFSET_PS))
    a, b = streams(rng, rate, rho, offset_ps)
    _write(folder, a, b)
    results = {}
    for order in orders:
        got, taken = _pfind(program, folder, order)
        results[f"pfind q = {order}"] = ("found" if abs(got + offset_ps) < 5_000 else "false", taken)
    for clock_error, depth in ((1e-9, 1), (1e-9, None), (5e-6, None)):
        start = time.process_time()
        found = clock.clock_search(a, b, 0.0, float(SPAN_PS), clock_error, 500.0, clock.CLOCK_LEVELS[:depth])
        taken = time.process_time() - start
        right = (
            found is not None
            and abs(found.offset_ps - offset_ps) <= found.offset_error_ps
            and abs(found.drift) <= found.drift_error
        )
        results[f"±{clock_error:g}, {'first' if depth else 'all'}"] = (
            "missed" if found is None else "found" if right else "false",
            taken,
        )
    return results


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m qkdd_native.bench_pfind", description=__doc__)
    parser.add_argument("program", type=Path)
    parser.add_argument("--rho", type=float, nargs="+", default=[0.05, 0.02, 0.015, 0.01, 0.008, 0.006])
    parser.add_argument("--order", type=int, nargs="+", default=[20], help="of pfind's transform; 20 covers 1 s")
    parser.add_argument("--rate", type=float, default=1e6, help="clicks a second on each side")
    parser.add_argument("--seeds", type=int, default=40)
    arguments = parser.parse_args()
    variants.select(None)
    print("rho     search          seeds  found  false  median CPU ms     mean  for a find  pfind's median / ours")
    with tempfile.TemporaryDirectory() as folder:
        work = (arguments.program, arguments.order, arguments.rate)
        compare(*work, 0.05, 0, Path(folder))  # tables and memory of the first search
        for rho in arguments.rho:
            trials = [compare(*work, rho, seed, Path(folder)) for seed in range(arguments.seeds)]
            anchor = median(trial[f"pfind q = {arguments.order[0]}"][1] for trial in trials)
            for name in trials[0]:
                outcomes = Counter(trial[name][0] for trial in trials)
                taken = [1000 * trial[name][1] for trial in trials]
                each = sum(taken) / outcomes["found"] if outcomes["found"] else float("inf")
                print(
                    f"{rho:<8g}{name:<16}{len(trials):>5}{outcomes['found']:>7}{outcomes['false']:>7}{median(taken):>15.1f}"
                    f"{fmean(taken):>9.1f}{each:>12.1f}{1000 * anchor / median(taken):>10.1f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()

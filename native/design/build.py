"""Designs and writes the family of codes: `python build.py OUTPUT`; prints one line a code and the file's SHA-256.

DESIGNED holds the results of `degrees.py`: distributions for 1200 edges a bit of decoding, and the leak over that of the Shannon
limit at the threshold; at 0.155 with 2400 edges, elsewhere without the last two parameters and up to degree 31. A code between
two of them takes the parameters of the nearest and an interpolated threshold. The file's form stands in docs/rooms/ldpc.md.
Deterministic: the same versions of numpy and scipy write the same file.
"""

from __future__ import annotations

import hashlib
import struct
import sys
from pathlib import Path

import evolution as ev
import numpy as np
from degrees import distribution, inverse_entropy
from lifting import lift

COLUMNS = 256
ROWS = (
    *range(14, 33),
    34,
    36,
    38,
    39,
    *range(40, 49, 2),
    *range(51, 78, 3),
    81,
    85,
    89,
    93,
    98,
    103,
    108,
    113,
    119,
    125,
    131,
    138,
    144,
)
STAGES = 12
CAP = 40  # largest outgoing magnitude of a check: with more, wrong values of high-degree bits pin their neighbours
MAGIC = b"QKDDQC02"
DESIGNED = {
    0.06: ((0.8296, 0.1141, 29.7921, 0.3532, 8.7051), 1.0893),
    0.10: ((0.8798, 0.1071, 28.4936, 0.3006, 9.1242), 1.0785),
    0.13: ((0.9869, 0.1005, 30.0, 0.3131, 8.8985), 1.0710),
    0.155: ((0.9486, 0.0875, 37.0148, 0.3042, 9.4207, 0.0862, 3.445), 1.0619),
    0.165: ((0.9556, 0.0883, 26.7955, 0.2911, 9.3628), 1.0739),
    0.21: ((0.9475, 0.1133, 28.7697, 0.2709, 8.7613), 1.0664),
    0.27: ((0.923, 0.09, 30.0, 0.2862, 8.9775), 1.0577),
    0.33: ((0.9023, 0.1032, 29.144, 0.2772, 8.5646), 1.0537),
    0.40: ((0.8877, 0.1059, 28.6537, 0.2912, 7.9701), 1.0490),
    0.50: ((0.6952, 0.0803, 28.2234, 0.2191, 9.1399), 1.0486),
}


def staged_tables(nodes: np.ndarray, leak: float, p: float) -> tuple[list[int], np.ndarray]:
    """The evolution's tables by share of unsatisfied checks, in STAGES equal steps down to none; a little below p if need be."""
    good = np.zeros(1, np.bool_)
    while not good[0]:
        good, path = ev.evolve(nodes[None], leak, np.array([p]), np.array([400.0]), trace=True)
        p *= 0.99
    share = np.array(path.unsatisfied)
    step = share[0] / STAGES
    limits, tables = [], np.zeros((STAGES, ev.TOP + 1), np.uint8)
    for i in range(STAGES):
        low = share[0] - (i + 1) * step
        inside = np.flatnonzero((share >= low) & (share <= low + step))
        pick = inside[len(inside) // 2] if len(inside) else np.argmin(abs(share - low - step / 2))
        tables[i] = np.minimum(path.tables[int(pick)], CAP)
        limits.append(max(0, int(low * 65536)))
    return limits, tables


def build(rows: int) -> bytes:
    leak = rows / COLUMNS
    nodes = distribution(np.array(DESIGNED[min(DESIGNED, key=lambda known: abs(known - leak))][0]), leak)
    extra = max(2, round(0.1 * rows))
    f = float(np.interp(leak, list(DESIGNED), [limit for _, limit in DESIGNED.values()]))
    threshold = inverse_entropy(leak / f)
    limits, tables = staged_tables(nodes, leak, 0.985 * threshold)
    code = lift(nodes, rows, extra, COLUMNS, seed=rows)
    entries = sorted(code.entries)
    degrees = np.bincount([row for row, _, _ in entries], minlength=rows + extra)
    print(
        f"leak {leak:.4f} threshold {threshold:.5f} f {f:.3f} edges {len(entries)} "
        f"cycles of four {code.fours}, of six {code.sixes}",
        flush=True,
    )
    return b"".join(
        [
            struct.pack("<6I", COLUMNS, rows, extra, ev.start_of(leak), STAGES, len(entries)),
            np.array(limits, "<u4").tobytes(),
            tables.tobytes(),
            degrees.astype(np.uint8).tobytes(),
            np.array([column for _, column, _ in entries], np.uint8).tobytes(),
            np.array([shift for _, _, shift in entries], "<u2").tobytes(),
        ]
    )


if __name__ == "__main__":
    every = [build(rows) for rows in ROWS]
    data = MAGIC + struct.pack("<I", len(every)) + b"".join(every)
    Path(sys.argv[1]).write_bytes(data)
    print(hashlib.sha256(data).hexdigest(), len(data), "bytes")

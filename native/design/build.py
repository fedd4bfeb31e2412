"""Designs and writes the family of codes: `python build.py OUTPUT`; prints one line a code and the file's SHA-256.

DESIGNED holds the results of degrees.py; a code between two of them takes the parameters of the nearest. The file's form stands
in docs/rooms/ldpc.md. Deterministic: the same versions of numpy and scipy write the same file.
"""

from __future__ import annotations

import hashlib
import struct
import sys
from pathlib import Path

import evolution as ev
import numpy as np
from degrees import distribution, entropy, inverse_entropy
from lifting import lift

COLUMNS, LIFTING = 256, 256
ROWS = (15, 17, 19, 21, 23, 26, 29, 32, 36, 40, 44, 49, 54, 60, 66, 73, 80, 88, 97, 107, 117, 128, 141)
STAGES = 12
CAP = 16  # largest outgoing magnitude of a check: with more, wrong values of high-degree bits pin their neighbours
DESIGNED = {
    0.06: (1.0, 0.2497, 12.5124, 0.1964, 6.6817),
    0.08: (1.0, 0.2272, 13.2815, 0.1972, 6.9757),
    0.10: (0.9586, 0.2356, 13.5358, 0.1667, 6.9393),
    0.13: (0.9832, 0.209, 14.8426, 0.1924, 6.8787),
    0.16: (0.8944, 0.205, 15.3538, 0.1884, 6.5075),
    0.20: (0.6566, 0.1986, 15.7384, 0.1385, 6.957),
    0.25: (0.9213, 0.283, 11.633, 0.037, 4.2187),
    0.30: (1.0, 0.3078, 11.5053, 0.0393, 4.8034),
    0.35: (0.8927, 0.2816, 12.4135, 0.0397, 4.6993),
    0.40: (0.8599, 0.2569, 13.0371, 0.1253, 4.6172),
    0.50: (0.7276, 0.2131, 14.124, 0.0578, 6.8548),
    0.55: (0.6835, 0.1526, 18.0, 0.1638, 6.3756),
}


def staged_tables(nodes: np.ndarray, leak: float, p: float) -> tuple[list[int], np.ndarray]:
    """The evolution's tables by share of unsatisfied checks, in STAGES equal steps down to none."""
    _, path = ev.evolve(nodes[None], leak, np.array([p]), 300, trace=True)
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
    nodes = distribution(np.array(DESIGNED[min(DESIGNED, key=lambda known: abs(known - leak))]), leak)
    extra = max(2, round(0.1 * rows))
    low, high = inverse_entropy(leak / 1.6), inverse_entropy(leak)
    threshold = float(ev.thresholds(nodes[None], leak, low, high, 300, 10)[0])
    limits, tables = staged_tables(nodes, leak, 0.985 * threshold)
    code = lift(nodes, rows, extra, COLUMNS, LIFTING, seed=rows)
    entries = sorted(code.entries)
    degrees = np.bincount([row for row, _, _ in entries], minlength=rows + extra)
    print(
        f"leak {leak:.4f} threshold {threshold:.5f} f {leak / entropy(threshold):.3f} edges {len(entries)} "
        f"cycles of four {code.fours}",
        flush=True,
    )
    return b"".join(
        [
            struct.pack("<7I", LIFTING, COLUMNS, rows, extra, ev.start_of(leak), STAGES, len(entries)),
            np.array(limits, "<u4").tobytes(),
            tables.tobytes(),
            degrees.astype(np.uint8).tobytes(),
            np.array([column for _, column, _ in entries], "<u2").tobytes(),
            np.array([shift for _, _, shift in entries], "<u2").tobytes(),
        ]
    )


if __name__ == "__main__":
    data = b"QKDDQC01" + struct.pack("<I", len(ROWS)) + b"".join(build(rows) for rows in ROWS)
    Path(sys.argv[1]).write_bytes(data)
    print(hashlib.sha256(data).hexdigest(), len(data), "bytes")

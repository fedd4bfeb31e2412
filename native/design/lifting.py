"""Quasi-cyclic lifting of a degree distribution: rows balanced, degree-2 columns in one chain, no cycles of four, few of six.

Progressive edge growth (Hu, Eleftheriou, Arnold, IEEE Trans. Inf. Theory 51 (2005) 386) on the level of circulants: columns in
order of degree, each edge to a row of the least degree, its shift drawn among those that close the fewest cycles. One shift
serves every lifting 64 q (`LdpcCode.adapted`): a cycle in any of them is one modulo 64, so those of four are avoided modulo 256,
then 64; those of six modulo 256, then 1024. Cycles of six are counted by Fourier transforms over the shifts.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

SHORT, MIDDLE, LONG, MOST = 64, 256, 1024, 4096


@dataclass
class Lifting:
    """Entries (row, column, shift), shifts modulo MOST."""

    rows: int
    columns: int
    entries: list[tuple[int, int, int]] = field(default_factory=list)
    fours: int = 0
    sixes: int = 0

    def __post_init__(self) -> None:
        self.by_column: list[list[tuple[int, int]]] = [[] for _ in range(self.columns)]
        self.degree = np.zeros(self.rows, np.int64)
        # [r][s][d]: columns in rows r and s whose shift in r less that in s is d; and its transform modulo LONG
        self.short = np.zeros((self.rows, self.rows, MIDDLE), np.uint8)
        self.spectrum = np.zeros((self.rows, self.rows, LONG // 2 + 1), np.complex64)
        roots = np.exp(-2j * np.pi * np.arange(LONG) / LONG).astype(np.complex64)
        # [d]: transform of a one at d
        self.wave = roots[np.outer(np.arange(LONG), np.arange(LONG // 2 + 1)) % LONG]

    def cycles(self, column: int, row: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """For each shift of a new entry: cycles of four modulo MIDDLE [MIDDLE] and of six modulo LONG [LONG] that it would
        close."""
        four = np.zeros(MIDDLE, np.int64)
        total = np.zeros(LONG // 2 + 1, np.complex64)
        for other, shift in self.by_column[column]:
            four += np.roll(self.short[row, other], shift % MIDDLE)
            paths = np.einsum(
                "tf,tf->f", self.spectrum[row], self.spectrum[other].conj()
            )  # of differences from row to other
            total += paths * self.wave[shift % LONG]
        return four, np.rint(np.fft.irfft(total, LONG)).astype(np.int64)

    def add(self, row: int, column: int, shift: int) -> None:
        for other, theirs in self.by_column[column]:
            for r, s, d in ((row, other, shift - theirs), (other, row, theirs - shift)):
                self.short[r, s, d % MIDDLE] += 1
                self.spectrum[r, s] += self.wave[d % LONG]
        self.by_column[column].append((row, shift))
        self.entries.append((row, column, shift))
        self.degree[row] += 1

    def place(self, row: int, column: int, rng: np.random.Generator) -> None:
        four, six = self.cycles(column, row)
        folded = np.tile(four.reshape(-1, SHORT).sum(axis=0), MIDDLE // SHORT)
        keys = [np.tile(four, LONG // MIDDLE), np.tile(folded, LONG // MIDDLE)]
        keys += [np.tile(six.reshape(-1, MIDDLE).sum(axis=0), LONG // MIDDLE), six]
        left = np.arange(LONG)
        for key in keys:
            left = left[key[left] == key[left].min()]
        best = int(rng.choice(left))
        self.fours += int(four[best % MIDDLE])
        self.sixes += int(six[best])
        self.add(row, column, best + LONG * int(rng.integers(MOST // LONG)))


def column_degrees(nodes: NDArray[np.float64], columns: int) -> NDArray[np.int64]:
    """Whole numbers of columns by degree (largest remainders), ascending."""
    exact = nodes * columns
    counts = np.floor(exact).astype(np.int64)
    for d in np.argsort(counts - exact)[: columns - int(counts.sum())]:
        counts[d] += 1
    return np.repeat(np.arange(len(nodes)), counts)


def lift(nodes: NDArray[np.float64], rows: int, extra: int, columns: int, seed: int) -> Lifting:
    """A code of `rows` rows for this distribution, and `extra` rows of half their degree for when decoding fails."""
    rng = np.random.default_rng(seed)
    degrees = column_degrees(nodes, columns)
    code = Lifting(rows + extra, columns)
    chained = 0
    for column, degree in enumerate(degrees):
        if degree == 2 and chained < rows - 1:
            chosen = [chained, chained + 1]
            chained += 1
        else:
            noise = rng.random(rows)
            chosen = list(np.argsort(code.degree[:rows] + noise)[: min(int(degree), rows)])
        for row in chosen:
            code.place(int(row), column, rng)
    mean = len(code.entries) / rows / 2
    few = np.flatnonzero(degrees <= 3)
    load = np.zeros(columns)
    for row in range(rows, rows + extra):
        order = few[np.argsort(load[few] + degrees[few] / 2 + rng.random(len(few)))]
        for column in order[: max(3, min(round(mean), len(few)))]:
            code.place(row, int(column), rng)
            load[column] += 1
    return code

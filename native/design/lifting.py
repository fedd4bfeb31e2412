"""Quasi-cyclic lifting of a degree distribution: rows balanced, degree-2 columns in one chain, no cycles of four, few of six.

Progressive edge growth (Hu, Eleftheriou, Arnold, IEEE Trans. Inf. Theory 51 (2005) 386) on the level of circulants: columns in
order of degree, each edge to a row of the least degree, its shift drawn among those that close the fewest cycles of six.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass
class Lifting:
    """Entries (row, column, shift) of circulants of size `size`."""

    rows: int
    columns: int
    size: int
    entries: list[tuple[int, int, int]] = field(default_factory=list)
    fours: int = 0

    def __post_init__(self) -> None:
        self.by_column: list[list[tuple[int, int]]] = [[] for _ in range(self.columns)]
        self.degree = np.zeros(self.rows, np.int64)
        # difference[r][s]: shifts in row r less shifts in row s, over all columns that are in both
        self.difference: list[dict[int, list[int]]] = [{} for _ in range(self.rows)]

    def cycles(self, column: int, row: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """For each shift of a new entry: cycles of four and of six that it would close."""
        four, six = np.zeros(self.size, np.int64), np.zeros(self.size, np.int64)
        for other, shift in self.by_column[column]:
            for d in self.difference[row].get(other, ()):
                four[(shift + d) % self.size] += 1
            for third, first in self.difference[row].items():
                if third != other:
                    second = self.difference[third].get(other)
                    if second:
                        total = np.add.outer(np.array(first), np.array(second)).ravel()
                        six += np.bincount((shift + total) % self.size, minlength=self.size)
        return four, six

    def add(self, row: int, column: int, shift: int) -> None:
        for other, theirs in self.by_column[column]:
            self.difference[row].setdefault(other, []).append((shift - theirs) % self.size)
            self.difference[other].setdefault(row, []).append((theirs - shift) % self.size)
        self.by_column[column].append((row, shift))
        self.entries.append((row, column, shift))
        self.degree[row] += 1

    def place(self, row: int, column: int, rng: np.random.Generator) -> None:
        four, six = self.cycles(column, row)
        free = four == four.min()
        self.fours += int(four.min())
        fewest = np.flatnonzero(free & (six == six[free].min()))
        self.add(row, column, int(rng.choice(fewest)))


def column_degrees(nodes: NDArray[np.float64], columns: int) -> NDArray[np.int64]:
    """Whole numbers of columns by degree (largest remainders), ascending."""
    exact = nodes * columns
    counts = np.floor(exact).astype(np.int64)
    for d in np.argsort(counts - exact)[: columns - int(counts.sum())]:
        counts[d] += 1
    return np.repeat(np.arange(len(nodes)), counts)


def lift(nodes: NDArray[np.float64], rows: int, extra: int, columns: int, size: int, seed: int) -> Lifting:
    """A code of `rows` rows for this distribution, and `extra` rows of half their degree for when decoding fails."""
    rng = np.random.default_rng(seed)
    degrees = column_degrees(nodes, columns)
    code = Lifting(rows + extra, columns, size)
    chained = 0
    for column, degree in enumerate(degrees):
        if degree == 2 and chained < rows - 1:
            chosen = [chained, chained + 1]
            chained += 1
        else:
            noise = rng.random(rows)
            chosen = list(np.argsort(code.degree[:rows] + noise)[: int(degree)])
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

"""What matched pairs tell: error rates, visibilities, the inferred CHSH value, and what the announced time gives away."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class PairStatistics:
    """From the 4x4 coincidence matrix of opened pairs. errors of bits: same-basis pairs whose bits differ after bob's flip.

    visibility: (Z, X), 1 - 2 error rate. chsh_s: 2·sqrt(t1² + t2²), t the singular values of the 2x2 matrix of
    correlators E(Z,Z), E(Z,X), E(X,Z), E(X,X): the largest CHSH value of any settings in that plane if the state is the
    two-qubit state that these correlators suggest (Horodecki, Horodecki, Horodecki, Phys. Lett. A 200, 340 (1995),
    remembered). It is inferred, not measured: no Bell test, and nothing aborts on it. chsh_error: one standard deviation.
    """

    matrix: tuple[tuple[int, ...], ...]
    errors: int
    bits: int
    visibility: tuple[float, float]
    chsh_s: float
    chsh_error: float

    @property
    def qber(self) -> float | None:
        return self.errors / self.bits if self.bits else None


def coincidence_matrix(a_detectors: NDArray[np.uint8], b_detectors: NDArray[np.uint8]) -> NDArray[np.int64]:
    """int64[4, 4]: pairs by alice's (row) and bob's (column) detector, both 0 to 3."""
    return np.bincount(a_detectors.astype(np.int64) * 4 + b_detectors, minlength=16).reshape(4, 4)


def pair_statistics(matrix: NDArray[np.int64], flips: tuple[int, int]) -> PairStatistics:
    """Statistics of a coincidence matrix. flips: whether bob's bit is inverted in (Z, X), see `LinkShared.state`."""
    correlators, variances = np.zeros((2, 2)), np.zeros((2, 2))
    errors, bits, visibility = 0, 0, []
    for a_basis in (0, 1):
        for b_basis in (0, 1):
            cell = matrix[2 * a_basis : 2 * a_basis + 2, 2 * b_basis : 2 * b_basis + 2]
            total, same = int(cell.sum()), int(np.trace(cell))
            if total:
                correlators[a_basis, b_basis] = (2 * same - total) / total
                variances[a_basis, b_basis] = (1 - correlators[a_basis, b_basis] ** 2) / total  # S5.4
            if a_basis == b_basis:
                wrong = same if flips[a_basis] else total - same
                errors, bits = errors + wrong, bits + total
                visibility.append(1 - 2 * wrong / total if total else 0.0)
    singular = np.linalg.svd(correlators, compute_uv=False)
    size = float(np.sqrt(np.sum(singular**2)))
    # S = 2·size, so dS = 2/size·sqrt(sum E²·var(E)); with no correlation at all the spread of the E themselves is left
    weighted = float(np.sum(correlators**2 * variances))
    spread = 2.0 * np.sqrt(weighted) / size if size > 0 else 2.0 * np.sqrt(float(variances.sum()))
    return PairStatistics(
        tuple(tuple(int(cell) for cell in row) for row in matrix),
        errors,
        bits,
        (visibility[0], visibility[1]),
        2.0 * size,
        float(spread),
    )


def timing_information(residuals_ps: NDArray[np.float64], bits: NDArray[np.uint8], bin_ps: float) -> float:
    """Mutual information between arrival-time residual and bit, in bits a bit: what the announced time still gives away.

    Plug-in estimate over bins of `bin_ps` less its mean bias (rows - 1)(columns - 1)/(2 N ln 2) (Miller and Madow,
    remembered); never below 0. It is an estimate for the operator, not a term of the proof.
    """
    if len(bits) == 0:
        return 0.0
    cells = np.rint(residuals_ps / bin_ps).astype(np.int64)
    cells -= cells.min()
    table = np.bincount(cells * 2 + bits, minlength=2 * (int(cells.max()) + 1)).reshape(-1, 2).astype(np.float64)
    table = table[table.sum(axis=1) > 0]
    total = table.sum()
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / total
    full = table > 0
    plain = float(np.sum(table[full] * np.log2(table[full] / expected[full])) / total)
    columns = int(np.count_nonzero(table.sum(axis=0)))
    bias = (len(table) - 1) * (columns - 1) / (2.0 * float(total) * float(np.log(2.0)))
    return max(0.0, plain - bias)

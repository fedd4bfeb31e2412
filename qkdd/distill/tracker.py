"""The tolerated error of the next block, from what both nodes have seen of earlier ones."""

from __future__ import annotations

import math
from collections import deque

from qkdd.distill.blocks import DistilledBlock
from qkdd.distill.config import DistillConfig
from qkdd.distill.errors import BlockRefused, BlockTooShort
from qkdd.security.entropy import check_count
from qkdd.security.errors import ProofInputError

_GRID = 100_000  # tolerated errors are multiples of 1e-5, rounded up
_MEMORY = 4  # accepted blocks
_ALLOWANCE = 3.0  # standard deviations of a small sample


class ErrorTracker:
    """Error of earlier accepted blocks plus the margin, at most qber_max.

    The first estimate comes from sacrificed bits, with three standard deviations more. Both nodes feed the same public
    numbers; should they ever differ, alice's value counts (`qkdd.distill.agree`). A block refused for its error rate
    is public in its test bits; it replaces the estimate in the same way, so that a link whose error has risen goes on when it
    can; so does one refused for its leak, whose error rose within the margin.
    """

    def __init__(self, config: DistillConfig) -> None:
        self._config = config
        self._blocks: deque[tuple[int, int]] = deque(maxlen=_MEMORY)
        self._sample: tuple[int, int] | None = None

    def seed(self, errors: int, size: int) -> None:
        """Sacrificed bits: `errors` of `size` differed. Forgets earlier blocks."""
        errors, size = check_count("errors", errors), check_count("size", size)
        if errors > size:
            raise ProofInputError(f"{errors} errors in {size} bits", name="errors")
        self._blocks.clear()
        self._sample = (errors, size)

    def accepted(self, block: DistilledBlock) -> None:
        self._blocks.append((block.test_errors + block.actual_errors, block.sifted))

    def corrected(self, block: DistilledBlock) -> None:
        """As `accepted`, from the corrected key alone: of a block whose opened bits are of another basis."""
        self._blocks.append((block.actual_errors, block.key_size))

    def forget(self) -> None:
        """Nothing is known any more."""
        self._blocks.clear()
        self._sample = None

    def memory(self) -> tuple[int, int]:
        """(errors, size) of the accepted blocks that are remembered, (0, 0) if there are none."""
        return sum(errors for errors, _ in self._blocks), sum(size for _, size in self._blocks)

    def refused(self, error: BlockRefused) -> None:
        """A refused block; its `test_errors` among `test_size` opened bits are the best estimate from now on."""
        self.seed(int(error.details["test_errors"] or 0), int(error.details["test_size"] or 0))

    def tolerated(self) -> float:
        """The error rate that the next block may have. Raises BlockTooShort before anything was seen."""
        if self._blocks:
            errors, size = self.memory()
            return tolerate(errors / size, self._config)
        if self._sample is not None and self._sample[1] > 0:
            return tolerate(with_allowance(*self._sample), self._config)
        raise BlockTooShort("no sacrificed bits and no earlier block tell the error rate", sifted=0)


def with_allowance(errors: int, size: int) -> float:
    """Error rate of a sample, three standard deviations added."""
    rate = errors / size
    return rate + _ALLOWANCE * math.sqrt(max(rate * (1.0 - rate), 1.0 / size) / size)


def tolerate(rate: float, config: DistillConfig) -> float:
    """The tolerated error for an expected one: with the margin, rounded up, at most qber_max."""
    cells: int = math.ceil((rate + float(config.error_margin)) * _GRID)
    return min(cells / _GRID, float(config.qber_max))

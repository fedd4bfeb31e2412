"""Polarization calibration: a plain coordinate search over the paddles for the lowest error rate.

One paddle after the other is moved by a step to both sides; a parabola through the three error rates gives the next place
(a step to the better side when it opens downwards). After a round over all paddles the step is halved when no paddle helped.
The search measures with what the link has anyway: error rates of sacrificed or refused stretches. It needs no gradient and no
model of the fibre; better searches come with the calibration issue.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from qkdd.core.clock import Clock
from qkdd.core.config import Section
from qkdd.core.units import Fraction
from qkdd.device import PolarizationController
from qkdd.node.errors import CalibrationFailed

Measure = Callable[[], Awaitable[float]]
Progress = Callable[[int, float, tuple[float, ...]], None]


class CalibrationConfig(Section, frozen=True):
    """[calibration]: when to search and when to be content.

    on_drift: "auto" lets bob's node alone move by itself, so that the two nodes never turn at the same time; "never" leaves
    it to `qkdctl calibrate polarization`; "always" is for a link whose only controller is alice's.
    start_above, start_blocks: that many blocks in a row above that error rate start a search. target: stop below it.
    first_step, last_step: as a share of the controller's range. measurements_max: give up after so many.
    """

    on_drift: Literal["auto", "never", "always"] = "auto"
    start_above: Fraction = Fraction(0.035)
    start_blocks: int = 3
    target: Fraction = Fraction(0.02)
    first_step: Fraction = Fraction(0.12)
    last_step: Fraction = Fraction(0.01)
    measurements_max: int = 200

    def check(self) -> Iterator[tuple[str, str, str]]:
        if self.target >= self.start_above:
            yield (
                "target",
                f"{self.target} is not below start_above = {self.start_above}",
                "a search would never be content",
            )
        if not 0 < self.last_step <= self.first_step <= 0.5:
            yield "first_step", "0 < last_step <= first_step <= 0.5 does not hold", "0.12 and 0.01 are the defaults"
        if not 1 <= self.start_blocks <= 1000:
            yield "start_blocks", f"{self.start_blocks} lies outside 1 to 1000", "3 is the default"
        if not 10 <= self.measurements_max <= 10_000:
            yield "measurements_max", f"{self.measurements_max} lies outside 10 to 10000", "200 is the default"


@dataclass(frozen=True, slots=True)
class CalibrationResult:
    """Settings in the controller's unit; error rates as fractions."""

    before: float
    after: float
    settings: tuple[float, ...]
    measurements: int
    seconds: float


class _Enough(Exception):
    """The target is reached or the measurements are used up."""


class CoordinateSearch:
    """One search. `measure` returns a fresh error rate, taken wholly after the last move; it may raise QkddError."""

    def __init__(
        self,
        controller: PolarizationController,
        measure: Measure,
        config: CalibrationConfig,
        clock: Clock,
        progress: Progress = lambda *_: None,
        limits: tuple[float, float] | None = None,
    ) -> None:
        self._controller, self._measure, self._config = controller, measure, config
        self._clock, self._progress = clock, progress
        self._low, self._high = limits or controller.setting_range
        self._now: list[float] = []  # where the paddles are
        self._best: list[float] = []
        self._best_error = math.inf
        self._count = 0

    async def run(self) -> CalibrationResult:
        """Search; the paddles end at the best place found, on failure at the place they started from.

        Raises CalibrationFailed when nothing got better although the error rate is above the target, or what `measure` and
        the controller raise.
        """
        started = self._clock.monotonic()
        self._now = list(await self._controller.settings())
        origin = list(self._now)
        try:
            before = await self._error_here()
            await self._search()
        except BaseException:
            await self._go(origin)
            raise
        await self._go(self._best)
        if self._best_error >= before > self._config.target:
            raise CalibrationFailed(
                f"no setting of the paddles is better than {before:.1%} after {self._count} measurements",
                measurements=self._count,
            )
        seconds = self._clock.monotonic() - started
        return CalibrationResult(before, self._best_error, tuple(self._best), self._count, seconds)

    async def _search(self) -> None:
        span = self._high - self._low
        step, last = span * self._config.first_step, span * self._config.last_step
        try:
            self._check_enough()  # already good: no paddle moves
            while step >= last:
                at_round_start = self._best_error
                for paddle in range(self._controller.paddles):
                    await self._improve(paddle, step)
                if self._best_error > 0.9 * at_round_start:
                    step /= 2
        except _Enough:
            return

    async def _improve(self, paddle: int, step: float) -> None:
        """Try both sides of the best place, then the minimum of the parabola through the three."""
        middle, here = self._best[paddle], self._best_error
        tried: dict[float, float] = {}
        for place in (middle - step, middle + step):
            if self._low <= place <= self._high:
                tried[place] = await self._try(paddle, place)
        if len(tried) == 2:
            left, right = tried[middle - step], tried[middle + step]
            bend = left - 2 * here + right
            if bend > 0:
                vertex = middle + step * (left - right) / (2 * bend)
                if abs(vertex - self._best[paddle]) > step / 10 and abs(vertex - middle) < step:
                    await self._try(paddle, vertex)
                return
        await self._follow(paddle, step, middle)

    async def _follow(self, paddle: int, step: float, middle: float) -> None:
        """No minimum between the three: walk on in the better direction while it helps."""
        while self._best[paddle] != middle:
            direction = math.copysign(step, self._best[paddle] - middle)
            middle = self._best[paddle]
            if self._low <= middle + direction <= self._high:
                await self._try(paddle, middle + direction)

    async def _try(self, paddle: int, place: float) -> float:
        target = list(self._best)
        target[paddle] = place
        await self._go(target)
        error = await self._error_here()
        self._check_enough()
        return error

    async def _error_here(self) -> float:
        error = await self._measure()
        self._count += 1
        if error < self._best_error:
            self._best, self._best_error = list(self._now), error
        self._progress(self._count, error, tuple(self._now))
        return error

    def _check_enough(self) -> None:
        if self._best_error <= self._config.target or self._count >= self._config.measurements_max:
            raise _Enough

    async def _go(self, target: list[float]) -> None:
        for paddle, place in enumerate(target):
            if place != self._now[paddle]:
                await self._controller.move(paddle, place)
                self._now[paddle] = place  # the command, not the read-back: rounding must not look like a move


class DriftWatch:
    """Counts blocks above the threshold; says when a search is due."""

    def __init__(self, config: CalibrationConfig) -> None:
        self._config = config
        self._high = 0

    def block(self, qber: float | None) -> bool:
        """Feed one block's error rate; True when a search should start (then counts from zero again)."""
        if qber is None:
            return False
        self._high = self._high + 1 if qber > self._config.start_above else 0
        if self._high < self._config.start_blocks:
            return False
        self._high = 0
        return True

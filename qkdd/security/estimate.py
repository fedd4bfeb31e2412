"""The channel that a decoy link's counts show: transmission, background and optical error from gains and error rates per
intensity (inverse of the model S8.2). For advice and display; no key length rests on it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from qkdd.security.channel import Channel
from qkdd.security.errors import InconsistentCounts


def fit_channel(
    mu: Sequence[float],
    pulses: Sequence[float],
    detections: Sequence[float],
    test_pulses: Sequence[float],
    test_errors: Sequence[float],
) -> Channel:
    """Channel whose gains and errors come nearest to what was counted.

    pulses, detections: per intensity. test_pulses, test_errors: of the test basis, matched rounds only. The gain
    `1 - (1 - Y0) exp(-eta mu)` is a straight line in `-ln(1 - Q)`; each point weighs as its counts allow. Raises
    InconsistentCounts if there is nothing to fit.
    """
    points = []
    for value, sent, seen in zip(mu, pulses, detections, strict=True):
        if not 0.0 <= seen < sent:
            raise InconsistentCounts(f"{seen} detections of {sent} pulses", name="detections")
        variance = max(seen, 1.0) / sent**2
        points.append((value, -math.log1p(-seen / sent), 1.0 / variance))
    weight = math.fsum(w for _, _, w in points)
    mean_x = math.fsum(w * x for x, _, w in points) / weight
    mean_y = math.fsum(w * y for _, y, w in points) / weight
    spread = math.fsum(w * (x - mean_x) ** 2 for x, _, w in points)
    slope = math.fsum(w * (x - mean_x) * (y - mean_y) for x, y, w in points) / spread
    offset = mean_y - slope * mean_x
    if offset < 0.0:  # less background than can be told from none
        offset, square = 0.0, math.fsum(w * x * x for x, _, w in points)
        slope = math.fsum(w * x * y for x, y, w in points) / square
    if not slope > 0.0:
        raise InconsistentCounts("brighter pulses are not detected more often: no transmission follows", name="gains")
    dark = -math.expm1(-offset) / 2.0
    arrived = math.fsum(sent * -math.expm1(-slope * x) for x, sent in zip(mu, test_pulses, strict=True))
    wrong = math.fsum(test_errors) - dark * math.fsum(test_pulses)
    error = min(0.499, max(0.0, wrong / arrived)) if arrived > 0.0 else 0.0
    return Channel(min(1.0, slope), dark, error)

"""What a decoy link's blocks showed per intensity: metrics, and the channel for advice."""

from __future__ import annotations

import dataclasses
import math
from collections import deque

from qkdd.core.counters import Meter
from qkdd.distill.decoy_counts import DecoyStatistics
from qkdd.security.channel import Channel
from qkdd.security.estimate import fit_channel

KEEP = 10  # blocks


class DecoyMonitor:
    """Told of each block, refused ones included; settings of a link do not change while it runs."""

    def __init__(self, link: str, meter: Meter) -> None:
        self._link, self._meter = link, meter
        self._blocks: deque[DecoyStatistics] = deque(maxlen=KEEP)

    def observe(self, statistics: DecoyStatistics) -> None:
        """Counts of a block; told a second time when the key basis's errors are known, which replaces the first."""
        if statistics.m_key is not None and self._blocks and self._blocks[-1].m_test == statistics.m_test:
            self._blocks.pop()
        self._blocks.append(statistics)
        for level, error in enumerate(statistics.errors):
            if error is not None:
                self._meter.set("qkdd_link_intensity_qber_ratio", error, link=self._link, intensity=str(level))

    @property
    def count(self) -> int:
        return len(self._blocks)

    def total(self) -> DecoyStatistics | None:
        """The kept blocks as one; None before the first."""
        blocks = tuple(self._blocks)  # at once: this runs in a thread beside the link
        if not blocks:
            return None
        first = blocks[0]
        kinds = range(len(first.mu))

        def column(values: list[tuple[int, ...]]) -> tuple[int, ...]:
            return tuple(sum(row[index] for row in values) for index in kinds)

        return dataclasses.replace(
            first,
            pulses=sum(block.pulses for block in blocks),
            n_key=column([block.n_key for block in blocks]),
            n_test=column([block.n_test for block in blocks]),
            m_test=column([block.m_test or (0,) * len(first.mu) for block in blocks]),
            m_key=None,
        )

    def channel(self, total: DecoyStatistics) -> Channel:
        """The characterised channel, receiver's basis choice included. Raises InconsistentCounts."""
        seen = total.receiver_x_basis
        pulses = [total.pulses * p for p in total.p]
        detections = [gain * sent for gain, sent in zip(total.gains, pulses, strict=True)]
        matched = [sent * total.x_basis * seen for sent in pulses]
        found = fit_channel(total.mu, pulses, detections, matched, [float(m) for m in total.m_test or ()])
        return dataclasses.replace(found, receiver_key=min(0.999, max(0.001, 1.0 - seen)))


def qber(total: DecoyStatistics) -> float | None:
    """Error rate of the whole test basis."""
    size = math.fsum(total.n_test)
    return math.fsum(total.m_test or ()) / size if size else None

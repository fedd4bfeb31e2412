"""Gains and errors by intensity, read from a daemon's metrics after each of its blocks, as a monitoring system would."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass

import aiohttp

POLL = 1.0  # s; blocks come every few seconds
GAIN, ERROR = "qkdd_link_gain_ratio", "qkdd_link_intensity_qber_ratio"
BLOCKS = ("qkdd_blocks_accepted_total", "qkdd_blocks_refused_total")
ASKED, LOST, MARGIN = (
    "qkdd_link_symbols_asked_total",
    "qkdd_link_symbols_lost_total",
    "qkdd_link_symbols_margin_seconds",
)
BYTES = "qkdd_board_bytes_total"
_LINE = re.compile(r"^(\w+)\{(.*)\} (\S+)$")
_LABEL = re.compile(r'(\w+)="([^"]*)"')


@dataclass(frozen=True, slots=True)
class Sample:
    """After one block: by intensity, detections per pulse, and error rate of the test basis."""

    gains: Mapping[int, float]
    errors: Mapping[int, float]


@dataclass(frozen=True, slots=True)
class OnCable:
    """What went over the cable to the transmitter's board so far. margin: least one seen, s."""

    asked: int = 0
    lost: int = 0
    sent: int = 0
    received: int = 0
    margin: float | None = None


def read_cable(text: str, before: OnCable) -> OnCable:
    """The same from an exposition; `before`: what was read last."""
    counts = {ASKED: 0.0, LOST: 0.0, "to": 0.0, "from": 0.0}
    margin = before.margin
    for line in text.splitlines():
        found = _LINE.match(line)
        if found is None:
            continue
        name = dict(_LABEL.findall(found[2])).get("direction", "") if found[1] == BYTES else found[1]
        if name in counts:
            counts[name] += float(found[3])
        elif name == MARGIN:
            margin = min(float(found[3]), margin if margin is not None else float("inf"))
    asked, lost, sent, received = (int(count) for count in counts.values())
    return OnCable(asked, lost, sent, received, margin)


def read(text: str) -> tuple[float, Sample]:
    """(finished blocks, sample) of an exposition in the Prometheus text format."""
    blocks, gains, errors = 0.0, {}, {}
    for line in text.splitlines():
        found = _LINE.match(line)
        if found is None:
            continue
        name, labels, value = found[1], dict(_LABEL.findall(found[2])), float(found[3])
        if name in BLOCKS:
            blocks += value
        elif name == GAIN and "intensity" in labels:
            gains[int(labels["intensity"])] = value
        elif name == ERROR and "intensity" in labels:
            errors[int(labels["intensity"])] = value
    return blocks, Sample(gains, errors)


class IntensityWatch:
    """Follows one daemon. `cable`: what went to and from its board. `samples`: one for each block at which it was looked."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._blocks = 0.0
        self.samples: list[Sample] = []
        self.cable = OnCable()

    async def follow(self) -> None:
        """Poll until cancelled. Several blocks between two looks give one sample."""
        async with aiohttp.ClientSession() as session:
            while True:
                try:
                    async with asyncio.timeout(5.0), session.get(self._url, raise_for_status=True) as answer:
                        text = await answer.text()
                        blocks, sample = read(text)
                except (aiohttp.ClientError, OSError, TimeoutError):
                    pass  # not up yet, or just restarting
                else:
                    if blocks > self._blocks and sample.errors:
                        self.samples.append(sample)
                    self._blocks = blocks
                    self.cable = read_cable(text, self.cable)
                await asyncio.sleep(POLL)

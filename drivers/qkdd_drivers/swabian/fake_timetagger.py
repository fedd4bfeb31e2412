"""Stands for `Swabian.TimeTagger` in tests: put where that package is looked for, with the file `instrument` beside its folder.

Only what the documentation of the package says of these calls; the instrument behind it is the simulator's (sim.py).
"""

from __future__ import annotations

import mmap
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

_WORDS = ("magic", "present", "hang", "late_us", "wrong", "refuse", "garbage", "overrun", "crash")
_STATE = ("inputs", "owner", "measuring", "starts", "feed_size")
_LAYOUT = np.dtype(
    [
        *((name, "<u4") for name in _WORDS + _STATE),
        ("resolution_ps", "<f8"),
        *((name, "<u8") for name in ("generate", "head", "tail")),
        ("serial", "S16"),
        ("model", "S32"),
    ],
    align=True,
)
_FEED_AT = 8192
_RECORD_WORDS = 4


def _shared() -> tuple[Any, Any]:
    with (Path(__file__).resolve().parents[1] / "instrument").open("r+b") as file:
        memory = mmap.mmap(file.fileno(), 0)
    return np.frombuffer(memory, _LAYOUT, 1)[0], np.frombuffer(memory, np.uint32, -1, _FEED_AT)


_it, _feed = _shared()


def _enter() -> None:
    """What every call does first."""
    while _it["hang"]:
        time.sleep(0.001)
    if _it["crash"]:
        print("fake package: crash was asked for", file=sys.stderr, flush=True)
        os.abort()
    time.sleep(int(_it["late_us"]) * 1e-6)
    if not _it["present"]:
        raise RuntimeError("No Time Tagger attached or already in use. Got the USB error 'Failed' in 'OpenBySerial'.")


class Resolution:
    Standard, HighResA, HighResB, HighResC = range(4)


class ChannelEdge:
    Rising = 1


class TimeTagger:
    """One instrument."""

    def __init__(self, serial: str) -> None:
        _enter()
        if serial not in ("", _it["serial"].decode()):
            raise RuntimeError(f"No Time Tagger with serial {serial}")
        self._levels: dict[int, float] = {}
        self._delays: dict[int, int] = {}
        self._dead: dict[int, int] = {}

    def getSerial(self) -> str:
        _enter()
        return str(_it["serial"].decode())

    def getModel(self) -> str:
        _enter()
        return "Other Instrument" if _it["wrong"] else str(_it["model"].decode())

    def getFirmwareVersion(self) -> str:
        _enter()
        return "TT-Ultra, FW 3, TS 2018-11-13 22:57:32, OK 1.30"

    def getChannelList(self, kind: int) -> list[int]:
        _enter()
        return list(range(1, int(_it["inputs"]) + 1))

    def getTriggerLevelRange(self, channel: int) -> list[float]:
        _enter()
        return [-2.5, 2.5]

    def getTriggerLevel(self, channel: int) -> float:
        _enter()
        return self._levels.get(channel, 0.5)

    def setTriggerLevel(self, channel: int, volts: float) -> None:
        self._take(channel)
        self._levels[channel] = volts

    def getInputDelay(self, channel: int) -> int:
        _enter()
        return self._delays.get(channel, 0)

    def setInputDelay(self, channel: int, ps: int) -> None:
        self._take(channel)
        self._delays[channel] = ps

    def getDeadtime(self, channel: int) -> int:
        _enter()
        return self._dead.get(channel, 2000)

    def setDeadtime(self, channel: int, ps: int) -> int:
        self._take(channel)
        self._dead[channel] = max(2000, ps)
        return self._dead[channel]

    def setReferenceClock(self, clock_channel: int, clock_frequency: float) -> None:
        self._take(clock_channel)

    @staticmethod
    def _take(channel: int) -> None:
        _enter()
        if _it["refuse"] or not 1 <= abs(channel) <= int(_it["inputs"]):
            raise RuntimeError("the value is not accepted")


class TimeTagStreamBuffer:
    """What `getData` returns."""

    def __init__(self, records: Any, end: int) -> None:
        self._records = records
        self.size = len(records)
        self.tStart, self.tGetData = 1_000_000, end + 1_000_000

    def getTimestamps(self) -> Any:
        return self._records["time"] + self.tStart

    def getChannels(self) -> Any:
        return self._records["channel"]

    def getEventTypes(self) -> Any:
        return self._records["kind"].astype(np.uint8)

    def getMissedEvents(self) -> Any:
        return np.where(self._records["kind"] == 4, 1000, 0).astype(np.uint16)


class TimeTagStream:
    """Clicks of some channels."""

    def __init__(self, tagger: TimeTagger, n_max_events: int, channels: list[int]) -> None:
        _enter()
        self._most, self._channels = n_max_events, {abs(channel): channel for channel in channels}
        self._end = 0
        _it["tail"] = _it["head"]
        _it["starts"] += 1
        _it["measuring"] = 1

    def getData(self) -> TimeTagStreamBuffer:
        _enter()
        dtype = np.dtype([("time", "<i8"), ("channel", "<i4"), ("kind", "<i4")])
        tail = int(_it["tail"])
        count = min((int(_it["head"]) - tail) // _RECORD_WORDS, self._most)
        at = np.arange(tail, tail + count * _RECORD_WORDS) % int(_it["feed_size"])
        records = _feed[at].view(dtype)
        _it["tail"] = tail + count * _RECORD_WORDS
        marks = records["channel"] == 0
        if marks.any():
            self._end = int(records["time"][marks][-1])
        records = records[~marks]
        if _it["overrun"]:
            _it["overrun"] = 0
            extra = np.array([(self._end, 0, 2), (self._end, 1, 4)], dtype)
            records = np.concatenate((records, extra))
        if _it["garbage"]:
            _it["garbage"] = 0
            raise RuntimeError("the stream of the instrument makes no sense")
        return TimeTagStreamBuffer(records, self._end)

    def stop(self) -> None:
        _it["measuring"] = 0


def scanTimeTagger() -> tuple[str, ...]:
    """Serial numbers of what is attached."""
    while _it["hang"]:
        time.sleep(0.001)
    return (str(_it["serial"].decode()),) if _it["present"] else ()


def createTimeTagger(serial: str = "", resolution: int = 0) -> TimeTagger:
    """Connect."""
    return TimeTagger(serial)


def freeTimeTagger(tagger: TimeTagger) -> None:
    """Let go."""
    _it["measuring"] = 0

"""In the worker process: the Python package of Swabian Instruments. Runs in the interpreter that has it: needs it and numpy only.

Calls as the package documents them (`help(TimeTagger)` of 2.22): inputs are numbered from 1, a falling edge is the negative
number; time stamps are int64 ps; `tGetData` is the stream's time at the call, so all earlier clicks have been given.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

import numpy as np

RECORD = np.dtype([("time", "<i8"), ("channel", "<i4"), ("kind", "<i4")])
_EVENTS = 1 << 18
_TIME_TAG, _MISSED, _OVERFLOW_BEGIN = 0, 4, 2
_NAMES = ("Swabian.TimeTagger", "TimeTagger")


class Adapter:
    """One Time Tagger."""

    record = RECORD.itemsize
    burst = RECORD.itemsize * (_EVENTS + 1)

    def __init__(self, options: dict[str, Any]) -> None:
        self.lost = 0
        if options["package_path"]:
            sys.path.insert(0, options["package_path"])
        self._vendor = _import()
        self._tagger = self._open(options["serial"], options["resolution"])
        self._stream: Any = None
        self._origin = 0
        if options["reference_input"]:
            self._tagger.setReferenceClock(options["reference_input"], options["reference_hz"])

    def _open(self, serial: str, resolution: str) -> Any:
        try:
            found = list(self._vendor.scanTimeTagger())
            if serial and found and serial not in found:
                raise LookupError(f"there is serial number {', '.join(found)}, not {serial}")
            return self._vendor.createTimeTagger(serial, getattr(self._vendor.Resolution, resolution))
        except RuntimeError as error:
            raise ConnectionError(str(error)) from None
        except AttributeError as error:
            raise ImportError(f"the package is another one or too old ({error})") from None

    def close(self) -> None:
        """Stop and let go."""
        if self._stream is not None:
            self._stream.stop()
        self._vendor.freeTimeTagger(self._tagger)

    # Calls; the package raises RuntimeError for whatever it does not like

    def do_ping(self) -> str:
        """Serial number, read from the instrument."""
        try:
            return str(self._tagger.getSerial())
        except RuntimeError as error:
            raise ConnectionError(str(error)) from None

    def do_identity(self) -> dict[str, Any]:
        """Model, serial number, firmware, inputs and the range of trigger levels."""
        model = str(self._tagger.getModel())
        if "Time Tagger" not in model:
            raise LookupError(f"it is a {model or 'nameless instrument'}, no Time Tagger")
        inputs = [int(c) for c in self._tagger.getChannelList(self._vendor.ChannelEdge.Rising)]
        low, high = self._tagger.getTriggerLevelRange(inputs[0])
        return {
            "model": model,
            "serial": self.do_ping(),
            "version": str(self._tagger.getFirmwareVersion()),
            "inputs": inputs,
            "levels": [float(low), float(high)],
        }

    def do_get(self, name: str, inputs: list[int]) -> list[float]:
        """TriggerLevel (V), InputDelay (ps) or Deadtime (ps) of each input."""
        return [float(getattr(self._tagger, "get" + name)(channel)) for channel in inputs]

    def do_set(self, name: str, values: dict[str, float]) -> None:
        """The same, by input."""
        for channel, value in values.items():
            number = value if name == "TriggerLevel" else round(value)
            try:
                getattr(self._tagger, "set" + name)(int(channel), number)
            except RuntimeError as error:
                self.do_ping()
                raise ValueError(str(error)) from None

    # The stream

    def begin(self, channels: list[int]) -> None:
        """Clicks of these channels (negative: falling edges)."""
        self.lost = 0
        self._stream = self._vendor.TimeTagStream(self._tagger, _EVENTS, channels)
        self._origin = -1

    def end(self) -> None:
        """Stop the stream."""
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.stop()

    def fetch(self, space: memoryview) -> int:
        """Clicks since the last call, and a mark (channel 0) up to where the stream is complete."""
        try:
            data = self._stream.getData()
        except RuntimeError as error:
            raise ConnectionError(str(error)) from None
        if self._origin < 0:
            self._origin = int(data.tStart)
        kinds = np.asarray(data.getEventTypes())
        clicks = kinds == _TIME_TAG
        if not clicks.all():
            missed = np.asarray(data.getMissedEvents())[kinds == _MISSED]
            # where an overflow begins nothing is counted: one click at least is missing
            self.lost += int(missed.sum()) or int((kinds == _OVERFLOW_BEGIN).any())
        times = np.asarray(data.getTimestamps())[clicks]
        count = len(times)
        records = np.frombuffer(space, RECORD, count + 1)
        records["time"][:count] = times - self._origin
        records["channel"][:count] = np.abs(np.asarray(data.getChannels())[clicks])
        records["time"][count] = int(data.tGetData) - self._origin
        records["channel"][count] = 0
        return (count + 1) * self.record


def _import() -> Any:
    problems = []
    for name in _NAMES:
        try:
            return importlib.import_module(name)
        except ImportError as error:
            problems.append(f"{name}: {error}")
    raise ImportError(f"{sys.executable} has no package of Swabian Instruments ({'; '.join(problems)})")

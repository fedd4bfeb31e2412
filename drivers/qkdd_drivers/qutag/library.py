"""In the worker process: qutools' tdcbase library by cffi. Loaded by its path, so it imports nothing of ours.

Functions as in the public header of tdcbase 1.5 (also of the quTAU and ID800/ID801): every function returns a code, 0 is success.
"""

from __future__ import annotations

from typing import Any

import cffi
import numpy as np

_FUNCTIONS = """
double TDC_getVersion(void);
const char *TDC_perror(int code);
int TDC_init(int device);
int TDC_deInit(void);
int TDC_getDevType(void);
int TDC_getTimebase(double *seconds);
int TDC_getClockState(int32_t *locked, int32_t *uplink);
int TDC_enableChannels(int32_t mask);
int TDC_configureSignalConditioning(int32_t channel, int conditioning, int32_t edge, double threshold);
int TDC_getSignalConditioning(int32_t channel, int32_t *edge, double *threshold);
int TDC_setChannelDelays(const int32_t *ps);
int TDC_setDeadTime(int32_t channel, int32_t ps);
int TDC_getDeadTime(int32_t channel, int32_t *ps);
int TDC_setTimestampBufferSize(int32_t size);
int TDC_getLastTimestamps(int32_t reset, int64_t *stamps, uint8_t *channels, int32_t *valid);
int TDC_getDataLost(int32_t *lost);
"""
RECORD = np.dtype([("time", "<i8"), ("channel", "<i4"), ("kind", "<i4")])
_OLDEST = 1.5  # before, TDC_getSignalConditioning had other arguments
_BUFFER = 1 << 18  # time stamps that the library keeps between two reads; without it, it keeps none
_MISC = 3  # conditioning: own threshold and edge
_STOPS = 0b11110  # START stays off: it would set the clock back to zero
_GONE = (2, 3, 9, 12)  # not connected, driver error, no device, not initialized
_LOCKED = 7


class Adapter:
    """One instrument; inputs as they are labelled, stamps in the library's time base."""

    record = RECORD.itemsize
    burst = RECORD.itemsize * (_BUFFER + 1)

    def __init__(self, options: dict[str, Any]) -> None:
        self.lost = 0
        self._ffi = cffi.FFI()
        self._ffi.cdef(_FUNCTIONS)
        path = options["library"]
        try:
            self._lib = self._ffi.dlopen(path)
            for line in _FUNCTIONS.split():
                if line.startswith(("TDC_", "*TDC_")):
                    getattr(self._lib, line.lstrip("*").partition("(")[0])
        except OSError as error:
            # what cffi adds about other places where it looked does not help
            raise ImportError(f"{path} cannot be loaded ({str(error).partition('.  Additionally')[0]})") from None
        except AttributeError as error:
            raise ImportError(f"{path} is another library ({error})") from None
        if self._lib.TDC_getVersion() < _OLDEST:
            raise ImportError(f"{path} is version {self._lib.TDC_getVersion():g}; at least {_OLDEST:g} is needed")
        # where this fails the library would go on in a demonstration mode, which is no tagger
        self._do("TDC_init", options["device_id"])
        kind = self._lib.TDC_getDevType()
        if options["device_types"] and kind not in options["device_types"]:
            self._lib.TDC_deInit()
            raise LookupError(f"the instrument is of type {kind}, which is none of {options['device_types']}")
        self._first = options["first_channel"]
        self._stamps = self._ffi.new("int64_t[]", _BUFFER)
        self._channels = self._ffi.new("uint8_t[]", _BUFFER)
        self._valid = self._ffi.new("int32_t *")
        self._flag = self._ffi.new("int32_t *")
        self._times = np.frombuffer(self._ffi.buffer(self._stamps), np.int64)
        self._numbers = np.frombuffer(self._ffi.buffer(self._channels), np.uint8)
        self._origin: int | None = None

    def close(self) -> None:
        """No inputs, and let go."""
        self._lib.TDC_enableChannels(0)
        self._lib.TDC_deInit()

    # Calls

    def do_ping(self) -> int:
        """Whether it still answers: 1 when data were lost."""
        self._do("TDC_getDataLost", self._flag)
        if self._flag[0]:
            self.lost += 1
        return int(self._flag[0])

    def do_identity(self) -> dict[str, Any]:
        """Version of the library and the time base in ps."""
        base = self._ffi.new("double *")
        self._do("TDC_getTimebase", base)
        version = round(self._lib.TDC_getVersion(), 4)
        return {"type": self._lib.TDC_getDevType(), "version": f"{version:g}", "timebase_ps": base[0] * 1e12}

    def do_condition(self, channel: int, rising: bool, volts: float) -> list[float]:
        """Edge and level of an input; returns what is then set: edge (1 rising) and level."""
        self._do("TDC_configureSignalConditioning", channel, _MISC, int(rising), volts)
        return self.do_conditioned(channel)

    def do_conditioned(self, channel: int) -> list[float]:
        """Edge (1 rising) and level of an input."""
        edge, level = self._ffi.new("int32_t *"), self._ffi.new("double *")
        self._do("TDC_getSignalConditioning", channel, edge, level)
        return [float(edge[0]), float(level[0])]

    def do_delays(self, ps: list[int]) -> None:
        """Delays of START and all inputs."""
        self._do("TDC_setChannelDelays", self._ffi.new("int32_t[]", ps))

    def do_set_dead_time(self, channel: int, ps: int) -> None:
        """Dead time of one input."""
        self._do("TDC_setDeadTime", channel, ps)

    def do_dead_time(self, channel: int) -> int:
        """Dead time of one input in ps."""
        self._do("TDC_getDeadTime", channel, self._flag)
        return int(self._flag[0])

    def do_clock(self) -> bool:
        """Whether it runs on an external clock."""
        self._do("TDC_getClockState", self._flag, self._valid)
        return bool(self._flag[0])

    # The stream

    def begin(self) -> None:
        """All inputs on, an empty buffer."""
        self.lost = 0
        self._do("TDC_setTimestampBufferSize", _BUFFER)
        self._do("TDC_enableChannels", _STOPS)
        self._do("TDC_getLastTimestamps", 1, self._stamps, self._channels, self._valid)
        self.do_ping()
        self.lost = 0
        self._origin = None

    def end(self) -> None:
        """No inputs."""
        self._do("TDC_enableChannels", 0)

    def fetch(self, space: memoryview) -> int:
        """What the buffer holds, and empty it."""
        self.do_ping()
        self._do("TDC_getLastTimestamps", 1, self._stamps, self._channels, self._valid)
        count = int(self._valid[0])
        if count >= _BUFFER:  # a buffer that is full has thrown the oldest away
            self.lost += 1
        if not count:
            return 0
        times, numbers = self._times[:count], self._numbers[:count]
        if self._origin is None:
            self._origin = int(times[0])
        sound = times >= self._origin
        records = np.frombuffer(space, RECORD, int(np.count_nonzero(sound)))
        records["time"] = times[sound] - self._origin
        records["channel"] = numbers[sound].astype(np.int32) - self._first + 1
        return len(records) * self.record

    # Inside

    def _do(self, name: str, *arguments: Any) -> None:
        code = getattr(self._lib, name)(*arguments)
        if not code:
            return
        if code in _GONE:
            raise ConnectionError(self._said(name, code))
        if code == _LOCKED:
            raise BlockingIOError(self._said(name, code))
        raise ValueError(self._said(name, code))

    def _said(self, name: str, code: int) -> str:
        text = self._lib.TDC_perror(code)
        said = self._ffi.string(text).decode("ascii", "replace") if text != self._ffi.NULL else ""
        return f"{name}: error {code}" + (f", {said}" if said else "")

"""In the worker process: PicoQuant's library by cffi. Loaded by its path, so it imports nothing of ours.

Functions, order of calls, flags and error convention: PicoQuant's MHLib, HHLib and PH330Lib manuals as quoted in the device
facts; what differs between the models comes with the options (`models.Model`).
"""

from __future__ import annotations

from typing import Any

import cffi

_FUNCTIONS = {
    "GetErrorString": "char *text, int code",
    "OpenDevice": "int device, char *serial",
    "CloseDevice": "int device",
    "Initialize": "int device, int mode, int reference",
    "GetHardwareInfo": "int device, char *model, char *part, char *version",
    "GetSerialNumber": "int device, char *serial",
    "GetBaseResolution": "int device, double *resolution, int *steps",
    "GetNumOfInputChannels": "int device, int *count",
    "SetSyncDiv": "int device, int divider",
    "SetSyncChannelOffset": "int device, int ps",
    "SetInputChannelOffset": "int device, int channel, int ps",
    "GetSyncRate": "int device, int *rate",
    "GetCountRate": "int device, int channel, int *rate",
    "GetFlags": "int device, int *flags",
    "GetWarnings": "int device, int *warnings",
    "StartMeas": "int device, int milliseconds",
    "StopMeas": "int device",
    "CTCStatus": "int device, int *ended",
}
_EDGE = {
    "SetSyncEdgeTrg": "int device, int level, int edge",
    "SetInputEdgeTrg": "int device, int channel, int level, int edge",
}
_CFD = {
    "SetSyncCFD": "int device, int level, int zero_cross",
    "SetInputCFD": "int device, int channel, int level, int zero_cross",
}
_DEAD_TIME = {
    "SetSyncDeadTime": "int device, int on, int ps",
    "SetInputDeadTime": "int device, int channel, int on, int ps",
}
_TRIGGER_MODE = {
    "SetSyncTrgMode": "int device, int mode",
    "SetInputTrgMode": "int device, int channel, int mode",
}
_EDGES = 0  # mode
_READ = {"ReadFiFo": "int device, unsigned *buffer, int *actual"}
_READ_COUNTED = {"ReadFiFo": "int device, unsigned *buffer, int count, int *actual"}

_DEVICES = 8
_T2 = 2
_LONGEST_MS = 360_000_000  # one measurement: 100 hours
_FIFO_FULL, _REFERENCE_LOST = 0x2, 0x8


class Adapter:
    """One instrument of the family. Channel -1 is the sync input, 0… the others, as the library counts them."""

    record = 4

    def __init__(self, options: dict[str, Any]) -> None:
        self.lost = 0
        self._model = model = options["model"]
        self.burst = self.record * model["read_max"]
        self._ffi = cffi.FFI()
        functions = _FUNCTIONS | (_CFD if model["cfd"] else _EDGE) | (_DEAD_TIME if model["dead_time"] else {})
        functions |= _TRIGGER_MODE if model["trigger_mode"] else {}
        functions |= _READ_COUNTED if model["counted"] else _READ
        prefix = options["prefix"]
        self._ffi.cdef("\n".join(f"int {prefix}{name}({arguments});" for name, arguments in functions.items()))
        self._functions = self._load(options["library"], prefix, list(functions))
        self._number = self._ffi.new("int *")
        self._device = self._find(options["serial"], options["device_index"])
        self._running = False
        try:
            self._do("Initialize", _T2, options["reference"])
            if model["family"] not in (found := self.do_identity())["model"]:
                raise LookupError(
                    f"the library opened a {found['model'] or 'nameless instrument'}, no {model['family']}"
                )
            self._do("SetSyncDiv", 1)
            if model["trigger_mode"]:
                for channel in range(-1, found["inputs"]):
                    self._set("TrgMode", channel, _EDGES)
        except Exception:
            self.close()
            raise

    def _load(self, path: str, prefix: str, names: list[str]) -> dict[str, Any]:
        try:
            self._library = self._ffi.dlopen(path)
        except OSError as error:
            # what cffi adds about other places where it looked does not help
            raise ImportError(f"{path} cannot be loaded ({str(error).partition('.  Additionally')[0]})") from None
        try:
            return {name: getattr(self._library, prefix + name) for name in names}
        except AttributeError as error:
            raise ImportError(f"{path} is another library ({error})") from None

    def _find(self, serial: str, index: int) -> int:
        """Open the instrument of a serial number, or the one of an index (-1: the first one)."""
        text = self._ffi.new("char[64]")
        others, last = [], 0
        for device in range(_DEVICES) if index < 0 else (index,):
            last = self._functions["OpenDevice"](device, text)
            if last < 0:
                continue
            found = self._text(text)
            if serial in ("", found):
                return device
            others.append(found)
            self._functions["CloseDevice"](device)
        if others:
            raise LookupError(f"there is serial number {', '.join(others)}, not {serial}")
        raise ConnectionError(f"no instrument can be opened ({self._error(last)})")

    # Calls

    def do_ping(self) -> int:
        """Flags."""
        return self._ask("GetFlags")

    def do_identity(self) -> dict[str, Any]:
        """Model, serial number, version, resolution in ps and number of inputs beside sync."""
        model, part, version, serial = (self._ffi.new("char[64]") for _ in range(4))
        self._do("GetHardwareInfo", model, part, version)
        self._do("GetSerialNumber", serial)
        resolution = self._ffi.new("double *")
        self._do("GetBaseResolution", resolution, self._number)
        return {
            "model": self._text(model),
            "serial": self._text(serial),
            "version": self._text(version),
            "resolution": resolution[0],
            "inputs": self._ask("GetNumOfInputChannels"),
        }

    def do_rates(self, inputs: int) -> list[int]:
        """Counts a second: sync first."""
        return [self._ask("GetSyncRate"), *(self._ask("GetCountRate", channel) for channel in range(inputs))]

    def do_trigger(self, channel: int, level: int, second: int) -> None:
        """Level in mV; second: edge (1 rising), or the zero crossing in mV where there is a discriminator."""
        kind = "CFD" if self._model["cfd"] else "EdgeTrg"
        self._set(kind, channel, level, second)

    def do_offset(self, channel: int, ps: int) -> None:
        """Delay of an input."""
        self._set("ChannelOffset", channel, ps)

    def do_dead_time(self, channel: int, ps: int) -> None:
        """Longer dead time of an input; 0 switches it off."""
        self._set("DeadTime", channel, int(ps > 0), ps or 800)

    def do_warnings(self) -> int:
        """The library's warning bits."""
        return self._ask("GetWarnings")

    # The stream

    def begin(self) -> None:
        """A new measurement; its time starts at zero."""
        if self._running:
            self.end()
        self.lost = 0
        self._do("StartMeas", _LONGEST_MS)
        self._running = True

    def end(self) -> None:
        """Stop the measurement."""
        self._running = False
        self._do("StopMeas")

    def fetch(self, space: memoryview) -> int:
        """Read the FIFO straight into shared memory."""
        flags = self._ask("GetFlags")
        if flags & _FIFO_FULL:
            raise BufferError("the instrument's FIFO overran: more clicks than the line or the machine could take")
        if flags & _REFERENCE_LOST:
            raise ConnectionError("the instrument lost its reference clock")
        buffer = self._ffi.cast("unsigned *", self._ffi.from_buffer(space))
        count = (self._model["read_max"],) if self._model["counted"] else ()
        self._do("ReadFiFo", buffer, *count, self._number)
        read = int(self._number[0])
        if not read and self._ask("CTCStatus"):
            raise ConnectionError("the instrument ended the measurement by itself")
        return self.record * read

    def close(self) -> None:
        """Stop and let go; what the library answers to that changes nothing."""
        if self._running:
            self._functions["StopMeas"](self._device)
        self._functions["CloseDevice"](self._device)

    # Inside

    def _set(self, kind: str, channel: int, *values: int) -> None:
        if channel < 0:
            self._do("SetSync" + kind, *values)
        else:
            self._do("SetInput" + kind, channel, *values)

    def _ask(self, name: str, *arguments: int) -> int:
        self._do(name, *arguments, self._number)
        return int(self._number[0])

    def _do(self, name: str, *arguments: Any) -> None:
        code = self._functions[name](self._device, *arguments)
        if code >= 0:
            return
        # the same error code may mean a wrong argument or an instrument that has gone: ask something harmless
        if self._functions["GetFlags"](self._device, self._ffi.new("int *")) < 0:
            raise ConnectionError(f"{name}: {self._error(code)}")
        raise ValueError(f"{name}: {self._error(code)}")

    def _error(self, code: int) -> str:
        text = self._ffi.new("char[256]")
        named = self._functions["GetErrorString"](text, code) >= 0
        return f"error {code}" + (f", {self._text(text)}" if named else "")

    def _text(self, buffer: Any) -> str:
        return bytes(self._ffi.string(buffer)).decode("ascii", "replace").strip()

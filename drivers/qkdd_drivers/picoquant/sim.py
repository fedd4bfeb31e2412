"""PicoQuant instruments that behave: a fake of the vendor's library (fake.c) and, here, the instrument behind it.

The library is loaded by whoever drives the instrument, in any process; this side puts T2 records into the shared memory while a
measurement runs, paced in real time, and sets the faults.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from qkdd_drivers.fakelib import FakeLibrary, compile_fake
from qkdd_drivers.picoquant import t2
from qkdd_drivers.picoquant.models import HYDRAHARP, MULTIHARP, PICOHARP330, Model
from qkdd_drivers.simkit import Address, ClickSource, Simulator

_CHANNELS = 65
_FEED_AT = 8192
_FEED_WORDS = 1 << 22
_TICK = 0.01
UNPACED = (1 << 64) - 1
LAYOUT = np.dtype(
    [
        *(
            (name, "<u4")
            for name in ("magic", "present", "hang", "late_us", "wrong", "refuse", "garbage", "overrun", "crash")
        ),
        *((name, "<u4") for name in ("inputs", "owner", "measuring", "starts", "feed_size")),
        ("resolution_ps", "<f8"),
        *((name, "<u8") for name in ("generate", "head", "tail")),
        *((name, f"S{size}") for name, size in (("serial", 16), ("model", 32), ("part", 16), ("version", 16))),
        *((name, "<i4", (_CHANNELS,)) for name in ("level", "edge", "offset", "dead", "rate")),
    ],
    align=True,
)


class PicoQuantSim(Simulator):
    """One instrument. Input n of the source is the input labelled n + 1.

    generate: so many records a second are made in C instead (UNPACED: as many as are read).

    Own faults: `overrun` (the FIFO is full, the measurement is spoilt), `crash` (the library aborts in its next call).
    """

    device: ClassVar[Model]
    faults: ClassVar[frozenset[str]] = Simulator.faults | {"overrun", "crash"}

    def __init__(self, source: ClickSource, *, seed: int = 1, serial: str = "1035683", generate: int = 0) -> None:
        super().__init__(seed)
        self._source, self._serial, self._generate = source, serial, generate
        self._library: FakeLibrary | None = None
        self._thread: threading.Thread | None = None
        self._ending = threading.Event()
        self.records_lost = 0

    async def start(self) -> Address:
        defines = [f"NAME(x)={self.device.prefix}##x", f"READ_MAX={self.device.read_max}"]
        built = compile_fake(Path(__file__).with_name("fake.c"), defines + (["COUNTED"] if self.device.counted else []))
        self._library = FakeLibrary(built, self.device.library, LAYOUT, _FEED_AT, _FEED_WORDS)
        it = self._library.header
        it["inputs"], it["feed_size"], it["resolution_ps"] = self.device.inputs, _FEED_WORDS, self.device.resolution_ps
        it["serial"], it["model"] = self._serial.encode(), self.device.ptu_type.encode()
        it["part"], it["version"], it["generate"] = b"930000", b"1.0", self._generate
        it["rate"] = 0
        it["present"] = 1
        self._ending.clear()
        self._thread = threading.Thread(target=self._work, args=(self._library,), name=f"{self.model}-sim", daemon=True)
        self._thread.start()
        return Address(self.model, library=str(self._library.path))

    async def stop(self) -> None:
        self._ending.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._library is not None:
            self._library.header["present"] = 0
            self._library.close()
            self._library = None

    def unplug(self) -> None:
        self._word("present", 0)

    def plug(self) -> None:
        self._word("present", 1)

    def send(self, data: bytes) -> None:
        """Garbage: so many records of the next read make no sense."""
        self._word("garbage", max(1, len(data) // 4))

    def inject(self, fault: str, **args: float) -> None:
        super().inject(fault, **args)
        self._word("hang", int(self.hang))
        self._word("refuse", int(self.refuse))
        self._word("wrong", int(self.wrong_identity))
        self._word("late_us", round(self.late * 1e6))
        if fault == "clear":
            self._word("crash", 0)

    def inject_own(self, fault: str, args: dict[str, float]) -> None:
        self._word(fault, 1)

    def _word(self, name: str, value: int) -> None:
        if self._library is not None:
            self._library.header[name] = value

    def _work(self, library: FakeLibrary) -> None:
        """Feed a measurement with what the source clicks meanwhile."""
        it = library.header[0]
        origin, starts, began, asked = time.monotonic(), 0, 0, 0
        encoder = t2.Encoder(self.device.resolution_ps)
        while not self._ending.wait(_TICK):
            now = int((time.monotonic() - origin) * 1e12)
            if not it["measuring"] or not it["present"]:
                starts = 0
                continue
            if it["starts"] != starts:
                starts, began, asked = int(it["starts"]), now, now
                encoder = t2.Encoder(self.device.resolution_ps)
                continue
            if self._generate:
                continue
            times, channels = self._source.clicks(asked, now)
            counts = np.bincount(channels, minlength=self.device.inputs)[: self.device.inputs]
            it["rate"][1 : self.device.inputs + 1] = counts * (1e12 / max(1, now - asked))
            asked = now
            self._feed(library, encoder.encode(times - began, channels + np.uint8(1), now - began))

    def _feed(self, library: FakeLibrary, records: NDArray[np.uint32]) -> None:
        it = library.header[0]
        head = int(it["head"])
        if len(records) > _FEED_WORDS - (head - int(it["tail"])):
            self.records_lost += len(records)
            it["overrun"] = 1
            return
        at = head % _FEED_WORDS
        first = records[: _FEED_WORDS - at]
        library.feed[at : at + len(first)] = first
        library.feed[: len(records) - len(first)] = records[len(first) :]
        it["head"] = head + len(records)


class MultiHarpSim(PicoQuantSim):
    model, device = "multiharp", MULTIHARP


class HydraHarpSim(PicoQuantSim):
    model, device = "hydraharp400", HYDRAHARP


class PicoHarpSim(PicoQuantSim):
    model, device = "picoharp330", PICOHARP330

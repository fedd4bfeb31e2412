"""PicoQuant instruments that behave: a fake of the vendor's library (fake.c) and, here, the instrument behind it."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from qkdd_drivers.fakelib import FakeLibrary, compile_fake
from qkdd_drivers.picoquant import t2
from qkdd_drivers.picoquant.models import HYDRAHARP, MULTIHARP, PICOHARP330, Model
from qkdd_drivers.simkit import Address, ClickSource
from qkdd_drivers.vendor_sim import COMMON, FEED_AT, FEED_WORDS, VendorSim

_CHANNELS = 65
UNPACED = (1 << 64) - 1
LAYOUT = np.dtype(
    [
        *COMMON,
        *((name, f"S{size}") for name, size in (("serial", 16), ("model", 32), ("part", 16), ("version", 16))),
        *((name, "<i4", (_CHANNELS,)) for name in ("level", "edge", "offset", "dead", "rate")),
    ],
    align=True,
)


class PicoQuantSim(VendorSim):
    """One instrument. Input n of the source is the input labelled n + 1.

    generate: so many records a second are made in C instead (UNPACED: as many as are read).
    """

    device: ClassVar[Model]

    def __init__(self, source: ClickSource, *, seed: int = 1, serial: str = "1035683", generate: int = 0) -> None:
        super().__init__(source, seed=seed, serial=serial, generate=generate)
        self._encoder = t2.Encoder(self.device.resolution_ps)

    def make(self) -> FakeLibrary:
        defines = [f"NAME(x)={self.device.prefix}##x", f"READ_MAX={self.device.read_max}"]
        defines += ["LEVEL_MAX=1500"] if self.device.trigger_mode else []
        built = compile_fake(Path(__file__).with_name("fake.c"), defines + (["COUNTED"] if self.device.counted else []))
        fake = FakeLibrary(built, self.device.library, LAYOUT, FEED_AT, FEED_WORDS)
        fake.header["resolution_ps"] = self.device.resolution_ps
        fake.header["serial"], fake.header["model"] = self.serial.encode(), self.device.ptu_type.encode()
        fake.header["part"], fake.header["version"] = b"930000", b"1.0"
        return fake

    def address(self, fake: FakeLibrary) -> Address:
        return Address(self.model, library=str(fake.path))

    def begin(self) -> None:
        self._encoder = t2.Encoder(self.device.resolution_ps)

    def encode(self, times: NDArray[np.int64], channels: NDArray[np.uint8], until: int) -> NDArray[np.uint32]:
        return self._encoder.encode(times, channels + np.uint8(1), until)

    def counted(self, fake: FakeLibrary, rates: NDArray[np.float64]) -> None:
        fake.header[0]["rate"][1 : len(rates) + 1] = rates


class MultiHarpSim(PicoQuantSim):
    model, device = "multiharp", MULTIHARP


class HydraHarpSim(PicoQuantSim):
    model, device = "hydraharp400", HYDRAHARP


class PicoHarpSim(PicoQuantSim):
    model, device = "picoharp330", PICOHARP330

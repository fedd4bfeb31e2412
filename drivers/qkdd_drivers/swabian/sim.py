"""A Swabian Time Tagger that behaves: a fake of the vendor's Python package and, here, the instrument behind it."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qkdd_drivers.fakelib import FakeLibrary
from qkdd_drivers.simkit import Address, ClickSource
from qkdd_drivers.vendor_sim import COMMON, FEED_AT, FEED_WORDS, VendorSim

_RECORD = np.dtype([("time", "<i8"), ("channel", "<i4"), ("kind", "<i4")])
LAYOUT = np.dtype([*COMMON, ("serial", "S16"), ("model", "S32")], align=True)


class SwabianSim(VendorSim):
    """One Time Tagger Ultra with four inputs. Input n of the source is the input labelled n + 1."""

    model = "swabian"

    def __init__(self, source: ClickSource, *, seed: int = 1, serial: str = "2138000XYZ") -> None:
        super().__init__(source, seed=seed, serial=serial)

    def make(self) -> FakeLibrary:
        here = Path(__file__).with_name("fake_timetagger.py")
        fake = FakeLibrary(here, "Swabian/TimeTagger.py", LAYOUT, FEED_AT, FEED_WORDS)
        fake.header["resolution_ps"] = 1.0
        fake.header["serial"], fake.header["model"] = self.serial.encode(), b"Time Tagger Ultra"
        return fake

    def address(self, fake: FakeLibrary) -> Address:
        return Address(self.model, python=sys.executable, options=(("package_path", str(fake.path.parents[1])),))

    def begin(self) -> None:
        """Nothing is carried from one measurement to the next."""

    def encode(self, times: NDArray[np.int64], channels: NDArray[np.uint8], until: int) -> NDArray[np.uint32]:
        records = np.zeros(len(times) + 1, _RECORD)
        records["time"][:-1], records["channel"][:-1] = times, channels + 1
        records["time"][-1] = until
        return records.view(np.uint32)

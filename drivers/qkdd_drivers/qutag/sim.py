"""A quTAG that behaves: a fake of the vendor's library (fake.c) and, here, the instrument behind it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qkdd_drivers.fakelib import FakeLibrary, compile_fake
from qkdd_drivers.simkit import Address, ClickSource
from qkdd_drivers.vendor_sim import COMMON, FEED_AT, FEED_WORDS, VendorSim

_RECORD = np.dtype([("time", "<i8"), ("channel", "<i4"), ("kind", "<i4")])
LAYOUT = np.dtype(COMMON, align=True)


class QuTagSim(VendorSim):
    """One quTAG. Input n of the source is the input labelled n + 1."""

    model = "qutag"

    def __init__(self, source: ClickSource, *, seed: int = 1) -> None:
        super().__init__(source, seed=seed, serial="")

    def make(self) -> FakeLibrary:
        fake = FakeLibrary(
            compile_fake(Path(__file__).with_name("fake.c"), []), "libtdcbase.so", LAYOUT, FEED_AT, FEED_WORDS
        )
        fake.header["resolution_ps"] = 1.0
        return fake

    def address(self, fake: FakeLibrary) -> Address:
        return Address(self.model, library=str(fake.path), options=(("device_types", [0]),))

    def begin(self) -> None:
        """Nothing is carried from one measurement to the next."""

    def encode(self, times: NDArray[np.int64], channels: NDArray[np.uint8], until: int) -> NDArray[np.uint32]:
        records = np.zeros(len(times), _RECORD)
        records["time"], records["channel"] = times, channels  # the library counts the stop inputs from 0
        return records.view(np.uint32)

"""What simulators share whose instrument is reached by a vendor's library or package.

The fake of that code runs in whatever process loads it. It and the simulator share a file: a header of words for faults and
state, and a ring of 32-bit words in which the simulator puts tags, paced in real time, while a measurement runs.
"""

from __future__ import annotations

import abc
import threading
import time
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from qkdd_drivers.fakelib import FakeLibrary
from qkdd_drivers.simkit import Address, ClickSource, Simulator

FEED_AT = 8192
FEED_WORDS = 1 << 22
_TICK = 0.01

# the words that every fake has, in this order, at the start of its header
COMMON = [
    *(
        (name, "<u4")
        for name in ("magic", "present", "hang", "late_us", "wrong", "refuse", "garbage", "overrun", "crash")
    ),
    *((name, "<u4") for name in ("inputs", "owner", "measuring", "starts", "feed_size")),
    ("resolution_ps", "<f8"),
    *((name, "<u8") for name in ("generate", "head", "tail")),
]


class VendorSim(Simulator):
    """One instrument. Own faults: `overrun` (its buffer is full), `crash` (the vendor's code aborts in its next call)."""

    faults: ClassVar[frozenset[str]] = Simulator.faults | {"overrun", "crash"}
    inputs: ClassVar[int] = 4

    def __init__(self, source: ClickSource, *, seed: int = 1, serial: str, generate: int = 0) -> None:
        super().__init__(seed)
        self.serial = serial
        self._source, self._generate = source, generate
        self._fake: FakeLibrary | None = None
        self._thread: threading.Thread | None = None
        self._ending = threading.Event()
        self.words_lost = 0

    # What a simulator writes

    @abc.abstractmethod
    def make(self) -> FakeLibrary:
        """The fake with its header filled in, beside what is common."""

    @abc.abstractmethod
    def address(self, fake: FakeLibrary) -> Address:
        """Where it is reached."""

    @abc.abstractmethod
    def begin(self) -> None:
        """A measurement starts."""

    @abc.abstractmethod
    def encode(self, times: NDArray[np.int64], channels: NDArray[np.uint8], until: int) -> NDArray[np.uint32]:
        """Words of clicks at ps since the measurement's start; the stream is complete up to `until`."""

    def counted(self, fake: FakeLibrary, rates: NDArray[np.float64]) -> None:
        """Clicks a second of each input, for fakes that tell them."""

    # What it gets for it

    async def start(self) -> Address:
        self._fake = self.make()
        it = self._fake.header
        it["inputs"], it["feed_size"], it["generate"] = self.inputs, FEED_WORDS, self._generate
        it["present"] = 1
        self._ending.clear()
        self._thread = threading.Thread(target=self._work, args=(self._fake,), name=f"{self.model}-sim", daemon=True)
        self._thread.start()
        return self.address(self._fake)

    async def stop(self) -> None:
        self._ending.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._fake is not None:
            self._fake.header["present"] = 0
            self._fake.close()
            self._fake = None

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
        if self._fake is not None:
            self._fake.header[name] = value

    def _work(self, fake: FakeLibrary) -> None:
        """Feed a measurement with what the source clicks meanwhile."""
        it = fake.header[0]
        origin, starts, began, asked = time.monotonic(), 0, 0, 0
        while not self._ending.wait(_TICK):
            now = int((time.monotonic() - origin) * 1e12)
            if not it["measuring"] or not it["present"]:
                starts = 0
                continue
            if it["starts"] != starts:
                starts, began, asked = int(it["starts"]), now, now
                self.begin()
                continue
            if self._generate:
                continue
            times, channels = self._source.clicks(asked, now)
            rates = np.bincount(channels, minlength=self.inputs)[: self.inputs].astype(np.float64) * (
                1e12 / max(1, now - asked)
            )
            self.counted(fake, rates)
            asked = now
            self._feed(fake, self.encode(times - began, channels, now - began))

    def _feed(self, fake: FakeLibrary, words: NDArray[np.uint32]) -> None:
        it = fake.header[0]
        head = int(it["head"])
        if len(words) > FEED_WORDS - (head - int(it["tail"])):
            self.words_lost += len(words)
            it["overrun"] = 1
            return
        at = head % FEED_WORDS
        first = words[: FEED_WORDS - at]
        fake.feed[at : at + len(first)] = first
        fake.feed[: len(words) - len(first)] = words[len(first) :]
        it["head"] = head + len(words)

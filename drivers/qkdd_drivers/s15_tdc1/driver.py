"""S-Fifteen TDC1: four-input counter and time tagger with 2 ns resolution."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, TypeVar

from qkdd.core.clock import Clock
from qkdd.core.counters import Meter
from qkdd.core.units import Seconds, Volts
from qkdd.device import errors
from qkdd.device.config import DeviceConfig
from qkdd.device.driver import Driver, serial_port
from qkdd.device.fields import Category, Field, Values
from qkdd.device.roles import Identity
from qkdd.device.serial_link import serial_line
from qkdd.device.tags import StreamStart, TagBlock
from qkdd.device.transport import ByteLink, ByteReader, FrameError, Stranger
from qkdd_drivers.pump import Pump
from qkdd_drivers.s15_tdc1 import protocol
from qkdd_drivers.s15_tdc1.stream import TagStream

T = TypeVar("T")

_WRITE = 1.0
_READ_CHUNK = 1 << 16
_CADENCE = 0.05  # seconds between two blocks given out
_SILENCE = 2.0  # seconds without tag or dummy (due every 0.14 s) after which the tagger counts as dead
_CONFUSION = 5.0  # seconds in which the bytes slip again and again, after which the line counts as broken


class Tdc1(Driver):
    """Role TimeTagger. While a stream runs, fields can be neither read nor set."""

    answer_time: ClassVar[float] = 1.0
    """Seconds for a short answer."""

    threshold = Field(
        doc="Set trigger level of all inputs; negative means falling pulses",
        unit=Volts,
        range=(-3.3, 3.3),
        settable=True,
        category=Category.SETTING,
    )
    integration_time = Field(
        doc="Set integration time of the counters",
        unit=Seconds,
        range=(0.001, 65.535),
        settable=True,
        category=Category.SETTING,
    )
    reference_clock = Field(
        doc="Set source of the reference clock",
        kind=str,
        choices=protocol.CLOCKS,
        settable=True,
        category=Category.SETTING,
    )
    counts = Field(doc="Measure clicks of each input over one integration time", kind=int, size=protocol.INPUTS)

    def __init__(self, name: str, config: DeviceConfig, links: Sequence[ByteLink], clock: Clock, meter: Meter) -> None:
        super().__init__(name, config, links, clock, meter)
        self._pump: Pump | None = None
        self._stream = TagStream()
        self._last_return = 0.0
        self._sane_at = 0.0

    @classmethod
    def links(cls, config: DeviceConfig) -> tuple[ByteLink, ...]:
        # RTS/CTS must stay off or data stalls; the baud rate of a CDC-ACM device is nominal
        return (serial_line(serial_port(config), 115200),)

    # Role TimeTagger

    @property
    def resolution_ps(self) -> int:
        return protocol.UNIT_PS

    @property
    def inputs(self) -> int:
        return protocol.INPUTS

    async def start(self) -> StreamStart:
        """Begin a stream. Time zero of its tags is the first record, a few milliseconds (at most 140) after the stamp."""
        self.require_open("start")
        await self.stop()
        await self.run("start", lambda link: _quiet(link, self._clock), 2.0)
        await self.run("start", lambda link: link.write(protocol.START_STREAM, _WRITE), _WRITE)
        stamp = StreamStart(self._clock.wall(), self._clock.monotonic())
        self._stream = TagStream()
        self._last_return = self._sane_at = stamp.monotonic
        self._pump = Pump(self, self._clock)
        return stamp

    async def read(self) -> TagBlock:
        """What has come since the last call. Raises when the line went away, is silent, or makes no sense any more."""
        pump = self._pump
        if pump is None:
            raise self.error(errors.NotOpen, "read tags", "no stream was started")
        pause = self._last_return + _CADENCE - self._clock.monotonic()
        if pause > 0:
            await self._clock.sleep(pause)
        data = pump.take()
        now = self._last_return = self._clock.monotonic()
        if not data and (failure := pump.failure()) is not None:
            raise failure
        self._check_silence(pump, "read tags")
        block = self._stream.feed(data, now)
        if self._stream.aligned and errors.TagsSlipped.code not in block.faults:
            self._sane_at = now
        elif now - self._sane_at > _CONFUSION:
            raise self.error(errors.ProtocolError, "read tags", f"no sense in the tag stream for {_CONFUSION:g} s")
        self._meter.add("qkdd_tagger_tags_total", len(block), device=self.name)
        if block.lost:
            self._meter.add("qkdd_tagger_tags_lost_total", block.lost, device=self.name)
        if block.reordered:
            self._meter.add("qkdd_tagger_reordered_total", block.reordered, device=self.name)
        for code in block.faults:
            self._meter.add("qkdd_tagger_faults_total", device=self.name, code=code)
        return block

    async def stop(self) -> None:
        """End the stream; the instrument stays open. Idempotent."""
        pump, self._pump = self._pump, None
        if pump is not None and await pump.end():
            await self.run("stop", lambda link: link.write(protocol.STOP, _WRITE), _WRITE)

    def _check_silence(self, pump: Pump, operation: str) -> None:
        if (silent := pump.silence) > _SILENCE:
            raise self.error(errors.DeviceTimeout, operation, f"neither tags nor dummy marks for {silent:.1f} s")

    # Hooks of the driver

    async def _identify(self) -> Identity:
        if self._pump is not None:  # the line is busy with tags, which are a sign of life too
            self._check_silence(self._pump, "identify")
            return self.identity
        await self.run("identify", self._ask_identity, self.answer_time + 2.0, urgent=True)
        return Identity("S-Fifteen Instruments", "TDC1", "", "")

    def _ask_identity(self, link: ByteLink) -> None:
        _quiet(link, self._clock)
        line = self._ask(link, protocol.IDENTIFY, self.answer_time)
        if protocol.identity(line) is None:
            raise Stranger(f"answers {line[:60].decode('ascii')!r}, which names no TDC1")

    async def _start(self) -> None:
        await self.run("reach safe state", lambda link: link.write(protocol.SAFE, _WRITE), _WRITE)

    async def _make_safe(self) -> None:
        await self.stop()
        await self._start()

    # Fields

    async def _get_threshold(self) -> Values:
        return (await self._query("get threshold", b"level?", protocol.threshold),)

    async def _set_threshold(self, values: Values) -> Values:
        volts = float(values[0])
        await self._command("set threshold", protocol.set_threshold(volts))
        found = await self._get_threshold()
        self._must_match("set threshold", volts, float(found[0]), 0.002)
        return found

    async def _get_integration_time(self) -> Values:
        return (await self._query("get integration_time", b"time?", protocol.milliseconds) / 1000,)

    async def _set_integration_time(self, values: Values) -> Values:
        milliseconds = round(float(values[0]) * 1000)
        await self._command("set integration_time", b"time %d" % milliseconds + protocol.END)
        found = await self._get_integration_time()
        self._must_match("set integration_time", milliseconds / 1000, float(found[0]), 1e-6)
        return found

    async def _get_reference_clock(self) -> Values:
        return (await self._query("get reference_clock", b"REFCLK?", protocol.clock_source),)

    async def _set_reference_clock(self, values: Values) -> Values:
        wanted = str(values[0])
        await self._command("set reference_clock", b"REFCLK %d" % protocol.CLOCKS.index(wanted) + protocol.END)
        found = await self._get_reference_clock()
        if found[0] != wanted:
            raise self.error(errors.CommandRefused, "set reference_clock", f"it stays at {found[0]}")
        return found

    async def _get_counts(self) -> Values:
        milliseconds = await self._query("get counts", b"time?", protocol.milliseconds)
        return await self._query(
            "get counts", b"singles;counts?", protocol.counts, milliseconds / 1000 + self.answer_time
        )

    # Dialogue

    def _not_streaming(self, operation: str) -> None:
        if self._pump is not None:
            raise self.error(errors.CommandRefused, operation, "a tag stream runs; stop it first")

    async def _query(
        self, operation: str, question: bytes, parse: Callable[[bytes], T], timeout: float | None = None
    ) -> T:
        self._not_streaming(operation)
        timeout = self.answer_time if timeout is None else timeout
        return await self.run(
            operation, lambda link: parse(self._ask(link, question + protocol.END, timeout)), timeout + _WRITE
        )

    async def _command(self, operation: str, line: bytes) -> None:
        self._not_streaming(operation)
        await self.run(operation, lambda link: link.write(line, _WRITE), _WRITE)

    def _ask(self, link: ByteLink, question: bytes, timeout: float) -> bytes:
        reader = ByteReader(link, self._clock)
        reader.discard()
        link.write(question, _WRITE)
        return reader.until(protocol.END, timeout, limit=4096)

    def _must_match(self, operation: str, wanted: float, found: float, tolerance: float) -> None:
        if abs(wanted - found) > tolerance:
            raise self.error(errors.CommandRefused, operation, f"it stays at {found:g} instead of {wanted:g}")


def _quiet(link: ByteLink, clock: Clock) -> None:
    """End whatever stream an earlier program left running, and drop what is still on its way."""
    link.write(protocol.STOP, _WRITE)
    end = clock.monotonic() + 1.5
    while link.read(_READ_CHUNK, 0.03):
        if clock.monotonic() > end:
            raise FrameError("it goes on sending after `abort`")
    link.discard()

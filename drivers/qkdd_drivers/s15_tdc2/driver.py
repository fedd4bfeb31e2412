"""S-Fifteen TDC2 (and the older timestamp cards): tags of the vendor's program `readevents7`, or one like it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from qkdd.core.clock import Clock
from qkdd.core.counters import Meter
from qkdd.core.units import Volts
from qkdd.device import errors
from qkdd.device.child_link import ChildLink, ProgramLink
from qkdd.device.config import DeviceConfig, place_key
from qkdd.device.driver import Driver
from qkdd.device.fields import Category, Field, Values
from qkdd.device.roles import Identity
from qkdd.device.tags import StreamStart, TagBlock
from qkdd.device.transport import ByteLink, Crashed, FrameError, Gone, LinkFailure, Refused, Stranger, TimedOut
from qkdd_drivers.options import read_options
from qkdd_drivers.pump import Pump
from qkdd_drivers.s15_tdc2 import protocol
from qkdd_drivers.s15_tdc2.stream import A1Stream

OPTIONS: dict[str, Any] = {"swapped": False, "silence": 2.0}
_CHUNK = 1 << 20
_MOST = 1 << 23  # bytes in one block: what fits into the caches is decoded faster; what is more comes with the next
_CADENCE = 0.05  # seconds between two blocks given out
_END = 1.0  # seconds in which the program ends when it is asked to
_ENOUGH = 8 * 32  # bytes that show whether a stream makes sense
_CONFUSION = 5.0  # seconds in which the times jump again and again


class Tdc2(Driver):
    """Role TimeTagger. The program runs while a stream runs, and for a moment to see who is there."""

    threshold = Field(
        doc="Set trigger level of each input; below 0 V falling pulses are taken, else rising ones",
        unit=Volts,
        range=(protocol.LOW_V, protocol.HIGH_V),
        size=protocol.INPUTS,
        settable=True,
        category=Category.SETTING,
    )

    def __init__(self, name: str, config: DeviceConfig, links: Sequence[ByteLink], clock: Clock, meter: Meter) -> None:
        super().__init__(name, config, links, clock, meter)
        self._options = read_options(name, config.options, OPTIONS)
        self._levels: tuple[float, ...] = (protocol.USUAL_V,) * protocol.INPUTS
        self._pump: Pump | None = None
        self._stream = A1Stream(self._options["swapped"])
        self._last_return = self._sane_at = 0.0

    @classmethod
    def links(cls, config: DeviceConfig) -> tuple[ByteLink, ...]:
        if not config.program:
            raise errors.DeviceConfigError(
                f'driver {config.driver!r} needs `program`, for example program = ["/usr/local/bin/readevents7"]'
            )
        return (ChildLink(place_key(config), config.program),)

    # Role TimeTagger

    @property
    def resolution_ps(self) -> int:
        return 4

    @property
    def inputs(self) -> int:
        return protocol.INPUTS

    async def start(self) -> StreamStart:
        """Begin a stream. Time zero of its tags is the first record after the stamp."""
        self.require_open("start")
        await self.stop()
        await self.run("start", self._launch, 2.0)
        stamp = StreamStart(self._clock.wall(), self._clock.monotonic())
        self._stream = A1Stream(self._options["swapped"])
        self._last_return = self._sane_at = stamp.monotonic
        self._pump = Pump(self, self._clock, _CHUNK)
        return stamp

    async def read(self) -> TagBlock:
        """What has come since the last call. Raises when the program ended, is silent, or makes no sense."""
        pump = self._pump
        if pump is None:
            raise self.error(errors.NotOpen, "read tags", "no stream was started")
        pause = self._last_return + _CADENCE - self._clock.monotonic()
        if pause > 0 and pump.waiting < _MOST:
            await self._clock.sleep(pause)
        data = pump.take(_MOST)
        now = self._last_return = self._clock.monotonic()
        if not data and (failure := pump.failure()) is not None:
            raise failure
        self._check_silence(pump, "read tags")
        block = self._stream.feed(data)
        if errors.TagsSlipped.code not in block.faults:
            self._sane_at = now
        elif now - self._sane_at > _CONFUSION:
            raise self.error(errors.ProtocolError, "read tags", f"no sense in the tag stream for {_CONFUSION:g} s")
        self._meter.add("qkdd_tagger_tags_total", len(block), device=self.name)
        if block.reordered:
            self._meter.add("qkdd_tagger_reordered_total", block.reordered, device=self.name)
        for code in block.faults:
            self._meter.add("qkdd_tagger_faults_total", device=self.name, code=code)
        return block

    async def stop(self) -> None:
        """End the program; the device stays open. Idempotent."""
        pump, self._pump = self._pump, None
        if pump is not None:
            await pump.end()
            await self.run("stop", lambda link: cast(ProgramLink, link).finish(_END), _END + 3.0)

    def _check_silence(self, pump: Pump, operation: str) -> None:
        allowed = self._options["silence"]
        if allowed and pump.silence > allowed:
            raise self.error(errors.DeviceTimeout, operation, f"the program has been silent for {pump.silence:.1f} s")

    # Hooks

    async def _identify(self) -> Identity:
        if self._pump is not None:  # the program runs, and its tags are a sign of life
            if (failure := self._pump.failure()) is not None:
                raise failure
            self._check_silence(self._pump, "identify")
        else:
            await self.run("identify", self._look, 2 * (self._options["silence"] or 1.0) + 5.0, urgent=True)
        return Identity("S-Fifteen Instruments", "TDC2", "", "")

    async def _start(self) -> None:
        """Nothing runs while no stream runs: that is the safe state."""

    async def _make_safe(self) -> None:
        await self.stop()

    def _launch(self, link: ByteLink) -> None:
        cast(ProgramLink, link).launch(protocol.arguments(self._levels, self._options["swapped"]))

    def _look(self, link: ByteLink) -> None:
        """Run the program until it has sent some records: raises what is wrong with it or with the instrument."""
        self._launch(link)
        program = cast(ProgramLink, link)
        found = b""
        allowed = self._options["silence"]
        end = self._clock.monotonic() + (allowed or 0.5)
        try:
            while len(found) < _ENOUGH and (left := end - self._clock.monotonic()) > 0:
                found += link.read(_ENOUGH, left)
        except Crashed as failure:
            raise _ended(program, failure) from None
        finally:
            program.finish(_END)
        if allowed and not found:
            raise TimedOut(f"the program sent nothing for {allowed:g} s")
        if errors.TagsSlipped.code in A1Stream(self._options["swapped"]).feed(found).faults:
            raise Stranger("the program's output is no a1 stream (or the option `swapped` is wrong)")

    # Fields

    async def _get_threshold(self) -> Values:
        return self._levels

    async def _set_threshold(self, values: Values) -> Values:
        """The program takes thresholds when it starts: run it to see whether it accepts them."""
        if self._pump is not None:
            raise self.error(errors.CommandRefused, "set threshold", "a tag stream runs; stop it first")
        before, self._levels = self._levels, tuple(float(value) for value in values)
        try:
            await self.run("set threshold", self._look, 2 * (self._options["silence"] or 1.0) + 5.0)
        except BaseException:
            self._levels = before
            raise
        return self._levels


def _ended(program: ProgramLink, failure: Crashed) -> LinkFailure | FrameError | Refused:
    """What the exit code of a program says that ended before it was told to."""
    match program.ended():
        case protocol.CANNOT_OPEN:
            return Gone(f"{failure} (it cannot open the instrument)")
        case code if code is not None and code > 0:
            return Refused(str(failure))
        case _:
            return failure

"""ID Quantique Quantis-USB: a physical noise source over USB, every bit tested as NIST SP 800-90B, 4.4 asks."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from qkdd_fwbridge.errors import SourceFailed
from qkdd_fwbridge.health import STARTUP, HealthTest

from qkdd.core.clock import Clock
from qkdd.core.counters import Meter
from qkdd.core.units import Hertz
from qkdd.device import errors
from qkdd.device.config import DeviceConfig
from qkdd.device.driver import Driver, serial_port
from qkdd.device.fields import Category, Field, Values
from qkdd.device.roles import Identity
from qkdd.device.transport import ByteLink, Refused, Stranger, TimedOut
from qkdd.device.usb_link import UsbBulkLink
from qkdd_drivers.idq_quantis import protocol as quantis
from qkdd_drivers.options import read_options

_ANSWER = 1.0  # seconds; the vendor's own time-out
_MOST = 1 << 20  # bytes asked for at once
_CLAIM = 0.8
_STARTUP_BYTES = STARTUP // 8


class Quantis(Driver):
    """Role EntropySource. After a failed health test nothing is given out until the device was opened anew and passed."""

    rate = Field(doc="Get noise that all working modules make together, in bits", unit=Hertz)
    working_modules = Field(doc="Get number of modules that work", kind=int, category=Category.DIAGNOSTIC)
    present_modules = Field(doc="Get number of modules that are present", kind=int, category=Category.DIAGNOSTIC)
    powered = Field(doc="Get whether the modules have power", kind=bool, category=Category.DIAGNOSTIC)
    tested = Field(doc="Get bytes that went through the health tests since opening", kind=int)

    answer_time = _ANSWER

    def __init__(self, name: str, config: DeviceConfig, links: Sequence[ByteLink], clock: Clock, meter: Meter) -> None:
        super().__init__(name, config, links, clock, meter)
        claim = float(read_options(name, config.options, {"entropy_per_bit": _CLAIM})["entropy_per_bit"])
        if not 0.0 < claim <= 1.0:
            raise errors.DeviceConfigError(f"devices.{name}.options.entropy_per_bit: {claim:g} lies outside 0 to 1")
        self._claim = claim
        self._test = HealthTest(self._claim)

    @classmethod
    def links(cls, config: DeviceConfig) -> tuple[ByteLink, ...]:
        port = serial_port(config)
        if config.serial_number and re.search(r":[0-9a-fA-F]{4}$", port):  # the port names no one: this one, then
            port = f"{port}/{config.serial_number}"
        return (UsbBulkLink(port, one_way=True, by_packet=True),)

    # Role EntropySource

    @property
    def entropy_per_bit(self) -> float:
        return self._claim

    async def read_noise(self, count: int) -> bytes:
        self.require_open("get noise")
        if not 0 <= count <= _MOST:
            raise ValueError(f"{count} bytes; up to {_MOST} are given at once")
        return await self._noise("get noise", count)

    # Hooks of the driver

    async def _identify(self) -> Identity:
        board = await self._board("identify")
        return Identity("ID Quantique", "Quantis-USB", self._serial(), f"{board.version:#x}")

    async def _ping(self) -> None:
        """Asks, and puts some noise through the tests: the source is watched also while nobody draws from it."""
        await self._board("ping")
        await self._noise("ping", _STARTUP_BYTES)

    async def _start(self) -> None:
        """Start-up tests (4.3): what they see is not given out."""
        self._test = HealthTest(self._claim)
        await self._noise("start-up test", _STARTUP_BYTES)

    async def _make_safe(self) -> None:
        """It has no state that could do harm."""

    # Fields

    async def _get_rate(self) -> Values:
        return ((await self._board("get rate")).rate,)

    async def _get_working_modules(self) -> Values:
        return ((await self._board("get working_modules")).working.bit_count(),)

    async def _get_present_modules(self) -> Values:
        return ((await self._board("get present_modules")).present.bit_count(),)

    async def _get_powered(self) -> Values:
        return ((await self._board("get powered")).powered,)

    async def _get_tested(self) -> Values:
        return (self._test.tested // 8,)

    # Inside

    def _serial(self) -> str:
        """What the line was opened by: USB finds a device by the serial number of its descriptor."""
        found = re.search(r":[0-9a-fA-F]{4}/(.+)$", self.bus_key)
        return found[1] if found else ""

    async def _board(self, operation: str) -> quantis.Board:
        def call(link: ByteLink) -> quantis.Board:
            def ask(request: int, length: int) -> bytes:
                answer: bytes = link.control(  # type: ignore[attr-defined]  # links() made a UsbBulkLink
                    quantis.REQUEST_TYPE, request, 0, 0, length, self.answer_time
                )
                return answer

            try:
                version = ask(quantis.VERSION, 4)
            except Refused:
                raise Stranger("has the ids of a Quantis and does not know its requests") from None
            return quantis.board(
                version,
                ask(quantis.MASK, 1),
                ask(quantis.PRESENT, 1),
                ask(quantis.POWER, 1),
                ask(quantis.RATE, 4),
            )

        return await self.run(operation, call, 5 * self.answer_time, urgent=True)

    async def _noise(self, operation: str, count: int) -> bytes:
        """Exactly `count` tested bytes. Raises EntropyFailed; DeviceTimeout when the source dries up."""

        def call(link: ByteLink) -> bytes:
            data = bytearray()
            while len(data) < count:
                packet = link.read(count - len(data), self.answer_time)
                if not packet:
                    raise TimedOut(f"{len(data)} of {count} bytes of noise came")
                data += packet
            return bytes(data)

        data = await self.run(operation, call, self.answer_time + count / 1e5)
        try:
            self._test.feed(np.unpackbits(np.frombuffer(data, np.uint8)))
        except SourceFailed as failure:
            error = self.error(errors.EntropyFailed, operation, str(failure))
            self._meter.add("qkdd_device_errors_total", device=self.name, code=error.code)
            raise error from None
        return data

"""What the three generic drivers share: lines, identity, the commands of a mapping."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar, Generic, TypeVar

from qkdd.core.clock import Clock
from qkdd.core.counters import Meter
from qkdd.device.config import DeviceConfig
from qkdd.device.driver import serial_port, tcp_ports
from qkdd.device.lines import any_line
from qkdd.device.roles import Identity
from qkdd.device.tcp_link import TcpLink
from qkdd.device.transport import ByteLink, Stranger
from qkdd.device.visa_link import LIBRARY
from qkdd_drivers.generic_scpi.mapping import Mapping, Quantity, load
from qkdd_drivers.scpi import ScpiDriver

M = TypeVar("M", bound=Mapping)

_SCPI_PORT = 5025


class MappedDriver(ScpiDriver, Generic[M]):
    """A driver that reads from a mapping file what its instrument understands."""

    kind: ClassVar[type[Mapping]]
    options: ClassVar[dict[str, str]] = {"visa_library": LIBRARY, "mapping": ""}

    def __init__(self, name: str, config: DeviceConfig, links: Sequence[ByteLink], clock: Clock, meter: Meter) -> None:
        super().__init__(name, config, links, clock, meter)
        self._map: M = load(config, self.kind)  # type: ignore[assignment]  # `kind` is M
        self._patience = float(self._map.answer_time)

    @classmethod
    def links(cls, config: DeviceConfig) -> tuple[ByteLink, ...]:
        """`port`: VISA resource, serial port or socket://…; `host`: TCP, port 5025 unless `tcp_ports` says otherwise."""
        if config.host:
            return (TcpLink(config.host, *tcp_ports(config, (_SCPI_PORT,))),)
        library = str(config.options.get("visa_library", LIBRARY))
        baudrate = load(config, cls.kind).baudrate
        return (any_line(serial_port(config), baudrate=baudrate, visa_library=library),)

    @property
    def error_query(self) -> str:  # type: ignore[override]  # from the mapping here
        return self._map.error_query

    @property
    def end(self) -> bytes:  # type: ignore[override]
        return self._map.end_bytes

    @property
    def answer_time(self) -> float:  # type: ignore[override]
        return self._patience

    # Hooks of the driver

    async def _identify(self) -> Identity:
        def parse(text: str) -> Identity:
            if re.search(self._map.identity, text) is None:
                raise Stranger(f"{text[:80]!r} answers, which does not match {self._map.identity!r}")
            found = re.search(self._map.serial, text)
            serial = found[1].strip() if found is not None and found.groups() else ""
            return Identity("", self._map.title, serial, "")

        return await self.query("identify", self._map.identity_query, parse, urgent=True)

    async def _start(self) -> None:
        await self.command("start", *self._map.open)

    async def _make_safe(self) -> None:
        await self.command("reach safe state", *self._map.safe)

    # For the drivers

    async def read(self, operation: str, quantity: Quantity, detector: int = 0) -> float:
        return await self.query(operation, quantity.question(detector), quantity.parse)

    async def write(self, operation: str, quantity: Quantity, value: float, detector: int = 0) -> float:
        """Set and read back. Raises CommandRefused when the instrument stands elsewhere."""
        await self.command(operation, quantity.command(value, detector))
        found = await self.read(operation, quantity, detector)
        return self.must_match(operation, value, found, quantity.tolerance + 1e-9)

"""Simulated Quantis-USB, served by USB/IP; its noise comes from a seeded generator."""

from __future__ import annotations

import asyncio
import time

from qkdd_drivers.idq_quantis import protocol as quantis
from qkdd_drivers.simkit import Address, Simulator
from qkdd_drivers.usbip_sim import Descriptors, Endpoint, UsbDevice, UsbIpServer

_SERIAL = "163041A410"
_BULK_IN = 0x86
_PACKET = 512
_KBIT = 4000  # a second and module


class _Board(UsbDevice):
    def __init__(self, simulator: QuantisSim, serial: str) -> None:
        vendor, product = (int(part, 16) for part in quantis.IDS.split(":"))
        names = ("ID Quantique", "Quantis USB", serial)
        super().__init__(Descriptors(vendor, product, names, (0xFF, 0xFF, 0xFF), (Endpoint(_BULK_IN, 2, _PACKET),)))
        self._simulator = simulator
        self._budget, self._since = float(_PACKET), time.monotonic()
        self._alarm: asyncio.TimerHandle | None = None

    def control(
        self, request_type: int, request: int, value: int, index: int, length: int, data: bytes
    ) -> bytes | None:
        if request_type != quantis.REQUEST_TYPE or self._simulator.wrong_identity:
            return None
        working = 0 if self._simulator.refuse else 0x1
        answers = {
            quantis.VERSION: (0x0201).to_bytes(4, "little"),
            0x11: b"",
            0x12: b"",
            quantis.MASK: bytes([working]),
            quantis.POWER: b"\1",
            quantis.PRESENT: b"\1",
            quantis.RATE: _KBIT.to_bytes(4, "little"),
        }
        return self._simulator.damaged(answers[request]) if request in answers else None

    def bulk_out(self, endpoint: int, data: bytes) -> None:
        """It has no such endpoint."""

    def bulk_in(self, endpoint: int, length: int) -> bytes | None:
        if endpoint != _BULK_IN or length != _PACKET or self._simulator.refuse:
            return None  # any other size is never answered, as with the real one
        now = time.monotonic()
        self._budget = min(16.0 * _PACKET, self._budget + (now - self._since) * _KBIT * 125)
        self._since = now
        if self._budget < _PACKET:
            self._later((_PACKET - self._budget) / (_KBIT * 125))
            return None
        self._budget -= _PACKET
        return self._simulator.noise(_PACKET)

    def _later(self, seconds: float) -> None:
        if self._alarm is None:
            self._alarm = asyncio.get_running_loop().call_later(seconds, self._ring)

    def _ring(self) -> None:
        self._alarm = None
        self.wake()

    def quiet(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None


class QuantisSim(Simulator):
    """Faults of its own: `stuck` (the same bit for ever), `biased` (share=0.8 of the bits are one)."""

    model = "quantis"
    faults = Simulator.faults | {"stuck", "biased"}

    def __init__(self, *, listen: tuple[str, int] = ("127.0.0.1", 0), seed: int = 1, serial: str = _SERIAL) -> None:
        super().__init__(seed)
        self._board = _Board(self, serial)
        self._server = UsbIpServer(self._board, *listen)
        self._host, self._serial = listen[0], serial
        self._stuck, self._share = False, 0.5
        self._garbage = b""

    async def start(self) -> Address:
        await self._server.start()
        return Address(self.model, f"usbip://{self._host}:{self._server.port}/{quantis.IDS}/{self._serial}")

    async def stop(self) -> None:
        self._board.quiet()
        await self._server.stop()

    def unplug(self) -> None:
        self._server.cut()

    def plug(self) -> None:
        self._server.mend()

    def send(self, data: bytes) -> None:
        """Goes into the next answer of the control endpoint: the bulk endpoint carries noise anyway."""
        self._garbage = data

    def damaged(self, answer: bytes) -> bytes:
        garbage, self._garbage = self._garbage, b""
        return garbage[: len(answer)] or answer

    def noise(self, count: int) -> bytes:
        if self._stuck:
            return b"\xff" * count
        if self._share == 0.5:
            return self.random.bytes(count)
        ones = self.random.random(8 * count) < self._share
        return bytes(int("".join("01"[int(bit)] for bit in ones[i : i + 8]), 2) for i in range(0, 8 * count, 8))

    def inject(self, fault: str, **args: float) -> None:
        super().inject(fault, **args)
        if fault == "clear":
            self._stuck, self._share = False, 0.5
        self._server.late, self._server.silent = self.late, self.hang

    def inject_own(self, fault: str, args: dict[str, float]) -> None:
        if fault == "stuck":
            self._stuck = True
        else:
            self._share = args.get("share", 0.8)

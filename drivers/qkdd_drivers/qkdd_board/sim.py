"""A board in a process: `Board` on a pty or a TCP port, with power, reboots and faults."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from typing import ClassVar

from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA87PrivateKey, MLDSA87PublicKey
from qkdd_fwbridge import image
from qkdd_fwbridge.messages import Role

from qkdd_drivers.qkdd_board import registers
from qkdd_drivers.qkdd_board.board import Board
from qkdd_drivers.qkdd_board.bootstore import BootStore, Brick
from qkdd_drivers.qkdd_board.emission import WINDOW, OnPulses, OnStream
from qkdd_drivers.qkdd_board.flash import Flash, Power, PowerLost
from qkdd_drivers.simkit import Address, Simulator, make_wire

SLOT_SECTORS = 64  # 256 KiB a slot
_TICK = 0.01
_SLICE = 0.05  # seconds of pulses that are made at a time; other simulators in this process have their turn between
_LATE = 0.5  # seconds that are made up for; what lies further back stays dark
_BOOT = 0.2  # seconds that the line is away at a reboot
DEVELOPMENT_SEED = b"qkdd simulated boards: no secret!"[:32]
"""Seed of the key that signs the firmware of simulated boards. Public, so it must never be trusted by a real one."""


def development_key() -> MLDSA87PrivateKey:
    return MLDSA87PrivateKey.from_seed_bytes(DEVELOPMENT_SEED)


def factory_image(role: Role, version: tuple[int, int, int] = (2, 0, 0), counter: int = 1) -> bytes:
    """What a simulated board leaves the factory with."""
    protocol = (1, 1) if version[0] < 2 else (1, 2)
    manifest = image.Manifest(registers.MODEL[role], version, counter, (1, 1), protocol)
    return image.sign(manifest, b"simulated firmware " * 512, development_key())


class BoardSim(Simulator):
    """`pty`/`listen` as in `simkit.make_wire`; `trusted`: further keys whose images the board takes. `window`: slots
    that it keeps in memory for a stream on demand.

    Own faults: `power-cycle` (after=BYTES: power fails after so many bytes of flash work, then comes back; without it at
    once), `qrng-stuck` (its random source gives zeros), `drop` (every=N: each Nth piece of what it sends is lost).
    """

    model = "qkdd-board"
    faults: ClassVar[frozenset[str]] = Simulator.faults | {"power-cycle", "qrng-stuck", "drop"}

    def __init__(
        self,
        role: Role = Role.TRANSMITTER,
        *,
        pty: str | None = None,
        listen: tuple[str, int] | None = None,
        seed: int = 1,
        serial: str = "QB000001",
        firmware: bytes | None = None,
        trusted: tuple[MLDSA87PublicKey, ...] = (),
        on_pulses: OnPulses = lambda first, symbols: None,
        on_stream: OnStream = lambda start, pulse_hz: None,
        clock: Callable[[], float] = time.monotonic,
        boot_s: float = _BOOT,
        window: int = WINDOW,
    ) -> None:
        super().__init__(seed)
        self._clock = clock
        self._polled = clock()
        self.power = Power(seed)
        self._boot_s = boot_s
        flash = Flash(BootStore.sectors_needed(SLOT_SECTORS), self.power)
        keys = (development_key().public_key(), *trusted)
        self.store = BootStore(flash, SLOT_SECTORS, registers.MODEL[role], 1, keys)
        self.store.manufacture(firmware or factory_image(role))
        self.board = Board(
            role, serial, self.store, noise=self._noise, on_pulses=on_pulses, on_stream=on_stream, window=window
        )
        self.board.power_up(self._clock())
        self._wire = make_wire(self._received, pty, listen)
        self._stuck = False
        self._drop = self._pieces = 0
        self._task: asyncio.Task[None] | None = None
        self._away: asyncio.TimerHandle | None = None

    async def start(self) -> Address:
        address = await self._wire.listen()
        self._task = asyncio.get_running_loop().create_task(self._live())
        return Address(self.model, address.port, address.host, address.tcp_ports)

    async def stop(self) -> None:
        if self._away is not None:
            self._away.cancel()
            self._away = None
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        await self._wire.close()

    def unplug(self) -> None:
        self._wire.cut()

    def plug(self) -> None:
        self._wire.mend()

    def send(self, data: bytes) -> None:
        self._wire.write(data)

    def inject(self, fault: str, **args: float) -> None:
        super().inject(fault, **args)
        self.board.refuse = self.refuse
        self.board.model = "QKDD-XX9" if self.wrong_identity else registers.MODEL[self.board.role]
        if fault == "clear":
            self._stuck = False
            self._drop = 0

    def inject_own(self, fault: str, args: dict[str, float]) -> None:
        match fault:
            case "power-cycle" if "after" in args:
                self.power.cut_after = int(args["after"])
            case "power-cycle":
                self._restart()
            case "qrng-stuck":
                self._stuck = True
            case _:
                self._drop = max(2, int(args.get("every", 10)))

    def _noise(self, count: int) -> bytes:
        return bytes(count) if self._stuck else secrets.token_bytes(count)

    def _received(self, data: bytes) -> None:
        if self.hang or self._away is not None:
            return
        try:
            self.board.feed(data, self._clock())
        except PowerLost:
            self._restart()
            return
        self._flush()

    def _flush(self) -> None:
        if self._away is not None:
            return
        now = self._clock()
        if now - self._polled > _LATE:
            self._polled = now - _LATE
            self.board.skip_until(self._polled)
        self._polled = min(now, self._polled + _SLICE)
        try:
            data = self.board.poll(self._polled)
        except PowerLost:
            self._restart()
            return
        if data and not self.hang:
            self._pieces += 1
            if not (self._drop and self._pieces % self._drop == 0):
                if self.late:
                    asyncio.get_running_loop().call_later(self.late, self._wire.write, data)
                else:
                    self._wire.write(data)
        if self.board.reboot_due:
            self._restart(0.05)  # the answer must still reach the host

    def _restart(self, delay: float = 0.0) -> None:
        """The board goes away with its line and comes back."""
        loop = asyncio.get_running_loop()
        self._away = loop.call_later(delay, self._down)

    def _down(self) -> None:
        self._wire.cut()
        self._away = asyncio.get_running_loop().call_later(self._boot_s, self._up)

    def _up(self) -> None:
        self.power.restore()
        try:
            self.board.power_up(self._clock())
        except (PowerLost, Brick):
            self._away = None  # nothing answers any more: a brick stays dark
            return
        self._wire.mend()
        self._away = None

    async def _live(self) -> None:
        while True:
            behind = self._away is None and self._clock() - self._polled > _SLICE
            await asyncio.sleep(0 if behind else _TICK)
            self._flush()

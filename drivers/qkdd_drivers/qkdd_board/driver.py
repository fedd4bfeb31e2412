"""What the drivers of all our boards share: dialogue on a line, registers, firmware."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import ClassVar, TypeVar

from qkdd_fwbridge import image as images
from qkdd_fwbridge import keys, updating, versions
from qkdd_fwbridge import messages as m
from qkdd_fwbridge.dialogue import Dialogue
from qkdd_fwbridge.errors import BoardSaidNo, FirmwareUnsupported, ImageRefused, Malformed
from qkdd_fwbridge.layout import Message
from qkdd_fwbridge.messages import Role, SlotState
from qkdd_fwbridge.versions import Agreement, Version

from qkdd import __version__
from qkdd.core.clock import Clock
from qkdd.core.counters import Meter
from qkdd.device import errors
from qkdd.device.config import DeviceConfig
from qkdd.device.driver import Driver, tcp_ports
from qkdd.device.fields import Values
from qkdd.device.firmware import FirmwareImage, FirmwareSlot, FirmwareStatus, Progress
from qkdd.device.roles import Identity
from qkdd.device.serial_link import SerialLink
from qkdd.device.tcp_link import TcpLink
from qkdd.device.transport import ByteLink, FrameError, Refused, TimedOut
from qkdd.device.usb_link import SCHEME, UsbBulkLink
from qkdd_drivers.qkdd_board import registers

A = TypeVar("A", bound=Message)

TCP_PORT = 7170
ANSWER = 2.0  # seconds for an answer; verifying an image or erasing flash takes the longest
SILENCE_MS = (
    15_000  # the board goes to its safe state when it hears nothing for so long; the supervisor pings every 5 s
)
CHUNK = 65536
_NAMES = ("A", "B")


class BoardDriver(Driver):
    """Base of the drivers of our boards. Also a `FirmwareTarget`."""

    board_role: ClassVar[Role]

    def __init__(self, name: str, config: DeviceConfig, links: Sequence[ByteLink], clock: Clock, meter: Meter) -> None:
        super().__init__(name, config, links, clock, meter)
        self.dialogue = Dialogue()
        self._told = (0, 0)
        self.agreement: Agreement | None = None
        self.welcome: m.Welcome | None = None
        self._numbers = registers.numbers(self.board_role)

    @classmethod
    def links(cls, config: DeviceConfig) -> tuple[ByteLink, ...]:
        if config.port.startswith(SCHEME):
            return (UsbBulkLink(config.port),)
        if config.port:
            return (SerialLink(config.port, 3_000_000, rtscts=True),)
        return (TcpLink(config.host, tcp_ports(config, (TCP_PORT,))[0]),)

    # Hooks of the driver

    async def _connect(self) -> Identity:
        self.dialogue.reset()
        return await super()._connect()

    async def _identify(self) -> Identity:
        welcome = await self._hello()
        firmware = versions.text(_version(welcome))
        if welcome.role != self.board_role or welcome.model != registers.MODEL[self.board_role]:
            raise self.error(errors.WrongDevice, "identify", f"says that it is a {welcome.model!r}")
        try:
            self.agreement = versions.negotiate(__version__, welcome)
        except FirmwareUnsupported as error:
            raise self.error(errors.UnsupportedFirmware, "identify", error.message) from None
        self.welcome = welcome
        return Identity("qkdd", welcome.model, welcome.serial, firmware)

    async def _hello(self) -> m.Welcome:
        low, high = min(versions.PROTOCOLS), max(versions.PROTOCOLS)
        hello = m.Hello(low, high, int(~m.Capability(0)), __version__[:16])
        return await self.ask("identify", hello, m.Welcome)

    async def _start(self) -> None:
        agreement = self.agreed
        bind = m.Bind(agreement.protocol, int(agreement.capabilities), SILENCE_MS)
        await self.ask("bind", bind, m.Ok)

    async def _make_safe(self) -> None:
        await self._start()  # Bind ends a stream and goes to the safe state

    async def _ping(self) -> None:
        await self.status()

    @property
    def agreed(self) -> Agreement:
        if self.agreement is None:
            raise self.error(errors.NotOpen, "bind", "nothing was negotiated yet")
        return self.agreement

    async def status(self) -> m.Status:
        """The board's counters and alarms. Raises CommandRefused while an alarm stands."""
        found = await self.ask("status", m.AskStatus(), m.Status, urgent=True)
        if found.alarms:
            names = m.Alarm(found.alarms).name or hex(found.alarms)
            raise self.error(errors.CommandRefused, "status", f"the board is in its safe state: {names}")
        return found

    # Registers

    async def read_register(self, name: str) -> Values:
        answer = await self.ask(f"get {name}", m.Get(self._numbers[name]), m.GetValue)
        return (answer.value,)

    async def write_register(self, name: str, values: Values) -> Values:
        answer = await self.ask(f"set {name}", m.Set(self._numbers[name], float(values[0])), m.SetValue)
        return (answer.value,)

    # Role FirmwareTarget

    def inspect_firmware(self, image: bytes, trusted: Sequence[Path]) -> FirmwareImage:
        found = images.verify(image, [keys.load_public(path) for path in trusted])
        manifest = found.manifest
        if manifest.model != registers.MODEL[self.board_role]:
            model = registers.MODEL[self.board_role]
            raise ImageRefused(f"the image is for {manifest.model}, {self.name} is a {model}")
        return FirmwareImage(
            manifest.model,
            manifest.version_text,
            manifest.counter,
            len(found.payload),
            found.digest.hex(),
            found.signer.hex(),
        )

    async def firmware_status(self) -> FirmwareStatus:
        async with self._reached():
            welcome = await self._hello()
            state = await self.ask("read firmware", m.FwInfo(), m.FwState)
        a = FirmwareSlot(
            "A", _state(state.a_state), _text(state.a_major, state.a_minor, state.a_patch), state.a_counter
        )
        b = FirmwareSlot(
            "B", _state(state.b_state), _text(state.b_major, state.b_minor, state.b_patch), state.b_counter
        )
        return FirmwareStatus(
            welcome.model,
            versions.text(_version(welcome)),
            _name(state.running),
            _name(state.trial) if state.trial != m.NO_SLOT else "",
            state.rollback,
            (a, b),
            state.received,
            state.size,
        )

    async def stage_firmware(self, image: bytes, progress: Progress) -> None:
        async with self._reached():
            steps = updating.stage(image, progress)
            answer: Message | None = None
            while True:
                try:
                    # the first step takes no answer, as `next` would
                    request, kind = steps.send(answer) if answer is not None else next(steps)
                except StopIteration:
                    return
                answer = await self.ask("stage firmware", request, kind)

    async def start_firmware(self, confirm_s: int) -> None:
        async with self._reached():
            await self.ask("start firmware", m.FwStart(confirm_s), m.Ok)

    async def confirm_firmware(self) -> None:
        async with self._reached():
            await self.ask("confirm firmware", m.FwConfirm(), m.Ok)

    async def rollback_firmware(self) -> None:
        async with self._reached():
            await self.ask("roll back firmware", m.FwRollback(), m.Ok)

    @asynccontextmanager
    async def _reached(self) -> AsyncIterator[None]:
        """A line to the board, also when it is not open (because its firmware is refused)."""
        if self.is_open:
            yield
            return
        try:
            self.dialogue.reset()
            for bus in self.buses:
                await bus.open()
            yield
        finally:
            await self._release()

    # Dialogue

    async def ask(self, operation: str, request: Message, kind: type[A], *, urgent: bool = False) -> A:
        """One question, one answer. Raises the DeviceError that fits."""
        try:
            return await self.run(operation, lambda link: self.exchange(link, request, kind), 2 * ANSWER, urgent=urgent)
        finally:
            self.count_bytes()

    async def tell(self, operation: str, request: Message) -> None:
        """A request without an answer."""
        await self.run(operation, lambda link: link.write(self.dialogue.send(request)[1], ANSWER), ANSWER)

    def count_bytes(self) -> None:
        """Bring `qkdd_board_bytes_total` up to what has gone over the line."""
        now = self.dialogue.sent_bytes, self.dialogue.received_bytes
        for direction, count, told in zip(("to", "from"), now, self._told, strict=True):
            self._meter.add("qkdd_board_bytes_total", count - told, device=self.name, direction=direction)
        self._told = now

    def exchange(self, link: ByteLink, request: Message, kind: type[A]) -> A:
        """In the bus's thread."""
        number, data = self.dialogue.send(request)
        link.write(data, ANSWER)
        end = self._clock.monotonic() + ANSWER
        while True:
            try:
                answer = self.dialogue.answer(number, kind)
            except BoardSaidNo as error:
                raise Refused(error.message) from None
            except Malformed as error:
                raise FrameError(error.message) from None
            if answer is not None:
                return answer
            left = end - self._clock.monotonic()
            if left <= 0:
                d = self.dialogue.decoder
                raise TimedOut(
                    f"no answer to {type(request).__name__} ({d.damaged} damaged frames, {d.garbage} stray bytes)"
                )
            self.receive(link, left)

    def receive(self, link: ByteLink, timeout: float) -> None:
        """In the bus's thread: take what comes."""
        try:
            self.dialogue.feed(link.read(CHUNK, timeout))
        except Malformed as error:
            raise FrameError(error.message) from None


def _version(welcome: m.Welcome) -> Version:
    return welcome.major, welcome.minor, welcome.patch


def _text(*version: int) -> str:
    return ".".join(str(part) for part in version) if any(version) else ""


def _name(slot: int) -> str:
    return _NAMES[slot] if slot < len(_NAMES) else f"slot {slot}"


def _state(value: int) -> str:
    return SlotState(value).name.lower() if value in list(SlotState) else f"state {value}"

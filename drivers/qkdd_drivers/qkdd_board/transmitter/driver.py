"""QKDD-TX1: laser, intensity and polarization modulators; says what it prepared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from qkdd_fwbridge import messages as m
from qkdd_fwbridge import symbols as s
from qkdd_fwbridge.errors import Malformed, SourceFailed, SymbolsLost
from qkdd_fwbridge.messages import Capability, Mode, Randomness, Role
from qkdd_fwbridge.randomness import HealthTestedSource

from qkdd.core.clock import Clock
from qkdd.core.counters import Meter
from qkdd.core.units import Decibels, Hertz, Volts
from qkdd.device import errors
from qkdd.device.config import DeviceConfig
from qkdd.device.fields import Category, Field, Values
from qkdd.device.roles import AskedSymbols, PreparedSymbols
from qkdd.device.transport import ByteLink
from qkdd_drivers.qkdd_board.driver import ANSWER, BoardDriver

_AHEAD = 1 << 25  # symbols of credit: 3.4 s at 10 MHz, 16 MiB; without credit no pulse goes out
_READ = 0.1  # seconds that a read waits for the first symbols
_RETELL = 1.0  # seconds without symbols after which the credit is told again
_FEED = 32768  # random bytes in one frame


class Transmitter(BoardDriver):
    """Roles SymbolSource, FirmwareTarget. `randomness` says who makes the choices: the board's QRNG, or the host from
    `noise_source` (a device that gives raw noise) after the health tests of SP 800-90B."""

    board_role = Role.TRANSMITTER

    laser = Field(doc="Control whether pulses are sent", kind=bool, settable=True, category=Category.CONTROL)
    pulse_rate = Field(
        doc="Set pulses a second", unit=Hertz, range=(1e3, 50e6), settable=True, category=Category.SETTING
    )
    attenuation = Field(
        doc="Control attenuation at the output",
        unit=Decibels,
        range=(0.0, 60.0),
        settable=True,
        category=Category.CONTROL,
    )
    intensity_signal = Field(
        doc="Control mean photon number of a signal pulse", range=(0.0, 2.0), settable=True, category=Category.CONTROL
    )
    intensity_decoy = Field(
        doc="Control mean photon number of a decoy pulse", range=(0.0, 2.0), settable=True, category=Category.CONTROL
    )
    intensity_weakest = Field(
        doc="Control mean photon number of the weakest pulse",
        range=(0.0, 2.0),
        settable=True,
        category=Category.CONTROL,
    )
    modulator_bias = Field(
        doc="Control bias of the polarization modulator",
        unit=Volts,
        range=(-8.0, 8.0),
        settable=True,
        category=Category.CONTROL,
    )
    randomness = Field(
        doc="Set who makes the random choices",
        kind=str,
        choices=("qrng", "host"),
        settable=True,
        category=Category.SETTING,
    )
    noise_source = Field(
        doc="Set path of the device with raw noise for choices by the host",
        kind=str,
        settable=True,
        category=Category.SETTING,
    )
    noise_entropy = Field(
        doc="Set min-entropy of a bit of the noise source, as its maker guarantees",
        range=(0.05, 1.0),
        settable=True,
        category=Category.SETTING,
    )

    def __init__(self, name: str, config: DeviceConfig, links: Sequence[ByteLink], clock: Clock, meter: Meter) -> None:
        super().__init__(name, config, links, clock, meter)
        self._randomness = "qrng"
        self._noise_path, self._noise_entropy = "/dev/hwrng", 0.5
        self._stream: s.SymbolStream | None = None
        self._on_demand = False
        self._pulse_hz = 0.0
        self._source: HealthTestedSource | None = None
        self._fed = 0
        self._quiet_since = 0.0

    # Role SymbolSource

    @property
    def pulse_rate_hz(self) -> float:
        """Known from `start_symbols` on."""
        return self._pulse_hz

    async def prepare(self, x_basis: float, intensities: tuple[float, float, float]) -> None:
        """Rounded to 2^-15 and 2^-16, which `m.Prepare` has; raises ValueError when the three do not add up to 1."""
        if not 0.0 <= x_basis <= 1.0 or min(intensities) < 0.0 or abs(sum(intensities) - 1.0) > 1e-9:
            raise ValueError(f"{x_basis} and {intensities} are no probabilities")
        if intensities[2] and not self.agreed.capabilities & Capability.THREE_INTENSITIES:
            raise self.error(errors.CommandRefused, "prepare", "this firmware knows two intensities")
        first = round(intensities[0] * 65536)
        second = min(65536, round((intensities[0] + intensities[1]) * 65536))
        await self.ask("prepare", m.Prepare(round(x_basis * 32768), first, second), m.Ok)

    async def start_symbols(self, *, on_demand: bool) -> int:
        self.require_open("start symbols")
        mode = Mode.ON_DEMAND if on_demand else Mode.FULL
        randomness = Randomness.HOST if self._randomness == "host" else Randomness.QRNG
        for wanted, there in (
            (Capability.ON_DEMAND if on_demand else Capability.FULL_STREAM, "this way to send symbols"),
            (Capability.HOST_RANDOM if randomness is Randomness.HOST else Capability.QRNG, "this source of choices"),
        ):
            if not self.agreed.capabilities & wanted:
                raise self.error(errors.CommandRefused, "start symbols", f"firmware or table do not know {there}")
        self._on_demand = on_demand
        self.dialogue.forget_unasked()  # of a stream that was cut off; its frames may have come until Bind ended it
        if randomness is Randomness.HOST:
            self._source = HealthTestedSource(_reader(self._noise_path), self._noise_entropy)
            await self._feed()
        started = await self.ask("start symbols", m.StreamStart(mode, randomness, _AHEAD), m.StreamStarted)
        self._pulse_hz = float(started.pulse_hz)
        self._stream = s.SymbolStream(started.first_slot, _AHEAD)
        self._quiet_since = self._clock.monotonic()
        return started.first_slot

    async def read_symbols(self) -> list[PreparedSymbols]:
        """Raises CommandRefused when the board raised an alarm; SymbolsContradict, SourceFailed."""
        stream = self._streaming("read symbols")
        await self._feed()
        await self.run("read symbols", lambda link: self.receive(link, _READ), _READ + ANSWER)
        self.count_bytes()
        blocks = self._take(stream)
        now = self._clock.monotonic()
        if blocks:
            self._quiet_since = now
        credit = stream.credit()
        if credit is None and now - self._quiet_since > _RETELL:
            credit, self._quiet_since = stream.again(), now
        if credit is not None:
            await self.tell("credit", credit)
        return blocks

    async def ask_symbols(self, slots: NDArray[np.int64]) -> AskedSymbols:
        self._streaming("ask symbols")
        if not self._on_demand:
            raise self.error(errors.CommandRefused, "ask symbols", "the stream was not started on demand")
        await self._feed()
        answers = [await self._asked(request) for request in s.demands(slots)]
        columns = ((a.here, a.basis, a.bit, a.intensity) for a in answers)
        here, basis, bit, intensity = (np.concatenate(column) for column in zip(*columns, strict=True))
        # where a slot is not there and the answers do not agree on their window, it counts as written over, not as dark
        oldest, next_slot = max(a.oldest for a in answers), min(a.next_slot for a in answers)
        return AskedSymbols(here, basis, bit, intensity, oldest, next_slot)

    async def _asked(self, request: m.Demand) -> s.DemandedSymbols:
        answer = await self.ask("ask symbols", request, m.Demanded)
        try:
            return s.demanded(answer, request.count)
        except Malformed as error:
            raise self.error(errors.ProtocolError, "ask symbols", error.message) from None

    async def release_symbols(self, below: int) -> None:
        self._streaming("release symbols")
        await self._feed()
        await self.tell("release symbols", m.Release(below))

    async def stop_symbols(self) -> list[PreparedSymbols]:
        stream = self._streaming("stop symbols")
        stopped = await self.ask("stop symbols", m.StreamStop(), m.StreamStopped)
        blocks = [] if self._on_demand else self._take(stream)
        if not self._on_demand:
            before = stream.skipped
            lost = stream.end(stopped.next_slot, stopped.held + stopped.starved, stopped.unsent)
            lost += stopped.unsent  # made but not delivered: the block must not think that they were
            if lost:
                none = np.zeros(0, np.uint8)
                skipped = stream.skipped - before
                blocks.append(PreparedSymbols(stopped.next_slot, none, none, none, skipped, lost, (SymbolsLost.code,)))
        self._stream = self._source = None
        return blocks

    def _streaming(self, operation: str) -> s.SymbolStream:
        self.require_open(operation)
        if self._stream is None:
            raise self.error(errors.CommandRefused, operation, "no stream runs")
        return self._stream

    def _take(self, stream: s.SymbolStream) -> list[PreparedSymbols]:
        blocks = []
        while (message := self.dialogue.unasked()) is not None:
            if isinstance(message, m.AlarmRaised):
                text = message.text.decode("utf-8", "replace")
                raise self.error(errors.CommandRefused, "read symbols", f"alarm at slot {message.slot}: {text}")
            if isinstance(message, m.Symbols):
                block = stream.take(message)
                blocks.append(
                    PreparedSymbols(
                        block.first_slot,
                        block.basis,
                        block.bit,
                        block.intensity,
                        block.skipped,
                        block.lost,
                        block.faults,
                    )
                )
        return blocks

    async def _feed(self) -> None:
        """Fill the board's store of random bytes."""
        if self._source is None:
            return
        await self.run("feed randomness", self._feed_now, 4 * ANSWER)

    def _feed_now(self, link: ByteLink) -> None:
        """In the bus's thread. The source is tested before a byte leaves the host."""
        source = self._source
        if source is None:
            return
        free = self.exchange(link, m.Feed(self._fed, b""), m.Fed).free
        # bounded, so that a call keeps its time: the rest goes with the next one
        for _ in range(min(8, free // _FEED)):
            answer = self.exchange(link, m.Feed(self._fed, source.take(_FEED)), m.Fed)
            self._fed = answer.next

    # Hooks

    async def _start(self) -> None:
        self._stream = self._source = None
        self._fed = 0
        await super()._start()

    # Fields

    async def _get_laser(self) -> Values:
        return (bool((await self.read_register("laser"))[0]),)

    async def _set_laser(self, values: Values) -> Values:
        return (bool((await self.write_register("laser", values))[0]),)

    async def _get_pulse_rate(self) -> Values:
        return await self.read_register("pulse_rate")

    async def _set_pulse_rate(self, values: Values) -> Values:
        return await self.write_register("pulse_rate", values)

    async def _get_attenuation(self) -> Values:
        return await self.read_register("attenuation")

    async def _set_attenuation(self, values: Values) -> Values:
        return await self.write_register("attenuation", values)

    async def _get_intensity_signal(self) -> Values:
        return await self.read_register("intensity_signal")

    async def _set_intensity_signal(self, values: Values) -> Values:
        return await self.write_register("intensity_signal", values)

    async def _get_intensity_decoy(self) -> Values:
        return await self.read_register("intensity_decoy")

    async def _set_intensity_decoy(self, values: Values) -> Values:
        return await self.write_register("intensity_decoy", values)

    async def _get_intensity_weakest(self) -> Values:
        return await self.read_register("intensity_weakest")

    async def _set_intensity_weakest(self, values: Values) -> Values:
        return await self.write_register("intensity_weakest", values)

    async def _get_modulator_bias(self) -> Values:
        return await self.read_register("modulator_bias")

    async def _set_modulator_bias(self, values: Values) -> Values:
        return await self.write_register("modulator_bias", values)

    async def _get_randomness(self) -> Values:
        return (self._randomness,)

    async def _set_randomness(self, values: Values) -> Values:
        self._randomness = str(values[0])
        return values

    async def _get_noise_source(self) -> Values:
        return (self._noise_path,)

    async def _set_noise_source(self, values: Values) -> Values:
        self._noise_path = str(values[0])
        return values

    async def _get_noise_entropy(self) -> Values:
        return (self._noise_entropy,)

    async def _set_noise_entropy(self, values: Values) -> Values:
        self._noise_entropy = float(values[0])
        return values


def _reader(path: str) -> Callable[[int], bytes]:
    """Reads a noise device. A device that cannot be read has failed."""

    def read(count: int) -> bytes:
        try:
            with Path(path).open("rb", buffering=0) as device:
                data = bytearray()
                while len(data) < count and (more := device.read(count - len(data))):
                    data += more
                return bytes(data)
        except OSError as error:
            raise SourceFailed(f"{path} cannot be read: {error.strerror}") from None

    return read

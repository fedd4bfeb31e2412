"""ID Quantique ID900 and ID1000 Time Controllers: SCPI by ZeroMQ, tags by the vendor's DataLinkTargetService."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeVar, cast

from qkdd.core.clock import Clock
from qkdd.core.counters import Meter
from qkdd.core.units import Volts
from qkdd.device import errors
from qkdd.device.config import DeviceConfig
from qkdd.device.driver import Driver, tcp_ports
from qkdd.device.fields import Category, Field, Values
from qkdd.device.roles import Identity
from qkdd.device.tags import StreamStart, TagBlock, in_order
from qkdd.device.transport import ByteLink, ByteReader
from qkdd.device.zmq_link import END, ZmqRequestLink, ZmqStreamsLink
from qkdd_drivers.id900 import protocol
from qkdd_drivers.options import read_options

T = TypeVar("T")

_CONTROL, _SERVICE, _STREAMS = range(3)
_CADENCE = 0.05
_WAIT = 0.1  # seconds that one look for messages takes
_SILENCE = (
    2.0  # seconds without any message (one is due for each sub-acquisition) after which the service counts as dead
)
_LOOK = 1.0  # seconds between two looks at what the instrument counts as lost
_APART = 40  # sub-acquisitions by which the inputs may be apart
OPTIONS: dict[str, Any] = {
    "service_host": "127.0.0.1",
    "stream_port": protocol.STREAM_PORT,
    "stream_bind": False,
    "resolution": "hires",
    "slice_ms": 50,
}


class Id900(Driver):
    """Role TimeTagger. Channel n is the input labelled n; there is no channel 0 (START is not read)."""

    answer_time: ClassVar[float] = 2.0
    """Seconds for sending a message, and for its reply."""

    threshold = Field(
        doc="Set trigger level of each input",
        unit=Volts,
        range=(-2.0, 2.0),
        size=protocol.INPUTS,
        settable=True,
        category=Category.SETTING,
    )
    edge = Field(
        doc="Set edge of the pulses that is taken, for each input",
        kind=str,
        choices=("rising", "falling"),
        size=protocol.INPUTS,
        settable=True,
        category=Category.SETTING,
    )
    coupling = Field(
        doc="Set coupling of each input",
        kind=str,
        choices=("dc", "ac"),
        size=protocol.INPUTS,
        settable=True,
        category=Category.SETTING,
    )
    input_health = Field(
        doc="Get the state of each input: 0 sound, 1 needs recalibration, 1001 to 1003 rate too high or level wrong",
        kind=int,
        size=protocol.INPUTS,
        category=Category.DIAGNOSTIC,
    )

    def __init__(self, name: str, config: DeviceConfig, links: Sequence[ByteLink], clock: Clock, meter: Meter) -> None:
        super().__init__(name, config, links, clock, meter)
        self._options = read_options(name, config.options, OPTIONS)
        if self._options["resolution"] not in ("hires", "lowres"):
            raise errors.DeviceConfigError(f"devices.{name}.options.resolution: neither hires nor lowres")
        if not 1 <= self._options["slice_ms"] <= 1000:
            raise errors.DeviceConfigError(f"devices.{name}.options.slice_ms: not between 1 and 1000")
        self._readers = [ByteReader(link, clock) for link in links[:2]]
        self._levels, self._edges, self._couplings = [-0.4] * 4, ["falling"] * 4, ["dc"] * 4
        self._bin_ps = 1.0
        self._ids: list[Any] = []
        self._merge: protocol.Merge | None = None
        self._last_return = self._heard = self._looked = 0.0
        self._raw_errors = 0

    @classmethod
    def links(cls, config: DeviceConfig) -> tuple[ByteLink, ...]:
        control, service = tcp_ports(config, (protocol.CONTROL_PORT, protocol.SERVICE_PORT))
        host = str(config.options.get("service_host", OPTIONS["service_host"]))
        streams = ZmqStreamsLink(host, bind=bool(config.options.get("stream_bind", False)))
        return ZmqRequestLink(config.host, control), ZmqRequestLink(host, service), streams

    # Role TimeTagger

    @property
    def resolution_ps(self) -> int:
        return max(1, round(self._bin_ps))

    @property
    def inputs(self) -> int:
        return protocol.INPUTS + 1

    async def start(self) -> StreamStart:
        """Begin a stream; its tags count from the first sub-acquisition, some milliseconds after the stamp."""
        self.require_open("start")
        await self.stop()
        width_ps = int(self._options["slice_ms"]) * 10**9
        ports = self._ports()
        for channel, port in enumerate(ports, start=1):
            command = f"start-stream --address {self.config.host} --channel {channel} --stream-port {port}"
            reply = await self._serve("start", command)
            if not isinstance(reply, dict) or "id" not in reply:
                raise self.error(errors.ProtocolError, "start", "the service names no acquisition", bus=_SERVICE)
            self._ids.append(reply["id"])
        await self.run("start", lambda link: cast(ZmqStreamsLink, link).attach(ports), 1.0, bus=_STREAMS)
        for channel in range(1, protocol.INPUTS + 1):
            for command in protocol.routing(channel):
                await self._tell("start", command)
        for command in (*protocol.recording(width_ps), "REC:PLAY"):
            await self._tell("start", command)
        stamp = StreamStart(self._clock.wall(), self._clock.monotonic())
        self._merge = protocol.Merge(self._bin_ps, width_ps + protocol.GAP_PS)
        self._last_return = self._heard = self._looked = stamp.monotonic
        self._raw_errors = 0
        return stamp

    async def read(self) -> TagBlock:
        """All sub-acquisitions that are complete. Raises when the service is silent or the inputs drift apart."""
        merge = self._merge
        if merge is None:
            raise self.error(errors.NotOpen, "read tags", "no stream was started")
        pause = self._last_return + _CADENCE - self._clock.monotonic()
        if pause > 0:
            await self._clock.sleep(pause)
        # messages go into `merge` in the thread, so that a call that is cancelled loses none
        heard = await self.run("read tags", lambda link: _collect(link, merge), _WAIT + 1.0, bus=_STREAMS)
        now = self._last_return = self._clock.monotonic()
        if heard:
            self._heard = now
        elif now - self._heard > _SILENCE:
            raise self.error(
                errors.DeviceTimeout, "read tags", f"no sub-acquisition for {now - self._heard:.1f} s", bus=_STREAMS
            )
        if merge.apart > _APART:
            raise self.error(
                errors.ProtocolError, "read tags", f"one input is {merge.apart} sub-acquisitions ahead", bus=_STREAMS
            )
        times, channels, late = in_order(*merge.take())
        lost = 0
        if now - self._looked > _LOOK:
            self._looked = now
            lost = await self._lost()
        faults = (errors.TagsLost.code,) if lost else ()
        block = TagBlock(times, channels, merge.until, lost, faults, late)
        self._meter.add("qkdd_tagger_tags_total", len(block), device=self.name)
        if lost:
            self._meter.add("qkdd_tagger_tags_lost_total", lost, device=self.name)
        for code in faults:
            self._meter.add("qkdd_tagger_faults_total", device=self.name, code=code)
        return block

    async def stop(self) -> None:
        """End the stream; the instrument stays open. Idempotent."""
        if self._merge is None and not self._ids:
            return
        self._merge = None
        ids, self._ids = self._ids, []
        for command in protocol.STOP:
            await self._tell("stop", command)
        for number in ids:
            await self._serve("stop", f"stop --id {number}")
        await self.run("stop", lambda link: cast(ZmqStreamsLink, link).detach(), 1.0, bus=_STREAMS)

    async def _lost(self) -> int:
        """Losses that the instrument counts on its raw outputs, since the last call (its unit is not documented)."""
        total = 0
        for channel in range(1, protocol.INPUTS + 1):
            total += round(await self._ask("read tags", f"RAW{channel}:ERRORS?"))
        new, self._raw_errors = max(0, total - self._raw_errors), total
        return new

    def _ports(self) -> list[int]:
        base = int(self._options["stream_port"])
        if base:
            return [base + channel for channel in range(1, protocol.INPUTS + 1)]
        found = [socket.create_server((self._options["service_host"], 0)) for _ in range(protocol.INPUTS)]
        ports = [server.getsockname()[1] for server in found]
        for server in found:
            server.close()
        return ports

    # Hooks

    async def _identify(self) -> Identity:
        found = await self._exchange(_CONTROL, "identify", "*IDN?", protocol.identity, urgent=True)
        return Identity("ID Quantique", *found)

    async def _ping(self) -> None:
        await self._identify()
        await self._serve("ping", "list")

    async def _start(self) -> None:
        """Outputs off, nothing recorded; inputs as they were set, and the unit of the time stamps asked."""
        await self._serve("list", "list")
        for command in protocol.SAFE:
            await self._tell("reach safe state", command)
        await self._tell("set resolution", f"DEVIce:RESolution {self._options['resolution'].upper()}")
        self._bin_ps = await self._ask("get resolution", "DEVI:RES:BWID?")
        if not self._bin_ps > 0:
            raise self.error(errors.ProtocolError, "get resolution", f"a base bin of {self._bin_ps:g} ps")
        for channel in range(1, protocol.INPUTS + 1):
            await self._input(channel)

    async def _make_safe(self) -> None:
        await self.stop()
        for command in protocol.SAFE:
            await self._tell("reach safe state", command)

    async def _input(self, channel: int) -> None:
        at = channel - 1
        command = protocol.input_setup(channel, self._levels[at], self._edges[at], self._couplings[at])
        await self._tell("set input", command)
        found = await self._ask("set input", f"INPU{channel}:THRE?")
        if abs(found - self._levels[at]) > 0.005:
            raise self.error(errors.CommandRefused, "set input", f"the level of input {channel} stays at {found:g} V")
        for name, wanted in (("EDGE", self._edges[at]), ("COUP", self._couplings[at])):
            reply = await self._exchange(_CONTROL, "set input", f"INPU{channel}:{name}?", protocol.text)
            if not reply.upper().startswith(wanted.upper()[:2]):
                raise self.error(errors.CommandRefused, "set input", f"input {channel} keeps {name} {reply[:20]!r}")

    # Fields

    async def _get_threshold(self) -> Values:
        return tuple([await self._ask("get threshold", f"INPU{n}:THRE?") for n in range(1, protocol.INPUTS + 1)])

    async def _get_edge(self) -> Values:
        return tuple(self._edges)

    async def _get_coupling(self) -> Values:
        return tuple(self._couplings)

    async def _get_input_health(self) -> Values:
        numbers = range(1, protocol.INPUTS + 1)
        return tuple([round(await self._ask("get input_health", f"INPU{n}:HIRES:ERROR?")) for n in numbers])

    async def _set_threshold(self, values: Values) -> Values:
        await self._put(self._levels, values)
        return await self._get_threshold()

    async def _set_edge(self, values: Values) -> Values:
        await self._put(self._edges, values)
        return tuple(self._edges)

    async def _set_coupling(self, values: Values) -> Values:
        await self._put(self._couplings, values)
        return tuple(self._couplings)

    async def _put(self, kept: list[Any], values: Values) -> None:
        for at, value in enumerate(values):
            before, kept[at] = kept[at], value
            try:
                await self._input(at + 1)
            except errors.DeviceError:
                kept[at] = before
                raise

    # Dialogue

    async def _connect(self) -> Identity:
        for reader in self._readers:
            reader.forget()
        self._merge, self._ids = None, []
        return await super()._connect()

    async def _exchange(
        self, bus: int, operation: str, message: str, parse: Callable[[bytes], T], *, urgent: bool = False
    ) -> T:
        """One message and its reply, parsed in the thread, so that what it raises becomes a DeviceError."""
        reader = self._readers[bus]

        def call(_: ByteLink) -> T:
            reader.ask(message.encode("ascii") + END, self.answer_time)
            reply = reader.until(END, self.answer_time, limit=1 << 20)
            reader.settled()
            return parse(reply)

        return await self.run(operation, call, 2 * self.answer_time, bus=bus, urgent=urgent)

    async def _tell(self, operation: str, command: str) -> None:
        """A command; what it replies is not documented."""
        await self._exchange(_CONTROL, operation, command, bytes)

    async def _ask(self, operation: str, question: str) -> float:
        return await self._exchange(_CONTROL, operation, question, protocol.number)

    async def _serve(self, operation: str, command: str) -> Any:
        return await self._exchange(_SERVICE, operation, command, protocol.service)


def _collect(link: ByteLink, merge: protocol.Merge) -> bool:
    found = cast(ZmqStreamsLink, link).messages(_WAIT)
    for channel, message in found:
        merge.add(channel, message)
    return bool(found)

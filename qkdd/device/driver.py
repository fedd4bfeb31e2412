"""The public driver contract: what an instrument's class gives, and what it gets for it from this base.

A driver declares fields and roles, makes its links from a configuration, and writes a few hooks; opening that undoes
itself, identity and firmware checks, site limits, initial settings, idempotent closing and error mapping are done here.
A driver never retries, never sleeps to wait for luck, never returns None for a failure: it raises. The one reconnect loop
is the supervisor's.
"""

from __future__ import annotations

import abc
import asyncio
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

from qkdd.core import config as core_config
from qkdd.core import log
from qkdd.core.clock import Clock
from qkdd.core.counters import Meter
from qkdd.device import errors
from qkdd.device.bus import Bus
from qkdd.device.config import DeviceConfig
from qkdd.device.facts import DriverFacts
from qkdd.device.fields import Field, Limits, Value, Values
from qkdd.device.roles import Identity
from qkdd.device.transport import ByteLink

T = TypeVar("T")

_log = log.get("device")


class Driver(abc.ABC):
    """One instrument. The constructor does no I/O and checks the configuration; it raises DeviceConfigError.

    A subclass gives `links()`, `_identify()`, `_start()`, `_make_safe()`, where it can be cheaper `_ping()`;
    for each readable field `async _get_NAME() -> Values` and for each settable one `async _set_NAME(values) -> Values`
    (the read-back, or what was sent where the instrument has none).
    """

    fields: ClassVar[dict[str, Field]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.fields = {**cls.fields, **{name: f for name, f in vars(cls).items() if isinstance(f, Field)}}
        for name, declared in cls.fields.items():
            for wanted, verb in ((declared.readable, "get"), (declared.settable, "set")):
                if wanted and not hasattr(cls, f"_{verb}_{name}"):
                    raise TypeError(f"{cls.__name__} declares {name} but has no _{verb}_{name}")

    def __init__(self, name: str, config: DeviceConfig, links: Sequence[ByteLink], clock: Clock, meter: Meter) -> None:
        self.name, self.config = name, config
        self._clock, self._meter = clock, meter
        self.buses: tuple[Bus[ByteLink], ...] = tuple(Bus(link, name, clock, meter) for link in links)
        self._limits = {n: f.hardware for n, f in self.fields.items() if f.range is not None}
        self._settings: dict[str, Values] = {}
        self._identity: Identity | None = None
        self._read_config()

    # What a driver writes

    @classmethod
    @abc.abstractmethod
    def links(cls, config: DeviceConfig) -> tuple[ByteLink, ...]:
        """Unopened links for a configuration. Raises DeviceConfigError when it does not fit (host instead of port, …)."""

    @abc.abstractmethod
    async def _identify(self) -> Identity:
        """Ask who it is. Raises WrongDevice when something else answers, DeviceTimeout when nothing does."""

    @abc.abstractmethod
    async def _start(self) -> None:
        """After identity is known: bring the instrument into its safe, defined state."""

    @abc.abstractmethod
    async def _make_safe(self) -> None:
        """Before the line is closed: bring the instrument into its safe state."""

    async def _ping(self) -> None:
        """Cheap sign of life; goes ahead of waiting commands."""
        await self._identify()

    # What everybody may call

    @classmethod
    def facts(cls) -> DriverFacts:
        """Content of the driver.toml beside the driver's module. Raises ConfigRefused."""
        module = sys.modules[cls.__module__]
        return core_config.load(Path(str(module.__file__)).with_name("driver.toml"), DriverFacts)

    @property
    def is_open(self) -> bool:
        return self._identity is not None

    @property
    def identity(self) -> Identity:
        """Who answered when the device was opened. Raises NotOpen."""
        if self._identity is None:
            raise self.error(errors.NotOpen, "identity", "the device is not open")
        return self._identity

    async def open(self) -> Identity:
        """Open the lines, check who is there, go to the safe state, apply the settings. A failure leaves nothing behind."""
        if self._identity is not None:
            return self._identity
        try:
            identity = await self._connect()
            await self._start()
            self._identity = identity
            for field, values in self._settings.items():
                await self.set(field, *values)
        except BaseException:
            await self.close()
            raise
        return identity

    async def close(self) -> None:
        """Reach the safe state if the line allows it, then release everything. Idempotent; raises nothing."""
        was_open, self._identity = self._identity is not None, None
        try:
            if was_open:
                await self._make_safe()
        except errors.DeviceError as error:
            # the line is already gone: nothing more can be done from here, and the reason for closing is known above
            _log.info("safe state not reached", device=self.name, **{"code": error.code, "error": error.problem})
        finally:
            await self._release()

    async def probe(self) -> Identity:
        """Who is there. Works on an open and on a closed device; the latter is closed again afterwards."""
        if self._identity is not None:
            return await self._identify()
        try:
            return await self._connect()
        finally:
            await self._release()

    async def ping(self) -> None:
        """Raise the typed error when the instrument does not answer."""
        self.require_open("ping")
        await self._ping()

    async def get(self, field: str) -> Values:
        """Read a field: one value per element, numbers in SI base units."""
        self._declared(field, "readable")
        self.require_open(f"get {field}")
        values: Values = await getattr(self, f"_get_{field}")()
        return values

    async def set(self, field: str, *values: Value) -> Values:
        """Set all elements of a field (one value: the same for all); returns the read-back.

        Raises OutOfRange, with nothing sent, when a value lies outside the joint limits.
        """
        declared = self._declared(field, "settable")
        self.require_open(f"set {field}")
        if declared.size is not None and len(values) not in (1, declared.size):
            raise ValueError(f"{field} has {declared.size} elements, not {len(values)}")
        if declared.size is not None and len(values) == 1:
            values = values * declared.size
        self.check(field, *values)
        read_back: Values = await getattr(self, f"_set_{field}")(values)
        return read_back

    def limits(self, field: str) -> Limits:
        """What applies now: hardware ∩ instrument ∩ site, in SI base units. Raises ValueError for a field without."""
        if field not in self._limits:
            raise ValueError(f"{field} has no limits")
        return self._limits[field]

    def check(self, field: str, *values: Value) -> None:
        """Raise OutOfRange (numbers) or ValueError (words) if a value may not be set."""
        declared = self.fields[field]
        for value in values:
            if declared.choices and value not in declared.choices:
                raise ValueError(f"{field} = {value!r} is none of {', '.join(declared.choices)}")
            if field in self._limits and not isinstance(value, str) and float(value) not in self._limits[field]:
                raise errors.OutOfRange(
                    self.name,
                    self.bus_key,
                    f"set {field}",
                    field,
                    float(value),
                    self._limits[field].text(declared.unit),
                    declared.unit_name,
                )

    @property
    def bus_key(self) -> str:
        """Names the first line in errors."""
        return self.buses[0].key if self.buses else "no line"

    # For subclasses

    def narrow(self, field: str, low: float, high: float) -> None:
        """The instrument itself says that it can do less than the model range."""
        self._limits[field] = self._limits[field].intersect(Limits(low, high))

    def error(
        self, kind: type[errors.DeviceError], operation: str, problem: str, *, bus: int = 0
    ) -> errors.DeviceError:
        """An error that names this device and one of its lines."""
        return kind(self.name, self.buses[bus].key if self.buses else "no line", operation, problem)

    def require_open(self, operation: str) -> None:
        if self._identity is None:
            raise self.error(errors.NotOpen, operation, "the device is not open")

    async def run(
        self, operation: str, call: Callable[[ByteLink], T], timeout: float, *, bus: int = 0, urgent: bool = False
    ) -> T:
        """Run a blocking exchange in the thread of a line; see `Bus.run`."""
        return await self.buses[bus].run(operation, call, timeout, urgent=urgent)

    # Inside

    async def _connect(self) -> Identity:
        for bus in self.buses:
            await bus.open()
        identity = await self._identify()
        wanted = self.config.serial_number
        if wanted and identity.serial != wanted:
            raise self.error(
                errors.WrongDevice,
                "identify",
                f"the {identity.model} has serial number {identity.serial or '(none)'}, not {wanted}",
            )
        firmware = self.facts().firmware
        if not firmware.allows(identity.firmware):
            raise self.error(
                errors.UnsupportedFirmware,
                "identify",
                f"firmware {identity.firmware} lies outside {firmware.minimum or '…'} to {firmware.maximum or '…'}",
            )
        return identity

    async def _release(self) -> None:
        cancelled: asyncio.CancelledError | None = None
        for bus in self.buses:
            try:
                await bus.close()
            except asyncio.CancelledError as error:  # the bus closed all the same; the others must be closed too
                cancelled = error
        if cancelled is not None:
            raise cancelled

    def _declared(self, field: str, way: str) -> Field:
        declared = self.fields.get(field)
        if declared is None or not getattr(declared, way):
            ways = [n for n, f in self.fields.items() if getattr(f, way)]
            raise ValueError(f"{self.name} has no {way} field {field!r}; there are {', '.join(ways) or 'none'}")
        return declared

    def _read_config(self) -> None:
        for key, pair in self.config.limits.items():
            declared = self._of_config("limits", key, "settable")
            try:
                self._limits[key] = declared.parse_limits(pair)
            except ValueError as error:
                raise errors.DeviceConfigError(f"devices.{self.name}.limits.{key}: {error}") from None
        for key, given in self.config.settings.items():
            declared = self._of_config("settings", key, "settable")
            try:
                values = tuple(declared.parse(one) for one in (given if isinstance(given, list) else [given]))
                if declared.size is not None and len(values) not in (1, declared.size):
                    raise ValueError(f"there are {declared.size} elements, not {len(values)}")
                self.check(key, *values)
            except (ValueError, errors.OutOfRange) as error:
                raise errors.DeviceConfigError(f"devices.{self.name}.settings.{key}: {error}") from None
            self._settings[key] = values

    def _of_config(self, section: str, key: str, way: str) -> Field:
        try:
            return self._declared(key, way)
        except ValueError as error:
            raise errors.DeviceConfigError(f"devices.{self.name}.{section}.{key}: {error}") from None

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def serial_port(config: DeviceConfig) -> str:
    """The `port` of a configuration for a driver that needs one. Raises DeviceConfigError."""
    if not config.port:
        raise errors.DeviceConfigError(f"driver {config.driver!r} needs `port`, a serial line, not `host`")
    return config.port


def tcp_ports(config: DeviceConfig, usual: Sequence[int]) -> tuple[int, ...]:
    """The TCP ports of a configuration for a driver that needs `host`. Raises DeviceConfigError."""
    if not config.host:
        raise errors.DeviceConfigError(f"driver {config.driver!r} needs `host`, a name or address, not `port`")
    if config.tcp_ports and len(config.tcp_ports) != len(usual):
        raise errors.DeviceConfigError(
            f"driver {config.driver!r} needs {len(usual)} `tcp_ports`: {list(usual)} are usual"
        )
    return config.tcp_ports or tuple(usual)

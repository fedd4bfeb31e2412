"""What simulators share whose instrument speaks SCPI: headers in long and short form, error queue, compound commands."""

from __future__ import annotations

import abc
import re
from collections import deque
from collections.abc import Callable
from typing import ClassVar, Self

from qkdd_drivers.dialogue_sim import LineSimulator
from qkdd_drivers.simkit import Address
from qkdd_drivers.visa_sim import visa_wire

Handler = Callable[[str], str | None]
"""Takes what stands behind the header; returns the answer of a query, None for a command. Raises ScpiError."""

_WORD = re.compile(r"([A-Z]+[0-9]*)([a-z]*)")


class ScpiError(Exception):
    """Goes into the error queue. Numbers: SCPI-99 volume 2, 21.8."""

    def __init__(self, number: int, text: str) -> None:
        super().__init__(f'{number},"{text}"')


def header(pattern: str) -> re.Pattern[str]:
    """`[SENSe:]CORRection:WAVelength?` as a pattern: capitals are the short form, brackets the optional nodes."""
    text = re.escape(pattern).replace(r"\[", "(?:").replace(r"\]", ")?").replace(r"\:", ":")

    def both(found: re.Match[str]) -> str:
        return f"{found[1]}(?:{found[2]})?" if found[2] else found[1]

    return re.compile(_WORD.sub(both, text) + "$", re.IGNORECASE)


class ScpiSimulator(LineSimulator):
    """A subclass gives its identity and `commands`: handlers by header pattern, queries with their question mark."""

    ends = b"\n"
    identity: ClassVar[str] = "Maker,Model,Serial,1.0"
    usb_ids: ClassVar[tuple[int, int]] = (0x1209, 0x0001)
    error_queue: ClassVar[bool] = True

    def __init__(self, *, pty: str | None = None, listen: tuple[str, int] | None = None, seed: int = 1) -> None:
        super().__init__(pty=pty, listen=listen, seed=seed)
        self._errors: deque[str] = deque(maxlen=20)
        self._table = [(header(pattern), handler) for pattern, handler in self._all().items()]

    @abc.abstractmethod
    def commands(self) -> dict[str, Handler]:
        """Handlers by pattern (see `header`)."""

    def _all(self) -> dict[str, Handler]:
        common: dict[str, Handler] = {
            "*IDN?": lambda _: "Somebody Else,Other Thing,1,1.0" if self.wrong_identity else self.identity,
            "*CLS": lambda _: self._errors.clear(),
            "*OPC?": lambda _: "1",
            "*ESR?": lambda _: "0",
        }
        if self.error_queue:
            common["SYSTem:ERRor[:NEXT]?"] = lambda _: self._errors.popleft() if self._errors else '+0,"No error"'
        return common | self.commands()

    def over(self, interface: str, listen: tuple[str, int] = ("127.0.0.1", 0)) -> Self:
        """Be reached by usbtmc (through USB/IP), hislip or vxi11 instead of a plain socket; before `start`."""
        maker, product, serial, *_ = self.identity.split(",")
        self._wire = visa_wire(interface, self._received, self.usb_ids, (maker, product, serial), listen)
        return self

    async def start(self) -> Address:
        """The port is a VISA resource, as a driver takes it."""
        where = await super().start()
        return Address(self.model, where.port or f"TCPIP0::{where.host}::{where.tcp_ports[0]}::SOCKET")

    def answer(self, command: bytes) -> bytes:
        replies = [self._one(part) for part in command.decode("ascii", "replace").split(";")]
        texts = [reply for reply in replies if reply is not None]
        return ";".join(texts).encode() + b"\n" if texts else b""

    def _one(self, command: str) -> str | None:
        head, _, rest = command.strip().lstrip(":").partition(" ")
        if self.refuse and not head.endswith("?") and not head.startswith("*"):
            self._errors.append('-221,"Settings conflict"')
            return None
        for pattern, handler in self._table:
            if pattern.match(head):
                try:
                    return handler(rest.strip())
                except ScpiError as error:
                    self._errors.append(str(error))
                    return None
        self._errors.append('-113,"Undefined header"')
        return None


def parameter(text: str, low: float, high: float) -> float:
    """A number, or MIN or MAX. Raises ScpiError -104 (no number) or -222 (out of range)."""
    word = text.upper()
    if word.startswith("MIN"):
        return low
    if word.startswith("MAX"):
        return high
    try:
        value = float(text)
    except ValueError:
        raise ScpiError(-104, "Data type error") from None
    if not low <= value <= high:
        raise ScpiError(-222, "Data out of range")
    return value


def boolean(text: str) -> bool:
    """ON, OFF, 1, 0. Raises ScpiError."""
    word = text.upper()
    if word not in ("ON", "OFF", "1", "0"):
        raise ScpiError(-104, "Data type error")
    return word in ("ON", "1")

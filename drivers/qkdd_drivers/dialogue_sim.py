"""What simulators share whose instrument only speaks when it is asked."""

from __future__ import annotations

import abc
import asyncio
from typing import ClassVar

from qkdd_drivers.simkit import Address, Simulator, make_wire

_LONGEST = 255  # bytes of a command that are kept; an instrument has no more room


class DialogueSimulator(Simulator):
    """One line, served as `simkit.make_wire` says. A subclass cuts what comes (`take`) and answers it."""

    def __init__(self, *, pty: str | None = None, listen: tuple[str, int] | None = None, seed: int = 1) -> None:
        super().__init__(seed)
        self._wire = make_wire(self._received, pty, listen)
        self._input = bytearray()
        self._due: set[asyncio.TimerHandle] = set()

    @abc.abstractmethod
    def take(self, data: bytearray) -> bytes | None:
        """Remove one command from the front of `data` and return it; None when none is complete."""

    @abc.abstractmethod
    def answer(self, command: bytes) -> bytes:
        """Carry out a command; what goes back at once (may be empty)."""

    async def start(self) -> Address:
        address = await self._wire.listen()
        return Address(self.model, address.port, address.host, address.tcp_ports)

    async def stop(self) -> None:
        self._forget()
        await self._wire.close()

    def unplug(self) -> None:
        self._forget()
        self._wire.cut()

    def plug(self) -> None:
        self._wire.mend()

    def send(self, data: bytes) -> None:
        self._wire.write(data)

    def reply(self, data: bytes, seconds: float = 0.0) -> None:
        """Answer after the time that the action takes, and what the fault `late` adds."""
        if not data:
            return
        if (delay := seconds + self.late) <= 0:
            self._wire.write(data)
            return

        def go() -> None:
            self._due.discard(handle)
            self._wire.write(data)

        handle = asyncio.get_running_loop().call_later(delay, go)
        self._due.add(handle)

    def _received(self, data: bytes) -> None:
        if self.hang:
            return
        self._input += data
        while (command := self.take(self._input)) is not None:
            self.reply(self.answer(command))

    def _forget(self) -> None:
        self._input.clear()
        for handle in self._due:
            handle.cancel()
        self._due.clear()


class LineSimulator(DialogueSimulator):
    """Commands are lines of text; each of the bytes in `ends` closes one, and empty lines count for nothing."""

    ends: ClassVar[bytes] = b"\r\n"

    def take(self, data: bytearray) -> bytes | None:
        while (at := next((i for i, byte in enumerate(data) if byte in self.ends), -1)) >= 0:
            line = bytes(data[:at]).strip()
            del data[: at + 1]
            if line:
                return line
        del data[:-_LONGEST]
        return None

"""An ELL14 that behaves: a mount that takes time to turn, with status codes and a bus address."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

from qkdd_drivers.dialogue_sim import DialogueSimulator
from qkdd_drivers.thorlabs_ell14 import protocol as ell

_NEEDS = {  # letters of a command: how many hex digits follow
    **dict.fromkeys(("in", "gs", "gp", "gv", "go", "gj", "fw", "bw", "us", "i1", "i2"), 0),
    **dict.fromkeys(("ma", "mr", "so", "sj"), 8),
    **dict.fromkeys(("ho", "ca"), 1),
    **dict.fromkeys(("sv", "is"), 2),
}
_ACTS = ("ma", "mr", "ho", "fw", "bw", "sv", "so", "sj")
_NOT_SUPPORTED, _OUT_OF_RANGE, _BUSY = 3, 4, 9


class Ell14Sim(DialogueSimulator):
    """`on_turn` is called with the angle in counts when the mount arrives. turn_s: seconds for a turn at full speed."""

    model = "ell14"

    def __init__(
        self,
        on_turn: Callable[[int], None] = lambda _: None,
        *,
        pty: str | None = None,
        listen: tuple[str, int] | None = None,
        seed: int = 1,
        address: str = "0",
        serial: str = "11400123",
        turn_s: float = 0.5,
    ) -> None:
        super().__init__(pty=pty, listen=listen, seed=seed)
        self._on_turn = on_turn
        self._address, self._serial, self._turn_s = address, serial, turn_s
        self._position, self._offset, self._jog, self._velocity = 0, 0, ell.PULSES // 8, 100
        self._status = 0
        self._busy_until = 0.0

    def take(self, data: bytearray) -> bytes | None:
        while len(data) >= 3:
            letters = bytes(data[1:3]).decode("ascii", "replace")
            if chr(data[0]) in ell.ADDRESSES and (digits := _NEEDS.get(letters)) is not None:
                if len(data) < 3 + digits:
                    return None
                if re.fullmatch(rb"[0-9A-F]*", data[3 : 3 + digits]):
                    whole = bytes(data[: 3 + digits])
                    del data[: 3 + digits]
                    return whole
            del data[0]  # line ends, and what is no command
        return None

    def answer(self, command: bytes) -> bytes:
        text = command.decode("ascii")
        if text[0] != self._address:
            return b""
        letters, data = text[1:3], text[3:]
        if letters == "in":
            kind = 0x11 if self.wrong_identity else ell.TYPE
            about = ell.Info(kind, self._serial, "2023", "17", False, 360, ell.PULSES)
            return self._frame("IN" + ell.encode_info(about))
        if self.refuse and letters in _ACTS:
            return self._state(_NOT_SUPPORTED)
        if letters in _ACTS and asyncio.get_running_loop().time() < self._busy_until:
            return self._state(_BUSY)
        match letters:
            case "gs":
                state, self._status = self._status, 0
                return self._frame(f"GS{state:02X}")
            case "gp":
                return self._frame("PO" + ell.number(self._position))
            case "gv":
                return self._frame(f"GV{self._velocity:02X}")
            case "go":
                return self._frame("HO" + ell.number(self._offset))
            case "gj":
                return self._frame("GJ" + ell.number(self._jog))
            case "sv":
                if not 0 < int(data, 16) <= 100:
                    return self._state(_OUT_OF_RANGE)
                self._velocity = int(data, 16)
                return self._state(0)
            case "so":
                self._offset = ell.position(data)
                return self._state(0)
            case "sj":
                self._jog = ell.position(data)
                return self._state(0)
            case "us":
                return self._state(0)
            case "ma":
                return self._turn(ell.position(data))
            case "mr":
                return self._turn(self._position + ell.position(data))
            case "fw" | "bw":
                return self._turn(self._position + (self._jog if letters == "fw" else -self._jog))
            case "ho":
                return self._turn(0)
            case "ca":
                self._address = data
                return self._state(0)
        return self._state(_NOT_SUPPORTED)

    def _frame(self, text: str) -> bytes:
        return f"{self._address}{text}\r\n".encode("ascii")

    def _state(self, code: int) -> bytes:
        self._status = code
        return self._frame(f"GS{code:02X}")

    def _turn(self, target: int) -> bytes:
        if abs(target) > ell.PULSES:
            return self._state(_OUT_OF_RANGE)
        seconds = abs(target - self._position) / ell.PULSES * self._turn_s * 100 / self._velocity
        self._busy_until = asyncio.get_running_loop().time() + seconds
        self._position = target
        self._on_turn(target)
        self.reply(self._frame("PO" + ell.number(target)), seconds)
        return b""

"""A DD-100-MC that behaves: a vane that takes time, knows its position only after homing, and refuses what it cannot do."""

from __future__ import annotations

import re
from collections.abc import Callable

from qkdd_drivers.dialogue_sim import LineSimulator
from qkdd_drivers.ozoptics_dd100.protocol import Span

_STEPS_PER_DB = 50
_TAIL = "Done\r\n\r\n"


class Dd100Sim(LineSimulator):
    """`on_change` is called with the attenuation in dB whenever it changes.

    homed: whether it was homed since power-up. move_s: seconds that a move takes. home_s: seconds that homing takes.
    """

    model = "dd100"

    def __init__(
        self,
        on_change: Callable[[float], None] = lambda _: None,
        *,
        pty: str | None = None,
        listen: tuple[str, int] | None = None,
        seed: int = 1,
        homed: bool = True,
        move_s: float = 0.02,
        home_s: float = 0.1,
    ) -> None:
        super().__init__(pty=pty, listen=listen, seed=seed)
        self._on_change = on_change
        self._span = Span(1.2, 60.0)
        self._steps = round(20 * _STEPS_PER_DB)
        self._homed = homed
        self._move_s, self._home_s = move_s, home_s

    @property
    def attenuation(self) -> float:
        """In dB, whether the instrument knows it or not."""
        return self._steps / _STEPS_PER_DB

    def answer(self, command: bytes) -> bytes:
        text = command.decode("ascii", "replace")
        if self.wrong_identity:
            return f"FILTER WAVELENGTH:1550\r\n{_TAIL}".encode()
        if self.refuse and text not in ("D", "CD", "A?"):
            return b"Error!\r\n"
        match text:
            case "CD":
                about = f"DD-100-MC\r\nIL:{self._span.least:.2f}\r\nMAX ATTEN:{self._span.most:.2f}\r\n"
                return (about + _TAIL).encode()
            case "D":
                return (self._standing() + _TAIL).encode()
            case "A?":
                return (
                    f"Atten:{self.attenuation:.2f}\r\n" if self._homed else "Atten:Unknown\r\n"
                ).encode() + _TAIL.encode()
            case "H":
                self._homed = True
                self._go(self._span.least)
                self.reply(_TAIL.encode(), self._home_s)
                return b""
            case "RST":
                self._homed = False
                return _TAIL.encode()
            case "B" | "F" if self._homed:
                self._go((self._steps + (1 if text == "F" else -1)) / _STEPS_PER_DB)
                return f"Pos:{self._steps}\r\n{_TAIL}".encode()
        if found := re.fullmatch(r"A(\d{1,2}(?:\.\d{1,2})?)", text):
            return self._set(float(found[1]))
        return b"Error!\r\n"

    def _standing(self) -> str:
        if not self._homed:
            return "DPos:Unknown\r\nATTEN:Unknown\r\n"
        return f"DPos:{self._steps}\r\nATTEN:{self.attenuation:.2f}\r\n"

    def _set(self, decibels: float) -> bytes:
        if not self._homed:
            return f"Pos:Unknown\r\n{_TAIL}".encode()
        if not self._span.least <= decibels <= self._span.most:
            return b"Error!\r\n"
        self._go(decibels)
        self.reply(f"Pos:{self._steps}\r\n{_TAIL}".encode(), self._move_s)
        return b""

    def _go(self, decibels: float) -> None:
        self._steps = round(decibels * _STEPS_PER_DB)
        self._on_change(self.attenuation)

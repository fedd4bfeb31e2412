"""An EPC-400 that behaves: voltages, modes, scrambling settings."""

from __future__ import annotations

import re
from collections.abc import Callable

from qkdd_drivers.dialogue_sim import LineSimulator
from qkdd_drivers.ozoptics_epc400 import protocol as epc

_DONE = "Done"


class Epc400Sim(LineSimulator):
    """`on_move` is called with the four voltages in volt whenever one changes."""

    model = "epc400"

    def __init__(
        self,
        on_move: Callable[[tuple[float, ...]], None] = lambda _: None,
        *,
        pty: str | None = None,
        listen: tuple[str, int] | None = None,
        seed: int = 1,
        echo: bool = False,
    ) -> None:
        super().__init__(pty=pty, listen=listen, seed=seed)
        self._on_move = on_move
        self._echo = echo
        self._voltages = [0] * epc.CHANNELS
        self._frequencies = [10] * epc.CHANNELS
        self._mode = "DC"
        self._mixed = False
        self._held = [True] * epc.CHANNELS  # in mixed mode: V or F
        self._waveform = 1

    def answer(self, command: bytes) -> bytes:
        text = command.decode("ascii", "replace")
        head = text + "\r\n" if self._echo else ""
        if self.wrong_identity:
            return (head + "LCD controller 7\r\nDone\r\n").encode()
        if self.refuse and not text.endswith("?"):
            return (head + "Error!\r\n").encode()
        found = self._carry_out(text)
        return (head + (f"{found}\r\n{_DONE}\r\n" if found is not None else "Error!\r\n")).encode("ascii", "replace")

    def _carry_out(self, text: str) -> str | None:
        """What is said before `Done`; None for what it does not understand."""
        match text:
            case "V?":
                return epc.show("Voltage(mV)", self._voltages, "+05d")
            case "F?":
                return epc.show("Frequency(Hz)", self._frequencies, "03d")
            case "M?":
                return f"Working Mode: {self._mode}"
            case "MDC" | "MAC":
                self._mode = text[1:]
                return ""
            case "ENVF1" | "ENVF0":
                self._mixed = text.endswith("1")
                return ""
            case "VF?":
                states = " ".join(f"CH{k}-{'V' if held else 'F'}" for k, held in enumerate(self._held, start=1))
                return f"{states} {'enabled' if self._mixed else 'disabled'}"
            case "WF1" | "WF2":
                self._waveform = int(text[2:])
                return ""
            case "WF?":
                return f"AC Waveform: {epc.WAVEFORMS[self._waveform - 1].capitalize()}"
            case "SAVE":
                return ""
        if found := re.fullmatch(r"V([HLZ])([1-4])", text):
            self._set(int(found[2]), {"H": epc.MAX_MV, "L": -epc.MAX_MV, "Z": 0}[found[1]])
            return ""
        if found := re.fullmatch(r"VF([1-4])", text):
            self._held[int(found[1]) - 1] ^= True
            return ""
        if (found := re.fullmatch(r"V([1-4]),([+-]?\d{1,5})", text)) and abs(int(found[2])) <= epc.MAX_MV:
            self._set(int(found[1]), int(found[2]))
            return ""
        if (found := re.fullmatch(r"F([1-4]),(\d{1,3})", text)) and int(found[2]) <= epc.MAX_HZ:
            self._frequencies[int(found[1]) - 1] = int(found[2])
            return ""
        return None

    def _set(self, channel: int, millivolts: int) -> None:
        self._voltages[channel - 1] = millivolts
        self._on_move(tuple(number / 1000 for number in self._voltages))

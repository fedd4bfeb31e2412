"""An FS725 that behaves: it locks some time after it was switched on and follows its 1PPS input when told to."""

from __future__ import annotations

import asyncio
import re

from qkdd_drivers.dialogue_sim import LineSimulator


class Fs725Sim(LineSimulator):
    """lock_s: seconds from the start of the simulator until the oscillator is locked."""

    model = "fs725"

    def __init__(
        self,
        *,
        pty: str | None = None,
        listen: tuple[str, int] | None = None,
        seed: int = 1,
        serial: str = "72512",
        lock_s: float = 0.0,
        line_end: str = "\r",
    ) -> None:
        super().__init__(pty=pty, listen=listen, seed=seed)
        self._serial, self._lock_s, self._line_end = serial, lock_s, line_end
        self._locked_at: float | None = None
        self._pulse_lock = True

    def answer(self, command: bytes) -> bytes:
        text = re.sub(r"\s", "", command.decode("ascii", "replace")).upper()
        if text.endswith("?"):
            return (("PTB 5" if self.wrong_identity else self._tell(text)) + self._line_end).encode("ascii")
        if text in ("PL0", "PL1") and not self.refuse:
            self._pulse_lock = text == "PL1"
        return b""

    @property
    def _locked(self) -> bool:
        now = asyncio.get_running_loop().time()
        if self._locked_at is None:
            self._locked_at = now + self._lock_s
        return now >= self._locked_at

    def _tell(self, question: str) -> str:
        match question:
            case "ID?":
                return f"PRS10_3.24_SN_{self._serial}"
            case "SN?":
                return self._serial
            case "ST?":
                return "0,0,0,0,1,0" if self._locked else "0,2,2,34,1,0"
            case "LO?":
                return "1" if self._locked else "0"
            case "PL?":
                return "1" if self._pulse_lock else "0"
            case "TT?":
                return str(int(self.random.integers(0, 40)))
            case "AD10?":
                return f"{0.412 + 0.001 * self.random.standard_normal():.3f}"
            case _:
                return "0"

"""Simulated S-Fifteen SPD: counts come only with bias; `counts?` answers after the gate."""

from __future__ import annotations

from typing import ClassVar

from qkdd_drivers.dialogue_sim import LineSimulator
from qkdd_drivers.simkit import DetectorBench

_DARK = 150.0  # counts a second with bias and without a bench


class SpdSim(LineSimulator):
    """bench: where counts come from and what is told the bias (in volt); None for dark counts only."""

    model = "spd"
    ends: ClassVar[bytes] = b";\r\n"

    def __init__(
        self,
        bench: DetectorBench | None = None,
        *,
        pty: str | None = None,
        listen: tuple[str, int] | None = None,
        seed: int = 1,
    ) -> None:
        super().__init__(pty=pty, listen=listen, seed=seed)
        self._bench = bench
        self._values = {
            "hvolt": 0.0,
            "threshvolt": -0.5,
            "settemp": -20.0,
            "constp": 0.1,
            "consti": 0.01,
            "loop": 1.0,
            "time": 50.0,
            "delay": 0.0,
        }

    def answer(self, command: bytes) -> bytes:
        name, _, rest = command.decode("ascii", "replace").lower().partition(" ")
        match name:
            case "*idn?":
                return b"Timestamp Unit TDC1\r\n" if self.wrong_identity else b"Single Photon Detector SPD-Si rev 2\r\n"
            case "counts?":
                gate = self._values["time"] * 1e-3
                self.reply(b"%d\r\n" % self._count(gate), gate)
                return b""
            case "temp?":
                return b"%.2f\r\n" % (self._values["settemp"] if self._values["loop"] else 21.0)
            case "pvolt?":
                return b"%.3f\r\n" % (1.234 if self._values["loop"] else 0.0)
            case "help":
                return b"hvolt threshvolt settemp temp constp consti loop pvolt time counts delay save\r\n"
        if name.endswith("?") and name[:-1] in self._values:
            return f"{self._values[name[:-1]]:g}\r\n".encode()
        if name in self._values and not self.refuse:
            self._set(name, rest)
        return b""

    def _set(self, name: str, rest: str) -> None:
        try:
            self._values[name] = float(rest)
        except ValueError:
            return  # its own words for an error are not known
        if name == "hvolt" and self._bench is not None:
            self._bench.set_bias((self._values["hvolt"],) * self._bench.detectors)

    def _count(self, seconds: float) -> int:
        if self._bench is not None:
            return sum(self._bench.counts(seconds))
        return int(self.random.poisson(_DARK * seconds)) if self._values["hvolt"] > 0 else 0

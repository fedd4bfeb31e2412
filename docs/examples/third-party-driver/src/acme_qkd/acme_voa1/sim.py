"""Simulated Acme VOA-1. It remembers what it was told, and answers as the manual says."""

from __future__ import annotations

from qkdd_drivers.dialogue_sim import LineSimulator


class AcmeVoa1Sim(LineSimulator):
    """All faults of `qkdd_drivers.simkit.Simulator`."""

    model = "acme-voa1"

    def __init__(self, *, pty: str | None = None, listen: tuple[str, int] | None = None, seed: int = 1) -> None:
        super().__init__(pty=pty, listen=listen, seed=seed)
        self.attenuation = 0.0

    def answer(self, command: bytes) -> bytes:
        name, _, rest = command.decode("ascii", "replace").partition(" ")
        match name:
            case "ID?":
                return b"OTHER,THING,1,1.0\r\n" if self.wrong_identity else b"ACME,VOA-1,17,1.2\r\n"
            case "ATT?":
                return b"%.2f\r\n" % self.attenuation
            case "ATT" if not self.refuse:
                self.attenuation = float(rest)
                return b"OK\r\n"
        return b"ERR no\r\n"

"""Simulated instruments for the generic drivers; each understands what its example mapping says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from qkdd_drivers.scpi_sim import Handler, ScpiSimulator, boolean, parameter
from qkdd_drivers.simkit import Address, DetectorBench

_MAPPINGS = Path(__file__).with_name("mappings")


class GenericSim(ScpiSimulator):
    """kind: attenuator (an HP 8156A), switch or detector. on_change: told attenuation (dB) or output whenever it changes."""

    model = "generic"

    def __init__(
        self,
        kind: str = "attenuator",
        on_change: Callable[[float], None] = lambda _: None,
        *,
        bench: DetectorBench | None = None,
        pty: str | None = None,
        listen: tuple[str, int] | None = ("127.0.0.1", 0),
        seed: int = 1,
    ) -> None:
        self._mapping, self._who, self._table_of = {
            "attenuator": ("hp8156a.toml", "HEWLETT-PACKARD,HP8156A,3328G00735,1.01", self._attenuator),
            "switch": ("example-switch.toml", "Example,Switch,S17,1.0", self._switch),
            "detector": ("example-detector.toml", "Example,Detectors,D17,1.0", self._detector),
        }[kind]
        self.identity = self._who  # type: ignore[misc]  # differs by kind
        self._on_change, self._bench = on_change, bench
        self._decibels, self._position, self._bias, self._on = 0.0, 0, [0.0] * 4, False
        super().__init__(pty=pty, listen=listen, seed=seed)

    async def start(self) -> Address:
        """With the path of the mapping that belongs to it."""
        where = await super().start()
        return Address("generic", where.port, options=(("mapping", str(_MAPPINGS / self._mapping)),))

    def commands(self) -> dict[str, Handler]:
        return self._table_of()

    def _attenuator(self) -> dict[str, Handler]:
        return {
            "INPut:ATTenuation": self._set_attenuation,
            "INPut:ATTenuation?": lambda _: f"{self._decibels:+.3E}",
            "INPut:WAVelength": lambda _: None,
            "OUTPut:STATE": self._set_on,
            "OUTPut:STATE?": lambda _: str(int(self._on)),
        }

    def _switch(self) -> dict[str, Handler]:
        return {"ROUTe:CHANnel": self._select, "ROUTe:CHANnel?": lambda _: str(self._position)}

    def _detector(self) -> dict[str, Handler]:
        table: dict[str, Handler] = {"OUTPut[:STATe]": self._set_on}
        for n in range(4):
            table[f"BIAS{n + 1}:CURRent"] = lambda rest, n=n: self._set_bias(n, rest)  # type: ignore[misc]
            table[f"BIAS{n + 1}:CURRent?"] = lambda _, n=n: f"{self._bias[n]:.2f} UA"  # type: ignore[misc]
            table[f"COUNt{n + 1}:DATA?"] = lambda _, n=n: f"COUNTS {self._count(n)}"  # type: ignore[misc]
        return table

    def _set_attenuation(self, rest: str) -> None:
        self._decibels = parameter(rest.upper().removesuffix("DB").strip(), 0.0, 60.0)
        self._on_change(self._decibels)

    def _select(self, rest: str) -> None:
        self._position = int(parameter(rest, 0, 3))
        self._on_change(self._position)

    def _set_on(self, rest: str) -> None:
        self._on = boolean(rest)

    def _set_bias(self, n: int, rest: str) -> None:
        self._bias[n] = parameter(rest, 0.0, 50.0)
        if self._bench is not None:
            self._bench.set_bias(tuple(self._bias))

    def _count(self, n: int) -> int:
        if self._bench is not None:
            return self._bench.counts(0.1)[n]
        return int(self.random.poisson(20.0)) if self._on and self._bias[n] > 0 else 0

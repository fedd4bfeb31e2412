"""Simulated Thorlabs CLD1015: a diode with a threshold, a temperature that follows its set-point, an interlock."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from qkdd_drivers.scpi_sim import Handler, ScpiError, ScpiSimulator, boolean, parameter

_MOST = 1.5  # A
_AMBIENT = 24.5  # °C


class Cld1015Sim(ScpiSimulator):
    """on_current: told the laser's current in ampere whenever it changes. settle_s: time constant of the temperature.

    Fault of its own: `interlock` (the laser goes off and does not come on).
    """

    model = "cld1015"
    usb_ids = (0x1313, 0x804F)
    identity = "Thorlabs,CLD1015,M00412345,1.7.0"
    faults = ScpiSimulator.faults | {"interlock"}

    def __init__(
        self,
        on_current: Callable[[float], None] = lambda _: None,
        *,
        pty: str | None = None,
        listen: tuple[str, int] | None = ("127.0.0.1", 0),
        seed: int = 1,
        settle_s: float = 2.0,
        limit_a: float = 0.2,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._on_current, self._settle, self._clock = on_current, settle_s, clock
        self._limit, self._set, self._on, self._tec, self._held = limit_a, 0.0, False, False, 25.0
        self._from, self._since = _AMBIENT, clock()
        self._interlock = False
        super().__init__(pty=pty, listen=listen, seed=seed)

    def inject_own(self, fault: str, args: dict[str, float]) -> None:
        self._interlock = True
        self._switch(False)

    def inject(self, fault: str, **args: float) -> None:
        if fault == "clear":
            self._interlock = False
        super().inject(fault, **args)

    @property
    def current(self) -> float:
        """What flows, in ampere."""
        return min(self._set, self._limit) if self._on else 0.0

    @property
    def temperature(self) -> float:
        """Of the diode, in °C."""
        goal = self._held if self._tec else _AMBIENT
        return goal + (self._from - goal) * math.exp(-(self._clock() - self._since) / self._settle)

    def commands(self) -> dict[str, Handler]:
        current, limit = "[SOURce[1]:]CURRent[:LEVel][:IMMediate][:AMPLitude]", "[SOURce[1]:]CURRent:LIMit[:AMPLitude]"
        return {
            "OUTPut[1][:STATe]": self._set_output,
            "OUTPut[1][:STATe]?": lambda _: str(int(self._on)),
            current: self._set_current,
            f"{current}?": lambda rest: f"{parameter(rest, 0.0, _MOST) if rest else self._set:.6E}",
            limit: self._set_limit,
            f"{limit}?": lambda rest: f"{parameter(rest, 0.0, _MOST) if rest else self._limit:.6E}",
            "[SOURce[1]:]FUNCtion:MODE": self._set_mode,
            "[SOURce[1]:]FUNCtion:MODE?": lambda _: "CURR",
            "SENSe3:CURRent[:DC]:DATA?": lambda _: f"{self.current:.6E}",
            "SENSe4:VOLTage[:DC]:DATA?": lambda _: f"{1.1 + 2.5 * self.current if self.current else 0.0:.6E}",
            "OUTPut2[:STATe]": self._set_tec,
            "OUTPut2[:STATe]?": lambda _: str(int(self._tec)),
            "SOURce2:TEMPerature:SPOint": self._set_held,
            "SOURce2:TEMPerature:SPOint?": lambda _: f"{self._held:.4f}",
            "SENSe2:TEMPerature:DATA?": lambda _: f"{self.temperature:.4f}",
        }

    def _set_output(self, rest: str) -> None:
        on = boolean(rest)
        if on and self._interlock:
            raise ScpiError(-200, "Execution error; interlock open")
        self._switch(on)

    def _switch(self, on: bool) -> None:
        self._on = on
        self._on_current(self.current)

    def _set_current(self, rest: str) -> None:
        self._set = parameter(rest, 0.0, self._limit)
        self._on_current(self.current)

    def _set_limit(self, rest: str) -> None:
        self._limit = parameter(rest, 0.0, _MOST)

    def _set_mode(self, rest: str) -> None:
        if rest.upper() not in ("CURR", "CURRENT"):
            raise ScpiError(-224, "Illegal parameter value")

    def _set_tec(self, rest: str) -> None:
        self._from, self._since = self.temperature, self._clock()
        self._tec = boolean(rest)

    def _set_held(self, rest: str) -> None:
        held = parameter(rest, -55.0, 150.0)
        self._from, self._since = self.temperature, self._clock()
        self._held = held

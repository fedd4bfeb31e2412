"""Simulated Thorlabs PM100D with a photodiode sensor. It starts in dBm, as somebody may have left it."""

from __future__ import annotations

import math
from collections.abc import Callable

from qkdd_drivers.scpi_sim import Handler, ScpiError, ScpiSimulator, boolean, parameter

_LOW_NM, _HIGH_NM = 700.0, 1800.0


class Pm100dSim(ScpiSimulator):
    """power: watt that fall on the sensor, asked at each measurement. sensor: False when none is plugged in.

    Fault of its own: `overload` (more light than the measuring range holds).
    """

    model = "pm100d"
    usb_ids = (0x1313, 0x8078)
    identity = "Thorlabs,PM100D,P0012345,2.6.0"
    faults = ScpiSimulator.faults | {"overload"}

    def __init__(
        self,
        power: Callable[[], float] = lambda: 12.5e-6,
        *,
        pty: str | None = None,
        listen: tuple[str, int] | None = ("127.0.0.1", 0),
        seed: int = 1,
        sensor: bool = True,
    ) -> None:
        self._power, self._sensor = power, sensor
        self._unit, self._wavelength, self._averaging, self._auto, self._range = "DBM", 1550.0, 1, True, 20e-3
        self._zero = 0.0
        self._overload = False
        super().__init__(pty=pty, listen=listen, seed=seed)

    def inject_own(self, fault: str, args: dict[str, float]) -> None:
        self._overload = True

    def inject(self, fault: str, **args: float) -> None:
        if fault == "clear":
            self._overload = False
        super().inject(fault, **args)

    def commands(self) -> dict[str, Handler]:
        return {
            "SYSTem:SENSor:IDN?": self._head,
            "[SENSe[1]:]CORRection:WAVelength": self._set_wavelength,
            "[SENSe[1]:]CORRection:WAVelength?": lambda rest: f"{self._extreme(rest):.6E}",
            "[SENSe[1]:]POWer[:DC]:UNIT": self._set_unit,
            "[SENSe[1]:]POWer[:DC]:UNIT?": lambda _: self._unit,
            "[SENSe[1]:]POWer[:DC]:RANGe[:UPPer]": self._set_range,
            "[SENSe[1]:]POWer[:DC]:RANGe[:UPPer]?": lambda _: f"{self._range:.6E}",
            "[SENSe[1]:]POWer[:DC]:RANGe:AUTO": self._set_auto,
            "[SENSe[1]:]POWer[:DC]:RANGe:AUTO?": lambda _: str(int(self._auto)),
            "[SENSe[1]:]AVERage[:COUNt]": self._set_averaging,
            "[SENSe[1]:]AVERage[:COUNt]?": lambda _: str(self._averaging),
            "[SENSe[1]:]CORRection:COLLect:ZERO[:INITiate]": self._take_zero,
            "[SENSe[1]:]CORRection:COLLect:ZERO:ABORt": lambda _: None,
            "[SENSe[1]:]CORRection:COLLect:ZERO:STATe?": lambda _: "0",
            "[SENSe[1]:]CORRection:COLLect:ZERO:MAGNitude?": lambda _: f"{self._zero:.6E}",
            "MEASure[:SCALar][:POWer]?": lambda _: self._measure(),
            "READ?": lambda _: self._measure(),
            "MEASure[:SCALar]:TEMPerature?": lambda _: "2.341E+01",
            "CONFigure[:SCALar][:POWer]": lambda _: None,
            "CONFigure[:SCALar]:ENERgy": self._no_energy,
        }

    def _head(self, _: str) -> str:
        return 'S132C,1234567,"01-JAN-2026",1,18,289' if self._sensor else '"no sensor","","","0","0","0"'

    def _measure(self) -> str:
        if self._overload or not self._sensor:
            return "9.90000000E+37"
        noise = float(self.random.normal(0.0, 1e-3)) / math.sqrt(self._averaging)
        watt = self._power() * (1.0 + noise) - self._zero
        if self._unit == "W":
            return f"{watt:.8E}"
        return f"{10 * math.log10(max(watt, 1e-15) * 1e3):.8E}"

    def _extreme(self, rest: str) -> float:
        return parameter(rest, _LOW_NM, _HIGH_NM) if rest else self._wavelength

    def _set_wavelength(self, rest: str) -> None:
        self._wavelength = parameter(rest, _LOW_NM, _HIGH_NM)

    def _set_unit(self, rest: str) -> None:
        if rest.upper() not in ("W", "DBM"):
            raise ScpiError(-224, "Illegal parameter value")
        self._unit = rest.upper()

    def _set_range(self, rest: str) -> None:
        self._range, self._auto = parameter(rest, 5e-9, 0.5), False

    def _set_auto(self, rest: str) -> None:
        self._auto = boolean(rest)

    def _set_averaging(self, rest: str) -> None:
        self._averaging = int(parameter(rest, 1, 3000))

    def _take_zero(self, _: str) -> None:
        self._zero = self._power()

    def _no_energy(self, _: str) -> None:
        raise ScpiError(-221, "Settings conflict")

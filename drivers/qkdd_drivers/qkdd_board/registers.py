"""Settings of the boards: number, name, unit, range. The same table serves driver, simulator and protocol document.

Source: docs/rooms/firmware_bridge.md. Values are SI units; a switch is 0 or 1.
"""

from __future__ import annotations

from dataclasses import dataclass

from qkdd_fwbridge.messages import Role


@dataclass(frozen=True, slots=True)
class Register:
    number: int
    name: str
    low: float
    high: float
    start: float  # value after power-up and in the safe state


TRANSMITTER = (
    Register(1, "laser", 0.0, 1.0, 0.0),
    Register(2, "pulse_rate", 1e3, 50e6, 1e6),
    Register(3, "attenuation", 0.0, 60.0, 60.0),
    Register(4, "intensity_signal", 0.0, 2.0, 0.5),
    Register(5, "intensity_decoy", 0.0, 2.0, 0.1),
    Register(6, "intensity_weakest", 0.0, 2.0, 0.0),
    Register(7, "modulator_bias", -8.0, 8.0, 0.0),
)
RECEIVER = (
    Register(32, "gate", 0.0, 1.0, 0.0),
    Register(33, "gate_width", 1e-10, 2e-8, 1e-9),
    Register(34, "gate_delay", 0.0, 1e-6, 0.0),
    Register(35, "discriminator", 0.0, 0.5, 0.1),
    Register(36, "dead_time", 0.0, 1e-4, 1e-7),
)
OF_ROLE = {Role.TRANSMITTER: TRANSMITTER, Role.RECEIVER: RECEIVER}
MODEL = {Role.TRANSMITTER: "QKDD-TX1", Role.RECEIVER: "QKDD-RX1"}
SAFE = ("laser", "gate", "attenuation")
"""What goes back to its start value in the safe state; the rest is left as it was set."""


def numbers(role: Role) -> dict[str, int]:
    return {register.name: register.number for register in OF_ROLE[role]}

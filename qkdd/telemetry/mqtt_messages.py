"""What a node says over MQTT: topics and bodies. There is no topic on which a node listens to commands.

Tree: `qkd/v1/<site>/<node>/{birth,status,telemetry/<group>,event/<kind>,canary}`. JSON Schemas of the bodies: docs/mqtt/.
"""

from __future__ import annotations

from typing import Literal

import msgspec

TREE = "qkd/v1"
Plain = str | float | int | bool | None


class Body(msgspec.Struct, frozen=True, kw_only=True):
    """Head of every body. boot: a new one for each start of the daemon. seq: rises by 1 within a boot. time: Unix seconds."""

    v: Literal[1] = 1
    site: str
    node: str
    boot: str
    seq: int
    time: float


class DeviceFact(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    driver: str
    roles: list[str]


class MetricFact(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    kind: str
    unit: str
    help: str


class Birth(Body, frozen=True, kw_only=True):
    """`birth`, retained: who this is and what may be asked of its metrics."""

    version: str
    kernels: str
    link: str
    role: str
    peer: str
    devices: list[DeviceFact]
    metrics: list[MetricFact]


class Status(Body, frozen=True, kw_only=True):
    """`status`, retained; the last will says "offline". state: as `qkdctl status`, or "offline"."""

    state: str
    healthy: bool
    code: str | None = None


class LinkTelemetry(Body, frozen=True, kw_only=True):
    """`telemetry/link`. Rates per second; `None`: not known yet."""

    link: str
    state: str
    protocol: str
    proof: str
    qber: float | None
    visibility_z: float | None
    visibility_x: float | None
    clicks_per_s: float | None
    coincidences_per_s: float | None
    sifted_bits_per_s: float | None
    secret_bits_per_s: float | None
    blocks_accepted: int
    blocks_refused: int
    refusals: dict[str, int]


class KeysTelemetry(Body, frozen=True, kw_only=True):
    """`telemetry/keys`: stock and budgets, never a key."""

    waiting_chunks: int
    waiting_bits: int
    handed_over_chunks: int
    kms_up: bool
    masks_alice_to_bob: int
    masks_bob_to_alice: int
    epsilon_spent_ratio: float
    epoch_days_left: float | None


class DeviceState(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    state: str
    code: str | None


class DevicesTelemetry(Body, frozen=True, kw_only=True):
    """`telemetry/devices`."""

    devices: list[DeviceState]


class EventMessage(Body, frozen=True, kw_only=True):
    """`event/<kind>`: what `qkdctl watch` shows."""

    kind: str
    fields: dict[str, Plain]


BODIES: dict[str, type[Body]] = {
    "birth": Birth,
    "status": Status,
    "telemetry-link": LinkTelemetry,
    "telemetry-keys": KeysTelemetry,
    "telemetry-devices": DevicesTelemetry,
    "event": EventMessage,
}


def schemas() -> dict[str, bytes]:
    """File name → JSON Schema (2020-12), for docs/mqtt/."""
    made = {}
    for name, body in BODIES.items():
        schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **msgspec.json.schema(body)}
        made[f"{name}.schema.json"] = msgspec.json.format(msgspec.json.encode(schema), indent=2) + b"\n"
    return made

"""What the control socket shows, and what it asks of the node.

The structures are the JSON bodies, and the OpenAPI document is made from them. Units stand in the names. `None` means
"not known yet". No key byte has a place in any of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Protocol

import msgspec

from qkdd.control.events import EventHub
from qkdd.core.local_api import ErrorView
from qkdd.core.zeroise import ZeroiseView

if TYPE_CHECKING:
    from qkdd.control.diagnostics_view import DiagnosticsView
    from qkdd.control.firmware_views import FirmwareControl
    from qkdd.control.overview import AlignView, OverviewView
    from qkdd.control.security_views import AdviceView, SecurityView

Scalar = str | float | int | bool | None


class View(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all bodies that the daemon sends."""


class PartView(View, frozen=True):
    """A supervised part. `state`: up, connecting, waiting (until the next attempt), tripped (interlock), stopped."""

    name: str
    state: str
    since_s: float
    attempts: int
    heartbeat_age_s: float
    stalled: bool
    next_attempt_s: float | None = None
    error: ErrorView | None = None


class DeviceView(View, frozen=True):
    name: str
    driver: str
    state: str
    roles: list[str]
    vendor: str = ""
    model: str = ""
    serial: str = ""
    firmware: str = ""
    error: ErrorView | None = None


class FieldView(View, frozen=True):
    """A field of a device: value in its SI unit, limits that apply (hardware ∩ site)."""

    name: str
    value: Scalar | list[float | str | bool]
    unit: str
    settable: bool
    low: float | None
    high: float | None
    doc: str


class RefusalView(View, frozen=True):
    code: str
    count: int


class PulsesView(View, frozen=True):
    """A link that sends pulses. gains: detections a pulse, error_rates: of the last opened stretch, both by intensity, signal
    first. detected_ratio: detections a pulse. gated_ratio: share of clicks outside the gate. slot_phase, slot_phase_worst: mean
    and largest error of the tracked clock in the last block, in slots; slot_contrast: of the clicks folded by the pulse period.
    sifting_bits: bits on the wire a detection. What only the receiver knows is None on the other node."""

    gains: list[float]
    error_rates: list[float]
    detected_ratio: float | None
    gated_ratio: float | None
    slot_phase: float | None
    slot_phase_worst: float | None
    slot_contrast: float | None
    sifting_bits: float | None


class LinkView(View, frozen=True):
    """The quantum link. `chsh_s_inferred` comes from the correlations of two bases a side; it is no Bell test. label: of the
    proof, to be shown with every length and rate of secret bits."""

    name: str
    role: str
    peer: str
    state: str
    protocol: str
    proof: str
    label: str
    authentication: str
    qber: float | None
    tolerated_error: float | None
    visibility_z: float | None
    visibility_x: float | None
    chsh_s_inferred: float | None
    chsh_s_error: float | None
    offset_s: float | None
    drift: float | None
    round_trip_s: float | None
    clicks_per_s: float | None
    coincidences_per_s: float | None
    sifted_bits_per_s: float | None
    secret_bits_per_s: float | None
    blocks_accepted: int
    blocks_refused: int
    refusals: list[RefusalView]
    pulses: PulsesView | None = None


class BlockView(View, frozen=True):
    """One finished block; `code` is the refusal code, None when it was accepted. label: of the proof, belongs to secret_bits."""

    number: int
    time: float
    accepted: bool
    code: str | None
    acquisition_s: float
    sifted_bits: int
    qber: float | None
    tolerated_error: float | None
    leak_bits: int | None
    secret_bits: int
    method: str | None = None
    reason: str | None = None
    f_sec: float | None = None
    label: str = ""


class SpoolView(View, frozen=True):
    state: str
    chunks: int
    bits: int


class KeysView(View, frozen=True):
    """Stock and budgets. Never key bytes."""

    spool: list[SpoolView]
    handed_over: int
    kms_up: bool
    masks_alice_to_bob: int
    masks_bob_to_alice: int
    epsilon_spent_ratio: float
    epoch_days_left: float | None
    authentication: str


class ErrorCount(View, frozen=True):
    """An error code that came up since the start: how often, and the last time in full."""

    code: str
    count: int
    time: float
    part: str
    message: str
    remedy: str


class StatusView(View, frozen=True):
    """`state`: starting, running, degraded (a part is down), draining, drained, stopping."""

    node: str
    version: str
    kernels: str
    state: str
    healthy: bool
    uptime_s: float
    started: float
    memory_locked: bool
    parts: list[PartView]
    link: LinkView
    keys: KeysView


class CalibrationView(View, frozen=True):
    """Result of a polarization calibration; settings in the controller's own unit."""

    qber_before: float | None
    qber_after: float
    settings: list[float]
    unit: str
    measurements: int
    seconds: float


class Done(View, frozen=True):
    """Answer to a command: what was done, for a person to read."""

    message: str
    details: list[str] = []


class LogLevel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of POST /v1/log-level."""

    level: str


class AlignOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of POST /v1/align. seconds: how long the link stays open unless it is asked again; 0 lets it go."""

    seconds: Annotated[int, msgspec.Meta(ge=0, le=86_400)]


class NodeControl(Protocol):
    """What the control room asks of the node; implemented by the composition root."""

    @property
    def events(self) -> EventHub: ...

    @property
    def firmware(self) -> FirmwareControl: ...

    def status(self) -> StatusView: ...

    def devices(self) -> list[DeviceView]: ...

    async def fields(self, device: str) -> list[FieldView]:
        """Raises NotFound for a name that the configuration does not have."""

    def link(self) -> LinkView: ...

    def link_security(self) -> SecurityView: ...

    async def link_advise(self, longest_block_s: int | None) -> AdviceView:
        """Raises NotNow before the link has shown what it can do."""

    def blocks(self, limit: int) -> list[BlockView]:
        """The last blocks, newest first."""

    def keys(self) -> KeysView: ...

    def errors(self) -> list[ErrorCount]: ...

    def overview(self) -> OverviewView:
        """Everything that a live view shows."""

    async def diagnostics(self) -> DiagnosticsView:
        """For support; no key material."""

    def align_view(self) -> AlignView | None:
        """The last opened stretch; None before the first one."""

    async def align(self, seconds: int) -> Done:
        """Hold the link open for so long from now on; 0 lets it go. Raises NotNow."""

    async def calibrate_polarization(self) -> CalibrationView: ...

    async def drain(self) -> Done: ...

    async def resume(self) -> Done: ...

    async def reload(self) -> Done: ...

    async def zeroise(self, confirm: str) -> ZeroiseView:
        """Erase all key for good. Raises BadRequest unless `confirm` is the node's id."""

    def set_log_level(self, level: str) -> Done: ...

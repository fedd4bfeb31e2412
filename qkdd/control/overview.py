"""Everything that a live view shows, in one body: for the status page, `qkdctl top` and `qkdctl align`."""

from __future__ import annotations

from qkdd.control.views import BlockView, DeviceView, ErrorCount, LinkView, StatusView, View

RECENT_S = 600.0  # an error that came up within this time is still shown
SHOWN_BLOCKS = 60
_VITAL = {"store", "peer", "link", "kms"}
_REFUSED_IN_A_ROW = 3
_FEW_MASKS = 64
_BUDGET_LOW = 0.9


class AlarmView(View, frozen=True):
    """Something that a person should look at. severity: critical (no key is made, or soon none), warning."""

    severity: str
    title: str
    detail: str = ""
    code: str | None = None
    remedy: str = ""


class DetectorView(View, frozen=True):
    """A detector as its own device counts it. lowest_per_s: least rate since the device came up, a bound of its dark counts."""

    device: str
    number: int
    counts_per_s: float
    lowest_per_s: float


class AlignView(View, frozen=True):
    """The last stretch of clicks that both nodes opened; no key comes from it. Detectors in the order H V D A.

    open: the link is held open, by whichever node, and makes no key; seconds_left: until this node lets it go, None when it is
    the other one that holds it. matrix: coincidences, rows alice's detector (what she sent on a pulsed link), columns bob's.
    histogram: alice's time minus bob's after the delays were taken off, counts a bin from histogram_low_ns on. problem: why
    the stretch showed no coincidences.
    """

    open: bool
    seconds_left: float | None
    number: int
    seconds: float
    qber: float | None
    visibility_z: float | None
    visibility_x: float | None
    coincidences_per_s: float | None
    matrix: list[list[int]]
    singles_alice: list[float]
    singles_bob: list[float]
    delays_alice_ns: list[float]
    delays_bob_ns: list[float]
    histogram: list[int]
    histogram_low_ns: float
    histogram_bin_ns: float
    problem: str | None = None


class OverviewView(View, frozen=True):
    """One picture of the node. blocks: newest first."""

    time: float
    status: StatusView
    devices: list[DeviceView]
    detectors: list[DetectorView]
    blocks: list[BlockView]
    alarms: list[AlarmView]
    align: AlignView | None


def alarms(
    status: StatusView, devices: list[DeviceView], blocks: list[BlockView], errors: list[ErrorCount], now: float
) -> list[AlarmView]:
    """What is wrong, the worst first. blocks: newest first. now: wall clock, s."""
    link, keys = status.link, status.keys
    names = {device.name for device in devices}
    found: list[AlarmView] = []
    if status.state == "tripped":
        found.append(_alarm("critical", "interlock tripped", remedy="find the cause, then `qkdctl resume`"))
    for part in status.parts:
        if part.stalled:
            found.append(_alarm("critical", f"{part.name} has not reported for {part.heartbeat_age_s:.0f} s"))
        elif part.error is not None:
            vital = part.name in _VITAL or part.name in names
            told = AlarmView(
                severity="critical" if vital else "warning", title=f"{part.name} is down", detail=part.error.message,
                code=part.error.code, remedy=part.error.remedy,
            )  # fmt: skip
            found.append(told)
    found += _link_alarms(link, blocks)
    if keys.epsilon_spent_ratio >= 1.0:
        found.append(_alarm("critical", "the security budget is spent", remedy="a new key epoch is needed"))
    elif keys.epsilon_spent_ratio >= _BUDGET_LOW:
        found.append(_alarm("warning", f"{keys.epsilon_spent_ratio:.0%} of the security budget is spent"))
    left = min(keys.masks_alice_to_bob, keys.masks_bob_to_alice)
    if left < _FEW_MASKS and link.blocks_accepted:
        found.append(_alarm("warning", f"only {left} masks are left to authenticate with"))
    shown = {alarm.code for alarm in found}
    for error in errors:
        if now - error.time < RECENT_S and error.code not in shown:
            title = f"{error.part}: {error.message}"
            detail = f"{error.count} times since the start"
            found.append(
                AlarmView(severity="warning", title=title, detail=detail, code=error.code, remedy=error.remedy)
            )
    return sorted(found, key=lambda alarm: alarm.severity != "critical")


def _link_alarms(link: LinkView, blocks: list[BlockView]) -> list[AlarmView]:
    found = []
    if link.state == "lost":
        found.append(_alarm("critical", "the link has lost the other node's clock", remedy="`qkdctl link`"))
    if link.state.startswith("aligning ("):
        found.append(
            _alarm("warning", "the link is open for alignment and makes no key", remedy="`qkdctl align --off`")
        )
    if link.qber is not None and link.tolerated_error is not None and link.qber > link.tolerated_error:
        title = f"error rate {link.qber:.2%}, tolerated are {link.tolerated_error:.2%}"
        found.append(_alarm("critical", title, remedy="`qkdctl calibrate polarization`, `qkdctl align`"))
    last = blocks[:_REFUSED_IN_A_ROW]
    if len(last) == _REFUSED_IN_A_ROW and not any(block.accepted for block in last):
        found.append(
            AlarmView(
                severity="critical", title=f"the last {len(last)} blocks were refused", detail=last[0].reason or "",
                code=last[0].code, remedy="`qkdd errors` explains the code",
            )
        )  # fmt: skip
    return found


def _alarm(severity: str, title: str, remedy: str = "") -> AlarmView:
    return AlarmView(severity=severity, title=title, remedy=remedy)

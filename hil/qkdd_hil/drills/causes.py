"""The drills for the failure modes F1 to F7: what is injected, how it shows, what hands do."""

from __future__ import annotations

import shutil
import sys

from qkdd_hil.drills.scene import Drill, Scene, Sign
from qkdd_hil.rig import SILENCE

HIGH_LOSS = 0.02  # 17 dB more
TURN = (0.29, 0.22, 0.48)  # rad; an error rate of about 8 %
ALIKE = 0.8  # a detector below that share of the others' mean is not like them
DETECTORS = 4
STORE = "keys.sqlite"


def qber_above(limit: float, side: str = "bob") -> Sign:
    alert = "QkddQberCritical" if limit == 0.05 else "QkddCalibrationDrift"
    return Sign(
        f"qkdd_link_qber_ratio > {limit:g}, the condition of the alert {alert} without its delay; `qkdctl link`",
        lambda s: s.rig.metric(side, "qkdd_link_qber_ratio") > limit,
    )


def code(side: str, name: str, words: str) -> Sign:
    return Sign(f"{name} in `qkdctl errors` (qkdd_errors_total): {words}", lambda s: s.errors(side, name) > 0)


def part(side: str, name: str, wanted: str) -> Sign:
    def shows(scene: Scene) -> bool:
        found = scene.rig.part(side, name)
        return found["state"] != "up" and (found["error"] or {}).get("code") == wanted

    return Sign(f"`qkdctl status`: part {name} is not up, with {wanted}", shows)


# --- F3: the line is cut ---------------------------------------------------------------------------------------------------


def cut(scene: Scene) -> None:
    if scene.rig.relay is not None:
        scene.rig.relay.cut()


def mend(scene: Scene) -> None:
    if scene.rig.relay is not None:
        scene.rig.relay.mend()


# --- F4: another release, other settings -----------------------------------------------------------------------------------


def downgrade(scene: Scene) -> None:
    usual = scene.rig.processes["bob"].command
    scene.kept["command"] = usual
    scene.restart("bob", [sys.executable, "-m", "qkdd_hil.rig.odd_node", "past", *usual[1:]])


def upgrade(scene: Scene) -> None:
    """The package is replaced; the daemon goes on as it is until it is restarted."""
    scene.rig.processes["bob"].command = scene.kept.pop("command", scene.rig.processes["bob"].command)


def other_settings(scene: Scene) -> None:
    scene.edit("bob", r'window = "6 ns"', 'window = "8 ns"')
    scene.restart("bob")


# --- F6: one detector ages -------------------------------------------------------------------------------------------------


def unlike(scene: Scene) -> bool:
    rates = [
        rate
        for number in range(DETECTORS)
        for rate in scene.rig.samples("bob", "qkdd_detector_count_rate_hertz", detector=str(number))
    ]
    return len(rates) == DETECTORS and any(rate < ALIKE * (sum(rates) - rate) / (DETECTORS - 1) for rate in rates)


def age(scene: Scene) -> None:
    scene.rig.turn("bob", efficiency=[0.4, 1.0, 1.0, 1.0], dark=[30.0, 1.0, 1.0, 1.0])


def replace_detector(scene: Scene) -> None:
    scene.rig.turn("bob", efficiency=[1.0] * DETECTORS, dark=[1.0] * DETECTORS)


# --- F7: bob's store comes back from a backup ------------------------------------------------------------------------------


def back_up(scene: Scene) -> None:
    store = scene.rig.layout.node_store("bob")
    scene.rig.stop("bob")
    shutil.copy2(store, store.with_name("backup.sqlite"))
    scene.rig.again("bob")


def restore_backup(scene: Scene) -> None:
    store = scene.rig.layout.node_store("bob")
    scene.rig.stop("bob")
    for path in store.parent.glob(f"{STORE}*"):
        path.unlink()
    shutil.move(store.with_name("backup.sqlite"), store)
    scene.rig.again("bob")


F1 = Drill(
    "F1", "F1-high-photon-loss", "high photon loss",
    "bob's fibre loses 17 dB more than usual, as behind a dirty connector or a sharp bend",
    Sign(
        "the newest block gives less than half of the usual key, or the link aligns in vain: the alert QkddKeyRateLow without "
        "its windows; `qkdctl blocks`, `qkdctl link`",
        lambda s: s.poor_block("bob"),
    ),
    lambda s: s.rig.turn("bob", transmission=HIGH_LOSS),
    heal="loss",
    hands={"fibre": lambda s: s.rig.turn("bob", transmission=1.0)},
    clean=lambda s: s.rig.turn("bob", transmission=1.0),
)  # fmt: skip

F2 = Drill(
    "F2", "F2-elevated-qber", "elevated error rate",
    "somebody moved bob's fibre: its polarization is turned by 0.6 rad",
    qber_above(0.05),
    lambda s: s.rig.turn("bob", rotation=TURN),
    heal="polarization",
)  # fmt: skip

F3 = Drill(
    "F3", "F3-classical-link-failure", "failure of the classical link",
    "the network between the nodes swallows every packet, connections stay open",
    Sign(
        f"QKD-PEER-SILENT, after [peer] silence ({SILENCE:g} s here, 30 s by default), or qkdd_link_up == 0, the condition of "
        "the alert QkddLinkDown without its delay; `qkdctl status`",
        lambda s: (s.errors("alice", "QKD-PEER-SILENT") > 0 and s.rig.part("alice", "peer")["state"] != "up")
        or s.rig.metric("alice", "qkdd_link_up") == 0,
    ),
    cut, "alice", "network", {"network": mend}, clean=mend,
)  # fmt: skip

F4 = Drill(
    "F4", "F4-version-mismatch", "the two nodes are of different releases",
    "bob's node is started with a release whose protocol alice's no longer speaks",
    code("bob", "QKD-PEER-VERSION", "the nodes have no protocol in common"),
    downgrade, heal="version", hands={"package": upgrade}, clean=upgrade,
)  # fmt: skip

F4_SETTINGS = Drill(
    "F4-settings", "F4-version-mismatch", "the two nodes have different settings",
    "[link.shared] window was changed on bob's node alone",
    code("bob", "QKD-PEER-CONFIG-MISMATCH", "a shared setting differs"),
    other_settings, heal="settings", hands={"settings": lambda s: s.restore("bob")}, clean=lambda s: s.restore("bob"),
)  # fmt: skip

F5 = Drill(
    "F5", "F5-thermal-drift", "thermal drift",
    "the room with bob's fibre warms by 4 K within 8 s (hours, in a real room), which turns the light by 0.4 rad",
    qber_above(0.035),
    lambda s: s.rig.turn("bob", climate=[s.kept.setdefault("kelvin", 4.0), 8.0]),
    heal="drift",
)  # fmt: skip

F6 = Drill(
    "F6", "F6-ageing-detector", "an ageing detector",
    "bob's detector H falls to 40 % of its efficiency and has 30 times its dark counts",
    Sign(
        "qkdd_detector_count_rate_hertz of a detector below 80 % of the others' mean, the page's own criterion; `qkdctl top`",
        unlike,
    ),
    age, heal="replace", hands={"detector": replace_detector}, clean=replace_detector,
)  # fmt: skip

F7 = Drill(
    "F7", "F7-key-disagreement", "the two sites disagree on key",
    "bob's key store is replaced by a backup from some blocks ago",
    Sign(
        "QKD-KEYS-INCONSISTENT, QKD-PEER-AUTH-STATE or QKD-PEER-DOWNGRADE in `qkdctl errors` (qkdd_errors_total) of either node",
        lambda s: any(
            s.errors(side, name) > 0
            for side in ("alice", "bob")
            for name in ("QKD-KEYS-INCONSISTENT", "QKD-PEER-AUTH-STATE", "QKD-PEER-DOWNGRADE")
        ),
    ),
    restore_backup, heal="restored", prepare=back_up,
)  # fmt: skip

FAILURE_MODES = (F1, F2, F3, F4, F4_SETTINGS, F5, F6, F7)

"""The drills for page-level alerts: each cause that the bench can produce."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable

from qkdd_hil.drills.causes import qber_above
from qkdd_hil.drills.scene import Drill, Scene, Sign
from qkdd_hil.rig.odd_node import TAMPER

LIGHT = 1.2e5  # clicks/s more on one detector
COSTLY = "5e-8"  # of an epoch's 1e-6 for each block: twenty blocks
POOL_LOW = 25_600  # bits, monitoring/rules
FLAPS = 3


def both(side_act: Callable[[Scene, str], None]) -> Callable[[Scene], None]:
    def act(scene: Scene) -> None:
        for side in ("alice", "bob"):
            side_act(scene, side)

    return act


def kill(name: str) -> Callable[[Scene], None]:
    def act(scene: Scene) -> None:
        scene.rig.send(name, signal.SIGKILL)
        scene.rig.ended(name)

    return act


def unreachable(scene: Scene) -> bool:
    try:
        scene.rig.metric("bob", "qkdd_link_up")
    except OSError:
        return True
    return False


def start_again(name: str) -> Callable[[Scene], None]:
    def act(scene: Scene) -> None:
        if not scene.rig.running(name):
            scene.rig.again(name)

    return act


def plug(scene: Scene) -> None:
    scene.rig.fault("bob.tagger", "plug")


def loose_cable(scene: Scene) -> None:
    """The cable of bob's tagger falls out and comes back a few times, and stays out in the end."""
    for k in range(FLAPS):
        scene.rig.fault("bob.tagger", "unplug")
        scene.rig.until(lambda: scene.rig.metric("bob", "qkdd_link_up") == 0, "the link goes down with its tagger")
        if k < FLAPS - 1:
            plug(scene)
            scene.rig.until(lambda: scene.rig.metric("bob", "qkdd_link_up") == 1, "the link comes back")


def tampering_node(scene: Scene) -> None:
    usual = scene.rig.processes["bob"].command
    flag = scene.rig.layout.folder / "tamper"
    os.environ[TAMPER] = str(flag)  # the children inherit it
    scene.kept |= {"command": usual, "flag": flag}
    scene.restart("bob", [sys.executable, "-m", "qkdd_hil.rig.odd_node", "tampering", *usual[1:]])


def no_tampering(scene: Scene) -> None:
    if "flag" in scene.kept:
        scene.kept["flag"].unlink(missing_ok=True)


def usual_node(scene: Scene) -> None:
    no_tampering(scene)
    if (usual := scene.kept.pop("command", None)) is not None:
        scene.restart("bob", usual)


def costly_blocks(scene: Scene, side: str) -> None:
    scene.edit(side, r"\[link\.shared\]\n", f"[link.shared]\neps_sec = {COSTLY}\n")
    scene.restart(side)


def lights(scene: Scene, clicks: float) -> None:
    scene.rig.turn("bob", light=[clicks, 0.0, 0.0, 0.0])


def pool_low(scene: Scene) -> bool:
    pools = scene.rig.samples("kms-alice", "qkdd_kms_pool_bits")
    return bool(pools) and min(pools) < POOL_LOW


ALERTS = (
    Drill(
        "QkddLinkDown", "QkddLinkDown", "the link is down",
        "the cable of bob's time tagger is pulled",
        Sign(
            "qkdd_link_up == 0, the condition of the alert QkddLinkDown without its delay; `qkdctl status`",
            lambda s: s.rig.metric("bob", "qkdd_link_up") == 0,
        ),
        lambda s: s.rig.fault("bob.tagger", "unplug"),
        heal="instrument", hands={"cable": plug}, clean=plug,
    ),
    Drill(
        "QkddAvailabilityBurnsFast", "QkddAvailabilityBurnsFast", "the link comes and goes",
        "the cable of bob's time tagger has a loose contact",
        Sign(
            "the link is down for the third time, more than 14.4 x 0.0001 of the time since the injection: the condition "
            "of the alert QkddAvailabilityBurnsFast without its windows; `qkdctl errors`",
            lambda s: s.errors("bob", "QKD-DEV-OFFLINE") >= FLAPS and s.rig.metric("bob", "qkdd_link_up") == 0,
        ),
        loose_cable, heal="instrument", hands={"cable": plug}, clean=plug,
    ),
    Drill(
        "QkddQberCritical", "QkddQberCritical", "an eavesdropper on the line",
        "an eavesdropper intercepts and resends 30 % of bob's photons",
        qber_above(0.05),
        lambda s: s.rig.turn("line", eve=0.3),
        heal="attack", hands={"fibre": lambda s: s.rig.turn("line", eve=0.0)},
        clean=lambda s: s.rig.turn("line", eve=0.0),
    ),
    Drill(
        "QkddDetectorBlindingSuspected", "QkddDetectorBlindingSuspected", "bright light on a detector",
        "120,000 clicks/s more on bob's detector H, above [node.counts] bright_above (180 kHz here)",
        Sign(
            'qkdd_errors_total{code="QKD-NODE-BRIGHT"} has grown: the condition of the alert QkddDetectorBlindingSuspected',
            lambda s: s.errors("bob", "QKD-NODE-BRIGHT") > 0 and s.rig.metric(
                "bob", "qkdd_detector_count_rate_hertz", detector="0"
            ) > 180e3,
        ),
        lambda s: lights(s, LIGHT),
        heal="light", hands={"light": lambda s: lights(s, 0.0)}, clean=lambda s: lights(s, 0.0),
    ),
    Drill(
        "QkddKmsDown", "QkddKmsDown", "the KMS is down",
        "bob's KMS is killed",
        Sign(
            "qkdd_kms_up == 0, the condition of the alert QkddKmsDown without its delay; `qkdctl status`",
            lambda s: s.rig.metric("bob", "qkdd_kms_up") == 0,
        ),
        kill("kms-bob"), heal="stopped", clean=start_again("kms-bob"),
    ),
    Drill(
        "QkddNodeUnreachable", "QkddNodeUnreachable", "a daemon is not there",
        "bob's daemon is killed",
        Sign('up{job="qkdd"} == 0, the condition of the alert QkddNodeUnreachable without its delay', unreachable),
        kill("bob"), heal="stopped", clean=start_again("bob"),
    ),
    Drill(
        "QkddAuthenticationFailures", "QkddAuthenticationFailures", "messages are changed on the way",
        "one bit of each block's messages is changed inside TLS, as by a box that has broken into the session",
        Sign(
            'qkdd_peer_seals_total{result="failed"} has grown by more than 2: the condition of the alert '
            "QkddAuthenticationFailures",
            lambda s: s.since("alice", "qkdd_peer_seals_total", result="failed") > 2 and s.kept["flag"].exists(),
        ),
        lambda s: s.kept["flag"].touch(),
        "alice", "tampering", {"path": no_tampering}, prepare=tampering_node, clean=usual_node,
    ),
    Drill(
        "QkddKeyStoreNearlyEmpty", "QkddKeyStoreNearlyEmpty", "the key store is nearly empty",
        "applications at both sites draw every key as soon as it is there",
        Sign(
            "qkdd_kms_pool_bits < 25600 at the KMS, the condition of the alert QkddKeyStoreNearlyEmpty without its delay",
            pool_low,
        ),
        Scene.drink, "alice", "thirst", {"application": Scene.stop_drinking}, clean=Scene.stop_drinking,
    ),
    Drill(
        "QkddEpsilonNearlySpent", "QkddEpsilonNearlySpent", "the security budget is nearly spent",
        "both nodes are given eps_sec = 5e-8, so that twenty blocks spend the epoch's budget of 1e-6",
        Sign(
            "qkdd_epsilon_spent_ratio > 0.9, the condition of the alert QkddEpsilonNearlySpent",
            lambda s: s.rig.metric("bob", "qkdd_epsilon_spent_ratio") > 0.9,
        ),
        both(costly_blocks), heal="epoch", hands={"settings": both(Scene.restore)}, clean=both(Scene.restore),
    ),
)  # fmt: skip

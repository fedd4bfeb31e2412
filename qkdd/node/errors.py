"""Errors of the node room."""

from __future__ import annotations

from qkdd.core.errors import ConfigError, Kind, QkddError


class StateInUse(QkddError):
    code = "QKD-NODE-STATE-IN-USE"
    meaning = "Another daemon runs on the same state directory; two would use the same masks and the same key."
    default_remedy = "Stop the other daemon, or give this node a state_directory of its own."


class ReloadRefused(ConfigError):
    code = "QKD-NODE-RELOAD"
    meaning = "The new configuration changes something that cannot change while running; nothing was taken over."
    default_remedy = "Undo the change, or restart the daemon; both nodes must agree on [link.shared]."


class PartEnded(QkddError):
    code = "QKD-NODE-PART-ENDED"
    kind = Kind.TRANSIENT
    meaning = "A part of the node ended without saying why; it is started again."
    default_remedy = "If it goes on, report it with the log lines around it."


class PartStalled(QkddError):
    code = "QKD-NODE-STALLED"
    kind = Kind.TRANSIENT
    meaning = "A part of the node has not reported for too long; the watchdog is not fed until it does."
    default_remedy = "The service manager restarts the daemon; report which part it was."


class DeviceMissing(QkddError):
    code = "QKD-NODE-DEVICE-MISSING"
    kind = Kind.TRANSIENT
    meaning = "The link needs a device that is not up at the moment."
    default_remedy = "`qkdctl devices` shows why; the supervisor goes on by itself when the device is back."


class Interlock(QkddError):
    code = "QKD-NODE-INTERLOCK"
    kind = Kind.INTERLOCK
    meaning = "A safety interlock is open: the devices went to their safe state and stay there."
    default_remedy = "Find the cause, clear it, then `qkdctl resume`."


class CalibrationFailed(QkddError):
    code = "QKD-NODE-CALIBRATION"
    kind = Kind.TRANSIENT
    meaning = "The polarization could not be calibrated; the paddles are back where they were."
    default_remedy = "Check light, source and count rates, then try `qkdctl calibrate polarization` again."


class NoChild(QkddError):
    code = "QKD-NODE-NOT-INSTALLED"
    meaning = "A command needs a package that is not installed beside qkdd (bench or benchmarks)."
    default_remedy = "Install the whole distribution: the packages qkdd_hil and qkdd_native belong to it."


class BrightLight(QkddError):
    code = "QKD-NODE-BRIGHT"
    kind = Kind.TRANSIENT
    meaning = "A detector counts more than [node.counts] bright_above: stray light, a wrong attenuation, or a blinding attack."
    default_remedy = "Find where the light comes from; do not trust key that was made while it lasted before you know."


class SilentDetector(QkddError):
    code = "QKD-NODE-SILENT"
    kind = Kind.TRANSIENT
    meaning = "A detector gives no counts while others of the same device do: latched, unbiased, dark, or blinded."
    default_remedy = "Check bias and fibre of that detector (`qkdctl devices NAME`)."

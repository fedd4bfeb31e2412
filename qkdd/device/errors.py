"""What can go wrong with an instrument. Each error names device, bus and operation; the kind says what may be done.

Transient: the supervisor tries again. Permanent: a person must change something first.
"""

from __future__ import annotations

from qkdd.core.errors import ConfigError, Kind, QkddError


class DeviceError(QkddError):
    """Base of the errors of one instrument.

    device: name in the configuration. bus: key of its line, for example "serial:/dev/…" or "tcp:192.0.2.1:12000".
    operation: the verb that failed, for example "open", "set bias".
    """

    def __init__(
        self,
        device: str,
        bus: str,
        operation: str,
        problem: str,
        *,
        remedy: str | None = None,
        **details: str | float | bool | None,
    ) -> None:
        super().__init__(
            f"{device} on {bus}, {operation}: {problem}",
            remedy=remedy,
            device=device,
            bus=bus,
            operation=operation,
            **details,
        )
        self.device, self.bus, self.operation, self.problem = device, bus, operation, problem


class DeviceOffline(DeviceError):
    code = "QKD-DEV-OFFLINE"
    kind = Kind.TRANSIENT
    meaning = "The instrument's line cannot be opened, or went away: unplugged, switched off, or unreachable."
    default_remedy = (
        "Check cable, power and address (`qkdd drivers probe` shows what is attached); the supervisor connects again by "
        "itself."
    )


class DeviceTimeout(DeviceError):
    code = "QKD-DEV-TIMEOUT"
    kind = Kind.TRANSIENT
    meaning = "The instrument did not answer in time, or sent only a part of its answer."
    default_remedy = (
        "If it goes on, power-cycle the instrument, check that nothing else talks to it, and that its interface has the rate "
        "of the line."
    )


class DeviceHung(DeviceTimeout):
    code = "QKD-DEV-HUNG"
    kind = Kind.TRANSIENT
    meaning = (
        "A call into a vendor's or VISA library did not come back in time; the process in which it ran was killed."
    )
    default_remedy = "The supervisor opens the instrument anew; if it goes on, power-cycle it and update the library."


class DeviceCrashed(DeviceOffline):
    code = "QKD-DEV-CRASHED"
    kind = Kind.TRANSIENT
    meaning = (
        "The process that a vendor's library, package or program lives in ended by itself; its last words are shown."
    )
    default_remedy = (
        "The supervisor starts it again; see its last words, and update the vendor's software if it goes on."
    )


class VendorUnusable(DeviceError):
    code = "QKD-DEV-VENDOR"
    kind = Kind.PERMANENT
    meaning = (
        "A vendor's library, package or program cannot be used: it is not there, of another kind, or a part is missing."
    )
    default_remedy = (
        "Install the vendor's software and correct `library`, `python` or `program`; the driver's README says more."
    )


class ProtocolError(DeviceError):
    code = "QKD-DEV-PROTOCOL"
    kind = Kind.TRANSIENT
    meaning = "The instrument's answer is not what its protocol allows: bytes were lost or damaged on the line."
    default_remedy = (
        "Check cable, earthing, USB hub and the rate to which the instrument's interface is set; if it goes on, check the "
        "firmware version."
    )


class BusBusy(DeviceError):
    code = "QKD-DEV-BUSY"
    kind = Kind.TRANSIENT
    meaning = "Another program (or another device of this configuration) holds the line."
    default_remedy = "Stop the other program; `fuser -v PORT` shows it."


class AccessDenied(DeviceError):
    code = "QKD-DEV-ACCESS"
    kind = Kind.PERMANENT
    meaning = "The service's user may not open the line."
    default_remedy = (
        "Install the udev rules of qkdd (the package does; from a checkout `sudo cp udev/70-qkdd.rules /etc/udev/rules.d/ && "
        "sudo udevadm control --reload && sudo udevadm trigger`), add the user to the group `qkd` "
        "(`sudo usermod -aG qkd USER`), and log in anew or start the service again."
    )


class WrongDevice(DeviceError):
    code = "QKD-DEV-WRONG"
    kind = Kind.PERMANENT
    meaning = "Something answers on the line, but it is not the instrument of the configuration."
    default_remedy = "Correct `port`/`host` or `driver`; `qkdd drivers` lists the models that each driver knows."


class UnsupportedFirmware(DeviceError):
    code = "QKD-DEV-FIRMWARE"
    kind = Kind.PERMANENT
    meaning = "The instrument's firmware lies outside the range that the driver was made for."
    default_remedy = "Update the instrument's firmware, or use a version of the driver that knows it."


class OutOfRange(DeviceError):
    """A value outside the joint limits; nothing was sent. `value` and limits in the field's SI base unit."""

    code = "QKD-DEV-RANGE"
    kind = Kind.PERMANENT
    meaning = "A value lies outside the limits of the hardware or of the site; nothing was sent and nothing clipped."
    default_remedy = "Choose a value inside the limits, or change the device's `limits` in the configuration."

    def __init__(self, device: str, bus: str, operation: str, field: str, value: float, limits: str, unit: str) -> None:
        super().__init__(
            device,
            bus,
            operation,
            f"{field} = {value:.6g} {unit} lies outside {limits}",
            field=field,
            value=value,
            unit=unit,
            limits=limits,
        )
        self.field, self.value, self.limits, self.unit = field, value, limits, unit


class CommandRefused(DeviceError):
    code = "QKD-DEV-REFUSED"
    kind = Kind.PERMANENT
    meaning = "The instrument answered that it will not do what it was told, or did not do it."
    default_remedy = (
        "See the instrument's own message; it may be in local mode, interlocked or busy with something else."
    )


class NotOpen(DeviceError):
    code = "QKD-DEV-CLOSED"
    kind = Kind.PERMANENT
    meaning = "A device was used before it was opened or after it was closed: a defect of the caller."
    default_remedy = "Report it with the log lines around it."


class EntropyFailed(DeviceError):
    code = "QKD-DEV-ENTROPY"
    kind = Kind.PERMANENT
    meaning = "A health test (NIST SP 800-90B, 4.4) of a noise source failed; nothing of it is given out any more."
    default_remedy = "It is used again only after the start-up tests; take it out of service if this happens again."


class TagsLost(DeviceError):
    """Its code stands in `TagBlock.faults`; raised only where the stream cannot go on after it."""

    code = "QKD-DEV-TAGS-LOST"
    kind = Kind.TRANSIENT
    meaning = "Time tags were lost between instrument and program (the host did not fetch them in time)."
    default_remedy = "Relieve the machine (CPU, USB bandwidth) or lower the click rate."


class TagsSlipped(DeviceError):
    """Raised by no driver: its code stands in `TagBlock.faults`."""

    code = "QKD-DEV-TAGS-SLIPPED"
    kind = Kind.TRANSIENT
    meaning = (
        "Bytes of the tag stream were lost or inserted; the stream was aligned again and the doubtful tags dropped."
    )
    default_remedy = "Check cable and USB hub, or lower the click rate."


class RecordingEnded(DeviceError):
    code = "QKD-DEV-RECORDING-END"
    kind = Kind.PERMANENT
    meaning = "A recording that was played as a tagger has come to its end: all of its tags were given out."
    default_remedy = "Nothing is wrong. Restart the device to play it again, or give another recording."


class DeviceConfigError(ConfigError):
    code = "QKD-DEV-CONFIG"
    meaning = "A device's section of the configuration does not fit its driver."
    default_remedy = "Correct the named key; the README of the driver lists its fields."


class UnknownDriver(ConfigError):
    code = "QKD-DEV-NO-DRIVER"
    meaning = "No installed package registers a driver of this name."
    default_remedy = "`qkdd drivers` lists what is installed; install the package that brings the driver."


class DriverNotAllowed(ConfigError):
    code = "QKD-DEV-NOT-ALLOWED"
    meaning = "The driver is installed but is not on the site's list of allowed drivers."
    default_remedy = "Add it to `node.allowed_drivers` if the site trusts the package that brings it."


class DriverBroken(ConfigError):
    code = "QKD-DEV-IMPORT"
    meaning = "A driver's package fails to import, or what it registers is no driver."
    default_remedy = "Report it to the maintainers of the named package, or remove that package."

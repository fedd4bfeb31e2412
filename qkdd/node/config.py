"""A node's configuration: the rooms' sections in one file, and the checks that need more than one of them.

`load_node` refuses a wrong file with every finding at once, before anything starts: file, line, key, remedy.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec

from qkdd.control.config import ControlConfig
from qkdd.core import config as core_config
from qkdd.core.audit_files import SEGMENT, bad_segment
from qkdd.core.clock import SystemClock
from qkdd.core.config import ConfigRefused, Finding, Section
from qkdd.core.counters import RecordingMeter
from qkdd.core.endpoint import Endpoint
from qkdd.core.errors import ConfigError, CredentialError, QkddError
from qkdd.core.sealing import load_master_key
from qkdd.core.syslog_config import SyslogConfig
from qkdd.core.zeroise import ZeroiseConfig
from qkdd.device import DeviceConfig, Driver, TimeTagger, build, check_devices
from qkdd.device.config import resolved
from qkdd.keys import KeysConfig
from qkdd.link.config import SLOT_BINS, LinkConfig, LinkShared
from qkdd.node.calibration import CalibrationConfig
from qkdd.node.devices import CountsConfig
from qkdd.node.firmware import FirmwareConfig
from qkdd.node.roles import ROLES, plays
from qkdd.node.supervisor import BackoffConfig
from qkdd.peer.config import PeerConfig
from qkdd.telemetry.config import TelemetryConfig

_NODE_ID = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")
_CREDENTIALS = "${CREDENTIALS_DIRECTORY}/"  # systemd.exec(5), LoadCredential=
_FILES = ("certificate", "key", "trust", "crl")


class NodeSection(Section, frozen=True):
    """[node]. Relative paths of the whole file start at its folder; `${CREDENTIALS_DIRECTORY}/name` names a credential
    that systemd passes."""

    id: str
    state_directory: str
    master_key: str
    allowed_drivers: tuple[str, ...] | None = None
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    audit_segment: int = SEGMENT
    backoff: BackoffConfig = BackoffConfig()
    counts: CountsConfig = CountsConfig()

    def check(self) -> Iterator[tuple[str, str, str]]:
        if not _NODE_ID.match(self.id):
            yield "id", f"{self.id!r} is no node id", "letters, digits, dot, dash and underscore, at most 63"
        yield from bad_segment(self.audit_segment)


class NodeConfig(Section, frozen=True):
    """The whole file."""

    node: NodeSection
    control: ControlConfig
    devices: dict[str, DeviceConfig]
    link: LinkConfig
    peer: PeerConfig
    keys: KeysConfig
    telemetry: TelemetryConfig | None = None
    syslog: SyslogConfig | None = None
    calibration: CalibrationConfig = CalibrationConfig()
    firmware: FirmwareConfig = FirmwareConfig()
    zeroise: ZeroiseConfig = ZeroiseConfig()

    def check(self) -> Iterator[tuple[str, str, str]]:
        for key, problem, remedy in check_devices(self.devices):
            yield f"devices.{key}", problem, remedy
        yield from _device_names(self)
        yield from _addresses(self)
        if self.peer.peer_id == self.node.id:
            yield "peer.peer_id", "is this node's own id", "name the other node"


def _device_key(config: NodeConfig) -> str:
    """The setting that names the device this end runs on."""
    return "transmitter" if config.link.transmits else "tagger"


def _device_names(config: NodeConfig) -> Iterator[tuple[str, str, str]]:
    known = ", ".join(sorted(config.devices)) or "none"
    for role in (_device_key(config), "detectors", "polarization"):
        name = getattr(config.link, role)
        if name is not None and name not in config.devices:
            yield f"link.{role}", f"there is no device {name!r}", f"there are: {known}"
    for name in config.firmware.canary:
        if name not in config.devices:
            yield "firmware.canary", f"there is no device {name!r}", f"there are: {known}"


def _addresses(config: NodeConfig) -> Iterator[tuple[str, str, str]]:
    """The same TCP address given twice."""
    owners: dict[Endpoint, str] = {}
    given = [
        ("peer.listen", getattr(config.peer, "listen", None)),
        ("peer.connect", getattr(config.peer, "connect", None)),
    ]
    if config.telemetry is not None:
        given.append(("telemetry.listen", config.telemetry.listen))
    given.append(("control.page", config.control.page))
    given.append(("keys.kms_url", urlsplit(config.keys.kms_url).netloc))
    for key, text in given:
        try:
            endpoint = Endpoint.parse(text or "")
        except ValueError:
            continue  # empty, or reported by the section itself
        if endpoint.port == 0:
            continue  # any free port
        if (owner := owners.setdefault(endpoint, key)) != key:
            yield key, f"the address {endpoint} is already that of {owner}", "give each its own port"


# --- from file to objects -------------------------------------------------------------------------------------------------


def load_node(path: Path, environment: Mapping[str, str] = os.environ) -> NodeConfig:
    """Read and check a node's file; paths in the result are absolute. Raises ConfigRefused with every finding.

    The environment is looked at too: credentials must be readable, drivers must be installed and accept their section.
    Nothing is opened, no device is touched.
    """
    config = absolute(core_config.load(path, NodeConfig), path.resolve().parent, environment)
    findings = [*_credentials(config), *_trusted(config)]
    drivers = _build_all(config, findings)
    findings += _roles(config, drivers)
    findings += _resolution(config, drivers)
    if findings:
        text = path.read_text(encoding="utf-8")
        located = [Finding(f.key, core_config.locate(text, f.key), f.problem, f.remedy) for f in findings]
        raise ConfigRefused(str(path), sorted(located, key=lambda f: (f.line, f.key)))
    return config


def absolute(config: NodeConfig, base: Path, environment: Mapping[str, str]) -> NodeConfig:
    """Resolve the paths of files and folders. Device ports stay as written: they may be URLs."""

    def place(text: str) -> str:
        if text.startswith(_CREDENTIALS) and "CREDENTIALS_DIRECTORY" in environment:
            text = f"{environment['CREDENTIALS_DIRECTORY']}/{text.removeprefix(_CREDENTIALS)}"
        return str(base / text)

    replace = msgspec.structs.replace

    def files(section: Any) -> Any:
        return replace(section, **{n: place(v) for n in _FILES if (v := getattr(section, n, None))})

    return replace(
        config,
        node=replace(
            config.node,
            state_directory=place(config.node.state_directory),
            master_key=place(config.node.master_key),
        ),
        control=replace(config.control, socket=place(config.control.socket)),
        devices={name: resolved(device, base) for name, device in config.devices.items()},
        peer=files(config.peer),
        keys=_sinks_resolved(files(config.keys), place),
        syslog=files(config.syslog) if config.syslog is not None else None,
        telemetry=_told(config.telemetry, files),
        zeroise=replace(
            config.zeroise,
            also=tuple(place(path) for path in config.zeroise.also),
            tamper_file=place(config.zeroise.tamper_file) if config.zeroise.tamper_file is not None else None,
        ),
        firmware=replace(config.firmware, trust=tuple(place(path) for path in config.firmware.trust)),
    )


def _told(telemetry: TelemetryConfig | None, files: Callable[[Any], Any]) -> TelemetryConfig | None:
    """Paths of the broker's credentials."""
    if telemetry is None or telemetry.mqtt is None:
        return telemetry
    return msgspec.structs.replace(telemetry, mqtt=files(telemetry.mqtt))


def _sinks_resolved(keys: KeysConfig, place: Callable[[str], str]) -> KeysConfig:
    """Paths of the other sinks; the shared library of an HSM and programs stay as written."""
    for name in keys.sinks:
        sink = getattr(keys, name)
        paths = {n: place(v) for n in ("directory", "token_file", "pin_file", *_FILES) if (v := getattr(sink, n, None))}
        keys = msgspec.structs.replace(keys, **{name: msgspec.structs.replace(sink, **paths)})
    return keys


def _credentials(config: NodeConfig) -> Iterator[Finding]:
    try:
        load_master_key(Path(config.node.master_key)).wipe()
    except CredentialError as error:
        yield Finding("node.master_key", 0, error.message, error.remedy)
    broker = config.telemetry.mqtt if config.telemetry is not None else None
    told = (("syslog", config.syslog), ("telemetry.mqtt", broker))
    for name, section in (("peer", config.peer), ("keys", config.keys), *told):
        for field in _FILES:
            text = getattr(section, field, None)
            if text:
                yield from _readable(f"{name}.{field}", Path(text), private=field == "key")


def _trusted(config: NodeConfig) -> Iterator[Finding]:
    for path in config.firmware.trust:
        yield from _readable("firmware.trust", Path(path), private=False)


def _readable(key: str, path: Path, *, private: bool) -> Iterator[Finding]:
    try:
        with path.open("rb") as file:
            file.read(1)
            mode = os.fstat(file.fileno()).st_mode & 0o777
    except OSError as error:
        remedy = "check the path, its owner and its mode; `qkdd pki issue` makes certificates"
        yield Finding(key, 0, f"{path} cannot be read: {error.strerror}", remedy)
        return
    if private and mode & 0o077:
        yield Finding(key, 0, f"{path}: mode {mode:04o} lets others read a private key", f"chmod 600 {path}")


def _build_all(config: NodeConfig, findings: list[Finding]) -> dict[str, Driver]:
    """Closed drivers, to see that each accepts its section; what does not becomes a finding."""
    drivers: dict[str, Driver] = {}
    allow: Collection[str] | None = config.node.allowed_drivers
    for name, section in config.devices.items():
        try:
            drivers[name] = build(name, section, SystemClock(), RecordingMeter(), allow=allow)
        except ConfigError as error:
            match = re.match(rf"devices\.{re.escape(name)}\.([\w.]+): (.*)", error.message, re.DOTALL)
            key = f"devices.{name}.{match.group(1) if match else 'driver'}"
            findings.append(Finding(key, 0, match.group(2) if match else error.message, error.remedy))
    return drivers


def _roles(config: NodeConfig, drivers: Mapping[str, Driver]) -> Iterator[Finding]:
    wanted = (
        (_device_key(config), config.link.device, "symbol source" if config.link.transmits else "time tagger"),
        ("detectors", config.link.detectors, "detector"),
        ("polarization", config.link.polarization, "polarization controller"),
    )
    for key, name, role in wanted:
        driver = drivers.get(name) if name is not None else None
        if driver is not None and not plays(driver, ROLES[role]):
            yield Finding(
                f"link.{key}", 0, f"device {name!r} ({driver.config.driver}) is no {role}", "`qkdd drivers` lists roles"
            )


def _resolution(config: NodeConfig, drivers: Mapping[str, Driver]) -> Iterator[Finding]:
    tagger = drivers.get(config.link.tagger)
    if config.link.transmits or tagger is None or not plays(tagger, TimeTagger):
        return
    resolution, inputs = _known(lambda: tagger.resolution_ps), _known(lambda: tagger.inputs)  # type: ignore[attr-defined]
    shared = config.link.shared
    if resolution is not None:
        yield from _bins(shared, resolution)
    too_high = [n for n, i in config.link.channels.items() if inputs is not None and i >= inputs]
    if too_high:
        yield Finding(
            "link.channels", 0, f"{', '.join(too_high)}: the tagger has inputs 0 to {inputs - 1 if inputs else 0}", ""
        )


def _bins(shared: LinkShared, resolution: int) -> Iterator[Finding]:
    """What the tagger's bin (ps) is too coarse for."""
    if shared.protocol == "decoy_bb84":
        if shared.slot_ps < SLOT_BINS * resolution:
            most = 1e12 / (SLOT_BINS * resolution)
            yield Finding(
                "link.shared.decoy.pulse_rate",
                0,
                f"a slot of {shared.slot_ps:g} ps is shorter than {SLOT_BINS} bins of the tagger ({resolution} ps each)",
                f'at most "{most / 1e6:g} MHz"',
            )
        return
    if shared.window_ps < 2 * resolution:
        yield Finding(
            "link.shared.window",
            0,
            f"{shared.window} is narrower than two bins of the tagger ({resolution} ps each)",
            f'at least "{2 * resolution} ps"',
        )
    if shared.announce_ps < resolution:
        yield Finding(
            "link.shared.announce_bin",
            0,
            f"{shared.announce_bin} is finer than the tagger's bin of {resolution} ps",
            f'at least "{resolution} ps"',
        )


def _known(ask: Callable[[], int]) -> int | None:
    """A fact of the model, or None when only the open instrument knows it."""
    try:
        return ask()
    except QkddError:
        return None

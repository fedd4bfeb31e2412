"""Which drivers there are: entry points of the group `qkdd.drivers`, read by name and imported only when named.

A plug-in that fails to import harms nobody who does not name it, and whoever names it reads whose it is.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Collection
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qkdd.core import config as core_config
from qkdd.core.errors import ConfigError
from qkdd.device.errors import DriverBroken, DriverNotAllowed, UnknownDriver
from qkdd.device.facts import DriverFacts
from qkdd.device.fields import describe

if TYPE_CHECKING:
    from qkdd.device.driver import Driver

GROUP = "qkdd.drivers"
CONTRACT_VERSION = (1, 3)
"""Version of the driver contract: the first number changes when a driver must be changed, the second when it may be."""
_SIMULATOR = re.compile(r"qkdd-sim ([a-z0-9-]+)")


@dataclass(frozen=True, slots=True)
class Entry:
    """A registered driver that was not imported. distribution: "name version" of the package that brings it."""

    name: str
    target: str
    distribution: str
    rivals: tuple[str, ...] = ()  # other distributions that register the same name

    @property
    def folder(self) -> Path | None:
        """Where driver.toml and README.md are; None when it is no folder."""
        return _folder(self.target)

    def facts(self) -> DriverFacts | None:
        """What driver.toml says; None when the package has none (third parties may do without). Raises ConfigRefused."""
        path = _folder(self.target)
        if path is None or not (path / "driver.toml").is_file():
            return None
        return core_config.load(path / "driver.toml", DriverFacts)


def catalogue() -> dict[str, Entry]:
    """All registered drivers by name; imports none of them."""
    found: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=GROUP):
        points = found.setdefault(point.name, [])
        if point not in points:  # an installed package may stand twice on the path
            points.append(point)
    return {
        name: Entry(name, points[0].value, _owner(points[0]), tuple(_owner(p) for p in points[1:]))
        for name, points in sorted(found.items())
    }


def load(name: str, allow: Collection[str] | None = None) -> type[Driver]:
    """Import one driver. `allow` is the site's list of allowed names; None means that all are allowed.

    Raises UnknownDriver, DriverNotAllowed, DriverBroken.
    """
    from qkdd.device.driver import Driver

    known = catalogue()
    entry = known.get(name)
    if entry is None:
        raise UnknownDriver(f"no driver {name!r} is installed; there are {', '.join(known) or 'none'}", driver=name)
    if allow is not None and name not in allow:
        raise DriverNotAllowed(f"the site does not allow driver {name!r} of {entry.distribution}", driver=name)
    if entry.rivals:
        raise DriverBroken(
            f"driver {name!r} is registered by {entry.distribution} and by {', '.join(entry.rivals)}",
            remedy="Remove one of these packages.",
            driver=name,
        )
    try:
        kind = EntryPoint(name, entry.target, GROUP).load()
    except Exception as error:  # whatever a foreign module does on import
        raise DriverBroken(
            f"driver {name!r} of {entry.distribution} does not import: {type(error).__name__}: {error}", driver=name
        ) from error
    if not (isinstance(kind, type) and issubclass(kind, Driver)):
        raise DriverBroken(f"driver {name!r} of {entry.distribution} is no qkdd.device.Driver", driver=name)
    _check_contract(entry)
    return kind


def _check_contract(entry: Entry) -> None:
    """Raises DriverBroken when the driver was written for another contract than this one."""
    facts = entry.facts()
    wanted = facts.contract if facts is not None else ""
    if not wanted:
        return
    numbers = tuple(int(part) for part in wanted.split(".") if part.isdigit())
    if len(numbers) != 2 or numbers[0] != CONTRACT_VERSION[0] or numbers > CONTRACT_VERSION:
        ours = ".".join(map(str, CONTRACT_VERSION))
        raise DriverBroken(
            f"driver {entry.name!r} of {entry.distribution} is for contract {wanted}; this qkdd has {ours}",
            remedy="Install a version of the package, or of qkdd, that fits.",
            driver=entry.name,
        )


def describe_all(*, fields: bool = False) -> list[dict[str, Any]]:
    """One plain record per registered driver, for tables and JSON.

    Keys: name, distribution, title, roles, models, transport, tcp_ports, usb_ids, firmware, tier, reasons, checked, judges,
    folder (below the package's own), simulator (the command of qkdd-sim that the README names), problem (empty when none).
    With `fields` every driver is imported, `fields` holds its declarations, and a driver that does not import says so in
    `problem`.
    """
    return [_describe(entry, fields) for entry in catalogue().values()]


def _describe(entry: Entry, fields: bool) -> dict[str, Any]:
    record: dict[str, Any] = {
        "name": entry.name,
        "distribution": entry.distribution,
        "title": entry.name,
        "roles": [],
        "models": [],
        "transport": "",
        "tcp_ports": [],
        "usb_ids": [],
        "firmware": "",
        "tier": "",
        "reasons": [],
        "checked": [],
        "judges": [],
        "folder": "/".join(entry.target.partition(":")[0].split(".")[1:-1]),
        "simulator": "",
        "problem": "",
    }
    readme = entry.folder / "README.md" if entry.folder is not None else None
    if readme is not None and readme.is_file():
        found = _SIMULATOR.search(readme.read_text("utf-8"))
        record["simulator"] = found[1] if found is not None else ""
    try:
        facts = entry.facts()
        if facts is None:
            record["problem"] = "the package brings no driver.toml"
        else:
            record |= {
                "title": facts.title,
                "roles": list(facts.roles),
                "models": [f"{m.vendor} {m.model}" for m in facts.models],
                "transport": facts.transport,
                "tcp_ports": list(facts.tcp_ports),
                "usb_ids": list(facts.usb.ids),
                "firmware": f"{facts.firmware.minimum}–{facts.firmware.maximum}".strip("–"),
                "tier": facts.quality.tier.value,
                "reasons": list(facts.quality.reasons),
                "checked": list(facts.quality.checked),
                "judges": list(facts.quality.judges),
            }
        if fields:
            record["fields"] = describe(load(entry.name).fields)
    except ConfigError as error:
        record["problem"] = str(error)
    return record


def _owner(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else "an unknown package"


def _folder(target: str) -> Path | None:
    """Folder of the module that `package.sub.module:Class` names, found without importing any of it."""
    top, *rest = target.partition(":")[0].split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None or not spec.submodule_search_locations:
        return None
    for place in spec.submodule_search_locations:
        folder = Path(place).joinpath(*rest[:-1])
        if folder.is_dir():
            return folder
    return None

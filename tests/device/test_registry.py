"""The registry: names without importing, plug-ins that fail, allow-list, and a walk over every registered driver."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any

import pytest

from qkdd.device import Driver, errors, registry, roles

OURS = {"s15_tdc1", "single_quantum_websq", "thorlabs_mpc320"}


class _Distribution:
    version = "9.9"

    def __init__(self, name: str) -> None:
        self.name = name


def _point(name: str, value: str, owner: str) -> EntryPoint:
    return EntryPoint(name, value, registry.GROUP)._for(_Distribution(owner))  # type: ignore[attr-defined,no-any-return]


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = tmp_path / "plug_in_of_somebody"
    (package / "good").mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('libvendor.so is not there')")
    (package / "good" / "driver.toml").write_text("title = 5")
    monkeypatch.syspath_prepend(tmp_path)
    points = EntryPoints(
        (
            _point("broken", "plug_in_of_somebody.good.driver:D", "somebody-drivers"),
            _point("nonsense", "json:loads", "nonsense-drivers"),
            _point("twice", "json:a", "first"),
            _point("twice", "json:b", "second"),
        )
    )
    monkeypatch.setattr(registry, "entry_points", lambda group: points)


def test_names_are_read_without_importing_anything() -> None:
    code = (
        "import sys; from qkdd.device import registry; records = registry.describe_all();"
        f"assert {{r['name'] for r in records}} >= {OURS!r};"
        f"assert all(r['tier'] and r['models'] for r in records if r['name'] in {OURS!r});"
        "assert not any(m.startswith('qkdd_drivers') for m in sys.modules), 'imported'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_plug_in_that_fails_to_import_is_named_with_its_owner(plugins: None) -> None:
    assert set(registry.catalogue()) == {"broken", "nonsense", "twice"}
    with pytest.raises(errors.DriverBroken, match=r"somebody-drivers 9\.9.*libvendor"):
        registry.load("broken")
    with pytest.raises(errors.DriverBroken, match="nonsense-drivers"):
        registry.load("nonsense")
    with pytest.raises(errors.DriverBroken, match=r"first 9\.9 and by second 9\.9"):
        registry.load("twice")


def test_describing_survives_every_broken_plug_in(plugins: None) -> None:
    records = {r["name"]: r for r in registry.describe_all(fields=True)}
    assert set(records) == {"broken", "nonsense", "twice"}
    assert all(r["problem"] for r in records.values())


def test_unknown_and_not_allowed() -> None:
    with pytest.raises(errors.UnknownDriver, match="s15_tdc1"):
        registry.load("no_such_thing")
    with pytest.raises(errors.DriverNotAllowed):
        registry.load("s15_tdc1", allow=["thorlabs_mpc320"])
    assert registry.load("s15_tdc1", allow=["s15_tdc1"]).__name__ == "Tdc1"


@pytest.mark.parametrize("record", registry.describe_all(fields=True), ids=lambda r: str(r["name"]))
def test_every_registered_driver_keeps_the_shared_promises(record: dict[str, Any]) -> None:
    assert record["problem"] == ""
    assert record["transport"] in ("serial", "tcp", "visa", "usb", "library", "process", "file")
    assert record["models"]
    assert record["reasons"]
    assert record["roles"]
    kind = registry.load(record["name"])
    for role in record["roles"]:
        wanted = {name for name in vars(getattr(roles, role)) if not name.startswith("_")}
        assert not {name for name in wanted if not hasattr(kind, name)}
    for field in record["fields"]:
        assert field["doc"].split()[0] in ("Control", "Measure", "Set", "Get"), field
    readme = Path(sys.modules[kind.__module__].__file__ or "").with_name("README.md").read_text(encoding="utf-8")
    for field in record["fields"]:
        assert f"`{field['field']}`" in readme, f"README.md of {record['name']} says nothing of {field['field']}"
    assert issubclass(kind, Driver)

"""What breaks a third party's driver cannot go unseen: the public contract is pinned by its version."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from qkdd.device import CONTRACT_VERSION, errors, registry
from qkdd.device.facts import DriverFacts, Model, Quality, Tier

HERE = Path(__file__).resolve().parent


def _load() -> Any:
    spec = importlib.util.spec_from_file_location("driver_contract", HERE / "contract.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


contract = _load()


def test_the_contract_is_what_its_version_says() -> None:
    file = contract.file(CONTRACT_VERSION)
    assert file.is_file(), "run `python tests/device/contract.py`"
    pinned, now = set(file.read_text("utf-8").splitlines()), set(contract.surface())
    gone, new = sorted(pinned - now), sorted(now - pinned)
    assert not gone, f"drivers may rely on this: raise the first number of CONTRACT_VERSION, or keep it: {gone}"
    assert not new, f"raise the second number of CONTRACT_VERSION and run `python tests/device/contract.py`: {new}"


def test_a_version_keeps_what_the_one_before_it_promised() -> None:
    files = sorted(contract.FOLDER.glob("*.txt"), key=lambda f: tuple(int(n) for n in f.stem.split(".")))
    for before, after in zip(files, files[1:], strict=False):  # noqa: RUF007 - pairs of one file are none
        if before.stem.split(".")[0] == after.stem.split(".")[0]:
            assert not set(before.read_text("utf-8").splitlines()) - set(after.read_text("utf-8").splitlines())


@pytest.mark.parametrize(
    ("wanted", "fits"),
    [("", True), ("{0}.0", True), ("{0}.{1}", True), ("{0}.999", False), ("999.0", False), ("new", False)],
)
def test_a_driver_for_another_contract_is_refused(wanted: str, fits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = DriverFacts(
        title="T",
        roles=("Detector",),
        transport="tcp",
        models=(Model(vendor="V", model="M"),),
        quality=Quality(tier=Tier.BRONZE, reasons=("r",)),
        contract=wanted.format(*CONTRACT_VERSION),
    )
    monkeypatch.setattr(registry.Entry, "facts", lambda _: facts)
    if fits:
        assert registry.load("s15_tdc1").__name__ == "Tdc1"
    else:
        with pytest.raises(errors.DriverBroken, match="is for contract"):
            registry.load("s15_tdc1")

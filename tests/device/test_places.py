"""Where an instrument is: exactly one way, one key for each line, paths as the configuration's folder sees them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qkdd.device import DeviceConfig, bus_keys, check_devices
from qkdd.device.config import WAYS, resolved

PLACES: dict[str, Any] = {
    "port": "/dev/ttyUSB7",
    "host": "192.0.2.1",
    "library": "/opt/lib/libmh150.so",
    "program": ("/usr/bin/readevents7", "-U", "/dev/x"),
    "python": "/opt/venv/bin/python",
    "recording": "/var/run7.qkdt",
}


def test_every_way_alone_is_accepted_and_any_two_are_refused() -> None:
    assert set(PLACES) == set(WAYS)
    for way, place in PLACES.items():
        assert not list(DeviceConfig(driver="any", **{way: place}).check()), way
        for other in PLACES.keys() - {way}:
            findings = list(DeviceConfig(driver="any", **{way: place, other: PLACES[other]}).check())
            assert any("one way" in problem for _, problem, _ in findings), (way, other)
    assert "none is given" in next(iter(DeviceConfig(driver="any").check()))[1]
    assert list(DeviceConfig(driver="any", library="/x.so", tcp_ports=(1,)).check())


@pytest.mark.parametrize("way", ["library", "program", "python", "recording"])
def test_a_place_that_is_given_twice_is_found(way: str) -> None:
    one = DeviceConfig(driver="any", **{way: PLACES[way]})
    findings = list(check_devices({"a": one, "b": one}))
    assert [key for key, _, _ in findings] == [f"b.{way}"]


def test_one_library_serves_instruments_of_different_serial_number_or_index() -> None:
    library = PLACES["library"]
    devices = {
        "a": DeviceConfig(driver="any", library=library, serial_number="1035683"),
        "b": DeviceConfig(driver="any", library=library, serial_number="1035684"),
        "c": DeviceConfig(driver="any", library=library, options={"device_index": 2}),
        "d": DeviceConfig(driver="any", library=library),
    }
    assert not list(check_devices(devices))
    assert len({bus_keys(config) for config in devices.values()}) == 4


def test_two_names_of_one_library_are_one(tmp_path: Path) -> None:
    real = tmp_path / "libmh150.so.3"
    real.write_bytes(b"")
    (tmp_path / "libmh150.so").symlink_to(real)
    pair = {name: DeviceConfig(driver="any", library=str(tmp_path / name)) for name in ("libmh150.so", "libmh150.so.3")}
    assert len(list(check_devices(pair))) == 1


def test_paths_are_seen_from_the_configurations_folder_and_plain_names_stay() -> None:
    base = Path("/etc/qkdd")
    assert resolved(DeviceConfig(driver="any", recording="run7.qkdt"), base).recording == "/etc/qkdd/run7.qkdt"
    assert resolved(DeviceConfig(driver="any", recording="/var/run7.qkdt"), base).recording == "/var/run7.qkdt"
    assert resolved(DeviceConfig(driver="any", library="libmh150.so"), base).library == "libmh150.so"
    assert resolved(DeviceConfig(driver="any", library="lib/libmh150.so"), base).library == "/etc/qkdd/lib/libmh150.so"
    program = DeviceConfig(driver="any", program=("bin/readevents7", "-U", "dev/x"))
    assert resolved(program, base).program == ("/etc/qkdd/bin/readevents7", "-U", "dev/x")
    assert resolved(DeviceConfig(driver="any", port="socket://h:1"), base).port == "socket://h:1"

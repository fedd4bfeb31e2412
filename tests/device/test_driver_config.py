"""Field declarations, limits, device configuration, the life of a driver."""

from __future__ import annotations

import asyncio
import importlib.util
import math
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qkdd.core import config as core_config
from qkdd.core.clock import SystemClock
from qkdd.core.config import ConfigRefused, Section
from qkdd.core.counters import RecordingMeter
from qkdd.device import DeviceConfig, Driver, Field, Limits, bus_keys, check_devices, errors
from qkdd.device.facts import Firmware
from qkdd.testing.clock import FakeClock
from qkdd.testing.leaks import no_leaks
from qkdd.testing.patience import PATIENCE_S, until_async
from qkdd.testing.replay import DeadLink

_spec = importlib.util.spec_from_file_location("toy", Path(__file__).with_name("toy.py"))
assert _spec is not None
assert _spec.loader is not None
toy = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(toy)

finite = st.floats(-1e6, 1e6)


def make(**config: Any) -> Any:
    return toy.Toy("x", DeviceConfig(driver="d", port="p", **config), (), FakeClock(), RecordingMeter())


@given(finite, finite, finite, finite, finite)
def test_intersection_allows_what_both_allow(a: float, b: float, c: float, d: float, value: float) -> None:
    one, two = Limits(min(a, b), max(a, b)), Limits(min(c, d), max(c, d))
    assert (value in one.intersect(two)) == (value in one and value in two)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_no_limits_allow_what_is_not_finite(value: float) -> None:
    assert value not in Limits(-math.inf, math.inf)


def test_a_settable_number_needs_a_range() -> None:
    with pytest.raises(TypeError, match="range"):
        Field(doc="Set x", settable=True)


def test_a_declared_field_without_its_verb_is_found_at_import() -> None:
    with pytest.raises(TypeError, match="_set_gain"):

        class Broken(Driver):
            gain = Field(doc="Set gain", range=(0, 1), settable=True, readable=False)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"limits": {"angle": ["20 V", "30 V"]}}, "limits.angle"),
        ({"limits": {"angle": ["170 deg", "20 deg"]}}, "limits.angle"),
        ({"limits": {"angle": ["200 deg", "300 deg"]}}, "nothing in common"),
        ({"limits": {"angle": "20 deg"}}, "two values"),
        ({"limits": {"mode": ["a", "b"]}}, "no limits"),
        ({"limits": {"level": ["1 V", "2 V"]}}, "no settable field"),
        ({"limits": {"tilt": ["1 V", "2 V"]}}, "there are angle"),
        ({"settings": {"angle": "400 deg"}}, "QKD-DEV-RANGE"),
        ({"settings": {"angle": "90 deg"}, "limits": {"angle": ["0 deg", "80 deg"]}}, "QKD-DEV-RANGE"),
        ({"settings": {"angle": ["1 rad", "2 rad"]}}, "3 elements"),
        ({"settings": {"angle": 1.0}}, "unit"),
        ({"settings": {"mode": "c"}}, "a, b"),
        ({"settings": {"on": 1}}, "true nor false"),
        ({"settings": {"steps": 1.5}}, "whole"),
        ({"settings": {"level": "1 V"}}, "no settable"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused_at_construction(config: dict[str, Any], words: str) -> None:
    with pytest.raises(errors.DeviceConfigError, match=r"devices\.x\.") as caught:
        make(**config)
    assert words in str(caught.value)


def test_settings_are_applied_at_each_open_and_safe_state_at_each_close() -> None:
    async def main() -> None:
        device = make(settings={"angle": "90 deg", "mode": "b", "on": True, "steps": 3})
        for _ in range(2):
            device.events.clear()
            async with device:
                assert await device.get("angle") == pytest.approx((math.pi / 2,) * 3)
                assert await device.get("mode") == ("b",)
            assert device.events == ["identify", "start", "set angle", "set mode", "set on", "set steps", "safe"]

    asyncio.run(main())


@pytest.mark.parametrize("step", ["identify", "start", "set angle", "set mode"])
def test_open_that_fails_at_any_step_leaves_a_closed_device(step: str) -> None:
    async def main() -> None:
        device = make(settings={"angle": "1 rad", "mode": "a"})
        device.fail_in = step
        with pytest.raises(RuntimeError):
            await device.open()
        assert not device.is_open
        assert ("safe" in device.events) == step.startswith("set")
        device.fail_in = ""
        await device.open()
        await device.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("version", "fits"), [("2.0", True), ("3.9", True), ("1.9.9", False), ("4.0", False), ("", True)]
)
def test_firmware_range(version: str, fits: bool) -> None:
    async def main() -> None:
        device = make()
        device.firmware = version
        if fits:
            await device.open()
            await device.close()
        else:
            with pytest.raises(errors.UnsupportedFirmware, match=version):
                await device.open()

    asyncio.run(main())
    assert Firmware().allows(version)


def test_out_of_range_names_value_limits_and_unit() -> None:
    async def main() -> None:
        async with make(limits={"angle": ["20 deg", "150 deg"]}) as device:
            with pytest.raises(errors.OutOfRange) as caught:
                await device.set("angle", 0.1)
            assert (caught.value.value, caught.value.unit) == (0.1, "rad")
            assert caught.value.details["device"] == "x"
            with pytest.raises(ValueError, match="a, b"):
                await device.set("mode", "z")
            with pytest.raises(ValueError, match="3 elements"):
                await device.set("angle", 1.0, 1.0)
            assert device.state == {}

    asyncio.run(main())


class Both(Section, frozen=True):
    devices: dict[str, DeviceConfig]


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('driver = "d"', "devices.a"),
        ('driver = "d"\nport = "/dev/x"\nhost = "h"', "devices.a.port"),
        ('driver = "d"\nport = "/dev/x"\ntcp_ports = [1]', "devices.a.tcp_ports"),
        ('driver = "d"\nhost = "h"\ntcp_ports = [99999]', "devices.a.tcp_ports"),
        ('driver = "d"\nport = "/dev/x"\nbaud = 9600', "devices.a.baud"),
    ],
)
def test_a_section_is_refused_by_key(text: str, key: str) -> None:
    with pytest.raises(ConfigRefused) as caught:
        core_config.parse("[devices.a]\n" + text, Both)
    assert any(f.key.startswith(key) for f in caught.value.findings)


def test_a_port_given_twice_is_found_also_under_another_name(tmp_path: Path) -> None:
    device = tmp_path / "tty"
    device.touch()
    (tmp_path / "by-id").symlink_to(device)
    devices = {
        "a": DeviceConfig(driver="s15_tdc1", port=str(device)),
        "b": DeviceConfig(driver="thorlabs_mpc320", port=str(tmp_path / "by-id")),
        "c": DeviceConfig(driver="single_quantum_websq", host="127.0.0.1"),
        "d": DeviceConfig(driver="single_quantum_websq", host="127.0.0.1", tcp_ports=(12345, 9)),
        "e": DeviceConfig(driver="single_quantum_websq", host="127.0.0.2"),
        "f": DeviceConfig(driver="s15_tdc1", port="socket://127.0.0.2:12000"),
    }
    found = {key: problem for key, problem, _ in check_devices(devices)}
    assert set(found) == {"b.port", "d.host", "f.port"}
    assert "'a'" in found["b.port"]
    assert bus_keys(devices["e"]) == ("tcp:127.0.0.2:12000", "tcp:127.0.0.2:12345")


def test_cancelled_while_closing_every_line_is_closed_all_the_same() -> None:
    """A node that stops while a device with several lines is put away leaves none of them open."""

    class SlowToClose(DeadLink):
        def open(self, timeout: float) -> None: ...

        def close(self) -> None:
            closes.set()
            go_on.wait(PATIENCE_S)

    closes, go_on = threading.Event(), threading.Event()

    class Two(toy.Toy):  # type: ignore[misc, name-defined]
        """Two lines."""

    async def main() -> None:
        links: list[Any] = [SlowToClose(), SlowToClose()]
        driver = Two("d", DeviceConfig(driver="d", port="x"), links, SystemClock(), RecordingMeter())
        await driver.open()
        closing = asyncio.ensure_future(driver.close())
        await until_async(closes.is_set, "a line is being closed")
        closing.cancel()
        await asyncio.sleep(0)
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await closing
        assert not any(bus.is_open for bus in driver.buses)

    with no_leaks():
        asyncio.run(main())


def test_an_address_with_a_password_is_refused_without_repeating_it() -> None:
    found = list(DeviceConfig(driver="d", port="socket://user:hunter2@192.0.2.1:4001").check())
    assert [key for key, _, _ in found] == ["port"]
    assert "hunter2" not in str(found)
    assert not list(DeviceConfig(driver="d", port="serial://1313:80d8/A@1").check())

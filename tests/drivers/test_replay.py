"""Each command byte for byte, as the fact sheet (`devices.md`) gives it; the section stands at each test."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from qkdd_drivers.s15_tdc1.driver import Tdc1
from qkdd_drivers.single_quantum_websq.driver import WebSq
from qkdd_drivers.thorlabs_mpc320.driver import Mpc320

from qkdd.core.counters import RecordingMeter
from qkdd.device import DeviceConfig, errors
from qkdd.device.transport import ByteLink
from qkdd.testing.clock import FakeClock
from qkdd.testing.replay import DeadLink, ReplayMismatch, replay

TDC1_OPENS = [(b"abort\r\n", b""), (b"*IDN?\r\n", b"TDC1\r\n"), (b"abort;singles\r\n", b"")]
TDC1_CLOSES = [(b"abort;singles\r\n", b"")]


def noted(words: str) -> Any:
    return pytest.raises(errors.CommandRefused, match=words)


def tdc1(link: ByteLink) -> Tdc1:
    return Tdc1("tagger", DeviceConfig(driver="s15_tdc1", port="x"), [link], FakeClock(), RecordingMeter())


def talk(driver: Any, scene: Callable[[Any], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        async with driver:
            return await scene(driver)

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("field", "dialogue", "expected"),
    [
        ("threshold", [(b"level?\r\n", b"-0.5 V whatever\r\n")], (-0.5,)),  # section 2: begins with the voltage
        ("integration_time", [(b"time?\r\n", b"1000\r\n")], (1.0,)),
        ("integration_time", [(b"time?\r\n", b"-5536\r\n")], (60.0,)),  # section 2: add 65536 if negative
        ("reference_clock", [(b"REFCLK?\r\n", b"1\r\n")], ("external",)),
        ("counts", [(b"time?\r\n", b"100\r\n"), (b"singles;counts?\r\n", b"1 22 333 4444\r\n")], (1, 22, 333, 4444)),
    ],
)
def test_tdc1_reads(field: str, dialogue: list[tuple[bytes, bytes]], expected: tuple[Any, ...]) -> None:
    """Section 2."""
    with replay(*TDC1_OPENS, *dialogue, *TDC1_CLOSES) as link:
        assert talk(tdc1(link), lambda d: d.get(field)) == expected


@pytest.mark.parametrize(
    ("field", "value", "dialogue"),
    [
        ("threshold", -0.35, [(b"NEG -0.350\r\n", b""), (b"level?\r\n", b"-0.350 V\r\n")]),
        ("threshold", 1.0, [(b"POS 1.000\r\n", b""), (b"level?\r\n", b"1.0\r\n")]),
        ("integration_time", 0.25, [(b"time 250\r\n", b""), (b"time?\r\n", b"250\r\n")]),
        ("reference_clock", "internal", [(b"REFCLK 2\r\n", b""), (b"REFCLK?\r\n", b"2\r\n")]),
    ],
)
def test_tdc1_sets(field: str, value: Any, dialogue: list[tuple[bytes, bytes]]) -> None:
    """Section 2."""
    with replay(*TDC1_OPENS, *dialogue, *TDC1_CLOSES) as link:
        talk(tdc1(link), lambda d: d.set(field, value))


def test_tdc1_that_keeps_its_threshold_has_refused() -> None:
    dialogue = [(b"NEG -0.350\r\n", b""), (b"level?\r\n", b"-0.5 V\r\n")]
    with replay(*TDC1_OPENS, *dialogue, *TDC1_CLOSES) as link, pytest.raises(errors.CommandRefused):
        talk(tdc1(link), lambda d: d.set("threshold", -0.35))


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"SPD module\r\n", errors.WrongDevice),
        (b"\x80\x01\r\n", errors.ProtocolError),
        (b"TDC1", errors.DeviceTimeout),
        (b"", errors.DeviceTimeout),
    ],
)
def test_tdc1_that_is_none(answer: bytes, kind: type[Exception]) -> None:
    with replay((b"abort\r\n", b""), (b"*IDN?\r\n", answer)) as link, pytest.raises(kind):
        talk(tdc1(link), lambda d: d.ping())


def test_replay_notices_other_bytes_and_what_is_left_over() -> None:
    with pytest.raises(ReplayMismatch), replay((b"abort\r\n", b""), (b"*idn?\r\n", b"")) as link:
        talk(tdc1(link), lambda d: d.ping())
    with pytest.raises(ReplayMismatch, match="not reached"), replay((b"a", b"")):
        pass


def test_dead_line_is_offline() -> None:
    with pytest.raises(errors.DeviceOffline, match="tagger on dead:, open: nothing is there"):
        talk(tdc1(DeadLink()), lambda d: d.ping())


# Section 8: short frame id u16, p1, p2, dest, source; long frame id u16, length u16, dest|0x80, source, payload


def short(number: int, p1: int = 0, p2: int = 0, *, reply: bool = False) -> bytes:
    return struct.pack("<HBB", number, p1, p2) + (b"\x01\x50" if reply else b"\x50\x01")


def long(number: int, payload: bytes, *, reply: bool = False) -> bytes:
    return struct.pack("<HH", number, len(payload)) + (b"\x81\x50" if reply else b"\xd0\x01") + payload


def status(channel: int, position: int, bits: int = 0x9000_0100) -> bytes:
    return long(0x0491, struct.pack("<HihhI", channel, position, 0, 0, bits), reply=True)


INFO = struct.pack("<i8sH4B", 38123456, b"MPC320\0\0", 44, 2, 0, 1, 0) + bytes(60) + struct.pack("<HHH", 1, 0, 3)
STOPS = short(0x0465, 1, 2) + short(0x0465, 2, 2) + short(0x0465, 4, 2)
PARAMS = (short(0x0531), long(0x0532, struct.pack("<6H", 0, 50, 685, 25, 25, 25), reply=True))
MPC_OPENS = [
    (short(0x0005), long(0x0006, INFO, reply=True)),
    (STOPS + short(0x0210, 7, 1) + PARAMS[0], status(1, 685) + PARAMS[1]),
]
MPC_CLOSES = [(STOPS + short(0x0210, 0, 1) + PARAMS[0], status(1, 685) + PARAMS[1])]


def mpc320(link: ByteLink) -> Mpc320:
    return Mpc320("paddles", DeviceConfig(driver="thorlabs_mpc320", port="x"), [link], FakeClock(), RecordingMeter())


def test_mpc320_identity() -> None:
    with replay(*MPC_OPENS, *MPC_CLOSES) as link:

        async def scene(driver: Mpc320) -> tuple[str, str, str]:
            return driver.identity.model, driver.identity.serial, driver.identity.firmware

        assert talk(mpc320(link), scene) == ("MPC320", "38123456", "1.0.2")


def test_mpc320_move_waits_for_the_status_not_for_completed() -> None:
    """1370 counts are 170 degrees; MOVE_COMPLETED (short form) is passed over."""
    order = long(0x0453, struct.pack("<Hi", 2, 1370)) + short(0x0490, 2)
    moves = [PARAMS, (order, status(2, 1370) + short(0x0464, 2, reply=True))]
    with replay(*MPC_OPENS, *moves, *MPC_CLOSES) as link:
        assert talk(mpc320(link), lambda d: d.move(1, 2.9670597)) == pytest.approx(2.9670597)


def test_mpc320_refusal_and_disabled_paddle() -> None:
    order = long(0x0453, struct.pack("<Hi", 1, 0)) + short(0x0490, 1)
    complaint = long(0x0081, struct.pack("<HH64s", 0x0453, 7, b"not now"), reply=True)
    with replay(*MPC_OPENS, PARAMS, (order, complaint + status(1, 685)), *MPC_CLOSES) as link, noted("not now"):
        talk(mpc320(link), lambda d: d.move(0, 0.0))
    with replay(*MPC_OPENS, PARAMS, (order, status(1, 685, 0x1000_0100)), *MPC_CLOSES) as link, noted("disabled"):
        talk(mpc320(link), lambda d: d.move(0, 0.0))


def test_mpc320_settings_and_velocity() -> None:
    asks = [(short(0x0490, 1 << k), status(1 << k, 137 * (k + 1))) for k in range(3)]
    with replay(*MPC_OPENS, *asks, *MPC_CLOSES) as link:
        assert talk(mpc320(link), lambda d: d.settings()) == pytest.approx([0.296706, 0.593412, 0.890118], rel=1e-5)
    new = struct.pack("<6H", 0, 100, 685, 25, 25, 25)
    write = (long(0x0530, new) + short(0x0531), long(0x0532, new, reply=True))
    with replay(*MPC_OPENS, PARAMS, write, *MPC_CLOSES) as link:
        assert talk(mpc320(link), lambda d: d.set("velocity", 1.0)) == (1.0,)


@pytest.mark.parametrize(
    "answer",
    [short(0x0006, reply=False), struct.pack("<HHBB", 6, 4000, 0x81, 0x50), long(0x0006, bytes(12), reply=True)],
)
def test_mpc320_broken_frames(answer: bytes) -> None:
    with replay((short(0x0005), answer)) as link, pytest.raises(errors.ProtocolError):
        talk(mpc320(link), lambda d: d.ping())


# Section 5: JSON without terminator to the server, JSON and ETB (0x17) from it

PROPS = b'{"request": "labelProps", "value": "None"}'


def told(bias: list[float], *, on: bool = True) -> bytes:
    values = {
        "NumberOfDetectors": 2,
        "BiasCurrent": bias,
        "TriggerLevel": [-150, -150],
        "InptMeasurementPeriod": 100,
        "DetectorEnable": on,
    }
    return b"".join(json.dumps({"label": k, "value": {"value": v}}).encode() + b"\x17" for k, v in values.items())


def websq(control: ByteLink, counts: ByteLink) -> WebSq:
    config = DeviceConfig(driver="single_quantum_websq", host="x")
    return WebSq("detectors", config, [control, counts], FakeClock(), RecordingMeter())


WEBSQ_CLOSES = [
    (b'{"command": "SetAllBiasCurrents", "label": "BiasCurrent", "value": [0.0, 0.0]}' + PROPS, told([0, 0])),
    (b'{"command": "DetectorEnable", "label": "DetectorEnable", "value": false}' + PROPS, told([0, 0], on=False)),
]


def test_websq_bias_is_read_modify_write_and_read_back() -> None:
    set_one = b'{"command": "SetAllBiasCurrents", "label": "BiasCurrent", "value": [20.0, 15.5]}'
    broadcast = b'{"label": "BiasCurrent", "value": [20.0, 15.5]}\x17'
    dialogue = [(PROPS, told([20, 20])), (PROPS, told([20, 20])), (set_one + PROPS, broadcast + told([20, 15.5]))]
    with replay(*dialogue, *WEBSQ_CLOSES) as control, replay() as counts:
        assert talk(websq(control, counts), lambda d: d.set_bias(1, 15.5e-6)) == pytest.approx(15.5e-6)


def test_websq_error_label_is_a_refusal() -> None:
    off = b'{"command": "DetectorEnable", "label": "DetectorEnable", "value": true}'
    error = b'{"label": "ErrorMessage", "value": "interlock"}\x17'
    again = [(WEBSQ_CLOSES[0][0], told([0, 0])), WEBSQ_CLOSES[1]]
    with (
        replay((PROPS, told([20, 20])), (off + PROPS, error), *again) as control,
        replay() as counts,
        noted("interlock"),
    ):
        talk(websq(control, counts), lambda d: d.set_enabled(True))


def test_websq_counts_are_the_newest_line() -> None:
    class Lines(DeadLink):
        data = b"7,0\n1700000000.5,11,12\n1700000000.6,21,22\n17000"

        def open(self, timeout: float) -> None:
            """Always there."""

        def read(self, limit: int, timeout: float) -> bytes:
            data, self.data = self.data[:limit], self.data[limit:]
            return data

    with replay((PROPS, told([20, 20])), *WEBSQ_CLOSES) as control:
        reading = talk(websq(control, Lines()), lambda d: d.counts())
    assert (reading.counts, reading.wall, reading.period) == ((21, 22), 1700000000.6, 0.1)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b'{"label": 5}\x17', errors.ProtocolError),
        (b"{{{\x17", errors.ProtocolError),
        (told([1]), errors.ProtocolError),  # one bias for two detectors
        (told([1, 1]).replace(b'{"value": 2}', b'{"value": "many"}'), errors.WrongDevice),
        (told([1, 1])[:-1], errors.DeviceTimeout),
    ],
)
def test_websq_broken_answers(answer: bytes, kind: type[Exception]) -> None:
    with replay((PROPS, answer)) as control, replay() as counts, pytest.raises(kind):
        talk(websq(control, counts), lambda d: d.ping())

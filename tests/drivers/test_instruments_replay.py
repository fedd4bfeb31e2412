"""Each command byte for byte, as the fact sheet (`devices.md`) gives it; the section stands at each group."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from qkdd_drivers.agiltron_ff.driver import Ff1x4
from qkdd_drivers.ozoptics_dd100.driver import Dd100
from qkdd_drivers.ozoptics_epc400.driver import Epc400
from qkdd_drivers.srs_fs725.driver import Fs725
from qkdd_drivers.thorlabs_ell14.driver import Ell14
from qkdd_drivers.thorlabs_osw.driver import Osw

from qkdd.core.counters import RecordingMeter
from qkdd.device import DeviceConfig, errors
from qkdd.device.transport import ByteLink
from qkdd.testing.clock import FakeClock
from qkdd.testing.replay import replay

Dialogue = list[tuple[bytes, bytes]]


def talk(kind: type[Any], link: ByteLink, scene: Callable[[Any], Awaitable[Any]], **settings: Any) -> Any:
    async def main() -> Any:
        config = DeviceConfig(driver="any", port="x", settings=settings)
        async with kind("device", config, [link], FakeClock(), RecordingMeter()) as driver:
            return await scene(driver)

    return asyncio.run(main())


def noted(words: str) -> Any:
    return pytest.raises(errors.CommandRefused, match=words)


# Section 9: OZ Optics EPC-400

VOLTS = (b"V?\r\n", b"Voltage(mV): CH1 +2200 CH2 +5000 CH3 -1000 CH4 -4000\r\nDone\r\n")
DC = (b"MDC\r\n", b"\r\nDone\r\n")


@pytest.mark.parametrize(
    ("field", "question", "answer", "expected"),
    [
        ("voltage", b"V?\r\n", VOLTS[1], (2.2, 5.0, -1.0, -4.0)),
        ("voltage", b"V?\r\n", b"V?\r\n" + VOLTS[1], (2.2, 5.0, -1.0, -4.0)),  # some firmware echoes
        ("mode", b"M?\r\n", b"Working Mode: AC\r\nDone\r\n", ("ac",)),
        (
            "frequency",
            b"F?\r\n",
            b"Frequency(Hz): CH1 007  CH2 017  CH3 037  CH4 100\r\nDone\r\n",
            (7.0, 17.0, 37.0, 100.0),
        ),
        ("waveform", b"WF?\r\n", b"AC Waveform: Triangle\r\nDone\r\n", ("triangle",)),
    ],
)
def test_epc400_reads(field: str, question: bytes, answer: bytes, expected: tuple[Any, ...]) -> None:
    with replay(VOLTS, DC, (question, answer), DC) as link:
        assert talk(Epc400, link, lambda d: d.get(field)) == expected


@pytest.mark.parametrize(
    ("field", "value", "dialogue"),
    [
        ("mode", "ac", [(b"MAC\r\n", b"\r\nDone\r\n"), (b"M?\r\n", b"Mode: AC\r\nDone\r\n")]),
        ("waveform", "sine", [(b"WF1\r\n", b"Done\r\n"), (b"WF?\r\n", b"AC Waveform: Sine\r\nDone\r\n")]),
        (
            "frequency",
            9.0,
            [(b"F%d,9\r\n" % k, b"\r\nDone\r\n") for k in range(1, 5)]
            + [(b"F?\r\n", b"Frequency(Hz): CH1 009 CH2 009 CH3 009 CH4 009\r\nDone\r\n")],
        ),
    ],
)
def test_epc400_sets(field: str, value: Any, dialogue: Dialogue) -> None:
    with replay(VOLTS, DC, *dialogue, DC) as link:
        talk(Epc400, link, lambda d: d.set(field, value))


def test_epc400_moves_one_squeezer_and_reads_back() -> None:
    moves = [(b"V3,-1000\r\n", b"\r\nDone\r\n"), VOLTS]
    with replay(VOLTS, DC, *moves, DC) as link:
        assert talk(Epc400, link, lambda d: d.move(2, -1.0)) == -1.0
    order = b"V1,1000\r\n"
    with replay(VOLTS, DC, (order, b"\r\nDone\r\n"), VOLTS, DC) as link, noted("2200 mV instead of 1000"):
        talk(Epc400, link, lambda d: d.move(0, 1.0))
    with replay(VOLTS, DC, (order, b"Error!\r\n"), DC) as link, noted("Error!"):
        talk(Epc400, link, lambda d: d.move(0, 1.0))


def test_epc400_zeroes_on_close_only_when_told() -> None:
    zeros = [(b"VZ%d\r\n" % k, b"\r\nDone\r\n") for k in range(1, 5)]
    with replay(VOLTS, DC, DC, *zeros) as link:
        talk(Epc400, link, lambda d: asyncio.sleep(0), on_close="zero")


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"VOA 100\r\nDone\r\n", errors.WrongDevice),
        (b"Voltage(mV): CH1 +2200 CH2 +5000 CH3 -1000\r\nDone\r\n", errors.ProtocolError),
        (b"Voltage(mV): CH1 +2200 CH2 +5000 CH3 -1000 CH4 -9000\r\nDone\r\n", errors.ProtocolError),
        (b"\x80\x01\r\nDone\r\n", errors.ProtocolError),
        (VOLTS[1][:-6], errors.DeviceTimeout),
    ],
)
def test_epc400_that_is_none(answer: bytes, kind: type[Exception]) -> None:
    with replay((VOLTS[0], answer)) as link, pytest.raises(kind):
        talk(Epc400, link, lambda d: d.ping())


# Section 11: OZ Optics DD-100-MC

SPAN = (b"CD\r", b"SN 1234\r\nIL:1.50\r\nMAX ATTEN:55.00\r\nDone\r\n\r\n")
DARK = [
    (b"A55.00\r", b"Pos:2750\r\nDone\r\n\r\n"),
    (b"D\r", b"DPos:2750\r\nATTEN:55.00\r\nDone\r\n\r\n"),
]
AT_20 = (b"D\r", b"DPos:1000\r\nATTEN:20.00\r\nDone\r\n\r\n")
UNKNOWN = (b"D\r", b"Unknown\r\nDone\r\n\r\n")
DD_OPENS = [SPAN, AT_20, *DARK]
DD_CLOSES = [AT_20, *DARK]


def test_dd100_reads_and_sets() -> None:
    moves = [(b"A20.05\r", b"Move\r\nPos:1002\r\nDone\r\n\r\n"), AT_20]
    with replay(*DD_OPENS, *moves, *DD_CLOSES) as link:
        assert talk(Dd100, link, lambda d: d.set("attenuation", 20.05)) == (20.0,)
    with replay(*DD_OPENS, AT_20, *DD_CLOSES) as link:
        assert talk(Dd100, link, lambda d: d.read_attenuation()) == 20.0


def test_dd100_limits_come_from_the_instrument() -> None:
    for value in (1.4, 55.1):
        with replay(*DD_OPENS, *DD_CLOSES) as link, pytest.raises(errors.OutOfRange):
            talk(Dd100, link, lambda d, value=value: d.set_attenuation(value))


def test_dd100_that_stands_elsewhere_or_refuses() -> None:
    moves = [(b"A25.00\r", b"Pos:1250\r\nDone\r\n\r\n"), AT_20]
    with replay(*DD_OPENS, *moves, *DD_CLOSES) as link, noted("20 dB instead of 25"):
        talk(Dd100, link, lambda d: d.set_attenuation(25.0))
    with replay(*DD_OPENS, (b"A05.00\r", b"Error!\r\n"), *DD_CLOSES) as link, noted("Error!"):
        talk(Dd100, link, lambda d: d.set_attenuation(5.0))


def test_dd100_is_homed_only_when_told_and_unknown() -> None:
    with replay(SPAN, UNKNOWN, UNKNOWN, (b"H\r", b"Done\r\n\r\n"), *DARK, *DD_CLOSES) as link:
        talk(Dd100, link, lambda d: asyncio.sleep(0), homing=True)
    with replay(*DD_OPENS, AT_20, *DD_CLOSES) as link:
        talk(Dd100, link, lambda d: asyncio.sleep(0), homing=True)
    with replay(SPAN, UNKNOWN, UNKNOWN, UNKNOWN) as link, noted("must be homed"):
        talk(Dd100, link, lambda d: d.read_attenuation())


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"Voltage(mV): 5\r\nDone\r\n", errors.WrongDevice),
        (b"IL:1.50\r\nDone\r\n\r\n", errors.ProtocolError),
        (b"IL:5\r\nMAX ATTEN:4\r\nDone\r\n\r\n", errors.ProtocolError),
        (b"IL:5\r\nMAX ATTEN:50\r\n", errors.DeviceTimeout),
    ],
)
def test_dd100_that_is_none(answer: bytes, kind: type[Exception]) -> None:
    with replay((SPAN[0], answer)) as link, pytest.raises(kind):
        talk(Dd100, link, lambda d: d.ping())


# Section 10: Thorlabs ELL14; type 0E, 0x23000 pulses a turn

ELL_IN = (b"0in", b"0IN0E1140012320231701016800023000\r\n")


def test_ell14_identity() -> None:
    async def scene(driver: Ell14) -> tuple[str, str, str]:
        return driver.identity.model, driver.identity.serial, driver.identity.firmware

    with replay(ELL_IN) as link:
        assert talk(Ell14, link, scene) == ("ELL14/M", "11400123", "17")


@pytest.mark.parametrize(
    ("question", "answer", "scene", "expected"),
    [
        (b"0gp", b"0PO00008C00\r\n", lambda d: d.get("angle"), (1.5707963,)),
        (b"0gp", b"0POFFFFFFFF\r\n", lambda d: d.get("angle"), (-4.382802e-05,)),
        (b"0gv", b"0GV32\r\n", lambda d: d.get("velocity"), (0.5,)),
        (b"0ma00008C00", b"0PO00008BFE\r\n", lambda d: d.set("angle", 1.5707963), (1.5707087,)),
        (b"0ma00008C00", b"0BS00\r\n0PO00008C00\r\n", lambda d: d.set("angle", 1.5707963), (1.5707963,)),
        (b"0ho0", b"0PO00000000\r\n", lambda d: d.set("homing", True), (True,)),
    ],
)
def test_ell14_commands(question: bytes, answer: bytes, scene: Any, expected: Any) -> None:
    with replay(ELL_IN, (question, answer)) as link:
        assert talk(Ell14, link, scene) == pytest.approx(expected, rel=1e-6)


def test_ell14_velocity_is_read_back() -> None:
    with replay(ELL_IN, (b"0sv46", b"0GS00\r\n"), (b"0gv", b"0GV46\r\n")) as link:
        assert talk(Ell14, link, lambda d: d.set("velocity", 0.7)) == (0.7,)


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (b"0GS02\r\n", errors.CommandRefused, "mechanical"),
        (b"0GS09\r\n", errors.CommandRefused, "busy"),
        (b"0PO00000000\r\n", errors.CommandRefused, "instead of 1.5"),
        (b"1PO00008C00\r\n", errors.ProtocolError, "no answer of address 0"),
        (b"0GV32\r\n", errors.ProtocolError, "PO was due"),
        (b"0PO00008C0\r\n", errors.ProtocolError, "8 digits"),
        (b"", errors.DeviceTimeout, "no answer"),
    ],
)
def test_ell14_moves_that_fail(answer: bytes, kind: type[Exception], words: str) -> None:
    with replay(ELL_IN, (b"0ma00008C00", answer)) as link, pytest.raises(kind, match=words):
        talk(Ell14, link, lambda d: d.rotate(1.5707963))


def test_ell14_finds_the_mount_of_its_serial_number_among_the_addresses() -> None:
    """Address 0 is an ELL17, 1 to 4 are nobody, 5 is the mount."""
    asks = [(b"0in", b"0IN111140000920231701001C00000400\r\n")] + [(b"%din" % k, b"") for k in range(1, 5)]
    found = (b"5in", b"5IN0E1140012320231781016800023000\r\n")
    with replay(*asks, found, (b"5gp", b"5PO00000000\r\n")) as link:
        assert talk(Ell14, link, lambda d: d.get("angle")) == (0.0,)


# Section 15: Agiltron FF 1x4

FF_AT_1 = (b"\x01\x11\0\0", b"\x01\x11\0\x01")
FF_SET_3 = b"\x01\x12\0\x03"


def test_agiltron_selects_and_reads_back() -> None:
    with replay(FF_AT_1, (FF_SET_3, FF_SET_3), (FF_AT_1[0], b"\x01\x11\0\x03")) as link:
        assert talk(Ff1x4, link, lambda d: d.select(3)) == 3
    closes = [(FF_SET_3, FF_SET_3), (FF_AT_1[0], b"\x01\x11\0\x03")]
    with replay(FF_AT_1, FF_AT_1, *closes) as link:
        assert talk(Ff1x4, link, lambda d: d.get("channel"), on_close="3") == ("1",)


def test_agiltron_that_does_not_switch_has_refused() -> None:
    with replay(FF_AT_1, (FF_SET_3, b"\x01\x12\0\0")) as link, noted("01 12 00 00"):
        talk(Ff1x4, link, lambda d: d.select(3))
    with replay(FF_AT_1, (FF_SET_3, FF_SET_3), FF_AT_1) as link, noted("stays at output 1"):
        talk(Ff1x4, link, lambda d: d.select(3))


@pytest.mark.parametrize(
    ("answer", "kind"),
    [(b"\x01\x11\0\x05", errors.WrongDevice), (b"\x01\x11\0", errors.DeviceTimeout), (b"", errors.DeviceTimeout)],
)
def test_agiltron_that_is_none(answer: bytes, kind: type[Exception]) -> None:
    with replay((FF_AT_1[0], answer)) as link, pytest.raises(kind):
        talk(Ff1x4, link, lambda d: d.ping())


# Section 15: Thorlabs OSW

OSW_OPENS = [(b"S?\n", b"1\r\n"), (b"T?\n", b"2\r\n"), (b"I?\n", b"OSW 1.4\r\n")]


def test_osw_identity_and_switching() -> None:
    async def scene(driver: Osw) -> tuple[str, str, int]:
        return driver.identity.model, driver.identity.firmware, await driver.select(2)

    with replay(*OSW_OPENS, (b"S 2\n", b""), (b"S?\n", b"2\r\n")) as link:
        assert talk(Osw, link, scene) == ("OSW type 2", "1.4", 2)
    with replay(*OSW_OPENS, (b"S 1\n", b""), (b"S?\n", b"1\r\n")) as link:
        talk(Osw, link, lambda d: asyncio.sleep(0), on_close="bar")


@pytest.mark.parametrize(
    ("answer", "kind"),
    [(b"3\r\n", errors.WrongDevice), (b"\xff\r\n", errors.ProtocolError), (b"1", errors.DeviceTimeout)],
)
def test_osw_that_is_none(answer: bytes, kind: type[Exception]) -> None:
    with replay((b"S?\n", answer)) as link, pytest.raises(kind):
        talk(Osw, link, lambda d: d.ping())


# Section 16: SRS FS725

FS_OPENS = [(b"VB0\r", b""), (b"ST?\r", b"0,2,2,34,1,0\r"), (b"ID?\r", b"PRS10\r"), (b"SN?\r", b"12345\r")]


@pytest.mark.parametrize(
    ("field", "question", "answer", "expected"),
    [
        ("locked", b"LO?\r", b"1\r\n", (True,)),
        ("pulse_lock", b"PL?\r", b"0\r", (False,)),
        ("pulse_time", b"TT?\r", b"250\r", (250e-9,)),
        ("case_temperature", b"AD10?\r", b"0.412\r", (314.35,)),
        ("status", b"ST?\r", b"0,2,2,34,1,0\r", (0, 2, 2, 34, 1, 0)),
    ],
)
def test_fs725_reads(field: str, question: bytes, answer: bytes, expected: tuple[Any, ...]) -> None:
    with replay(*FS_OPENS, (question, answer)) as link:
        assert talk(Fs725, link, lambda d: d.get(field)) == pytest.approx(expected)


def test_fs725_sets_and_refuses() -> None:
    with replay(*FS_OPENS, (b"PL1\r", b""), (b"PL?\r", b"1\r")) as link:
        assert talk(Fs725, link, lambda d: d.set("pulse_lock", True)) == (True,)
    with replay(*FS_OPENS, (b"PL1\r", b""), (b"PL?\r", b"0\r")) as link, noted("stays"):
        talk(Fs725, link, lambda d: d.set("pulse_lock", True))
    with replay(*FS_OPENS, (b"TT?\r", b"-1\r")) as link, noted("no pulse"):
        talk(Fs725, link, lambda d: d.get("pulse_time"))


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"ready\r", errors.WrongDevice),
        (b"0,2,2\r", errors.ProtocolError),
        (b"0,2,2,34,1,256\r", errors.ProtocolError),
        (b"0,2,2,34,1,0", errors.DeviceTimeout),
    ],
)
def test_fs725_that_is_none(answer: bytes, kind: type[Exception]) -> None:
    with replay(FS_OPENS[0], (b"ST?\r", answer)) as link, pytest.raises(kind):
        talk(Fs725, link, lambda d: d.ping())

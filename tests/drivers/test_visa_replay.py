"""Each command byte for byte, as the fact sheet (`devices.md`) gives it; the section stands at each group."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from qkdd_drivers.idq_id120.driver import Id120
from qkdd_drivers.idq_quantis import protocol as quantis
from qkdd_drivers.idq_quantis.driver import Quantis
from qkdd_drivers.s15_spd.driver import Spd
from qkdd_drivers.scpi import complaint, identity, number, switch
from qkdd_drivers.thorlabs_cld1015.driver import Cld1015
from qkdd_drivers.thorlabs_pm100d.driver import Pm100d
from qkdd_drivers.thorlabs_pm100d.protocol import Sensor, sensor

from qkdd.core.counters import RecordingMeter
from qkdd.device import DeviceConfig, errors
from qkdd.device.transport import FrameError, Refused, Stranger
from qkdd.testing.clock import FakeClock
from qkdd.testing.replay import replay

Exchange = tuple[bytes, bytes]
OK = b'+0,"No error"\n'


def told(command: bytes, answer: bytes = OK) -> Exchange:
    return command + b"\nSYST:ERR?\n", answer


def talk(
    kind: type[Any],
    dialogue: list[Exchange],
    scene: Callable[[Any], Awaitable[Any]],
    limits: dict[str, Any] | None = None,
) -> Any:
    async def main(link: Any) -> Any:
        config = DeviceConfig(driver="any", port="x", limits=limits or {})
        async with kind("device", config, [link], FakeClock(), RecordingMeter()) as driver:
            return await scene(driver)

    with replay(*dialogue) as link:
        return asyncio.run(main(link))


# Section 12: Thorlabs PM100D

PM_OPEN: list[Exchange] = [
    (b"*IDN?\n", b"Thorlabs,PM100D,P0012345,2.6.0\n"),
    told(b"*CLS"),
    told(b"SENS:POW:UNIT W"),
    (b"SENS:POW:UNIT?\n", b"W\n"),
    (b"SYST:SENS:IDN?\n", b'S132C,1234567,"01-JAN-2026",1,18,289\n'),
    (b"SENS:AVER:COUN?\n", b"1\n"),
    (b"SENS:CORR:WAV? MIN\n", b"7.000000E+02\n"),
    (b"SENS:CORR:WAV? MAX\n", b"1.800000E+03\n"),
]


@pytest.mark.parametrize(
    ("field", "question", "answer", "expected"),
    [
        ("power", b"MEAS:POW?\n", b"1.25000000E-05\n", 12.5e-6),
        ("wavelength", b"SENS:CORR:WAV?\n", b"1.550000E+03\n", 1550e-9),
        ("averaging", b"SENS:AVER:COUN?\n", b"100\n", 100),
        ("auto_range", b"SENS:POW:RANG:AUTO?\n", b"1\n", True),
        ("head_temperature", b"MEAS:TEMP?\n", b"23.4\r\n", 296.55),
    ],
)
def test_pm100d_reads(field: str, question: bytes, answer: bytes, expected: Any) -> None:
    found = talk(Pm100d, [*PM_OPEN, (question, answer)], lambda d: d.get(field))
    assert found == (pytest.approx(expected),)


def test_pm100d_sets() -> None:
    dialogue = [
        *PM_OPEN,
        told(b"SENS:CORR:WAV 1310.00"),
        (b"SENS:CORR:WAV?\n", b"1.310000E+03\n"),
        told(b"SENS:AVER:COUN 300"),
        (b"SENS:AVER:COUN?\n", b"300\n"),
        told(b"SENS:POW:RANG:AUTO 0"),
        (b"SENS:POW:RANG:AUTO?\n", b"0\n"),
        told(b"SENS:CORR:COLL:ZERO:INIT"),
        (b"SENS:CORR:COLL:ZERO:STAT?\n", b"0\n"),
        told(b"SENS:CORR:COLL:ZERO:ABOR"),
    ]

    async def scene(driver: Any) -> None:
        assert await driver.set("wavelength", 1310e-9) == (pytest.approx(1310e-9),)
        assert await driver.set("averaging", 300) == (300,)
        assert await driver.set("auto_range", False) == (False,)
        await driver.set("zeroing", True)
        await driver.set("zeroing", False)

    talk(Pm100d, dialogue, scene)


def test_pm100d_complains_in_its_own_words_and_is_believed_by_its_read_back() -> None:
    async def scene(driver: Any) -> None:
        with pytest.raises(errors.CommandRefused, match="-222"):
            await driver.set("wavelength", 1310e-9)
        with pytest.raises(errors.CommandRefused, match="stands at 1550"):
            await driver.set("wavelength", 1310e-9)

    refused = told(b"SENS:CORR:WAV 1310.00", b'-222,"Data out of range"\n')
    ignored = [told(b"SENS:CORR:WAV 1310.00"), (b"SENS:CORR:WAV?\n", b"1550\n")]
    talk(Pm100d, [*PM_OPEN, refused, *ignored], scene)


def test_sensors() -> None:
    assert sensor('S132C,1,"01-JAN-2026",1,18,289') == Sensor("S132C", True, True)
    assert sensor('ES111C,1,"x",2,1,2') == Sensor("ES111C", False, False)
    assert sensor('"no sensor","","","0","0","0"').name == "no sensor"
    with pytest.raises(FrameError):
        sensor("S132C")


# Section 13: Thorlabs CLD1015

CLD_DARK: list[Exchange] = [
    told(b"OUTP:STAT OFF"),
    (b"OUTP:STAT?\n", b"0\n"),
    told(b"SOUR:CURR:LEV:IMM:AMPL 0.000000"),
    (b"SOUR:CURR:LEV:IMM:AMPL?\n", b"0.0\n"),
]
CLD_OPEN: list[Exchange] = [
    (b"*IDN?\n", b"Thorlabs,CLD1015,M00412345,1.7.0\n"),
    told(b"*CLS"),
    *CLD_DARK,
    told(b"SOUR:FUNC:MODE CURR"),
    (b"SOUR:CURR:LEV:IMM:AMPL? MAX\n", b"1.5\n"),
]


@pytest.mark.parametrize(
    ("field", "question", "answer", "expected"),
    [
        ("current", b"SOUR:CURR:LEV:IMM:AMPL?\n", b"0.045\n", 0.045),
        ("current_limit", b"SOUR:CURR:LIM:AMPL?\n", b"0.2\n", 0.2),
        ("emission", b"OUTP:STAT?\n", b"1\n", True),
        ("temperature", b"SOUR2:TEMP:SPO?\n", b"25.0\n", 298.15),
        ("tec", b"OUTP2:STAT?\n", b"0\n", False),
        ("measured_current", b"SENS3:CURR:DATA?\n", b"0.0449\n", 0.0449),
        ("measured_voltage", b"SENS4:VOLT:DATA?\n", b"1.21\n", 1.21),
        ("measured_temperature", b"SENS2:TEMP:DATA?\n", b"24.9\n", 298.05),
    ],
)
def test_cld1015_reads(field: str, question: bytes, answer: bytes, expected: Any) -> None:
    found = talk(Cld1015, [*CLD_OPEN, (question, answer), *CLD_DARK], lambda d: d.get(field))
    assert found == (pytest.approx(expected),)


def test_cld1015_sets_and_switches_on_in_the_only_order_that_is_safe() -> None:
    dialogue = [
        *CLD_OPEN,
        told(b"SOUR:CURR:LIM:AMPL 0.100000"),
        (b"SOUR:CURR:LIM:AMPL?\n", b"0.1\n"),
        told(b"SOUR2:TEMP:SPO 25.000"),
        (b"SOUR2:TEMP:SPO?\n", b"25.0\n"),
        told(b"OUTP2:STAT ON"),
        (b"OUTP2:STAT?\n", b"1\n"),
        (b"SOUR:CURR:LEV:IMM:AMPL?\n", b"0\n"),
        (b"OUTP:STAT?\n", b"0\n"),
        told(b"SOUR:CURR:LEV:IMM:AMPL 0.020000"),
        (b"SOUR:CURR:LEV:IMM:AMPL?\n", b"0.02\n"),
        # emission: held? near? off? then without current, on, and up in steps of 10 mA
        (b"OUTP2:STAT?\n", b"1\n"),
        (b"SENS2:TEMP:DATA?\n", b"25.1\n"),
        (b"SOUR2:TEMP:SPO?\n", b"25.0\n"),
        (b"OUTP:STAT?\n", b"0\n"),
        (b"SOUR:CURR:LEV:IMM:AMPL?\n", b"0.02\n"),
        told(b"SOUR:CURR:LEV:IMM:AMPL 0.000000"),
        (b"SOUR:CURR:LEV:IMM:AMPL?\n", b"0\n"),
        told(b"OUTP:STAT ON"),
        (b"OUTP:STAT?\n", b"1\n"),
        (b"SOUR:CURR:LEV:IMM:AMPL?\n", b"0\n"),
        (b"OUTP:STAT?\n", b"1\n"),
        told(b"SOUR:CURR:LEV:IMM:AMPL 0.010000"),
        told(b"SOUR:CURR:LEV:IMM:AMPL 0.020000"),
        (b"SOUR:CURR:LEV:IMM:AMPL?\n", b"0.02\n"),
        *CLD_DARK,
    ]

    async def scene(driver: Any) -> None:
        await driver.set("current_limit", 0.1)
        await driver.set("temperature", 298.15)
        await driver.set("tec", True)
        await driver.set("current", 0.02)
        await driver.set("emission", True)

    talk(Cld1015, dialogue, scene)


# Section 7: ID Quantique ID120

ID_OPEN: list[Exchange] = [
    (b"INFO:PRODUCT_NAME?\n", b"ID120-500-800nm\n"),
    (b"INFO:PRODUCT_SERIAL_NUMBER?\n", b"1402010\n"),
    (b"INFO:FIRMWARE_VERSION?\n", b"1.3.0\n"),
]
ID_CLOSE: list[Exchange] = [
    (b"BIAS:VOLTAGE 0\n", b""),
    (b"BIAS:VOLTAGE?\n", b"0\n"),
    (b"REG:RUN FALSE\n", b""),
    (b"REG:RUN?\n", b"FALSE\n"),
]


@pytest.mark.parametrize(
    ("field", "question", "answer", "expected"),
    [
        ("bias_voltage", b"BIAS:VOLTAGE?\n", b"160000000\n", 160.0),
        ("threshold", b"THRESHOLD:VOLTAGE?\n", b"150000\n", 0.15),
        ("dead_time_raw", b"DEADTIME:TIME?\n", b"1000\n", 1000),
        ("integration_time", b"COUNTERS:INTEGRATION_TIME?\n", b"200\n", 0.2),
        ("temperature", b"REG:TEMP_SET_POINT?\n", b"-40000\n", 233.15),
        ("measured_temperature", b"REG:MEASURED_TEMP?\n", b"-39500\n", 233.65),
        ("cooler", b"REG:RUN?\n", b"TRUE\n", True),
        ("bias_error", b"BIAS:ERROR_STATUS?\n", b"FALSE\n", False),
        ("count_rate", b"COUNTERS:DETECTION_FREQ?\n", b"12345\n", 12345.0),
        ("breakdown_voltage", b"INFO:BIAS_BREAKDOWN_VOLTAGE?\n", b"152000000\n", 152.0),
    ],
)
def test_id120_reads(field: str, question: bytes, answer: bytes, expected: Any) -> None:
    found = talk(Id120, [*ID_OPEN, (question, answer), *ID_CLOSE], lambda d: d.get(field))
    assert found == (pytest.approx(expected),)


@pytest.mark.parametrize(
    ("field", "value", "command", "question", "answer"),
    [
        ("bias_voltage", 159.99, b"BIAS:VOLTAGE 160000000\n", b"BIAS:VOLTAGE?\n", b"160000000\n"),
        ("threshold", 0.2, b"THRESHOLD:VOLTAGE 200000\n", b"THRESHOLD:VOLTAGE?\n", b"200000\n"),
        ("dead_time_raw", 1010, b"DEADTIME:TIME 1000\n", b"DEADTIME:TIME?\n", b"1000\n"),
        ("integration_time", 0.6, b"COUNTERS:INTEGRATION_TIME 600\n", b"COUNTERS:INTEGRATION_TIME?\n", b"600\n"),
        ("temperature", 233.15, b"REG:TEMP_SET_POINT -40000\n", b"REG:TEMP_SET_POINT?\n", b"-40000\n"),
        ("cooler", True, b"REG:RUN TRUE\n", b"REG:RUN?\n", b"TRUE\n"),
    ],
)
def test_id120_sets(field: str, value: Any, command: bytes, question: bytes, answer: bytes) -> None:
    talk(Id120, [*ID_OPEN, (command, b""), (question, answer), *ID_CLOSE], lambda d: d.set(field, value))


# Section 6: S-Fifteen SPD

SPD_OPEN: list[Exchange] = [(b"*IDN?\r\n", b"Single Photon Detector SPD-Si rev 2\r\n")]
SPD_CLOSE: list[Exchange] = [(b"hvolt 0\r\n", b""), (b"hvolt?\r\n", b"0\r\n")]


@pytest.mark.parametrize(
    ("field", "question", "answer", "expected"),
    [
        ("bias_voltage", b"hvolt?\r\n", b"150.2\r\n", 150.2),
        ("threshold", b"threshvolt?\r\n", b"-0.5\r\n", -0.5),
        ("temperature", b"settemp?\r\n", b"-20\r\n", 253.15),
        ("measured_temperature", b"temp?\r\n", b"-19.8\r\n", 253.35),
        ("cooler", b"loop?\r\n", b"1\r\n", True),
        ("cooler_voltage", b"pvolt?\r\n", b"1.2\r\n", 1.2),
        ("gate_time", b"time?\r\n", b"500\r\n", 0.5),
        ("proportional", b"constp?\r\n", b"0.1\r\n", 0.1),
        ("integral", b"consti?\r\n", b"0.01\r\n", 0.01),
        ("delay_raw", b"delay?\r\n", b"7\r\n", 7),
    ],
)
def test_spd_reads(field: str, question: bytes, answer: bytes, expected: Any) -> None:
    found = talk(Spd, [*SPD_OPEN, (question, answer), *SPD_CLOSE], lambda d: d.get(field))
    assert found == (pytest.approx(expected),)


@pytest.mark.parametrize(
    ("field", "value", "command", "question", "answer"),
    [
        ("bias_voltage", 150.0, b"hvolt 150\r\n", b"hvolt?\r\n", b"150.4\r\n"),
        ("threshold", -0.4, b"threshvolt -0.4\r\n", b"threshvolt?\r\n", b"-0.4\r\n"),
        ("temperature", 253.15, b"settemp -20\r\n", b"settemp?\r\n", b"-20\r\n"),
        ("cooler", True, b"loop 1\r\n", b"loop?\r\n", b"1\r\n"),
        ("gate_time", 0.5, b"time 500\r\n", b"time?\r\n", b"500\r\n"),
        ("proportional", 0.2, b"constp 0.2\r\n", b"constp?\r\n", b"0.2\r\n"),
        ("integral", 0.02, b"consti 0.02\r\n", b"consti?\r\n", b"0.02\r\n"),
        ("delay_raw", 9, b"delay 9\r\n", b"delay?\r\n", b"9\r\n"),
    ],
)
def test_spd_sets(field: str, value: Any, command: bytes, question: bytes, answer: bytes) -> None:
    dialogue = [*SPD_OPEN, (command, b""), (question, answer), *SPD_CLOSE]
    talk(Spd, dialogue, lambda d: d.set(field, value), {"bias_voltage": ["0 V", "200 V"]})


def test_spd_counts_after_its_gate() -> None:
    dialogue = [*SPD_OPEN, (b"time?\r\n", b"500\r\n"), (b"counts?\r\n", b"1234\r\n"), *SPD_CLOSE]
    assert talk(Spd, dialogue, lambda d: d.counts()).counts == (1234,)


# Section 14: Quantis-USB


class Requests:
    """A link with control transfers that are checked one by one."""

    key = "usb://0aba:0102/A1"

    def __init__(self, *answers: tuple[int, int, bytes]) -> None:
        self._answers = list(answers)
        self.noise = bytes(range(256))  # 0 to 255 have equal shares of ones, and no long run

    def open(self, timeout: float) -> None: ...
    def close(self) -> None: ...
    def discard(self) -> None: ...

    def read(self, limit: int, timeout: float) -> bytes:
        return self.noise[:limit]

    def control(self, request_type: int, request: int, value: int, index: int, length: int, timeout: float) -> bytes:
        number, size, answer = self._answers.pop(0)
        assert (request_type, request, value, index, length) == (0xC1, number, 0, 0, size)
        return answer


BOARD = (
    (0x10, 4, b"\x01\x02\0\0"),
    (0x13, 1, b"\x03"),
    (0x15, 1, b"\x07"),
    (0x14, 1, b"\x01"),
    (0x16, 4, (4000).to_bytes(4, "little")),
)


def test_quantis_asks_what_the_vendor_asks() -> None:
    async def main() -> None:
        link: Any = Requests(*BOARD, *BOARD)
        config = DeviceConfig(driver="any", port=link.key)
        async with Quantis("noise", config, [link], FakeClock(), RecordingMeter()) as driver:
            assert driver.identity.serial == "A1"
            assert driver.identity.firmware == "0x201"
            assert await driver.get("rate") == (8e6,)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("which", "data", "kind"),
    [
        (0, b"\x01", FrameError),
        (1, b"", FrameError),
        (1, b"\x08", FrameError),  # works without being present
        (2, b"\x1f", FrameError),
        (4, bytes(4), FrameError),
        (4, b"\xff\xff\xff\xff", FrameError),
        (1, b"\x00", Refused),
    ],
)
def test_quantis_answers_that_no_board_gives(which: int, data: bytes, kind: type[Exception]) -> None:
    answers = [answer for _, _, answer in BOARD]
    answers[which] = data
    with pytest.raises(kind):
        quantis.board(*answers)


# SCPI in general


@pytest.mark.parametrize("text", ["0", '+0,"No error"', '0, "No error"', "+00,fine"])
def test_no_error_is_no_complaint(text: str) -> None:
    complaint(text)


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60))
def test_whatever_answers_becomes_a_value_or_a_protocol_error(text: str) -> None:
    for parse in (number, switch, complaint, lambda t: identity(t, "PM100D", "meter")):
        try:
            parse(text)
        except (FrameError, Refused, Stranger):
            continue


@pytest.mark.parametrize("kind", [Pm100d, Cld1015, Id120, Spd, Quantis])
def test_an_option_that_is_none_is_refused(kind: type[Any]) -> None:
    config = DeviceConfig(driver="any", port="usb://0aba:0102/A1", options={"visa_libary": "@ivi"})
    with replay() as link, pytest.raises(errors.DeviceConfigError, match=r"device\.options\.visa_libary: unknown"):
        kind("device", config, [link], FakeClock(), RecordingMeter())

"""Mapping files of the generic SCPI drivers: what is wrong is found before anything is sent, with file, key and remedy."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from qkdd_drivers.generic_scpi.attenuator.driver import GenericAttenuator
from qkdd_drivers.generic_scpi.mapping import AttenuatorMapping, DetectorMapping, Quantity, SwitchMapping, load

from qkdd.device import DeviceConfig
from qkdd.device.errors import DeviceConfigError
from qkdd.device.transport import FrameError, Refused

MAPPINGS = Path(__file__).parents[2] / "drivers/qkdd_drivers/generic_scpi/mappings"

GOOD = """
title = "A"
identity = "8156A"
[attenuation]
set = "INP:ATT {value:.2f} DB"
get = "INP:ATT?"
range = [0.0, 60.0]
"""


def config(path: Path) -> DeviceConfig:
    return DeviceConfig(driver="generic_scpi_attenuator", port="socket://h:1", options={"mapping": str(path)})


def test_the_examples_are_good() -> None:
    kinds = {"hp8156a": AttenuatorMapping, "example-switch": SwitchMapping, "example-detector": DetectorMapping}
    assert {p.stem for p in MAPPINGS.glob("*.toml")} == set(kinds)
    for name, kind in kinds.items():
        assert load(config(MAPPINGS / f"{name}.toml"), kind).title


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("{value:.2f}", "{volt:.2f}", "options.mapping.*attenuation.set.*volt"),
        ("{value:.2f}", "12", "lacks {value}"),
        ("{value:.2f}", "{value.real}", "attenuation.set"),
        ("{value:.2f}", "{value:.2q}", "ValueError"),
        ("{value:.2f}", "{value", "attenuation.set"),
        ("{value:.2f} DB", "{value:.2f} DB\\n*RST", "characters that no command has"),
        ("[0.0, 60.0]", "[60.0, 0.0]", "attenuation.range.*empty"),
        ("[0.0, 60.0]", "[0.0, 60.0]\nscale = 0.0", "attenuation.scale"),
        ("[0.0, 60.0]", "[0.0, 60.0]\nanswer = '['", "no regular expression"),
        ("[0.0, 60.0]", "[0.0, 60.0]\nanswer = 'x'", "no group"),
        ("[0.0, 60.0]", "[0.0, 60.0]\ntolerance = -1.0", "negative"),
        ('identity = "8156A"', 'identity = ""', "any instrument would be taken for it"),
        ('title = "A"', 'title = "A"\nend = "semicolon"', "unknown"),
        ('title = "A"', 'title = "A"\nidentiy_query = "ID?"', "identiy_query"),
        ('title = "A"', 'title = "A"\nanswer_time = 3', "answer_time"),
        ('title = "A"', 'title = "A"\nsafe = ["{value}"]', "placeholder {value}"),
        ('get = "INP:ATT?"', "", "get"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, old: str, new: str, problem: str) -> None:
    file = tmp_path / "voa.toml"
    file.write_text(GOOD.replace(old, new))
    with pytest.raises(DeviceConfigError, match=f"(?s){problem}") as caught:
        GenericAttenuator.links(config(file))
    assert "voa.toml" in caught.value.message


def test_a_mapping_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(DeviceConfigError, match=r"nothing\.toml"):
        load(config(tmp_path / "nothing.toml"), AttenuatorMapping)
    with pytest.raises(DeviceConfigError, match=r"needs options\.mapping"):
        load(DeviceConfig(driver="generic_scpi_attenuator", port="socket://h:1"), AttenuatorMapping)


@given(
    st.floats(-1e6, 1e6),
    st.floats(1e-9, 1e9) | st.floats(-1e9, -1e-9),
    st.floats(-1e3, 1e3),
)
def test_what_is_told_is_what_is_read(value: float, scale: float, offset: float) -> None:
    quantity = Quantity(set="X {value:.17g}", get="X?", scale=scale, offset=offset, range=(-1e9, 1e9))
    told = quantity.command(value).removeprefix("X ")
    assert quantity.parse(f"VALUE {told} V") == pytest.approx(value, rel=1e-9, abs=1e-6 * (1 + abs(offset)))


@pytest.mark.parametrize("text", ["", "no number", "9.9E37", "-9.91E+37"])
def test_an_answer_without_a_value_is_an_error(text: str) -> None:
    with pytest.raises((FrameError, Refused)):
        Quantity(get="X?").parse(text)

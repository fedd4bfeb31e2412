"""Refused configurations: every finding at once, each naming file, line, key and remedy."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from qkdd.core.config import ConfigRefused, Section, load, parse
from qkdd.core.units import Fraction, Seconds


class Shared(Section):
    block: Seconds
    qber_max: Fraction = Fraction(0.05)


class Device(Section):
    driver: str
    port: str | None = None


class Link(Section):
    name: str
    shared: Shared

    def check(self) -> Iterator[tuple[str, str, str]]:
        if self.shared.block < 0.1:
            yield "shared.block", "is below 100 ms", 'write block = "5 s"'


class Top(Section):
    link: Link
    devices: dict[str, Device] = {}


GOOD = """
[link]
name = "a-b"
[link.shared]
block = "5 s"
[devices.tagger]
driver = "s15_tdc1"
"""


def test_a_good_one() -> None:
    config = parse(GOOD, Top)
    assert config.link.shared.block == 5.0
    assert isinstance(config.link.shared.block, Seconds)
    assert config.devices["tagger"].driver == "s15_tdc1"


@pytest.mark.parametrize(
    ("old", "new", "key", "line", "words"),
    [
        ('block = "5 s"', "block = 5", "link.shared.block", 5, "duration"),
        ('block = "5 s"', 'block = "5 V"', "link.shared.block", 5, "no unit of duration"),
        ('block = "5 s"', 'block = "5 s"\nblok = 1', "link.shared.blok", 6, "unknown key"),
        ('name = "a-b"', "name = 3", "link.name", 3, "Expected `str`"),
        ('name = "a-b"', "", "link.name", 2, "is missing"),
        ('driver = "s15_tdc1"', "drivr = 1", "devices.tagger.drivr", 7, "unknown key"),
        ('block = "5 s"', 'block = "5 ms"', "link.shared.block", 5, "below 100 ms"),
        ('block = "5 s"', 'block = "5 s"\nqber_max = 1.5', "link.shared.qber_max", 6, "outside 0 to 1"),
    ],
)
def test_refused(old: str, new: str, key: str, line: int, words: str) -> None:
    with pytest.raises(ConfigRefused) as caught:
        parse(GOOD.replace(old, new), Top, "node.toml")
    finding = next(f for f in caught.value.findings if f.key == key)
    assert words in finding.problem
    assert finding.line == line
    assert f"node.toml:{line}: {key}" in caught.value.message


def test_all_findings_come_together() -> None:
    text = GOOD.replace("5 s", "5 V").replace("name", "nam")
    with pytest.raises(ConfigRefused) as caught:
        parse(text, Top)
    assert {f.key for f in caught.value.findings} == {"link.nam", "link.name", "link.shared.block"}


def test_a_syntax_error_names_its_line() -> None:
    with pytest.raises(ConfigRefused) as caught:
        parse("[link]\nname = \n", Top)
    assert caught.value.findings[0].line == 2


def test_an_absent_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigRefused, match="cannot be read"):
        load(tmp_path / "none.toml", Top)

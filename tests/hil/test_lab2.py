"""The second bench: what its knobs turn, and the configurations that a demonstration writes for it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from qkdd_drivers.idq_id120.sim import Id120Sim
from qkdd_drivers.ozoptics_dd100.sim import Dd100Sim
from qkdd_drivers.ozoptics_epc400.sim import Epc400Sim
from qkdd_hil.bench.config import BenchConfig, InstrumentsConfig
from qkdd_hil.bench.lab2 import ID120_NAMES, NOMINAL_BIAS_V
from qkdd_hil.bench.rig import Rig
from qkdd_hil.demo.options import Options
from qkdd_hil.demo.variants import choose
from qkdd_hil.demo.variants.lab2 import Lab2
from qkdd_hil.physics import QuantumLine
from qkdd_hil.physics.parameters import MID_TRAVEL

from qkdd.core.clock import SystemClock
from qkdd.core.counters import RecordingMeter
from qkdd.device import DeviceConfig, build


def rig() -> Rig:
    return Rig(BenchConfig(bench="lab2", bob=InstrumentsConfig(detectors_host="127.0.0.2", detectors_ports=(0, 0))))


def test_its_knobs_turn_the_line() -> None:
    made = rig()
    line = made.line
    assert isinstance(line, QuantumLine)
    side = line.setting.alice
    squeezers, shade = made.instruments["alice.polarization"], made.instruments["alice.attenuator"]
    assert isinstance(squeezers, Epc400Sim)
    assert isinstance(shade, Dd100Sim)
    assert side.bias == (0.0,) * 4  # dark until somebody gives the ID120s their bias
    for number, name in enumerate(ID120_NAMES):
        one = made.instruments[f"alice.{name}"]
        assert isinstance(one, Id120Sim)
        one.answer(b"BIAS:VOLTAGE %d" % (NOMINAL_BIAS_V * 1e6 // 80_000 * 80_000))
        assert side.bias[number] == pytest.approx(line.setting.bob.bias[number], rel=1e-3)
    squeezers.answer(b"V2,-2500")
    assert side.paddles == pytest.approx((MID_TRAVEL, 0.5 * MID_TRAVEL, MID_TRAVEL))


def test_the_attenuator_shades_and_a_node_opens_every_instrument() -> None:
    async def main() -> None:
        async with rig() as made:
            variant = choose(Options(bench="lab2"))
            assert isinstance(variant, Lab2)
            drivers = []
            for side in ("alice", "bob"):
                for name, section in variant.devices(side, made.addresses[side]).items():
                    config = DeviceConfig(**section)
                    drivers.append(build(name, config, SystemClock(), RecordingMeter()))
            assert len(drivers) == 10
            await asyncio.gather(*(driver.open() for driver in drivers))
            assert made.line.setting.alice.transmission == pytest.approx(1.0)  # type: ignore[union-attr]
            await asyncio.gather(*(driver.close() for driver in drivers))
            assert made.line.setting.alice.transmission < 1e-5  # type: ignore[union-attr]
            assert made.line.setting.alice.bias == (0.0,) * 4  # type: ignore[union-attr]

    asyncio.run(main())


def test_what_does_not_go_together_is_refused(tmp_path: Path) -> None:
    assert "pairs" in str(Options(bench="lab2", protocol="decoy_bb84").problem())
    assert [key for key, _, _ in BenchConfig(bench="lab2", protocol="decoy_bb84").check()] == ["bench"]
    variant = choose(Options(bench="lab2"))
    assert variant.bench(tmp_path)["bench"] == "lab2"
    assert variant.link("alice")["channels"] == {"H": 1, "V": 2, "D": 3, "A": 4}
    assert variant.link("bob")["channels"] == {"H": 0, "V": 1, "D": 2, "A": 3}

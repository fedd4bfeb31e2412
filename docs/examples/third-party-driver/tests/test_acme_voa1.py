"""The contract suite, and one replay test for each command."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from acme_qkd.acme_voa1.driver import AcmeVoa1
from acme_qkd.acme_voa1.sim import AcmeVoa1Sim

from qkdd.core.counters import RecordingMeter
from qkdd.device import DeviceConfig, errors
from qkdd.testing.clock import FakeClock
from qkdd.testing.contract import DriverContract
from qkdd.testing.replay import replay


class TestAcmeVoa1(DriverContract):
    driver = AcmeVoa1

    def simulator(self) -> AcmeVoa1Sim:
        return AcmeVoa1Sim()

    async def exercise(self, driver: Any) -> None:
        assert await driver.set_attenuation(12.5) == pytest.approx(12.5)


DARK = [(b"ATT 60.00\r\n", b"OK\r\n"), (b"ATT?\r\n", b"60.00\r\n")]
OPEN = [(b"ID?\r\n", b"ACME,VOA-1,17,1.2\r\n"), *DARK]


def test_set_and_refuse() -> None:
    async def main(link: Any) -> None:
        config = DeviceConfig(driver="acme_voa1", port="x")
        async with AcmeVoa1("voa", config, [link], FakeClock(), RecordingMeter()) as driver:
            assert await driver.set("attenuation", 20.0) == (20.0,)
            with pytest.raises(errors.CommandRefused, match="motor"):
                await driver.set("attenuation", 30.0)

    told = [(b"ATT 20.00\r\n", b"OK\r\n"), (b"ATT?\r\n", b"20.00\r\n"), (b"ATT 30.00\r\n", b"ERR motor\r\n")]
    with replay(*OPEN, *told, *DARK) as link:
        asyncio.run(main(link))

"""The reverse: our generic SCPI driver, through our VISA process, against the devices that PyVISA-sim brings along."""

import sys

from bench import check, ours

SCRIPT = """
import asyncio, sys, tempfile, pathlib
import qkdd.device.visa_link as visa_link
from qkdd.core.clock import SystemClock
from qkdd.core.counters import RecordingMeter
from qkdd.device import DeviceConfig, build, errors

visa_link.sys = type("Sys", (), {"executable": sys.argv[1]})  # the interpreter that has PyVISA-sim
folder = pathlib.Path(tempfile.mkdtemp())
mapping = folder / "mock.toml"
mapping.write_text('''
title = "PyVISA-sim device 2"
identity = "SCPI,MOCK"
error_query = ""
[attenuation]
set = ":VOLT:IMM:AMPL {value:.3f}"
get = ":VOLT:IMM:AMPL?"
range = [1.0, 6.0]
tolerance = 0.001
''')

async def main():
    options = {"mapping": str(mapping), "visa_library": "@sim"}
    port = "USB::0x1111::0x2222::0x2468::INSTR"
    config = DeviceConfig(driver="generic_scpi_attenuator", port=port, options=options)
    async with build("mock", config, SystemClock(), RecordingMeter()) as voa:
        print("opened", voa.identity.model)
        print("read", await voa.set_attenuation(2.345), await voa.read_attenuation())
    elsewhere = DeviceConfig(driver="generic_scpi_attenuator", port=port.replace("2468", "1"), options=options)
    try:
        await build("mock", elsewhere, SystemClock(), RecordingMeter()).open()
    except errors.DeviceTimeout as error:  # PyVISA-sim opens whatever it is asked for
        print("absent", error.code)

asyncio.run(main())
"""

said = ours(SCRIPT, sys.executable).splitlines()
check("a USB resource is opened and identified", "opened PyVISA-sim device 2" in said, said)
check("what was set is read", "read 2.345 2.345" in said)
check("a resource that does not answer is a time-out", "absent QKD-DEV-TIMEOUT" in said)

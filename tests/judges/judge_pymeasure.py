"""PyMeasure drives our PM100D over a socket, HiSLIP and VXI-11."""

from bench import check, near, simulator
from pymeasure.instruments.thorlabs import ThorlabsPM100USB

for interface in ("socket", "hislip", "vxi11"):
    with simulator("pm100d", "--over", interface, "--watt", "25e-6") as where:
        ends = {"read_termination": "\n", "write_termination": "\n"}
        meter = ThorlabsPM100USB(where["port"], visa_library="@py", **ends)
        meter.adapter.connection.timeout = 3000
        check(f"{interface}: it is a PM100D", "PM100D" in meter.id, meter.id)
        check(f"{interface}: range of the sensor", (meter.wavelength_min, meter.wavelength_max) == (700.0, 1800.0))
        meter.wavelength = 1310
        check(f"{interface}: wavelength is taken", meter.wavelength == 1310.0)
        meter.write("SENS:POW:UNIT W")
        check(f"{interface}: power in watt", near(meter.power, 25e-6, 1e-6), meter.power)
        check(
            f"{interface}: sensor flags",
            meter.is_power_sensor and not meter.is_energy_sensor and meter.wavelength_settable,
        )
        meter.adapter.close()

"""Single Quantum's own control code, as it stands in qcodes-contrib-drivers, against our WebSQ simulator.

The package wraps it for QCoDeS, which is 600 MB and not needed: empty classes stand for the four names that the module takes
from there. Sockets, messages and threads are the vendor's.
"""

import importlib
import logging
import sys
import time
import types

from bench import check, near, simulator


def stand_in(name: str, *classes: str) -> None:
    module = types.ModuleType(name)
    for one in classes:
        setattr(module, one, type(one, (), {}))
    sys.modules[name] = module


stand_in("qcodes")
stand_in("qcodes.instrument", "Instrument")
stand_in("qcodes.parameters", "Parameter", "ParameterWithSetpoints", "MultiParameter")
stand_in("qcodes.validators", "Arrays")
stand_in("qcodes_contrib_drivers")  # its own __init__ wants QCoDeS too
sys.modules["qcodes_contrib_drivers"].__path__ = [
    f"{path}/qcodes_contrib_drivers" for path in sys.path if path.endswith("site-packages")
]

vendors = importlib.import_module("qcodes_contrib_drivers.drivers.SingleQuantum.SingleQuantum")


class Log(logging.Handler):
    """What the vendor's code says about errors that the rack sent."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(str(record.msg))


def within(seconds: float, condition) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return bool(condition())


log, lines = logging.getLogger("websq"), Log()
log.addHandler(lines)
log.propagate = False
rack = types.SimpleNamespace(npts=lambda: 4)
with simulator("websq", "--listen", "127.0.0.1:0", "--counts-port", "0", "--rate", "200000") as where:
    control, counts = where["tcp_ports"]
    handler = vendors.CommunicationHandler(rack, log, where["host"], control, counts)
    check("number of detectors", handler.get_number_of_detectors() == 4)
    handler.set_measurement_periode(50)
    check("measurement period", within(5, lambda: handler.get_measurement_periode() == 50))
    handler.set_bias_current([21.0, 20.0, 19.0, 18.5])
    check("bias currents", within(5, lambda: handler.get_bias_current() == [21.0, 20.0, 19.0, 18.5]))
    check(
        "bias voltages follow", within(5, lambda: max(handler.get_bias_voltage()) == 21.0), handler.get_bias_voltage()
    )
    handler.set_trigger_level([-120, -121, -122, -123])
    check("trigger levels", within(5, lambda: handler.get_trigger_level() == [-120, -121, -122, -123]))
    handler.cnts.get_n(2)
    table = handler.acquire_cnts_t()
    check("counts: time and four detectors", table.shape == (5, 4), table.shape)
    check("one row a period", near(float(table[0][-1] - table[0][0]), 0.15, 0.1), table[0][-1] - table[0][0])
    check("counts of a period", all(near(n, 2500, 600) for n in table[1:].mean(axis=1)), list(table[1:].mean(axis=1)))
    handler.enable_detectors(False)
    check("disabled: dark", within(5, lambda: not handler.acquire_cnts_t()[1:, -1].any()))
    handler.enable_detectors(True)
    handler.set_bias_current([25.0] * 4)
    handler.set_dark_counts_auto_iv([100.0] * 4)
    handler.auto_cali_bias_currents()
    check("auto bias runs", within(5, lambda: not handler.auto_cali_finished()))
    check("and ends", within(10, handler.auto_cali_finished))
    check("with currents of its own", within(5, lambda: handler.get_bias_current() == [20.0] * 4))
    handler.set_bias_current([500.0] * 4)
    check(
        "a current out of bounds is an error that the vendor's code sees",
        within(5, lambda: bool(lines.lines)),
        lines.lines,
    )
    handler.talk.shutdown = handler.cnts.shutdown = True

"""qudi-iqo-modules: its class for Thorlabs OSW switches (LGPL) drives our simulator through pyvisa.

qudi's core wants Qt; three names that the module takes from it are replaced. The dialogue with the switch is theirs.
"""

import importlib
import logging
import sys
import threading
import types

from bench import check, simulator


class Option:
    """qudi.core.configoption.ConfigOption: an attribute with a default."""

    def __init__(self, name, default=None, missing="error"):
        self._default = default

    def __set_name__(self, owner, name):
        self._key = name

    def __get__(self, instance, owner):
        return instance.__dict__.get(self._key, self._default)

    def __set__(self, instance, value):
        instance.__dict__[self._key] = value


for name, content in (
    ("qudi.core", {}),
    ("qudi.core.configoption", {"ConfigOption": Option}),
    ("qudi.core.module", {"Base": type("Base", (), {"log": logging.getLogger("qudi")})}),
    ("qudi.util", {}),
    ("qudi.util.mutex", {"Mutex": threading.RLock}),
):
    sys.modules[name] = types.ModuleType(name)
    vars(sys.modules[name]).update(content)

OSW12 = importlib.import_module("qudi.hardware.switches.osw12").OSW12


with simulator("osw") as where:
    switch = OSW12()
    switch.serial_interface = f"ASRL{where['port']}::INSTR"
    switch._switch_states = ["cross", "bar"]  # it takes 2 for the first of both
    switch.on_activate()
    switch._instrument.timeout = 5000  # it gives 10 ms, which a busy machine may not keep
    check("one switch, two states", switch.available_states == {"1": ("cross", "bar")}, switch.available_states)
    check("it begins in bar", switch.get_state("1") == "bar")
    for state in ("cross", "bar", "cross"):
        switch.set_state("1", state)
        check(f"it goes to {state}", switch.states == {"1": state})
    switch.on_deactivate()

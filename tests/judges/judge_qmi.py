"""QMI (GPL) drives our MPC320, EPC-400, DD-100, Agiltron and PM100D simulators."""

import time

import qmi
from bench import check, near, simulator
from qmi.core.exceptions import QMI_TimeoutException
from qmi.instruments.agiltron import Agiltron_Ff1x4
from qmi.instruments.ozoptics import OzOptics_Dd100Mc, OzOptics_EPC
from qmi.instruments.thorlabs import Thorlabs_Mpc320, Thorlabs_Pm100d

qmi.start("judge", console_loglevel="ERROR")


def patient(call):
    """QMI gives the MPC320 half a second and fails when another message comes first on a busy machine: ask again."""
    for _ in range(5):
        try:
            return call()
        except QMI_TimeoutException:
            time.sleep(0.1)
    return call()


def mpc320() -> None:
    with simulator("mpc320") as where:
        paddles = qmi.make_instrument("mpc", Thorlabs_Mpc320, f"serial:{where['port']}")
        paddles.open()
        who = paddles.get_idn()
        check("MPC320: identity", bytes(who.model).startswith(b"MPC320") and str(who.serial).startswith("38"), who)
        paddles.enable_channels([1, 2, 3])
        states = [patient(lambda n=n: paddles.get_channel_state(n)).name for n in (1, 2, 3)]
        check("MPC320: channels are on", states == ["ENABLE"] * 3, states)
        paddles.move_absolute(2, 120.0)
        end = time.monotonic() + 10
        while not near(patient(lambda: paddles.get_status_update(2)).position, 120.0, 0.3) and time.monotonic() < end:
            time.sleep(0.05)
        position = patient(lambda: paddles.get_status_update(2)).position
        check("MPC320: a paddle goes to 120 degrees", near(position, 120.0, 0.3), position)
        paddles.set_polarisation_parameters(30, 10, 5, 5, 5)
        check("MPC320: parameters are taken", patient(paddles.get_polarisation_parameters).velocity == 30)
        paddles.disable_all_channels()
        paddles.close()


def epc400() -> None:
    with simulator("epc400") as where:
        squeezers = qmi.make_instrument("epc", OzOptics_EPC, f"serial:{where['port']}:baudrate=9600")
        squeezers.open()
        squeezers.set_voltage(3, -1234)
        check("EPC-400: a voltage is taken", squeezers.get_voltages()[2] == -1234, squeezers.get_voltages())
        squeezers.set_zero(3)
        check("EPC-400: zero", squeezers.get_voltages()[2] == 0)
        squeezers.set_operating_mode_ac()
        check("EPC-400: AC", squeezers.get_operating_mode() == "AC")
        squeezers.set_frequency(1, 42)
        check("EPC-400: a frequency is taken", squeezers.get_frequencies()[0] == 42)
        squeezers.set_waveform_type_triangle()
        check("EPC-400: waveform", squeezers.get_waveform_type().lower().startswith("triangle"))
        squeezers.set_operating_mode_dc()
        squeezers.close()


def dd100() -> None:
    with simulator("dd100") as where:
        attenuator = qmi.make_instrument("voa", OzOptics_Dd100Mc, f"serial:{where['port']}")
        attenuator.open()
        text = " ".join(attenuator.get_configuration_display())
        check("DD-100: configuration", "IL:" in text and "MAX ATTEN:" in text, text)
        attenuator.set_attenuation(23.45)
        check("DD-100: attenuation is taken", near(attenuator.get_position().attenuation, 23.45, 0.02))
        attenuator.home()
        check("DD-100: homed", attenuator.get_position().attenuation < 2.0)
        attenuator.close()


def agiltron() -> None:
    with simulator("agiltron") as where:
        switch = qmi.make_instrument("switch", Agiltron_Ff1x4, f"serial:{where['port']}:baudrate=9600")
        switch.open()
        for channel in (3, 1, 4):
            switch.set_channel_active(channel)
            check(f"FF 1x4: output {channel}", switch.get_active_channel() == channel)
        switch.close()


def pm100d() -> None:
    with simulator("pm100d", "--watt", "3e-6") as where:
        _, host, port, _ = where["port"].split("::")
        meter = qmi.make_instrument("meter", Thorlabs_Pm100d, f"tcp:{host}:{port}")
        meter.open()
        check("PM100D: identity", meter.get_idn().model == "PM100D")
        check("PM100D: sensor", meter.get_sensor_info().name == "S132C", meter.get_sensor_info())
        meter.set_wavelength(1310.0)
        check("PM100D: wavelength is taken", near(meter.get_wavelength(), 1310.0, 0.01))
        meter.close()


for judge in (mpc320, epc400, dd100, agiltron, pm100d):
    judge()
qmi.stop()

"""firepydaq (GPL) drives our CLD1015 through pyvisa and HiSLIP: temperature loop, laser current, error queue."""

import time

import pyvisa
from bench import check, near, simulator
from firepydaq.api.EchoThorLabsCLD101X import EchoThor

with simulator("cld1015", "--over", "hislip") as where:
    driver = EchoThor.__new__(EchoThor)  # its constructor searches USB only
    driver.rm = pyvisa.ResourceManager("@py")
    driver.set_connection(where["port"])
    check("identity", "CLD1015" in driver.Device, driver.Device.strip())

    def flows() -> float:
        return float(driver.ThorCLD.query("SENSe3:CURRent:DATA?"))

    def quiet() -> bool:
        return driver.getError().startswith("+0")

    driver.SetTECTemp(22.0)
    check("temperature: set-point", near(float(driver.checkTECSPoint()), 22.0, 0.01))
    driver.StartTEC(True)
    check("temperature: the loop is on", int(driver.TECSTatus()) == 1)
    end = time.monotonic() + 20
    while not near(float(driver.GetTECTemp()), 22.0, 1.5) and time.monotonic() < end:
        time.sleep(0.05)
    check("temperature: the diode follows", near(float(driver.GetTECTemp()), 22.0, 1.5), driver.GetTECTemp().strip())
    driver.Laser_settings(73.0)
    check("laser: constant current in the long form, and 73 mA", quiet())
    driver.SwitchLaser(True)
    check("laser: it flows", near(flows(), 0.073, 1e-5), flows())
    driver.UpdateLaserCurrent(0.05)
    check("laser: 50 mA", near(flows(), 0.05, 1e-5), flows())
    driver.UpdateLaserCurrent(9.0)
    check("laser: beyond the limit is an error and changes nothing", not quiet() and near(flows(), 0.05, 1e-5), flows())
    driver.SwitchLaser(False)
    check("laser: off", flows() == 0.0 and quiet())
    driver.StartTEC(False)
    driver.ThorCLD.close()
    driver.rm.close()

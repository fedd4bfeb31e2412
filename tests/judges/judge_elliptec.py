"""thorlabs_elliptec drives our ELL14."""

import time

from bench import check, near, simulator
from thorlabs_elliptec import ELLx


def settle(mount: ELLx) -> None:
    end = time.monotonic() + 10
    while mount.is_moving() and time.monotonic() < end:
        time.sleep(0.02)


with simulator("ell14") as where:
    mount = ELLx(where["port"], x=14)
    check("model", mount.model_number.startswith("ELL14") and mount.units == "°", mount.model_number)
    mount.home()
    settle(mount)
    check("home", near(mount.get_position(), 0.0, 0.1), mount.get_position())
    for angle in (45.0, 123.4):
        mount.move_absolute(angle)
        settle(mount)
        check(f"goes to {angle} degrees", near(mount.get_position(), angle, 0.1), mount.get_position())
    mount.move_relative(-23.4)
    settle(mount)
    check("moves by -23.4 degrees", near(mount.get_position(), 100.0, 0.1), mount.get_position())
    mount.close()

"""PicoQuant HydraHarp 400 and PicoHarp 330."""

from __future__ import annotations

from qkdd.core.units import Volts
from qkdd.device.fields import Category, Field
from qkdd_drivers.picoquant.driver import Discriminated, WithDeadTime
from qkdd_drivers.picoquant.models import HYDRAHARP, PICOHARP330


class HydraHarp400(Discriminated):
    """Role TimeTagger."""

    model = HYDRAHARP


class PicoHarp330(WithDeadTime):
    """Role TimeTagger."""

    model = PICOHARP330

    threshold = Field(
        doc="Set trigger level of each input, sync first",
        unit=Volts,
        range=(-1.5, 1.5),
        size=None,
        settable=True,
        category=Category.SETTING,
    )

"""PicoQuant HydraHarp 400 and PicoHarp 330."""

from __future__ import annotations

from qkdd_drivers.picoquant.driver import Discriminated, EdgeTriggered
from qkdd_drivers.picoquant.models import HYDRAHARP, PICOHARP330


class HydraHarp400(Discriminated):
    """Role TimeTagger."""

    model = HYDRAHARP


class PicoHarp330(EdgeTriggered):
    """Role TimeTagger."""

    model = PICOHARP330

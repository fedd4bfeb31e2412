"""PicoQuant MultiHarp 150 and 160."""

from __future__ import annotations

from qkdd_drivers.picoquant.driver import WithDeadTime
from qkdd_drivers.picoquant.models import MULTIHARP


class MultiHarp(WithDeadTime):
    """Role TimeTagger."""

    model = MULTIHARP

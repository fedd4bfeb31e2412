"""What a demonstration shows: which bench, which instruments on which side, which link, and what to expect of it.

A new variant is one more class like `pairs.Pairs` and `pulses.Pulses`, and one more line in `choose`.
"""

from __future__ import annotations

from qkdd_hil.demo.options import Options
from qkdd_hil.demo.variants.base import Outlook, Variant
from qkdd_hil.demo.variants.lab2 import Lab2
from qkdd_hil.demo.variants.pairs import Pairs
from qkdd_hil.demo.variants.pulses import Pulses

__all__ = ["Outlook", "Variant", "choose"]


def choose(options: Options) -> Variant:
    """The variant that was asked for."""
    if options.protocol == "decoy_bb84":
        return Pulses(options)
    return Lab2(options) if options.bench == "lab2" else Pairs(options)

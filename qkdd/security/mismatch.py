"""What unequal detectors cost a basis-independence proof (S4.4)."""

from __future__ import annotations

import math

from qkdd.security.entropy import check_fraction


def mismatch_deltas(d_eta: float, d_dc: float, p_dc: float, random_swap: bool) -> tuple[float, float]:
    """(delta1, delta2) from relative half-ranges of efficiencies (d_eta) and dark counts (d_dc) and the dark probability.

    random_swap: the bit values of the two detectors are swapped at random in each round (Tupkary et al. 2025, S4.4).
    """
    check_fraction("d_eta", d_eta)
    check_fraction("d_dc", d_dc)
    check_fraction("p_dc", p_dc)
    low, high = p_dc * (1.0 - d_dc), p_dc * (1.0 + d_dc)
    ratio, quiet = (1.0 - d_eta) / (1.0 + d_eta), (1.0 - low) ** 2
    if random_swap:
        delta2 = quiet * (1.0 - ratio) ** 2 / 2.0
        return 4.0 * (1.0 - math.sqrt(1.0 - delta2)), delta2
    # 1 - (1 - q)², without cancellation
    z_low, z_high = low * (2.0 - low), high * (2.0 - high)
    loss = quiet * (1.0 - ratio)
    dark = 1.0 - z_low / z_high if z_high > 0.0 else 0.0
    delta1 = max(dark * high * (2.0 - low) / z_low if z_low > 0.0 else 0.0, 4.0 * (1.0 - math.sqrt(1.0 - loss)))
    return delta1, max(dark, loss)

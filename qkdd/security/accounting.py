"""What verification, amplification, authentication and composition cost (S7)."""

from __future__ import annotations

import math
from fractions import Fraction

from qkdd.security.entropy import check_count, check_epsilon, check_finite, floor_bits
from qkdd.security.errors import ProofInputError

TAG_BITS = 128


def verify_tag_bits_2universal(eps_cor: float) -> int:
    """Bits of a 2-universal tag whose collision probability is at most eps_cor: ceil(log2(1/eps_cor)) (S7.2)."""
    _, exponent = math.frexp(check_epsilon("eps_cor", eps_cor))  # eps = f 2^e with 1/2 <= f < 1, exactly
    return 1 - exponent


def poly_hash_collision(n_bits: float, tag_bits: float) -> float:
    """Collision probability of a polynomial hash over GF(2^b): ceil(n/b) 2^-b (S7.2)."""
    n, b = check_count("n_bits", n_bits), check_count("tag_bits", tag_bits, low=1)
    return min(1.0, math.ldexp(float(-(-n // b)), -b))


def authentication_epsilon(message_bits: float, tag_bits: float = TAG_BITS) -> float:
    """Forging probability of one one-time-masked polynomial tag over a message of L bits: ceil(L/b) 2^-b, one block more for
    the length (S7.4; Wegman and Carter 1981)."""
    length = check_count("message_bits", message_bits)
    return poly_hash_collision(length + check_count("tag_bits", tag_bits, low=1), tag_bits)


def pa_length(hmin: float, eps_pa: float) -> int:
    """Extractable bits of a smooth min-entropy: floor(Hmin - 2 log2(1/(2 eps_PA))) (leftover hash, Tomamichel 2012 S2, S7.3)."""
    check_finite("hmin", hmin)
    loss = 2.0 * math.log2(1.0 / (2.0 * check_epsilon("eps_pa", eps_pa)))
    return floor_bits(hmin - loss, hmin, loss)


def max_blocks(
    eps_lifetime: float, eps_sec: float, eps_cor: float, eps_auth: float, msgs_per_block: float, eps_psk: float
) -> int:
    """Blocks that fit into a key epoch: floor((eps_life - eps_psk)/(eps_sec + eps_cor + n_msg eps_auth)) (S7.5).

    Exact in rational arithmetic on the given doubles.
    """
    for name, value in (("eps_lifetime", eps_lifetime), ("eps_sec", eps_sec)):
        check_epsilon(name, value)
    for name, value in (("eps_cor", eps_cor), ("eps_auth", eps_auth), ("eps_psk", eps_psk)):
        if not 0.0 <= value < 1.0:
            raise ProofInputError(f"{name} = {value} is no failure probability", name=name)
    messages = check_count("msgs_per_block", msgs_per_block)
    per_block = Fraction(eps_sec) + Fraction(eps_cor) + messages * Fraction(eps_auth)
    return max(0, math.floor((Fraction(eps_lifetime) - Fraction(eps_psk)) / per_block))


def compose(*epsilons: float) -> float:
    """Sum of failure probabilities, rounded up (triangle inequality of the trace distance, S7.5)."""
    for value in epsilons:
        if not 0.0 <= value <= 1.0:
            raise ProofInputError(f"{value} is no failure probability", name="eps")
    total = math.fsum(epsilons)
    return min(1.0, math.nextafter(total, math.inf) if len(epsilons) > 1 else total)

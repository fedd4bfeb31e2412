"""Privacy amplification: a Toeplitz matrix from a full-length random seed takes n bits to the planned length (S7.3).

Alice draws the seed from the operating system's generator after both nodes registered all clicks of the block; it is
public, and independent of everything before.
"""

from __future__ import annotations

import os

import numpy as np

from qkdd import kernels
from qkdd.core.secret import Secret
from qkdd.distill.messages import Amplified, AmplifySeed
from qkdd.distill.wire import Bits, bits_from, receive
from qkdd.peer import PeerSession


def random_bits(count: int) -> Bits:
    """uint8[count] of 0 and 1 from the operating system's generator."""
    return np.unpackbits(np.frombuffer(os.urandom((count + 7) // 8), np.uint8), count=count)


async def amplify(key: Bits, length: int, session: PeerSession, block: int) -> Secret:
    """The secret key, `ceil(length / 8)` bytes. Both nodes seal before they use the seed."""
    size = key.size + length - 1
    if session.role == "alice":
        seed = random_bits(size)
        await session.send(AmplifySeed(block, kernels.pack_bits(seed)))
        await receive(session, Amplified, block)
    else:
        seed = bits_from((await receive(session, AmplifySeed, block)).seed, size, "amplification seed")
        await session.send(Amplified(block))
    await session.seal("amplify", block)
    secret = await kernels.run(kernels.toeplitz, key, seed, length)
    try:
        return Secret.take(bytearray(np.packbits(secret)))
    finally:
        secret.fill(0)

"""Privacy amplification: a Toeplitz matrix from a full-length random seed takes n bits to the planned length (S7.3).

Alice draws the seed from the operating system's generator after both nodes registered all clicks of the block; it is
public, and independent of everything before.
"""

from __future__ import annotations

import os

from qkdd import kernels
from qkdd.core.secret import Secret
from qkdd.distill.errors import BlockMalformed
from qkdd.distill.messages import Amplified, AmplifySeed
from qkdd.distill.wire import Bits, bytes_of_size, receive
from qkdd.peer import PeerSession


def random_bits(count: int) -> bytes:
    """`count` random bits, packed, unused bits of the last byte 0."""
    data = bytearray(os.urandom((count + 7) // 8))
    if count % 8:
        data[-1] &= 0xFF00 >> count % 8 & 0xFF
    return bytes(data)


async def amplify(key: Bits, length: int, session: PeerSession, block: int) -> Secret:
    """The secret key, `ceil(length / 8)` bytes. Both nodes seal before they use the seed."""
    size = key.size + length - 1
    if session.role == "alice":
        seed = random_bits(size)
        await session.send(AmplifySeed(block, seed))
        await receive(session, Amplified, block)
    else:
        message = await receive(session, AmplifySeed, block)
        seed = bytes_of_size(message.seed, (size + 7) // 8, "amplification seed")
        await session.send(Amplified(block))
    await session.seal("amplify", block)
    packed = bytearray(kernels.pack_bits(key))
    try:
        return Secret.take(await kernels.run(kernels.toeplitz_packed, packed, key.size, seed, length))
    except kernels.KernelMalformed:
        raise BlockMalformed("amplification seed: bits are set behind the last") from None
    finally:
        packed[:] = bytes(len(packed))

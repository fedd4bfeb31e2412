"""Privacy amplification: a modified Toeplitz matrix [1 T] from a full-length random seed takes n bits to the planned length.

key = first l bits + T times the other n - l, T an l by n - l Toeplitz matrix from n - 1 random bits. Two different inputs with
equal rests never collide, others with probability 2^-l: universal_2, which is all that the leftover hash lemma asks for (S7.3;
Hayashi, Tsurumaru, IEEE Trans. Inf. Theory 62 (2016) 2213; decision 0116). Alice draws the seed from the operating system's
generator after both nodes registered all clicks of the block; it is public, and independent of everything before.
"""

from __future__ import annotations

import os

import numpy as np

from qkdd import kernels
from qkdd.core.secret import Secret
from qkdd.distill.errors import BlockMalformed
from qkdd.distill.messages import Amplified, AmplifySeed
from qkdd.distill.wire import Bits, bytes_of_size, receive
from qkdd.peer import PeerSession

_WORTH_TWO_CORES = 1 << 22  # bits; below, starting a thread and cutting the seed cost what is won


def random_bits(count: int) -> bytes:
    """`count` random bits, packed, unused bits of the last byte 0."""
    data = bytearray(os.urandom((count + 7) // 8))
    if count % 8:
        data[-1] &= 0xFF00 >> count % 8 & 0xFF
    return bytes(data)


def hashed(key: Bits, seed: bytes, length: int) -> bytearray:
    """`ceil(length / 8)` bytes: the key's first `length` bits plus T times the rest, T[i, j] = seed[i - j + n - length - 1]."""
    head, rest = bytearray(kernels.pack_bits(key[:length])), bytearray(kernels.pack_bits(key[length:]))
    try:
        n = key.size - length
        halves = n >= _WORTH_TWO_CORES and kernels.core_is_free()
        product = (kernels.toeplitz_halves if halves else kernels.toeplitz_packed)(rest, n, seed, length)
        whole = np.frombuffer(product, np.uint8)  # a view: the sum stands in `product`
        np.bitwise_xor(whole, np.frombuffer(head, np.uint8), out=whole)
        return product
    finally:
        head[:], rest[:] = bytes(len(head)), bytes(len(rest))


async def amplify(key: Bits, length: int, session: PeerSession, block: int) -> Secret:
    """The secret key, `ceil(length / 8)` bytes. Both nodes seal before they use the seed."""
    size = key.size - 1
    if session.role == "alice":
        seed = await kernels.run(random_bits, size)
        await session.send(AmplifySeed(block, seed))
        await receive(session, Amplified, block)
    else:
        message = await receive(session, AmplifySeed, block)
        seed = bytes_of_size(message.seed, (size + 7) // 8, "amplification seed")
        await session.send(Amplified(block))
    await session.seal("amplify", block)
    try:
        return Secret.take(await kernels.run(hashed, key, seed, length))
    except kernels.KernelMalformed:
        raise BlockMalformed("amplification seed: bits are set behind the last") from None

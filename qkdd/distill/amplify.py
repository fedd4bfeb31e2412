"""Privacy amplification: a modified Toeplitz matrix [1 T] from a full-length random seed takes n bits to the planned length.

key = first l bits + T times the other n - l, T an l by n - l Toeplitz matrix from n - 1 random bits. Two different inputs with
equal rests never collide, others with probability 2^-l: universal_2, which is all that the leftover hash lemma asks for (S7.3;
Hayashi, Tsurumaru, IEEE Trans. Inf. Theory 62 (2016) 2213; decision 0116). Bob draws the seed from the operating system's
generator after both nodes registered all clicks of the block; it is public, and independent of everything before. He draws it
while he waits for alice's test subset, and says it when the keys are verified (decision 0222).
"""

from __future__ import annotations

import asyncio
import os

import numpy as np

from qkdd import kernels
from qkdd.core.secret import Secret
from qkdd.distill.messages import Amplified, AmplifySeed
from qkdd.distill.packed import PackedBits, zero
from qkdd.distill.wire import bytes_of_size, packed_of, receive
from qkdd.peer import PeerSession

_WORTH_TWO_CORES = 1 << 22  # bits; below, starting a thread and cutting the seed cost what is won


def random_bits(count: int) -> bytes:
    """`count` random bits, packed, unused bits of the last byte 0."""
    data = os.urandom((count + 7) // 8)
    return data[:-1] + bytes([data[-1] & 0xFF00 >> count % 8 & 0xFF]) if count % 8 else data


def hashed(key: PackedBits, seed: bytes, length: int) -> bytearray:
    """`ceil(length / 8)` bytes: the key's first `length` bits plus T times the rest, T[i, j] = seed[i - j + n - length - 1].

    The rest is taken from the byte in which it begins, with `spare` zeros before it instead of the head's last bits; these meet
    columns of T that lie behind the seed's end, so that no bit has to be shifted.
    """
    whole, spare = divmod(length, 8)
    rest = key.data[whole:]
    try:
        if spare:
            rest[0] &= 0xFF >> spare
        n = len(key) - 8 * whole
        extended = seed + bytes((max(n + length - 1, 0) + 7) // 8 - len(seed))
        halves = n >= _WORTH_TWO_CORES and kernels.core_is_free()
        product = (kernels.toeplitz_halves if halves else kernels.toeplitz_packed)(rest, n, extended, length)
        sum_ = np.frombuffer(product, np.uint8)  # a view: the sum stands in `product`
        np.bitwise_xor(sum_, np.frombuffer(key.data, np.uint8)[: len(product)], out=sum_)
        if spare:
            product[-1] &= 0xFF00 >> spare & 0xFF
        return product
    finally:
        zero(rest)


def draw_seed(n: int) -> asyncio.Task[bytes]:
    """Bob's seed for a key of n bits, drawn on a worker thread. Call it when the block's detections are registered, once a block;
    cancel the task if it is not used."""
    return asyncio.create_task(kernels.run(random_bits, n - 1))


async def amplify(
    key: PackedBits, length: int, session: PeerSession, block: int, drawn: asyncio.Task[bytes] | None = None
) -> Secret:
    """The secret key, `ceil(length / 8)` bytes. Both nodes seal before they use the seed. drawn: what `draw_seed` began for this
    block on bob's node; None: he draws it now."""
    size = len(key) - 1
    if session.role == "bob":
        seed = await (drawn or draw_seed(len(key)))
        await session.send(AmplifySeed(block, bytes_of_size(seed, (size + 7) // 8, "amplification seed")))
        await receive(session, Amplified, block)
    else:
        message = await receive(session, AmplifySeed, block)
        seed = packed_of(message.seed, size, "amplification seed")
        await session.send(Amplified(block))
    await session.seal("amplify", block)
    return Secret.take(await kernels.run(hashed, key, seed, length))

"""Bits on the wire: packed on sending, checked to the last unused bit on receipt."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from qkdd import kernels
from qkdd.distill.errors import BlockMalformed
from qkdd.distill.messages import BlockMessage
from qkdd.peer import PeerSession

Bits = NDArray[np.uint8]


M = TypeVar("M", bound=BlockMessage)


def bits_from(data: bytes, count: int, what: str) -> Bits:
    """uint8[count] from a message's field. Raises BlockMalformed on any other size or set padding."""
    try:
        return kernels.unpack_bits(data, count)
    except kernels.KernelError as error:
        raise BlockMalformed(f"{what}: {error.message}") from None


def packed_of(data: bytes, count: int, what: str) -> bytes:
    """The same bits as they are, packed. Raises BlockMalformed alike."""
    bytes_of_size(data, (count + 7) // 8, what)
    if count % 8 and data[-1] & 0xFF >> count % 8:
        raise BlockMalformed(f"{what}: bits are set behind the last")
    return data


def bytes_of_size(data: bytes, size: int, what: str) -> bytes:
    if len(data) != size:
        raise BlockMalformed(f"{what}: {len(data)} bytes instead of {size}")
    return data


async def receive(session: PeerSession, kind: type[M], block: int) -> M:
    """The next message of this kind, which must be of this block."""
    message = await session.receive(kind)
    if message.block != block:
        raise BlockMalformed(f"{kind.__name__} is of block {message.block}, not {block}")
    return message

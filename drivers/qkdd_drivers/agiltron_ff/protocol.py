"""Agiltron FF 1x4 and 1x8: frames of four bytes. Pure functions.

Source: fact sheet `devices.md` section 15 (PyPI qmi). `01 11 00 00` asks for the channel, which is the last of the four bytes
that come back; `01 12 00 nn` sets it and is echoed exactly when it was done.
"""

from __future__ import annotations

from qkdd.device.transport import FrameError, Refused, Stranger

FRAME_BYTES = 4
GET = b"\x01\x11\x00\x00"


def set_channel(channel: int) -> bytes:
    """`channel` from 1."""
    return bytes((0x01, 0x12, 0x00, channel))


def channel(answer: bytes, channels: int) -> int:
    """The channel in the answer to `GET`. Raises FrameError when the switch has no such channel."""
    if not 1 <= answer[-1] <= channels:
        raise FrameError(f"{answer.hex(' ')} names no channel from 1 to {channels}")
    return answer[-1]


def known(answer: bytes, channels: int) -> int:
    """The answer to `GET` as proof of identity: there is no other. Raises Stranger."""
    try:
        return channel(answer, channels)
    except FrameError as error:
        raise Stranger(str(error)) from None


def confirm(answer: bytes, order: bytes) -> None:
    """Raises Refused when the answer is not the order's echo."""
    if answer != order:
        raise Refused(f"answers {answer.hex(' ')} to {order.hex(' ')}")

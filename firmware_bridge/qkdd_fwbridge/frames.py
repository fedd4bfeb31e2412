"""Frames on the line, and the way back to them after garbage. No I/O.

    0  2  magic "QF"            8  4  payload bytes n (0 to 65536)
    2  1  type                 12  4  CRC-32C of bytes 0 to 11
    3  1  reserved, 0          16  n  payload
    4  4  sequence          16+n  4  CRC-32C of bytes 0 to 15+n

Little-endian. The header has a check of its own so that a damaged length never makes the receiver wait for bytes that do
not come. CRC-32C: RFC 3720 B.4; it is against accidents only (a board is inside the node's own trusted enclosure).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from qkdd.kernels import crc32c

MAGIC = b"QF"
MAX_PAYLOAD = 65536
HEADER_BYTES = 16
OVERHEAD = HEADER_BYTES + 4
_HEAD = struct.Struct("<2sBBII")
_U32 = struct.Struct("<I")
SEQUENCES = 1 << 32


@dataclass(frozen=True, slots=True)
class Frame:
    """One message on the line. sequence: number of the frame in its direction, modulo 2^32."""

    type: int
    sequence: int
    payload: bytes

    def encode(self) -> bytes:
        """Raises ValueError when a field does not fit."""
        if not (0 <= self.type < 256 and 0 <= self.sequence < SEQUENCES and len(self.payload) <= MAX_PAYLOAD):
            raise ValueError("type, sequence or payload of a frame out of range")
        head = _HEAD.pack(MAGIC, self.type, 0, self.sequence, len(self.payload))
        data = head + _U32.pack(crc32c(head)) + self.payload
        return data + _U32.pack(crc32c(data))


class FrameDecoder:
    """Cuts a byte stream into frames. Damage costs the damaged frames only, and is counted.

    garbage: bytes that belong to no good frame. damaged: frames with a good header and a wrong end check.
    missing: frames that the sequence numbers say are lost. Never holds more than one frame of the largest size.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._expected: int | None = None
        self.garbage = self.damaged = self.missing = 0

    def reset(self) -> None:
        """The line was opened anew; the counters stay."""
        self._buffer.clear()
        self._expected = None

    def feed(self, data: bytes) -> list[Frame]:
        """Every frame that is complete now. Any input is taken; nothing is raised."""
        self._buffer += data
        frames: list[Frame] = []
        at = 0  # everything before is done with
        while True:
            start = self._buffer.find(MAGIC, at)
            if start < 0:
                keep = 1 if self._buffer[at:].endswith(MAGIC[:1]) else 0
                self.garbage += len(self._buffer) - keep - at
                at = len(self._buffer) - keep
                break
            self.garbage += start - at
            at = start
            if len(self._buffer) - at < HEADER_BYTES:
                break
            length = self._length(at)
            if length < 0:
                self.garbage += 1
                at += 1
                continue
            end = at + OVERHEAD + length
            if len(self._buffer) < end:
                break
            if crc32c(bytes(self._buffer[at : end - 4])) != _U32.unpack_from(self._buffer, end - 4)[0]:
                # bytes may be missing inside, so that the next frame begins before `end`: look from the next byte on
                self.damaged += 1
                self.garbage += 1
                at += 1
                continue
            frames.append(self._take(at, end))
            at = end
        del self._buffer[:at]
        return frames

    def _length(self, at: int) -> int:
        """Payload bytes that the header at `at` announces; -1 when it is no header."""
        _, _, reserved, _, length = _HEAD.unpack_from(self._buffer, at)
        good = _U32.unpack_from(self._buffer, at + _HEAD.size)[0] == crc32c(bytes(self._buffer[at : at + _HEAD.size]))
        return int(length) if good and not reserved and length <= MAX_PAYLOAD else -1

    def _take(self, at: int, end: int) -> Frame:
        _, kind, _, sequence, _ = _HEAD.unpack_from(self._buffer, at)
        if self._expected is not None:
            ahead = (sequence - self._expected) % SEQUENCES
            if ahead < SEQUENCES // 2:  # a step back is another sender's beginning, or an old frame: nothing is missing
                self.missing = min(SEQUENCES - 1, self.missing + ahead)
        self._expected = (sequence + 1) % SEQUENCES
        return Frame(kind, sequence, bytes(self._buffer[at + HEADER_BYTES : end - 4]))

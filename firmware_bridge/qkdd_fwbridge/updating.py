"""The host's part of a firmware update: which request comes next, whatever the power does in between. No I/O.

A generator yields requests and is sent the answers; after a lost line it is simply begun anew: FwBegin names the image by its
digest and the board says from where it goes on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator

from qkdd_fwbridge.errors import Malformed
from qkdd_fwbridge.layout import Message
from qkdd_fwbridge.messages import FwBegin, FwBegun, FwData, FwFinish, FwTaken, Ok

CHUNK = 4096
Progress = Callable[[int, int], None]
"""Called with (bytes on the board, bytes of the image)."""

Step = tuple[Message, type[Message]]


def stage(data: bytes, progress: Progress) -> Generator[Step, Message, None]:
    """Bring an image into the free slot: yields (request, kind of its answer). Raises Malformed."""
    begun = yield FwBegin(len(data), hashlib.sha256(data).digest()), FwBegun
    offset = begun.offset if isinstance(begun, FwBegun) else 0
    while True:
        if offset > len(data):
            raise Malformed(f"the board goes on at {offset}, the image has {len(data)} bytes")
        progress(offset, len(data))
        if offset == len(data):
            break
        taken = yield FwData(offset, data[offset : offset + CHUNK]), FwTaken
        if not isinstance(taken, FwTaken) or taken.offset <= offset:
            raise Malformed(f"the board did not take the bytes at {offset}")
        offset = taken.offset
    yield FwFinish(), Ok

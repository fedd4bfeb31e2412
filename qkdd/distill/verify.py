"""Are the two corrected keys equal? A polynomial hash under a fresh random key, drawn after error correction (S7.2).

The tag's 128 bits are subtracted by the proof as `t`; the verdict is one bit of the leak.
"""

from __future__ import annotations

import hmac
import os

from qkdd import kernels
from qkdd.distill.errors import VerifyFailed
from qkdd.distill.messages import KeyTag, Verdict
from qkdd.distill.packed import PackedBits
from qkdd.distill.wire import bytes_of_size, receive
from qkdd.peer import PeerSession

TAG_BYTES = 16


async def verify(key: PackedBits, session: PeerSession, block: int) -> None:
    """Compare hashes and seal everything of error correction. Raises VerifyFailed on both nodes when they differ."""
    if session.role == "alice":
        hash_key = os.urandom(TAG_BYTES)
        tag = await kernels.run(kernels.poly_hash, key.data, hash_key)
        await session.send(KeyTag(block, hash_key, tag))
        equal = (await receive(session, Verdict, block)).equal
    else:
        message = await receive(session, KeyTag, block)
        hash_key = bytes_of_size(message.hash_key, TAG_BYTES, "hash key")
        theirs = bytes_of_size(message.tag, TAG_BYTES, "tag")
        equal = hmac.compare_digest(await kernels.run(kernels.poly_hash, key.data, hash_key), theirs)
        await session.send(Verdict(block, equal))
    await session.seal("reconcile", block)
    if not equal:
        raise VerifyFailed("the corrected keys differ")

"""Large buffers that come back block after block."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # <malloc.h> of glibc
_LARGEST = 1 << 30


def keep_large_buffers() -> bool:
    """Have the C library keep freed memory for the next block instead of giving it back to the system.

    A block of 2^25 bits takes and frees buffers of tens of megabytes at every step; as fresh pages they cost a tenth of a busy
    node's CPU time. Threads share one arena: in one of its own each would begin with fresh pages, and what is larger
    would go back to the system every time. What held key is zeroed before it is freed, as everywhere. Call it before threads
    start. False where the C library is not glibc: nothing is changed then.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = ((_M_MMAP_THRESHOLD, _LARGEST), (_M_TRIM_THRESHOLD, _LARGEST), (_M_ARENA_MAX, 1))
    return all([mallopt(*setting) for setting in settings])

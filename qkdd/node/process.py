"""What the process asks of the operating system: no swap, no core dump, one daemon per state directory."""

from __future__ import annotations

import ctypes
import fcntl
import os
import resource
from pathlib import Path

from qkdd.core import log
from qkdd.core.errors import StorageFailed
from qkdd.node.errors import StateInUse

_log = log.get("node")
_MCL_CURRENT, _MCL_FUTURE = 1, 2  # sys/mman.h, equal on x86-64 and aarch64
_PR_SET_DUMPABLE = 4  # linux/prctl.h


def forbid_dumps() -> bool:
    """No core dump and no ptrace by other processes of the same user: key material lives in this memory."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) == 0:
        return True
    _log.warning("core dumps are not switched off", error=os.strerror(ctypes.get_errno()))
    return False


def lock_memory() -> bool:
    """Keep all memory out of swap (mlockall(2)). Logs why not when the system does not permit it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if os.geteuid() != 0 and hard != resource.RLIM_INFINITY:
        # with MCL_FUTURE every later allocation beyond the limit would fail, in the middle of a block
        _log.warning(
            "memory is not locked: the limit for locked memory is finite",
            limit=soft,
            remedy="Set LimitMEMLOCK=infinity in the service's unit, or switch swap off.",
        )
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mlockall(_MCL_CURRENT | _MCL_FUTURE) == 0:
        return True
    _log.warning(
        "memory is not locked",
        error=os.strerror(ctypes.get_errno()),
        remedy="Set LimitMEMLOCK=infinity in the service's unit, or switch swap off.",
    )
    return False


class StateDirectory:
    """The node's folder, mode 0700, held by one daemon at a time (flock on `lock`, released by the kernel on exit)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: int | None = None

    def acquire(self) -> None:
        """Raises StateInUse or StorageFailed."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StorageFailed(f"state directory {self.path}: {error.strerror}") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise StateInUse(f"another daemon runs on {self.path}") from None
        self._lock = descriptor

    def release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

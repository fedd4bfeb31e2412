"""Becomes the program that it is told, after asking the kernel to end it when whoever started it is gone.

Run by `qkdd.device.child_link` as `python launch.py PARENT PROGRAM ARGUMENT…`; needs the standard library only.
"""

import ctypes
import os
import signal
import sys

_SET_PARENT_DEATH_SIGNAL = 1

if __name__ == "__main__":
    ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != int(sys.argv[1]):  # it went before the kernel was asked
        sys.exit(1)
    os.execvp(sys.argv[2], sys.argv[2:])  # noqa: S606 - this is what it is for

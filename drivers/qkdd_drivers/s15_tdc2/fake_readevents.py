"""Stands for `readevents7` in tests: its options, exit codes and way to end; the events come from a simulator's socket.

Run as `python fake_readevents.py --socket PATH -a1 …`. With `--generate` it makes events as fast as they are read instead.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys

_PIECE = 1 << 20
_CANNOT_OPEN, _BAD_OPTION = 255, 254
_STDOUT = 1


def main() -> int:
    """Relay what the simulator sends until it hangs up or the reader goes; the exit code."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    parser = argparse.ArgumentParser()
    parser.add_argument("--socket", default="")
    parser.add_argument("--generate", action="store_true")
    parser.add_argument("-a", type=int, default=0, help="output format; 1: binary, the only one here")
    parser.add_argument("-q", type=int, default=0, help="end after so many events")
    parser.add_argument("-X", action="store_true", help="swap the halves of each event")
    parser.add_argument("-t", default="768,768,768,768", help="thresholds in steps")
    parser.add_argument("-D", default="0,0,0,0", help="delays of the inputs; here only none")
    options = parser.parse_args()
    delayed = any(int(delay) for delay in options.D.split(","))
    if options.a != 1 or delayed or any(not 0 <= int(level) <= 4095 for level in options.t.split(",")):
        print("option out of range", file=sys.stderr)
        return _BAD_OPTION
    if options.generate:
        return _generate(options.X)
    line = socket.socket(socket.AF_UNIX)
    try:
        line.connect(options.socket)
        line.sendall(f"{int(options.X)} {options.t}\n".encode())
        status = line.recv(1)
    except OSError:
        status = b""
    if status != b"\0":
        code = status[0] if status else _CANNOT_OPEN
        print("cannot open device" if code == _CANNOT_OPEN else f"error {code - 256}", file=sys.stderr)
        return code
    left = 8 * options.q
    while data := line.recv(min(left, _PIECE) if options.q else _PIECE):
        view = memoryview(data)
        while view:
            view = view[os.write(_STDOUT, view) :]
        left -= len(data)
        if options.q and not left:
            return 0
    print("the device went away", file=sys.stderr)
    return _CANNOT_OPEN


def _generate(swapped: bool) -> int:
    """Blocks of 2^17 events 50 ns apart on four inputs in turn."""
    import numpy as np

    count = 1 << 17
    ticks = np.arange(count, dtype=np.uint64) * np.uint64(50 * 256)
    patterns = np.uint64(1) << (np.arange(count, dtype=np.uint64) % np.uint64(4))
    block = (ticks << np.uint64(10)) | patterns
    step = np.uint64(count * 50 * 256) << np.uint64(10)
    while True:
        out = (block << np.uint64(32)) | (block >> np.uint64(32)) if swapped else block
        view = memoryview(out.tobytes())
        while view:
            view = view[os.write(_STDOUT, view) :]
        block += step


if __name__ == "__main__":
    sys.exit(main())

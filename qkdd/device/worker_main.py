"""The process that a vendor's library or Python package lives in: run by `qkdd.device.worker_link`, never imported by the daemon.

It may run in an interpreter that is not ours (a vendor's package decides which), so it needs the standard library only and
Python 3.8. The driver's *adapter* is a file with a class `Adapter`, loaded by its path:

    record, burst: int     bytes of one tag record; the most bytes that one `fetch` writes
    __init__(options)      load the vendor's code and open the instrument
    do_VERB(**arguments)   one call; returns what JSON can carry
    begin(**arguments)     start a stream; fetch(space) -> bytes written into the memoryview `space`; end()
    lost: int              records that are known to be lost since the stream's start (may grow in `fetch`)
    close()                bring the instrument into its safe state and let it go

What an adapter raises says what it means: ConnectionError (the instrument is not there), BlockingIOError (somebody else has it),
PermissionError, LookupError (another instrument is there), ValueError (it refused), ImportError (the vendor's code cannot be
used), BufferError (its buffer overran, the stream is over), TimeoutError. Anything else is a defect and is reported as a broken
protocol.

Control frames are lines: eight hex digits of CRC-32, a space, JSON. Tags go through a ring in shared memory: `filled`,
`freed` and `lost` are eventfds that carry counts, so that the order of memory accesses is the kernel's affair and no counter lies
in the memory itself. The ring is followed by room for one burst, so that a library can write in one piece; what lies behind
the end is copied to the start.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import mmap
import os
import select
import socket
import struct
import sys
import threading
import zlib
from typing import Any

IDLE_MS = 2  # between two fetches that found little
_CLOSING = 2.0  # seconds that the vendor's code gets to let the instrument go after the daemon has gone

KINDS = (
    ("gone", ConnectionError),
    ("busy", BlockingIOError),
    ("denied", PermissionError),
    ("late", TimeoutError),
    ("missing", ImportError),
    ("stranger", LookupError),
    ("refused", ValueError),
    ("overrun", BufferError),
)


def frame(message: dict[str, Any]) -> bytes:
    """A message as it goes over the control socket."""
    body = json.dumps(message, ensure_ascii=True, separators=(",", ":")).encode("ascii")
    return b"%08x %s\n" % (zlib.crc32(body), body)


def unframe(line: bytes) -> dict[str, Any]:
    """The message of a line without its end. Raises ValueError when it is damaged."""
    check, _, body = line.partition(b" ")
    if check != b"%08x" % zlib.crc32(body):
        raise ValueError("the check sum of a control frame is wrong")
    message = json.loads(body)
    if not isinstance(message, dict):
        raise ValueError("a control frame is no object")
    return message


class Worker:
    """Calls and stream of one adapter, all in the main thread: vendors' libraries are rarely safe for several."""

    def __init__(self, control: socket.socket, places: argparse.Namespace) -> None:
        self._control, self._places = control, places
        self._input = bytearray()
        self._adapter: Any = None
        self._streaming = False
        self._ring: Any = None
        self._head = self._free = self._size = self._lost = 0

    def run(self) -> None:
        """Until the daemon closes its end."""
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        while True:
            ready = poll.poll(self._step() if self._streaming else None)
            if ready and not self._receive():
                break
        if self._adapter is not None:
            self._adapter.close()

    def _receive(self) -> bool:
        data = self._control.recv(65536)
        self._input += data
        while (end := self._input.find(b"\n")) >= 0:
            line = bytes(self._input[:end])
            del self._input[: end + 1]
            self._answer(line)
        return bool(data)

    def _answer(self, line: bytes) -> None:
        try:
            message = unframe(line)
            number, verb, arguments = message["id"], message["do"], message["with"]
        except (ValueError, KeyError) as error:
            self._send({"id": None, "bad": str(error)})
            return
        try:
            self._send({"id": number, "ok": self._call(verb, arguments)})
        except Exception as error:  # whatever the vendor's code raises
            self._send({"id": number, **explain(error)})

    def _call(self, verb: str, arguments: dict[str, Any]) -> Any:
        if verb == "open":
            self._adapter = load(self._places.adapter)(arguments)
            return {"record": self._adapter.record, "burst": self._adapter.burst}
        if self._adapter is None:
            raise ConnectionError("the instrument was not opened")
        if verb == "begin":
            self._map()
            result = self._adapter.begin(**arguments)
            self._lost = 0
            self._streaming = True
            return result
        if verb == "end":
            self._streaming = False
            return self._adapter.end()
        return getattr(self._adapter, "do_" + verb)(**arguments)

    def _send(self, message: dict[str, Any]) -> None:
        self._control.sendall(frame(message))

    # The stream

    def _map(self) -> None:
        """A new stream finds the ring empty: the daemon resets its side too."""
        if self._ring is None:
            self._size = self._places.size
            self._ring = mmap.mmap(self._places.ring, self._size + self._adapter.burst)
        take(self._places.freed)
        self._head, self._free = 0, self._size

    def _step(self) -> int:
        """One fetch; returns milliseconds to wait for a command before the next one."""
        burst = self._adapter.burst
        self._free += take(self._places.freed)
        if self._free < burst:  # the library keeps what the daemon does not take, and tells when it no longer can
            return IDLE_MS
        at = self._head % self._size
        try:
            count = self._adapter.fetch(memoryview(self._ring)[at : at + burst])
        except Exception as error:
            self._streaming = False
            self._send({"event": "stopped", **explain(error)})
            return 0
        behind = at + count - self._size
        if behind > 0:
            self._ring[:behind] = self._ring[self._size : self._size + behind]
        if count:
            self._head += count
            self._free -= count
            give(self._places.filled, count)
        if self._adapter.lost > self._lost:
            give(self._places.lost, self._adapter.lost - self._lost)
            self._lost = self._adapter.lost
        return 0 if count >= burst // 8 else IDLE_MS


def give(fd: int, count: int) -> None:
    """Add to an eventfd (os.eventfd_write is too young for the interpreters of some vendors)."""
    os.write(fd, struct.pack("=Q", count))


def take(fd: int) -> int:
    """Value of a non-blocking eventfd since the last call, 0 when nothing was added."""
    try:
        return int(struct.unpack("=Q", os.read(fd, 8))[0])
    except BlockingIOError:
        return 0


def explain(error: Exception) -> dict[str, str]:
    """How an exception of the vendor's code goes to the daemon: kind and text."""
    kind = next((name for name, exception in KINDS if isinstance(error, exception)), "failed")
    text = str(error) or type(error).__name__
    return {"kind": kind, "text": text if kind != "failed" else f"{type(error).__name__}: {text}"}


def load(path: str) -> Any:
    """The class `Adapter` of a file."""
    spec = importlib.util.spec_from_file_location("qkdd_adapter", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules["qkdd_adapter"] = module
    spec.loader.exec_module(module)
    return module.Adapter


def _leave_when_alone(control: socket.socket) -> None:
    """In a thread of its own: a call that hangs must not outlive the daemon."""
    poll = select.poll()
    poll.register(control, 0)  # hang-up only
    poll.poll()
    threading.Event().wait(_CLOSING)
    os._exit(3)


def main() -> None:
    """Entry point of the process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--adapter", required=True)
    for name in ("control", "ring", "size", "filled", "freed", "lost"):
        parser.add_argument("--" + name, type=int, required=True)
    places = parser.parse_args()
    # our own folder holds modules named as common ones; the vendor's code must not find them
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") != here]
    control = socket.socket(fileno=places.control)
    threading.Thread(target=_leave_when_alone, args=(control,), daemon=True).start()
    try:
        Worker(control, places).run()
    except (BrokenPipeError, ConnectionResetError):  # the daemon has gone in the middle of an answer
        os._exit(0)


if __name__ == "__main__":
    main()

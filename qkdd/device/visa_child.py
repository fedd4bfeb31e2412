"""One VISA session in a process of its own; started as a file by `qkdd.device.visa_link`, never imported.

It imports nothing of qkdd (except for USB/IP), so that it starts fast, and speaks over an inherited socket: requests
`op, timeout, length, body`, answers `status, length, body`. It ends when the socket does, or when its parent dies.
"""

from __future__ import annotations

import ctypes
import errno
import importlib
import logging
import os
import signal
import socket
import struct
import sys
from typing import Any

REQUEST, ANSWER = struct.Struct("!cdI"), struct.Struct("!cI")
_CHUNK = 65536
_QUIET = 0.02  # seconds without a byte after which a session that cannot be cleared counts as empty
_PR_SET_PDEATHSIG = 1
_CLEAR_PENDING = 2  # USBTMC 1.0, table 16: STATUS_PENDING


class Session:
    """The opened resource. Calls of pyvisa-py go to its session object: pyvisa would drop what came before a time-out."""

    def __init__(self, resource: str, library: str, usbip: str) -> None:
        if usbip:
            _usb_through(usbip)
        import pyvisa

        self._py = library == "@py"
        manager: Any = pyvisa.ResourceManager(library)
        self._manager = manager
        self._resource: Any = manager.open_resource(resource, open_timeout=4000)
        self._resource.write_termination = self._resource.read_termination = None
        self._timeout = -1.0
        self._low: Any = manager.visalib.sessions[self._resource.session] if self._py else None

    def _patience(self, timeout: float) -> None:
        if timeout != self._timeout:
            self._resource.timeout = max(1, round(timeout * 1000))
            self._timeout = timeout

    def write(self, data: bytes, timeout: float) -> None:
        self._patience(timeout)
        if self._low is None:
            self._resource.write_raw(data)
            return
        count, status = self._low.write(data)
        if count != len(data):
            raise TimeoutError(f"{count} of {len(data)} bytes were taken ({status.name})")

    def read(self, timeout: float) -> bytes:
        """What there is of a message; empty when nothing came in time."""
        import pyvisa

        self._patience(timeout)
        if self._low is None:
            try:
                data, _ = self._manager.visalib.read(self._resource.session, _CHUNK)
            except pyvisa.VisaIOError as error:
                if error.error_code != pyvisa.constants.StatusCode.error_timeout:
                    raise
                return b""
            return bytes(data)
        data, status = self._low.read(_CHUNK)
        if status < 0 and status != pyvisa.constants.StatusCode.error_timeout:
            raise ConnectionError(status.name)
        return bytes(data)

    def clear(self) -> None:
        """Device clear: the instrument forgets its half-given answers."""
        device = getattr(getattr(self._low, "interface", None), "usb_dev", None)
        if device is not None:
            self._clear_usbtmc(device, self._low.interface)
            return
        self._patience(1.0)
        try:
            self._resource.clear()
        except NotImplementedError:
            while self.read(_QUIET):
                pass

    @staticmethod
    def _clear_usbtmc(device: Any, interface: Any) -> None:
        """INITIATE_CLEAR and CHECK_CLEAR_STATUS (USBTMC 1.0, 4.2.1.6 and 4.2.1.7), which pyvisa-py does not have."""
        number = interface.usb_intf.index
        device.ctrl_transfer(0xA1, 5, 0, number, 1, timeout=1000)
        for _ in range(20):
            status = device.ctrl_transfer(0xA1, 6, 0, number, 2, timeout=1000)
            if status[0] != _CLEAR_PENDING:
                break
            if status[1] & 1:  # there are bytes that must be fetched first
                interface.usb_recv_ep.read(_CHUNK, 100)
        interface.usb_send_ep.clear_halt()


def resources(library: str, usbip: str) -> list[str]:
    """What the library finds; serial ports and GPIB are left out."""
    if usbip:
        _usb_through(usbip)
    import pyvisa

    found = pyvisa.ResourceManager(library).list_resources("?*")
    return [name for name in found if name.upper().startswith(("USB", "TCPIP"))]


def _usb_through(place: str) -> None:
    """Let pyusb find the devices of a USB/IP server and nothing else. Only in this process."""
    import usb.backend.libusb1

    from qkdd.device.usbip import UsbIpBackend

    backend = UsbIpBackend(place)
    usb.backend.libusb1.get_backend = lambda *_args, **_kinds: backend


def classify(error: BaseException) -> bytes:
    """t: nothing in time, b: held by another, d: not permitted, g: not there or gone."""
    name = getattr(error, "abbreviation", "")
    number = getattr(error, "errno", None)
    if name == "VI_ERROR_TMO" or isinstance(error, TimeoutError) or number == errno.ETIMEDOUT:
        return b"t"
    if name in ("VI_ERROR_RSRC_BUSY", "VI_ERROR_RSRC_LOCKED") or number == errno.EBUSY:
        return b"b"
    if name == "VI_ERROR_NPERMISSION" or number in (errno.EACCES, errno.EPERM):
        return b"d"
    return b"g"


def serve(line: socket.socket) -> None:
    """Until the other end closes."""
    session: Session | None = None
    while head := _exactly(line, REQUEST.size):
        operation, timeout, length = REQUEST.unpack(head)
        body = _exactly(line, length)
        status, answer = b"k", b""
        try:
            if operation == b"s":  # what a session needs, loaded before the time for an instrument runs
                for module in ("pyvisa", "pyvisa_py") if body == b"@py" else ("pyvisa",):
                    importlib.import_module(module)
            elif operation == b"l":
                answer = "\n".join(resources(*body.decode().split("\0"))).encode()
            elif operation == b"o":
                session = Session(*body.decode().split("\0"))
            elif session is None:
                raise ConnectionError("the session is not open")
            elif operation == b"w":
                session.write(body, timeout)
            elif operation == b"r":
                answer = session.read(timeout)
            else:
                session.clear()
        except Exception as error:  # whatever a VISA library raises belongs to the parent
            causes = [error, error.__cause__ or error]
            status = classify(causes[-1])
            answer = " ".join(f"{type(causes[-1]).__name__}: {causes[-1]}".split()).encode()[:500]
        line.sendall(ANSWER.pack(status, len(answer)) + answer)


def _exactly(line: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        more = line.recv(count - len(data))
        if not more:
            return b""
        data += more
    return bytes(data)


def main() -> None:
    parent = int(sys.argv[2])
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the daemon's affair
    logging.disable(logging.CRITICAL)  # what matters goes to the parent as an answer
    with socket.socket(fileno=int(sys.argv[1])) as line:
        serve(line)
    os._exit(0)  # a library's own exit handlers may hang


if __name__ == "__main__":
    main()

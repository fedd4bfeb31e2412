"""VISA resources as byte lines: `TCPIP0::192.0.2.7::5025::SOCKET`, `…::inst0::INSTR` (VXI-11), `…::hislip0::INSTR`,
`USB0::0x1313::0x8078::P0012345::INSTR` (USBTMC), and `usbip://HOST:PORT/USB0::…::INSTR` for a bench over USB/IP.

A SOCKET resource is a TCP connection and nothing else, so it takes the TCP link. Everything else runs in a process of its
own (`visa_child`): VISA libraries can hang where no time-out reaches, and a process can be killed. Decision 0131.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

from qkdd.device.errors import DeviceConfigError
from qkdd.device.tcp_link import TcpLink
from qkdd.device.transport import Busy, ByteLink, Denied, Gone, Hung, LinkFailure, TimedOut
from qkdd.device.visa_child import ANSWER, REQUEST

LIBRARY = "@py"
_RESOURCE = re.compile(r"^(?:usbip://(?P<usbip>[^/]+:\d+)/)?(?P<name>(?:TCPIP|USB|GPIB|VXI)\d*::.+)$", re.IGNORECASE)
_SOCKET = re.compile(r"^TCPIP\d*::(?P<host>[^:]+|\[[0-9a-fA-F:]+\])::(?P<port>\d+)::SOCKET$", re.IGNORECASE)
_CHILD = Path(__file__).with_name("visa_child.py")
_END = b"\n"
_GRACE = 1.0  # seconds beyond its own time-out after which a call counts as hanging (the bus gives 2)
_START = 20.0  # seconds in which the process has to load the VISA library: a second's work, on a busy machine more
_LIMIT = 1 << 24  # bytes of an answer of the child; more is no answer


def is_visa(port: str) -> bool:
    """Whether a `port` setting names a VISA resource."""
    return _RESOURCE.match(port) is not None


def visa_key(resource: str) -> str:
    """Bus key: two spellings of one resource give the same key, and a socket the one of its TCP port."""
    if found := _SOCKET.match(resource):
        return f"tcp:{found['host'].strip('[]')}:{found['port']}"
    place, _, name = resource.rpartition("/")
    parts = re.sub(r"^([A-Za-z]+)0?::", r"\1::", name, count=1).split("::")
    if parts[0].upper() == "USB":  # ids in hexadecimal or decimal, interface number given or not
        ids = (f"0x{int(p, 0):04x}" if re.fullmatch(r"0[xX][0-9a-fA-F]+|\d+", p) else p for p in parts[1:3])
        parts = ["USB", *ids, *parts[3:4], "INSTR" if parts[-1].upper() == "INSTR" else parts[-1]]
    return "visa:" + (f"{place}/" if place else "") + "::".join(parts).upper()


def visa_line(resource: str, library: str = LIBRARY) -> ByteLink:
    """The unopened link of a VISA resource. Raises DeviceConfigError when it is none."""
    found = _RESOURCE.match(resource)
    if found is None:
        raise DeviceConfigError(
            f'port: {resource!r} is no VISA resource such as "USB0::0x1313::0x8078::P0012345::INSTR"'
        )
    if plain := _SOCKET.match(found["name"]):
        return TcpLink(plain["host"].strip("[]"), int(plain["port"]))
    return VisaLink(found["name"], library, found["usbip"] or "")


def list_resources(library: str = LIBRARY, usbip: str = "", timeout: float = 15.0) -> list[str]:
    """USB and network resources that the VISA library finds now; empty when it cannot look."""
    child = VisaLink("", library, usbip)
    try:
        child.start()
        return [name for name in child.call(b"l", f"{library}\0{usbip}".encode(), timeout).decode().split("\n") if name]
    except LinkFailure:
        return []
    finally:
        child.close()


class VisaLink:
    """One session. A message is complete with its line feed: what is written is kept back until one comes.

    `hung` counts the calls whose process had to be killed.
    """

    def __init__(self, resource: str, library: str = LIBRARY, usbip: str = "") -> None:
        self._resource, self._library, self._usbip = resource, library, usbip
        self._process: subprocess.Popen[bytes] | None = None
        self._line: socket.socket | None = None
        self._kept, self._unsent = bytearray(), bytearray()
        self.hung = 0

    start_time = _START
    """Seconds that opening may take beyond its time-out."""

    @property
    def key(self) -> str:
        return visa_key(f"usbip://{self._usbip}/{self._resource}" if self._usbip else self._resource)

    def open(self, timeout: float) -> None:
        self.start()
        try:
            self.call(b"s", self._library.encode(), _START)
            self.call(b"o", "\0".join((self._resource, self._library, self._usbip)).encode(), timeout)
        except TimedOut as failure:
            self.close()
            raise Gone(f"{self._resource} does not answer ({failure})") from None
        except LinkFailure:
            self.close()
            raise

    def start(self) -> None:
        """The process, without a session."""
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-I", str(_CHILD), str(theirs.fileno()), str(os.getpid())]
            try:
                self._process = subprocess.Popen(
                    command,
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,  # pyvisa-py prints
                    stderr=subprocess.DEVNULL,
                )
            except OSError as error:
                ours.close()
                raise Gone(f"the VISA process does not start ({error})") from None
        self._line = ours
        self._kept.clear()
        self._unsent.clear()

    def close(self) -> None:
        line, self._line = self._line, None
        process, self._process = self._process, None
        if line is not None:
            line.close()
        if process is not None:
            try:
                process.wait(0.2)  # it ends by itself when the line does
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def write(self, data: bytes, timeout: float) -> None:
        self._unsent += data
        while (at := self._unsent.find(_END)) >= 0:
            message = bytes(self._unsent[: at + 1])
            del self._unsent[: at + 1]
            self.call(b"w", message, timeout)

    def read(self, limit: int, timeout: float) -> bytes:
        if not self._kept:
            self._kept += self.call(b"r", b"", max(timeout, 0.001))
        data = bytes(self._kept[:limit])
        del self._kept[:limit]
        return data

    def discard(self) -> None:
        self._kept.clear()
        self._unsent.clear()
        self.call(b"c", b"", 2.0)

    def call(self, operation: bytes, body: bytes, timeout: float) -> bytes:
        """One request to the process. Raises Hung after it was killed."""
        if self._line is None:
            raise Gone("the session is not open")
        end = time.monotonic() + timeout + _GRACE
        try:
            self._line.sendall(REQUEST.pack(operation, timeout, len(body)) + body)
            status, length = ANSWER.unpack(self._exactly(ANSWER.size, end))
            if length > _LIMIT:
                raise ConnectionError(f"an answer of {length} bytes")
            answer = self._exactly(length, end)
        except TimeoutError:
            self.hung += 1
            self._kill()
            raise Hung(f"the VISA call hangs; its process was killed after {timeout + _GRACE:g} s") from None
        except OSError as error:
            self._kill()
            raise Gone(f"the VISA process ended ({error})") from None
        if status == b"k":
            return answer
        text = answer.decode("utf-8", "replace")
        match status:
            case b"t":
                raise TimedOut(text)
            case b"b":
                raise Busy(text)
            case b"d":
                raise Denied(text)
            case _:
                raise Gone(text)

    def _exactly(self, count: int, end: float) -> bytes:
        line = self._line
        if line is None:
            raise ConnectionError("closed")
        data = bytearray()
        while len(data) < count:
            left = end - time.monotonic()
            if left <= 0:
                raise TimeoutError
            line.settimeout(left)
            more = line.recv(count - len(data))
            if not more:
                raise ConnectionError("it closed its end")
            data += more
        return bytes(data)

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()
        self.close()

"""Serial ports: a device path (best a by-id name), `serial://VVVV:PPPP/SERIAL` (the port of the USB device with this serial
number, wherever it is plugged in), or a pyserial URL such as socket://host:port for a port server.
"""

from __future__ import annotations

import errno
import os
import re
import termios
from typing import Any

import serial
from serial.tools import list_ports

from qkdd.device import hints
from qkdd.device.tcp_link import TcpLink
from qkdd.device.transport import Busy, ByteLink, Denied, Gone, LinkFailure, TimedOut

_SOCKET = re.compile(r"^socket://(?P<host>[^/]+):(?P<port>\d+)/?$")

_BY_NUMBER = re.compile(
    r"^serial://(?P<vendor>[0-9a-fA-F]{4}):(?P<product>[0-9a-fA-F]{4})/(?P<number>[\x21-\x7e]{1,64})$"
)

# what pyserial lets through, depending on where it notices that a port has gone
_FAILURES = (serial.SerialException, OSError)


def serial_key(port: str) -> str:
    """Bus key of a port: two names of one device give the same key while the device is there."""
    if match := _SOCKET.match(port):
        return f"tcp:{match['host']}:{match['port']}"
    if _BY_NUMBER.match(port):
        try:
            return f"serial:{os.path.realpath(find_port(port))}"
        except LinkFailure:  # not plugged in: its name is its key
            return f"serial:{port}"
    return f"serial:{port if '://' in port else os.path.realpath(port)}"


def serial_line(port: str, baudrate: int = 115200, *, rtscts: bool = False) -> ByteLink:
    """The unopened link of a `port` setting. `socket://host:port` is a port server's raw TCP connection."""
    match = _SOCKET.match(port)
    if match:
        return TcpLink(match["host"].strip("[]"), int(match["port"]))
    return SerialLink(port, baudrate, rtscts=rtscts)


def find_port(port: str) -> str:
    """The device path that a `port` setting means now. Raises Gone when `serial://…` is not plugged in, or is twice."""
    match = _BY_NUMBER.match(port)
    if match is None:
        return port
    wanted = int(match["vendor"], 16), int(match["product"], 16), match["number"]
    found = [p.device for p in list_ports.comports() if (p.vid, p.pid, p.serial_number) == wanted]
    if len(found) != 1:
        raise Gone(f"{port}: {len(found)} such serial ports are connected")
    return str(found[0])


class SerialLink:
    """One port, opened exclusively (an advisory lock: a program that does not ask for it can still break in)."""

    def __init__(self, port: str, baudrate: int = 115200, *, rtscts: bool = False, exclusive: bool = True) -> None:
        self._port, self._baudrate, self._rtscts, self._exclusive = port, baudrate, rtscts, exclusive
        self._serial: Any = None

    @property
    def key(self) -> str:
        return f"serial:{self._port}"

    @property
    def hint(self) -> str:
        """What may be wrong when something answers, but not as it should, or nothing does."""
        return f"the line runs at {self._baudrate} baud"

    def open(self, timeout: float) -> None:
        port = serial.serial_for_url(
            find_port(self._port), baudrate=self._baudrate, rtscts=self._rtscts, timeout=0.0, do_not_open=True
        )
        if self._exclusive and "://" not in str(port.port):
            port.exclusive = True
        try:
            # pyserial sets RTS and DTR here and forgives a pty that has no modem lines (ENOTTY)
            port.open()
            port.reset_input_buffer()
        except _FAILURES as error:
            port.close()
            raise _opening(error, self._port) from None
        self._serial = port

    def close(self) -> None:
        port, self._serial = self._serial, None
        if port is not None:
            port.close()

    def write(self, data: bytes, timeout: float) -> None:
        port = self._opened()
        try:
            if port.write_timeout != timeout:
                port.write_timeout = timeout
            port.write(data)
        except serial.SerialTimeoutException:
            raise TimedOut("the instrument takes no bytes") from None
        except _FAILURES as error:
            raise Gone(f"the port is gone ({error})") from None

    def read(self, limit: int, timeout: float) -> bytes:
        port = self._opened()
        try:
            if port.timeout != timeout:  # a set costs two system calls, also when nothing changes
                port.timeout = timeout
            data: bytes = port.read(1)
            if data and limit > 1 and (waiting := port.in_waiting):
                data += port.read(min(waiting, limit - 1))
        except (*_FAILURES, TypeError) as error:  # TypeError: pyserial lost its descriptor in the middle
            raise Gone(f"the port is gone ({error})") from None
        return data

    def discard(self) -> None:
        try:
            self._opened().reset_input_buffer()
        except _FAILURES as error:
            raise Gone(f"the port is gone ({error})") from None
        except Exception as error:  # termios.error is neither OSError nor SerialException
            if type(error).__module__ != "termios":
                raise
            raise Gone(f"the port is gone ({error})") from None

    def _opened(self) -> Any:
        if self._serial is None:
            raise Gone("the port is not open")
        return self._serial


def _opening(error: Exception, port: str) -> LinkFailure:
    number = getattr(error, "errno", None)
    if number in (errno.EACCES, errno.EPERM):
        return Denied(f"no permission to open {port}: {hints.who_may_open(port)}")
    if number in (errno.EAGAIN, errno.EBUSY):
        return Busy(f"{port} is held by another program: {hints.holders(port) or 'one of another user'}")
    if number == errno.ENOENT:
        return Gone(f"{port} cannot be opened (No such file or directory); {hints.ports_now()}")
    if isinstance(cause := error.__context__, termios.error) and cause.args[0] == errno.ENOTTY:
        return Gone(f"{port} is no serial port; {hints.ports_now()}")
    return Gone(f"{port} cannot be opened ({os.strerror(number) if number else error})")

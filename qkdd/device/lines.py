"""The byte line that a `port` setting means, whatever its form; for drivers whose instrument is sold with several."""

from __future__ import annotations

from qkdd.device.serial_link import serial_key, serial_line
from qkdd.device.transport import ByteLink
from qkdd.device.visa_link import LIBRARY, is_visa, visa_key, visa_line


def any_line(port: str, *, baudrate: int = 9600, rtscts: bool = False, visa_library: str = LIBRARY) -> ByteLink:
    """A VISA resource, a serial device path, `serial://…` or `socket://…`; unopened."""
    if is_visa(port):
        return visa_line(port, visa_library)
    return serial_line(port, baudrate, rtscts=rtscts)


def line_key(port: str) -> str:
    """Bus key of a `port` setting: two names of one line give the same key."""
    return visa_key(port) if is_visa(port) else serial_key(port)

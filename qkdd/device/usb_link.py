"""USB bulk endpoints as a byte line, and control transfers beside them (pyusb).

`usb://VVVV:PPPP` or `usb://VVVV:PPPP/SERIAL`, ids in hexadecimal: an instrument with a serial number is found again on
whatever port it comes back. `usbip://HOST:PORT/VVVV:PPPP/SERIAL`: on another computer, or a simulator.
"""

from __future__ import annotations

import errno
import re
from typing import Any

import usb.core
import usb.util

from qkdd.device.errors import DeviceConfigError
from qkdd.device.transport import Busy, Denied, Gone, LinkFailure, Refused, TimedOut
from qkdd.device.usbip import UsbIpBackend

SCHEME = "usb://"
_FORM = re.compile(r"^(?:usb://|usbip://([^/]+:\d+)/)([0-9a-fA-F]{4}):([0-9a-fA-F]{4})(?:/([\x21-\x7e]{1,64}))?$")
_PACKET = 16384  # bytes asked of the controller at once; a multiple of every bulk packet size


class UsbBulkLink:
    """First interface with one bulk endpoint in each way. The constructor does no I/O; raises DeviceConfigError.

    one_way: the device has no endpoint that takes bytes. by_packet: ask for exactly one packet at a time, because the device
    refuses any other size.
    """

    def __init__(self, port: str, *, one_way: bool = False, by_packet: bool = False) -> None:
        match = _FORM.match(port)
        if match is None:
            raise DeviceConfigError(f'port: {port!r} is not of the form "usb://1209:5a01/SERIAL"')
        self._port = port
        self._place = match[1]
        self._vendor, self._product, self._serial = int(match[2], 16), int(match[3], 16), match[4]
        self._one_way, self._by_packet = one_way, by_packet
        self._device: Any = None
        self._in: Any = None
        self._out: Any = None
        self._kept = bytearray()

    @property
    def key(self) -> str:
        return self._port

    def open(self, timeout: float) -> None:
        try:
            ids = {"idVendor": self._vendor, "idProduct": self._product}
            where = {"backend": UsbIpBackend(self._place)} if self._place else {}
            found = list(usb.core.find(find_all=True, **ids, **where) or ())
            found = [d for d in found if self._serial is None or d.serial_number == self._serial]
        except (usb.core.USBError, usb.core.NoBackendError, ValueError) as error:
            raise _failure(error, self._port) from None
        if len(found) != 1:
            raise Gone(f"{self._port}: {len(found)} such devices are connected" + (", name a serial" if found else ""))
        device = found[0]
        try:
            device.set_configuration()
            interface = device.get_active_configuration()[(0, 0)]
            self._in, self._out = (
                _endpoint(interface, usb.util.ENDPOINT_IN),
                _endpoint(interface, usb.util.ENDPOINT_OUT),
            )
        except usb.core.USBError as error:
            usb.util.dispose_resources(device)
            raise _failure(error, self._port) from None
        if self._in is None or (self._out is None and not self._one_way):
            usb.util.dispose_resources(device)
            raise Gone(f"{self._port} has no pair of bulk endpoints")
        self._device = device
        self._kept.clear()

    def close(self) -> None:
        device, self._device = self._device, None
        if device is not None:
            usb.util.dispose_resources(device)

    def control(self, request_type: int, request: int, value: int, index: int, length: int, timeout: float) -> bytes:
        """A control transfer that brings up to `length` bytes. Raises Refused when the device stalls it."""
        self._opened()
        try:
            return bytes(
                self._device.ctrl_transfer(request_type, request, value, index, length, _milliseconds(timeout))
            )
        except usb.core.USBTimeoutError:
            raise TimedOut(f"no answer to request {request:#04x}") from None
        except usb.core.USBError as error:
            if error.errno == errno.EPIPE:
                raise Refused(f"stalls request {request:#04x}") from None
            raise _failure(error, self._port) from None

    def write(self, data: bytes, timeout: float) -> None:
        self._opened()
        at = 0
        while at < len(data):
            try:
                at += self._out.write(data[at:], _milliseconds(timeout))
            except usb.core.USBTimeoutError:
                raise TimedOut("the instrument takes no bytes") from None
            except usb.core.USBError as error:
                raise _failure(error, self._port) from None

    def read(self, limit: int, timeout: float) -> bytes:
        self._opened()
        if not self._kept:
            try:
                size = self._in.wMaxPacketSize if self._by_packet else _PACKET
                self._kept += bytes(self._in.read(size, _milliseconds(timeout)))
            except usb.core.USBTimeoutError:
                return b""
            except usb.core.USBError as error:
                raise _failure(error, self._port) from None
        data = bytes(self._kept[:limit])
        del self._kept[:limit]
        return data

    def discard(self) -> None:
        """Empty the line; a device that sends without end and without being asked has nothing to throw away."""
        self._kept.clear()
        while not self._one_way and self.read(_PACKET, 0.001):
            pass

    @property
    def packet(self) -> int:
        """Bytes of one packet from the device."""
        self._opened()
        return int(self._in.wMaxPacketSize)

    def _opened(self) -> None:
        if self._device is None:
            raise Gone("the device is not open")


def _endpoint(interface: Any, direction: int) -> Any:
    def fits(endpoint: Any) -> bool:
        address, kind = endpoint.bEndpointAddress, endpoint.bmAttributes
        bulk = usb.util.endpoint_type(kind) == usb.util.ENDPOINT_TYPE_BULK
        return bool(usb.util.endpoint_direction(address) == direction and bulk)

    return usb.util.find_descriptor(interface, custom_match=fits)


def _milliseconds(timeout: float) -> int:
    return max(1, round(timeout * 1000))  # 0 would mean for ever


def _failure(error: Exception, port: str) -> LinkFailure:
    number = getattr(error, "errno", None)
    if isinstance(error, usb.core.USBTimeoutError):
        return TimedOut(f"{port} does not answer")
    if number == errno.EACCES:
        return Denied(f"no permission to open {port}")
    if number == errno.EBUSY:
        return Busy(f"{port} is held by another program")
    return Gone(f"{port}: {error}")

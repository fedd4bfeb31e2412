"""USB bulk endpoints as a byte line (pyusb): `usb://VVVV:PPPP` or `usb://VVVV:PPPP/SERIAL`, ids in hexadecimal."""

from __future__ import annotations

import errno
import re
from typing import Any

import usb.core
import usb.util

from qkdd.device.errors import DeviceConfigError
from qkdd.device.transport import Busy, Denied, Gone, LinkFailure, TimedOut

SCHEME = "usb://"
_FORM = re.compile(r"^usb://([0-9a-fA-F]{4}):([0-9a-fA-F]{4})(?:/([\x21-\x7e]{1,64}))?$")
_PACKET = 16384  # bytes asked of the controller at once; a multiple of every bulk packet size


class UsbBulkLink:
    """First interface with one bulk endpoint in each way. The constructor does no I/O; raises DeviceConfigError."""

    def __init__(self, port: str) -> None:
        match = _FORM.match(port)
        if match is None:
            raise DeviceConfigError(f'port: {port!r} is not of the form "usb://1209:5a01/SERIAL"')
        self._port = port
        self._vendor, self._product, self._serial = int(match[1], 16), int(match[2], 16), match[3]
        self._device: Any = None
        self._in: Any = None
        self._out: Any = None
        self._kept = bytearray()

    @property
    def key(self) -> str:
        return self._port

    def open(self, timeout: float) -> None:
        try:
            found = list(usb.core.find(find_all=True, idVendor=self._vendor, idProduct=self._product) or ())
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
        if self._in is None or self._out is None:
            usb.util.dispose_resources(device)
            raise Gone(f"{self._port} has no pair of bulk endpoints")
        self._device = device
        self._kept.clear()

    def close(self) -> None:
        device, self._device = self._device, None
        if device is not None:
            usb.util.dispose_resources(device)

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
                self._kept += bytes(self._in.read(_PACKET, _milliseconds(timeout)))
            except usb.core.USBTimeoutError:
                return b""
            except usb.core.USBError as error:
                raise _failure(error, self._port) from None
        data = bytes(self._kept[:limit])
        del self._kept[:limit]
        return data

    def discard(self) -> None:
        while self.read(_PACKET, 0.001):
            pass

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
    if number == errno.EACCES:
        return Denied(f"no permission to open {port}")
    if number == errno.EBUSY:
        return Busy(f"{port} is held by another program")
    return Gone(f"{port}: {error}")

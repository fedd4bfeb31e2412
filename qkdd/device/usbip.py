"""USB over TCP: a backend of pyusb that speaks USB/IP (Linux kernel, Documentation/usb/usbip_protocol.rst, version 1.1.1).

Instruments on another computer that runs `usbipd`, and our own simulators, are used without a kernel driver and without
root: `usbip://HOST:PORT/…` in a `port` setting.
"""

from __future__ import annotations

import errno
import socket
import struct
import time
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import usb.backend
import usb.core

VERSION = 0x0111
LIST, IMPORT = 0x8005, 0x8003  # requests; their replies have the top bit clear
COMMON = struct.Struct("!HHI")  # version, code, status
DEVICE = struct.Struct("!256s32sIIIHHHBBBBBB")
INTERFACE = struct.Struct("!BBBx")
BASIC = struct.Struct("!IIIII")  # command, sequence number, device, direction, endpoint
SUBMIT = struct.Struct("!IIIiI8s")  # flags, length, start frame, packets, interval, setup
RETURN = struct.Struct("!iIIiI8x")  # status, length, start frame, packets, errors
UNLINK = struct.Struct("!I24x")
SETUP = struct.Struct("<BBHHH")
CMD_SUBMIT, CMD_UNLINK, RET_SUBMIT, RET_UNLINK = 1, 2, 3, 4
OUT, IN = 0, 1

_CONNECT = 3.0  # seconds
_MOST = 1 << 20  # bytes of one transfer

_DEVICE_FIELDS = (
    "bLength bDescriptorType bcdUSB bDeviceClass bDeviceSubClass bDeviceProtocol bMaxPacketSize0 idVendor "
    "idProduct bcdDevice iManufacturer iProduct iSerialNumber bNumConfigurations "
)
_CONFIGURATION_FIELDS = (
    "bLength bDescriptorType wTotalLength bNumInterfaces bConfigurationValue iConfiguration bmAttributes bMaxPower "
)
_INTERFACE_FIELDS = (
    "bLength bDescriptorType bInterfaceNumber bAlternateSetting bNumEndpoints bInterfaceClass "
    "bInterfaceSubClass bInterfaceProtocol iInterface "
)
_ENDPOINT_FIELDS = (
    "bLength bDescriptorType bEndpointAddress bmAttributes wMaxPacketSize bInterval bRefresh bSynchAddress "
)


@dataclass
class _Interface:
    descriptor: SimpleNamespace
    endpoints: list[SimpleNamespace] = field(default_factory=list)


@dataclass
class _Device:
    """One exported device; its descriptors are read once."""

    busid: str
    bus: int
    address: int
    descriptor: SimpleNamespace = field(default_factory=SimpleNamespace)
    configurations: list[SimpleNamespace] = field(default_factory=list)
    interfaces: list[list[_Interface]] = field(default_factory=list)  # of each configuration


class _Handle:
    """An imported device: URBs over one connection."""

    def __init__(self, place: tuple[str, int], device: _Device) -> None:
        self._number = 0
        self._device = (device.bus << 16) | device.address
        self._socket = socket.create_connection(place, _CONNECT)
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket.sendall(COMMON.pack(VERSION, IMPORT, 0) + device.busid.encode().ljust(32, b"\0"))
            _, _, status = COMMON.unpack(_exactly(self._socket, COMMON.size))
            if status:
                raise usb.core.USBError(f"{device.busid} is not exported or in use", errno=errno.EBUSY)
            _exactly(self._socket, DEVICE.size)
        except BaseException:
            self._socket.close()
            raise

    def close(self) -> None:
        self._socket.close()

    def transfer(
        self, endpoint: int, direction: int, data: bytes, length: int, timeout: float, setup: bytes = bytes(8)
    ) -> bytes:
        """One URB. Returns what came (IN) or was taken (OUT: so many zero bytes). Raises USBError, USBTimeoutError."""
        self._number += 1
        number = self._number
        head = BASIC.pack(CMD_SUBMIT, number, self._device, direction, endpoint & 0x0F)
        try:
            self._socket.settimeout(_CONNECT)
            self._socket.sendall(head + SUBMIT.pack(0, length, 0, 0, 0, setup) + (data if direction == OUT else b""))
            answer = self._await(RET_SUBMIT, number, direction, timeout)
            if answer is None:
                self._withdraw(number, direction)
                raise usb.core.USBTimeoutError("Operation timed out", errno=errno.ETIMEDOUT)
        except usb.core.USBError:
            raise
        except OSError as error:
            raise usb.core.USBError(f"the USB/IP connection broke ({error})", errno=errno.ENODEV) from None
        status, taken, incoming = answer
        if status:
            raise usb.core.USBError(f"transfer failed ({errno.errorcode.get(-status, status)})", errno=-status)
        return incoming if direction == IN else bytes(taken)

    def _withdraw(self, number: int, direction: int) -> None:
        """Nothing may come later for a transfer that was given up: the device gets told, and answers."""
        self._number += 1
        self._socket.sendall(BASIC.pack(CMD_UNLINK, self._number, self._device, OUT, 0) + UNLINK.pack(number))
        if self._await(RET_UNLINK, self._number, direction, _CONNECT) is None:
            raise usb.core.USBError("the USB/IP server does not answer", errno=errno.ENODEV)

    def _await(self, command: int, number: int, direction: int, timeout: float) -> tuple[int, int, bytes] | None:
        end = time.monotonic() + timeout
        while True:
            left = end - time.monotonic()
            self._socket.settimeout(max(left, 1e-3))
            try:
                first = self._socket.recv(1)
            except TimeoutError:
                return None
            if not first:
                raise ConnectionError("closed")
            self._socket.settimeout(_CONNECT)
            rest = _exactly(self._socket, BASIC.size + RETURN.size - 1)
            kind, found, *_ = BASIC.unpack((first + rest)[: BASIC.size])
            status, length, *_ = RETURN.unpack((first + rest)[BASIC.size :])
            if length > _MOST:
                raise ConnectionError(f"a transfer of {length} bytes")
            # only one transfer is under way, so what comes late is of its direction
            incoming = _exactly(self._socket, length) if kind == RET_SUBMIT and direction == IN else b""
            if (kind, found) == (command, number):
                return status, length, incoming

    def control(self, setup: bytes, data: bytes, timeout: float) -> bytes:
        request_type, _, _, _, length = SETUP.unpack(setup)
        direction = IN if request_type & 0x80 else OUT
        return self.transfer(0, direction, data, length, timeout, setup)


class UsbIpBackend(usb.backend.IBackend):  # type: ignore[misc]  # pyusb has no types
    """place: "HOST:PORT" of the server."""

    def __init__(self, place: str) -> None:
        host, _, port = place.rpartition(":")
        self._place = (host.strip("[]"), int(port))

    def enumerate_devices(self) -> Iterator[_Device]:
        """Exported devices whose descriptors can be read; one that another host has imported is passed over."""
        try:
            with socket.create_connection(self._place, _CONNECT) as line:
                line.sendall(COMMON.pack(VERSION, LIST, 0))
                COMMON.unpack(_exactly(line, COMMON.size))
                (count,) = struct.unpack("!I", _exactly(line, 4))
                found = [self._listed(line) for _ in range(min(count, 256))]
        except OSError as error:
            raise usb.core.USBError(f"{self._place[0]}:{self._place[1]}: {error}", errno=errno.ENODEV) from None
        for device in found:
            try:
                self._read_descriptors(device)
            except usb.core.USBError as error:
                if error.errno != errno.EBUSY:
                    raise
                continue
            yield device

    @staticmethod
    def _listed(line: socket.socket) -> _Device:
        _, busid, bus, address, _, *_, interfaces = DEVICE.unpack(_exactly(line, DEVICE.size))
        _exactly(line, INTERFACE.size * interfaces)
        return _Device(busid.rstrip(b"\0").decode(), bus, address)

    def _read_descriptors(self, device: _Device) -> None:
        handle = self.open_device(device)
        try:
            raw = handle.control(SETUP.pack(0x80, 6, 0x0100, 0, 18), b"", 1.0)
            device.descriptor = _named(_DEVICE_FIELDS, struct.unpack("<BBHBBBBHHHBBBB", raw))
            where: dict[str, Any] = {"address": device.address, "bus": device.bus, "port_number": None}
            vars(device.descriptor).update(where | {"port_numbers": None, "speed": None})
            for number in range(device.descriptor.bNumConfigurations):
                head = handle.control(SETUP.pack(0x80, 6, 0x0200 | number, 0, 9), b"", 1.0)
                total = struct.unpack("<BBH", head[:4])[2]
                self._parse(device, handle.control(SETUP.pack(0x80, 6, 0x0200 | number, 0, total), b"", 1.0))
        except struct.error:
            raise usb.core.USBError("a descriptor is cut short", errno=errno.EIO) from None
        finally:
            handle.close()

    @staticmethod
    def _parse(device: _Device, raw: bytes) -> None:
        """A configuration with its interfaces and endpoints (USB 2.0, 9.6.3 to 9.6.6); class descriptors are passed over."""
        interfaces: list[_Interface] = []
        at = 0
        while at + 2 <= len(raw) and raw[at] >= 2:
            piece = raw[at : at + raw[at]]
            match piece[1]:
                case 2:
                    values = struct.unpack("<BBHBBBBB", piece)
                    device.configurations.append(_named(_CONFIGURATION_FIELDS, values))
                case 4:
                    interfaces.append(_Interface(_named(_INTERFACE_FIELDS, struct.unpack("<9B", piece))))
                case 5 if interfaces:
                    interfaces[-1].endpoints.append(
                        _named(_ENDPOINT_FIELDS, (*struct.unpack("<BBBBHB", piece[:7]), 0, 0))
                    )
            at += raw[at]
        device.interfaces.append(interfaces)

    # Descriptors

    def get_device_descriptor(self, dev: _Device) -> SimpleNamespace:
        return dev.descriptor

    def get_configuration_descriptor(self, dev: _Device, config: int) -> SimpleNamespace:
        return dev.configurations[config]

    def get_interface_descriptor(self, dev: _Device, intf: int, alt: int, config: int) -> SimpleNamespace:
        settings = [i for i in dev.interfaces[config] if i.descriptor.bInterfaceNumber == intf]
        return settings[alt].descriptor

    def get_endpoint_descriptor(self, dev: _Device, ep: int, intf: int, alt: int, config: int) -> SimpleNamespace:
        settings = [i for i in dev.interfaces[config] if i.descriptor.bInterfaceNumber == intf]
        return settings[alt].endpoints[ep]

    # Device

    def open_device(self, dev: _Device) -> _Handle:
        try:
            return _Handle(self._place, dev)
        except OSError as error:
            if isinstance(error, usb.core.USBError):
                raise
            raise usb.core.USBError(f"{self._place[0]}:{self._place[1]}: {error}", errno=errno.ENODEV) from None

    def close_device(self, dev_handle: _Handle) -> None:
        dev_handle.close()

    def set_configuration(self, dev_handle: _Handle, config_value: int) -> None:
        dev_handle.control(SETUP.pack(0x00, 9, config_value, 0, 0), b"", 1.0)

    def get_configuration(self, dev_handle: _Handle) -> int:
        return dev_handle.control(SETUP.pack(0x80, 8, 0, 0, 1), b"", 1.0)[0]

    def set_interface_altsetting(self, dev_handle: _Handle, intf: int, altsetting: int) -> None:
        dev_handle.control(SETUP.pack(0x01, 11, altsetting, intf, 0), b"", 1.0)

    def claim_interface(self, dev_handle: _Handle, intf: int) -> None:
        """Importing a device has claimed it whole."""

    def release_interface(self, dev_handle: _Handle, intf: int) -> None:
        """See claim_interface."""

    def clear_halt(self, dev_handle: _Handle, ep: int) -> None:
        dev_handle.control(SETUP.pack(0x02, 1, 0, ep, 0), b"", 1.0)

    def is_kernel_driver_active(self, dev_handle: _Handle, intf: int) -> bool:
        return False

    # Transfers; time-outs in milliseconds

    def bulk_write(self, dev_handle: _Handle, ep: int, intf: int, data: Any, timeout: int) -> int:
        raw = bytes(data)
        return len(dev_handle.transfer(ep, OUT, raw, len(raw), timeout / 1000))

    def bulk_read(self, dev_handle: _Handle, ep: int, intf: int, buff: array[int], timeout: int) -> int:
        return _fill(buff, dev_handle.transfer(ep, IN, b"", len(buff) * buff.itemsize, timeout / 1000))

    def intr_write(self, dev_handle: _Handle, ep: int, intf: int, data: Any, timeout: int) -> int:
        return self.bulk_write(dev_handle, ep, intf, data, timeout)

    def intr_read(self, dev_handle: _Handle, ep: int, intf: int, buff: array[int], timeout: int) -> int:
        return self.bulk_read(dev_handle, ep, intf, buff, timeout)

    def ctrl_transfer(
        self,
        dev_handle: _Handle,
        bmRequestType: int,
        bRequest: int,
        wValue: int,
        wIndex: int,
        data: array[int],
        timeout: int,
    ) -> int:
        setup = SETUP.pack(bmRequestType, bRequest, wValue, wIndex, len(data) * data.itemsize)
        answer = dev_handle.control(setup, data.tobytes(), timeout / 1000)
        return _fill(data, answer) if bmRequestType & 0x80 else len(answer)


def _fill(buffer: array[int], data: bytes) -> int:
    data = data[: len(buffer)]
    buffer[: len(data)] = array("B", data)
    return len(data)


def _named(names: str, values: tuple[int, ...]) -> SimpleNamespace:
    return SimpleNamespace(**dict(zip(names.split(), values, strict=True)), extra_descriptors=[])


def _exactly(line: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        more = line.recv(count - len(data))
        if not more:
            raise ConnectionError("closed")
        data += more
    return bytes(data)

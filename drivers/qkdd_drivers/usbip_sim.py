"""Simulated USB devices, served by USB/IP (Linux kernel, Documentation/usb/usbip_protocol.rst, version 1.1.1).

`usbip attach` on Linux gives the simulated device to the kernel, so programs that know nothing of USB/IP can use it;
our own links speak USB/IP themselves (`qkdd.device.usbip`).
"""

from __future__ import annotations

import abc
import asyncio
import errno
import struct
from collections import deque
from dataclasses import dataclass

from qkdd.device.usbip import (
    BASIC,
    CMD_SUBMIT,
    COMMON,
    DEVICE,
    IMPORT,
    IN,
    INTERFACE,
    LIST,
    RET_SUBMIT,
    RET_UNLINK,
    RETURN,
    SETUP,
    SUBMIT,
    UNLINK,
    VERSION,
)

_BUS = 1
_HIGH_SPEED = 3
_MOST = 1 << 20


@dataclass(frozen=True, slots=True)
class Endpoint:
    """address: with the direction bit. attributes: 2 bulk, 3 interrupt."""

    address: int
    attributes: int = 2
    packet: int = 512


@dataclass(frozen=True, slots=True)
class Descriptors:
    """One configuration with one interface."""

    vendor: int
    product: int
    strings: tuple[str, str, str]  # manufacturer, product, serial number
    interface_class: tuple[int, int, int]
    endpoints: tuple[Endpoint, ...]

    def device(self) -> bytes:
        return struct.pack("<BBHBBBBHHHBBBB", 18, 1, 0x0200, 0, 0, 0, 64, self.vendor, self.product, 0x0100, 1, 2, 3, 1)

    def configuration(self) -> bytes:
        body = struct.pack("<BBBBBBBBB", 9, 4, 0, 0, len(self.endpoints), *self.interface_class, 0)
        for point in self.endpoints:
            body += struct.pack("<BBBBHB", 7, 5, point.address, point.attributes, point.packet, 0)
        return struct.pack("<BBHBBBBB", 9, 2, 9 + len(body), 1, 1, 0, 0x80, 50) + body

    def string(self, number: int) -> bytes:
        if number == 0:
            return b"\x04\x03\x09\x04"
        text = self.strings[number - 1].encode("utf-16-le")
        return bytes([2 + len(text), 3]) + text


class UsbDevice(abc.ABC):
    """What the device does beyond the standard requests."""

    def __init__(self, descriptors: Descriptors) -> None:
        self.descriptors = descriptors
        self.server: UsbIpServer | None = None

    @abc.abstractmethod
    def control(
        self, request_type: int, request: int, value: int, index: int, length: int, data: bytes
    ) -> bytes | None:
        """A class or vendor request; None stalls."""

    @abc.abstractmethod
    def bulk_out(self, endpoint: int, data: bytes) -> None:
        """Data for the device."""

    @abc.abstractmethod
    def bulk_in(self, endpoint: int, length: int) -> bytes | None:
        """Data for the host; None: nothing yet, `wake` tells when."""

    def wake(self) -> None:
        """There may be data now for hosts that wait."""
        if self.server is not None:
            self.server.wake()


class UsbIpServer:
    """Exports one device on a TCP port. `silent`: takes requests and answers none of them any more."""

    def __init__(self, device: UsbDevice, host: str = "127.0.0.1", port: int = 0) -> None:
        self.device, self._host, self.port = device, host, port
        device.server = self
        self.busid, self.address = "1-1", 2
        self.silent = False
        self.late = 0.0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiting: deque[tuple[int, int, int, asyncio.StreamWriter]] = deque()
        self._imported = False

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._client, self._host, self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    def cut(self) -> None:
        """The cable is pulled. Idempotent."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
        for task in self._tasks:
            task.cancel()

    def mend(self) -> None:
        """Serve again, at the same port."""
        if self._server is None:
            task = asyncio.ensure_future(self.start())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        self.cut()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def wake(self) -> None:
        for entry in list(self._waiting):
            number, endpoint, length, writer = entry
            if not endpoint & 0x80:
                continue
            data = self.device.bulk_in(endpoint, length)
            if data is None:
                continue
            self._waiting.remove(entry)
            self._return(writer, number, 0, len(data), data)

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        imported = False
        try:
            _, code, _ = COMMON.unpack(await reader.readexactly(COMMON.size))
            if code == LIST:
                writer.write(COMMON.pack(VERSION, LIST & 0x7FFF, 0) + struct.pack("!I", 1) + self._record())
                writer.write(INTERFACE.pack(*self.device.descriptors.interface_class))
                await writer.drain()
            elif code == IMPORT:
                busid = (await reader.readexactly(32)).rstrip(b"\0").decode("ascii", "replace")
                refused = self._imported or busid != self.busid
                writer.write(COMMON.pack(VERSION, IMPORT & 0x7FFF, int(refused)))
                if not refused:
                    imported = self._imported = True
                    writer.write(self._record())
                    while True:
                        await self._urb(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the host went away
        except asyncio.CancelledError:
            writer.transport.abort()  # a pulled cable ends nothing in order
        finally:
            if imported:
                self._imported = False
                self._waiting = deque(entry for entry in self._waiting if entry[3] is not writer)
            writer.close()

    def _record(self) -> bytes:
        about = self.device.descriptors
        return DEVICE.pack(
            b"/sys/devices/simulated/usb1/1-1",
            self.busid.encode(),
            _BUS,
            self.address,
            _HIGH_SPEED,
            about.vendor,
            about.product,
            0x0100,
            0,
            0,
            0,
            1,
            1,
            1,
        )

    async def _urb(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        command, number, _, direction, endpoint = BASIC.unpack(await reader.readexactly(BASIC.size))
        body = await reader.readexactly(SUBMIT.size)
        if command != CMD_SUBMIT:
            self._withdraw(writer, number, *UNLINK.unpack(body))
            return
        _, length, _, _, _, setup = SUBMIT.unpack(body)
        if length > _MOST:
            raise ConnectionError(f"a transfer of {length} bytes")
        data = await reader.readexactly(length) if direction != IN else b""
        if self.silent:
            self._waiting.append((number, endpoint, length, writer))  # until the host gives it up
            return
        if self.late:
            await asyncio.sleep(self.late)
        if endpoint == 0:
            answer = self._control(setup, data)
            if answer is None:
                self._return(writer, number, -errno.EPIPE, 0, b"")
            elif direction == IN:
                self._return(writer, number, 0, len(answer), answer)
            else:
                self._return(writer, number, 0, length, b"")
        elif direction == IN:
            found = self.device.bulk_in(endpoint | 0x80, length)
            if found is None:
                self._waiting.append((number, endpoint | 0x80, length, writer))
            else:
                self._return(writer, number, 0, len(found), found)
        else:
            self.device.bulk_out(endpoint, data)
            self._return(writer, number, 0, length, b"")
        await writer.drain()

    def _control(self, setup: bytes, data: bytes) -> bytes | None:
        request_type, request, value, index, length = SETUP.unpack(setup)
        about = self.device.descriptors
        if request_type & 0x60:  # class or vendor
            answer = self.device.control(request_type, request, value, index, length, data)
            return None if answer is None else answer[:length]
        match request, value >> 8:
            case 6, 1:
                return about.device()[:length]
            case 6, 2:
                return about.configuration()[:length]
            case 6, 3 if value & 0xFF <= len(about.strings):
                return about.string(value & 0xFF)[:length]
            case 8, _:
                return b"\1"[:length]
            case 0, _:
                return b"\0\0"[:length]
            case ((1 | 3 | 9 | 11), _):
                return b""
        return None

    def _withdraw(self, writer: asyncio.StreamWriter, number: int, given_up: int) -> None:
        waiting = [entry for entry in self._waiting if entry[0] == given_up]
        for entry in waiting:
            self._waiting.remove(entry)
        writer.write(
            BASIC.pack(RET_UNLINK, number, 0, 0, 0) + RETURN.pack(-errno.ECONNRESET if waiting else 0, 0, 0, 0, 0)
        )

    @staticmethod
    def _return(writer: asyncio.StreamWriter, number: int, status: int, length: int, data: bytes) -> None:
        if writer.is_closing():
            return
        writer.write(BASIC.pack(RET_SUBMIT, number, 0, 0, 0) + RETURN.pack(status, length, 0, 0, 0) + data)

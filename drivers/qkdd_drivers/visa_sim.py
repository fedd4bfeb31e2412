"""The ways in which a simulated SCPI instrument is reached as a VISA resource, beside a plain socket.

USBTMC (USB Test and Measurement Class 1.0, subclass USB488) on a simulated USB device, HiSLIP (IVI-6.1, revision 1.1) and
VXI-11 (revision 1.0, core channel, without port mapper: the port stands in the resource).
"""

from __future__ import annotations

import abc
import asyncio
import struct
from collections import deque
from collections.abc import Callable

from qkdd_drivers.simkit import Address, Wire
from qkdd_drivers.usbip_sim import Descriptors, Endpoint, UsbDevice, UsbIpServer

_MOST = 1 << 20
OnData = Callable[[bytes], None]


class UsbTmc(UsbDevice):
    """Class 0xFE, subclass 3, protocol 1. on_data: gets each message, ended by a line feed."""

    def __init__(self, vendor: int, product: int, names: tuple[str, str, str], on_data: OnData) -> None:
        points = (Endpoint(0x01), Endpoint(0x82))
        super().__init__(Descriptors(vendor, product, names, (0xFE, 3, 1), points))
        self._on_data = on_data
        self._message, self._answer = bytearray(), bytearray()
        self._asked: tuple[int, int] | None = None
        self._aborted = False

    def put(self, data: bytes) -> None:
        """Something to fetch for the host."""
        self._answer += data
        self.wake()

    def control(
        self, request_type: int, request: int, value: int, index: int, length: int, data: bytes
    ) -> bytes | None:
        match request:
            case 1 | 3:  # INITIATE_ABORT_BULK_OUT, _IN
                self._asked, self._aborted = None, request == 3
                return bytes([1, value & 0x7F])
            case 2 | 4:  # CHECK_ABORT_…_STATUS
                return b"\1" + bytes(7)
            case 5:  # INITIATE_CLEAR
                self._message.clear()
                self._answer.clear()
                self._asked = None
                return b"\1"
            case 6:
                return b"\1\0"
            case 7:  # GET_CAPABILITIES: USB488 with remote control
                return bytes([1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0b110, 0]) + bytes(8)
            case 128:  # READ_STATUS_BYTE
                return bytes([1, value & 0x7F, 0])
            case 160 | 161 | 162:
                return b"\1"
        return None

    def bulk_out(self, endpoint: int, data: bytes) -> None:
        if len(data) < 12 or data[1] ^ data[2] != 0xFF:
            return  # a broken header halts the endpoint of a real one
        kind, tag = data[0], data[1]
        (size,) = struct.unpack_from("<I", data, 4)
        if kind == 1:  # DEV_DEP_MSG_OUT
            self._message += data[12 : 12 + size]
            if data[8] & 1:
                message, self._message = bytes(self._message).rstrip(b"\n") + b"\n", bytearray()
                self._on_data(message)
        elif kind == 2:  # REQUEST_DEV_DEP_MSG_IN
            self._asked = (tag, size)

    def bulk_in(self, endpoint: int, length: int) -> bytes | None:
        if self._aborted:
            self._aborted = False
            return b""
        if self._asked is None or not self._answer:
            return None
        tag, size = self._asked
        part = bytes(self._answer[: min(size, length - 12)])
        del self._answer[: len(part)]
        self._asked = None
        head = struct.pack("<BBBBIB3x", 2, tag, tag ^ 0xFF, 0, len(part), int(not self._answer))
        return head + part + bytes(-len(part) % 4)


class UsbTmcWire(Wire):
    """A USBTMC instrument behind a USB/IP server; `port` is the resource for qkdd, which takes it through USB/IP."""

    def __init__(
        self, on_data: OnData, ids: tuple[int, int], names: tuple[str, str, str], listen: tuple[str, int]
    ) -> None:
        super().__init__(on_data)
        self._device = UsbTmc(*ids, names, on_data)
        self._server = UsbIpServer(self._device, *listen)
        self._host, self._ids, self._serial = listen[0], ids, names[2]

    @property
    def connected(self) -> bool:
        return True

    def silence(self, silent: bool) -> None:
        """The whole device stops answering, not only its SCPI part."""
        self._server.silent = silent

    async def listen(self) -> Address:
        await self._server.start()
        vendor, product = self._ids
        resource = f"USB0::0x{vendor:04X}::0x{product:04X}::{self._serial}::INSTR"
        return Address("", port=f"usbip://{self._host}:{self._server.port}/{resource}")

    def write(self, data: bytes) -> None:
        self._device.put(data)

    def cut(self) -> None:
        self._server.cut()

    def mend(self) -> None:
        self._server.mend()

    async def close(self) -> None:
        await self._server.stop()

    def _hung_up(self) -> None:
        """The server knows."""


class _StreamWire(Wire):
    """A TCP server with a protocol of its own."""

    resource = ""

    def __init__(self, on_data: OnData, listen: tuple[str, int]) -> None:
        super().__init__(on_data)
        self._host, self._port = listen
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._answers: deque[bytes] = deque()
        self._arrived = asyncio.Event()

    @property
    def connected(self) -> bool:
        return True

    async def listen(self) -> Address:
        await self._open()
        return Address("", port=self.resource.format(host=self._host, port=self._port))

    async def _open(self) -> None:
        self._server = await asyncio.start_server(self._accept, self._host, self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    def write(self, data: bytes) -> None:
        self._answers.append(data)
        self._arrived.set()

    def cut(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.close()
        for task in self._tasks:
            task.cancel()
        self._answers.clear()

    def mend(self) -> None:
        if self._server is None:
            self._keep(asyncio.ensure_future(self._open()))

    async def close(self) -> None:
        self.cut()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _hung_up(self) -> None:
        """Each connection knows."""

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._keep(task)
        try:
            await self.serve(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the host went away
        except asyncio.CancelledError:
            writer.transport.abort()  # a pulled cable ends nothing in order
        finally:
            writer.close()

    async def answer(self) -> bytes:
        """The next answer of the instrument."""
        while not self._answers:
            self._arrived.clear()
            await self._arrived.wait()
        return self._answers.popleft()

    @abc.abstractmethod
    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection until its end."""


class HislipWire(_StreamWire):
    """HiSLIP in synchronized mode: one session, its synchronous and its asynchronous channel."""

    resource = "TCPIP0::{host}::hislip0,{port}::INSTR"
    _HEAD = struct.Struct("!2sBBIQ")

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        message = bytearray()
        answering: asyncio.Task[None] | None = None
        try:
            while True:
                mark, kind, control, parameter, length = self._HEAD.unpack(await reader.readexactly(self._HEAD.size))
                if mark != b"HS" or length > _MOST:
                    return
                payload = await reader.readexactly(length)
                match kind:
                    case 0:  # Initialize
                        self._send(writer, 1, 0, 0x0101_0001)
                        answering = asyncio.ensure_future(self._answers_to(writer))
                    case 6 | 7:  # Data, DataEnd
                        message += payload
                        if kind == 7:
                            self._message_id = parameter
                            text, message = bytes(message).rstrip(b"\n") + b"\n", bytearray()
                            self._on_data(text)
                    case 8:  # DeviceClearComplete
                        message.clear()
                        self._send(writer, 9, control, 0)
                    case 4:  # AsyncLock
                        self._send(writer, 5, 1, 0)
                    case 10:
                        self._send(writer, 11, 0, 0)
                    case 15:  # AsyncMaximumMessageSize
                        self._send(writer, 16, 0, 0, struct.pack("!Q", _MOST))
                    case 17:  # AsyncInitialize
                        self._send(writer, 18, 0, 0x5144)
                    case 19:  # AsyncDeviceClear
                        self._answers.clear()
                        self._send(writer, 23, 0, 0)
                    case 21:  # AsyncStatusQuery
                        self._send(writer, 22, 0, 0)
                await writer.drain()
        finally:
            if answering is not None:
                answering.cancel()
                await asyncio.gather(answering, return_exceptions=True)

    async def _answers_to(self, writer: asyncio.StreamWriter) -> None:
        while True:
            text = await self.answer()
            self._send(writer, 7, 0, self._message_id, text)  # of the question that came last

    _message_id = 0

    def _send(
        self, writer: asyncio.StreamWriter, kind: int, control: int, parameter: int, payload: bytes = b""
    ) -> None:
        writer.write(self._HEAD.pack(b"HS", kind, control, parameter, len(payload)) + payload)


class Vxi11Wire(_StreamWire):
    """ONC RPC (RFC 5531) with record marking; program 0x0607AF, version 1."""

    resource = "TCPIP0::{host},{port}::inst0::INSTR"
    _CALL = struct.Struct("!IIIIII")

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        message = bytearray()
        self._rest = b""
        while True:
            (mark,) = struct.unpack("!I", await reader.readexactly(4))
            record = await reader.readexactly(mark & 0x7FFF_FFFF)
            number, _, _, program, _, procedure = self._CALL.unpack_from(record)
            at = self._CALL.size
            for _ in range(2):  # credentials and verifier
                at += 8 + struct.unpack_from("!I", record, at + 4)[0]
            if program != 0x0607AF:
                return
            result = await self._do(procedure, record[at:], message)
            reply = struct.pack("!IIIIII", number, 1, 0, 0, 0, 0 if result is not None else 3) + (result or b"")
            writer.write(struct.pack("!I", 0x8000_0000 | len(reply)) + reply)
            await writer.drain()

    async def _do(self, procedure: int, arguments: bytes, message: bytearray) -> bytes | None:
        match procedure:
            case 10:  # create_link
                return struct.pack("!iiII", 0, 1, 0, 65536)
            case 11:  # device_write
                _, _, _, flags, length = struct.unpack_from("!iIIiI", arguments)
                message += arguments[20 : 20 + length]
                if flags & 8:  # END
                    text = bytes(message).rstrip(b"\n") + b"\n"
                    message.clear()
                    self._on_data(text)
                return struct.pack("!iI", 0, length)
            case 12:  # device_read
                _, size, patience = struct.unpack_from("!iII", arguments)
                return await self._read(size, patience / 1000)
            case 13:
                return struct.pack("!iI", 0, 0)
            case 15:  # device_clear
                message.clear()
                self._answers.clear()
                self._rest = b""
                return struct.pack("!i", 0)
            case 14 | 16 | 17 | 18 | 19 | 23:
                return struct.pack("!i", 0)
        return None

    async def _read(self, size: int, patience: float) -> bytes:
        if not self._rest:
            try:
                async with asyncio.timeout(patience):
                    self._rest = await self.answer()
            except TimeoutError:
                return struct.pack("!iiI", 15, 0, 0)
        part, self._rest = self._rest[:size], self._rest[size:]
        reason = 1 if self._rest else 4  # REQCNT, END
        return struct.pack("!iiI", 0, reason, len(part)) + part + bytes(-len(part) % 4)


def visa_wire(
    over: str, on_data: OnData, ids: tuple[int, int], names: tuple[str, str, str], listen: tuple[str, int]
) -> Wire:
    """The wire of an instrument by VISA interface: usbtmc, hislip or vxi11. Raises ValueError."""
    match over:
        case "usbtmc":
            return UsbTmcWire(on_data, ids, names, listen)
        case "hislip":
            return HislipWire(on_data, listen)
        case "vxi11":
            return Vxi11Wire(on_data, listen)
    raise ValueError(f"{over!r} is none of socket, usbtmc, hislip, vxi11")

"""An ID900 that behaves, with its DataLinkTargetService: two ZeroMQ reply sockets, and one pair socket for each stream."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import numpy as np
import zmq

from qkdd_drivers.id900 import protocol
from qkdd_drivers.simkit import Address, ClickSource, Simulator

_TICK_MS = 10
_BIN_PS = 1
_PATIENCE = 200  # hundredths of a second


class Id900Sim(Simulator):
    """One instrument and its service, both on one address. Input n of the source is the input labelled n + 1."""

    model = "id900"

    def __init__(
        self,
        source: ClickSource,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        service_port: int = 0,
        stream_port: int = 0,
        seed: int = 1,
    ) -> None:
        """stream_port: what the host is told to configure; 0: it chooses free ports."""
        super().__init__(seed)
        self._source, self._host, self._stream_port = source, host, stream_port
        self._ports = [port, service_port]
        self._thread: threading.Thread | None = None
        self._ending = threading.Event()
        self._ready = threading.Event()
        self._gone = threading.Event()
        self._failure: zmq.ZMQError | None = None
        self._plugged = True
        self._noise = b""
        self._levels = dict.fromkeys(range(1, 5), "-0.400")
        self._edges = dict.fromkeys(range(1, 5), "FALLING")
        self._couplings = dict.fromkeys(range(1, 5), "DC")
        self._send = dict.fromkeys(range(1, 5), False)
        self._streams: dict[int, tuple[int, zmq.Socket[bytes]]] = {}
        self._next_id = 1
        self._width_ps = self._period_ps = 0
        self._playing = False
        self._slice = 0
        self._origin = time.monotonic()
        self._began = 0

    async def start(self) -> Address:
        self._ending.clear()
        self._ready.clear()
        self._plugged = True
        self._thread = threading.Thread(target=self._work, name="id900-sim", daemon=True)
        self._thread.start()
        self._ready.wait(10.0)
        if self._failure is not None:
            raise OSError(str(self._failure))
        options = (("service_host", self._host), ("stream_port", self._stream_port))
        return Address(self.model, host=self._host, tcp_ports=tuple(self._ports), options=options)

    async def stop(self) -> None:
        self._ending.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def unplug(self) -> None:
        self._plugged = False
        self._gone.wait(2.0)

    def plug(self) -> None:
        self._ready.clear()
        self._plugged = True
        self._ready.wait(2.0)

    def send(self, data: bytes) -> None:
        """A reply socket cannot speak by itself: the next reply is noise."""
        self._noise = data

    # In the thread

    def _work(self) -> None:
        context = zmq.Context()
        try:
            while not self._ending.is_set():
                if not self._plugged:
                    self._ending.wait(0.01)
                    continue
                self._serve(context)
        except zmq.ZMQError as error:
            self._failure = error
        finally:
            self._ready.set()
            self._drop_streams()
            context.term()

    def _serve(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        lines = []
        self._gone.clear()
        try:
            for at in range(len(self._ports)):
                line = context.socket(zmq.REP)
                lines.append(line)
                line.setsockopt(zmq.LINGER, 0)
                if not self._bound(line, at):
                    return
            self._ready.set()
            poller = zmq.Poller()
            for line in lines:
                poller.register(line, zmq.POLLIN)
            while self._plugged and not self._ending.is_set():
                ready = dict(poller.poll(_TICK_MS))
                for at, line in enumerate(lines):
                    if line in ready and not self.hang:
                        self._reply(context, line, at)
                if self._playing and not self.hang:
                    self._record()
        finally:
            self._playing = False
            self._drop_streams()
            for line in lines:
                line.close(linger=0)
            self._gone.set()

    def _bound(self, line: zmq.Socket[bytes], at: int) -> bool:
        """Bind to the port of before, which its last socket frees a little after it was closed; False when stopped."""
        if not self._ports[at]:
            self._ports[at] = line.bind_to_random_port(f"tcp://{self._host}")
            return True
        for patience in range(_PATIENCE, -1, -1):
            try:
                line.bind(f"tcp://{self._host}:{self._ports[at]}")
                return True
            except zmq.ZMQError:
                if not patience:
                    raise
            if self._ending.wait(0.01):
                break
        return False

    def _reply(self, context: zmq.Context[zmq.Socket[bytes]], line: zmq.Socket[bytes], at: int) -> None:
        message = line.recv().decode("ascii", "replace")
        self._ending.wait(self.late)
        reply = json.dumps(self._service(context, message)) if at else self._command(message)
        noise, self._noise = self._noise, b""
        line.send(noise or reply.encode())

    def _command(self, message: str) -> str:
        """One command, or several of one subtree joined by `;`."""
        subtree, reply = "", ""
        for part in message.split(";"):
            words = part if ":" in part or not subtree else f"{subtree}:{part}"
            if ":" in part:
                subtree = part.rpartition(":")[0]
            reply = self._one(words.strip())
        return reply

    def _one(self, words: str) -> str:
        verb, _, value = words.partition(" ")
        verb = verb.upper()
        group, _, rest = verb.partition(":")
        number = int(group[-1]) if group[-1:].isdigit() else 0
        if verb == "*IDN?":
            return (
                "Other Vendor,XY-1" if self.wrong_identity else "ID Quantique, ID900 Time Controller, Serial : 1234567"
            )
        if verb == "DEVI:RES:BWID?":
            return str(_BIN_PS)
        if verb.startswith("RAW") and rest == "ERRORS?":
            return "0"
        if group.startswith("INPU") and number in self._levels and rest.endswith("?"):
            table: dict[str, dict[int, str]] = {"THRE?": self._levels, "EDGE?": self._edges, "COUP?": self._couplings}
            return table[rest][number] + ("V" if rest == "THRE?" else "") if rest in table else "0"
        if verb == "REC:STAGE?":
            return "PLAYING" if self._playing else "STOPPED"
        if not self.refuse:  # this instrument has no word for no: it does nothing
            self._set(group, rest, number, value)
        return ""

    def _set(self, group: str, rest: str, number: int, value: str) -> None:
        table: dict[str, dict[int, str]] = {"THRE": self._levels, "EDGE": self._edges, "COUP": self._couplings}
        if group.startswith("INPU") and rest in table:
            table[rest][number] = value.removesuffix("V")
        elif group.startswith("RAW") and rest == "SEND":
            self._send[number] = value == "ON"
        elif group == "REC":
            match rest:
                case "PWID":
                    self._width_ps = int(value)
                case "PPER":
                    self._period_ps = int(value)
                case "STOP":
                    self._playing = False
                case "PLAY" if self._period_ps >= self._width_ps + protocol.GAP_PS:
                    self._playing, self._slice, self._began = True, 0, self._now()

    def _service(self, context: zmq.Context[zmq.Socket[bytes]], message: str) -> Any:
        words = message.split()
        named = dict(zip(words[1::2], words[2::2], strict=False))
        match words[0] if words else "":
            case "list":
                return list(self._streams)
            case "start-stream":
                line = context.socket(zmq.PAIR)
                line.setsockopt(zmq.LINGER, 0)
                try:
                    line.bind(f"tcp://{self._host}:{int(named['--stream-port'])}")
                    channel = int(named["--channel"])
                except (zmq.ZMQError, KeyError, ValueError) as error:
                    line.close()
                    return {"error": {"description": f"cannot stream: {error}"}}
                number, self._next_id = self._next_id, self._next_id + 1
                self._streams[number] = (channel, line)
                return {"id": number}
            case "stop":
                found = self._streams.pop(int(named.get("--id", "0")), None)
                if found is None:
                    return {"error": {"description": "no such acquisition"}}
                found[1].close(linger=0)
                return {"status": {"acquisitions_count": self._slice, "inactivity": 0, "errors": []}}
            case _:
                return {"error": {"description": "unknown command"}}

    def _record(self) -> None:
        """Send the sub-acquisitions that have ended: one message for each stream, also when nothing clicked."""
        while self._now() >= self._began + (self._slice + 1) * self._period_ps:
            start = self._began + self._slice * self._period_ps
            times, channels = self._source.clicks(start, start + self._width_ps)
            for channel, line in self._streams.values():
                stamps = times[channels == channel - 1] - start if self._send[channel] else times[:0]
                # a stream that nobody takes is cut off, as the service does
                if line.poll(0, zmq.POLLOUT):
                    line.send(np.asarray(stamps // _BIN_PS, "<u8").tobytes())
            self._slice += 1

    def _drop_streams(self) -> None:
        for _, line in self._streams.values():
            line.close(linger=0)
        self._streams.clear()

    def _now(self) -> int:
        return int((time.monotonic() - self._origin) * 1e12)

"""A syslog collector on loopback: TLS with client certificates, RFC 5425 frames, RFC 5424 messages read strictly."""

from __future__ import annotations

import asyncio
import re
import ssl
from dataclasses import dataclass, field
from pathlib import Path

from qkdd.testing.patience import PATIENCE_S
from tests.telemetry.broker import Pki

_MESSAGE = re.compile(
    rb"<(?P<pri>\d{1,3})>1 (?P<time>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z) (?P<host>[!-~]{1,255}) (?P<app>[!-~]{1,48})"
    rb" (?P<process>[!-~]{1,128}) (?P<id>[!-~]{1,32}) (?P<data>-|\[.*\]) \xef\xbb\xbf(?P<text>.*)",
    re.DOTALL,
)
_PARAMETER = re.compile(r' ([!#-<>-\\^-~]{1,32})="((?:[^"\\\]]|\\["\\\]])*)"')


@dataclass(frozen=True)
class Message:
    """As it was sent."""

    facility: int
    severity: int
    text: str
    fields: dict[str, str] = field(default_factory=dict)


def unframed(data: bytes) -> tuple[list[bytes], bytes]:
    """The whole messages of a stream, and what is left."""
    found = []
    while (head := re.match(rb"([1-9]\d*) ", data)) and len(data) >= head.end() + int(head[1]):
        found.append(data[head.end() : head.end() + int(head[1])])
        data = data[head.end() + int(head[1]) :]
    return found, data


def parse(data: bytes) -> Message:
    found = _MESSAGE.fullmatch(data)
    assert found is not None, data
    fields: dict[str, str] = {}
    if found["data"] != b"-":
        inner = found["data"].decode()[1:-1]
        name, _, rest = inner.partition(" ")
        assert re.fullmatch(r"qkdd@\d+", name)
        rest = f" {rest}" if rest else ""
        matches = list(_PARAMETER.finditer(rest))
        assert "".join(m[0] for m in matches) == rest, rest
        fields = {m[1]: re.sub(r"\\(.)", r"\1", m[2]) for m in matches}
    return Message(int(found["pri"]) // 8, int(found["pri"]) % 8, found["text"].decode(), fields)


class Collector:
    """`start`, `heard`, `stop`, and the same port again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pki = Pki(folder)
        self.port = 0
        self._server: asyncio.Server | None = None
        self._messages: asyncio.Queue[Message] = asyncio.Queue()
        self._writers: list[asyncio.StreamWriter] = []

    async def start(self, most: ssl.TLSVersion | None = None, host: str = "localhost") -> None:
        certificate, key = self._pki.issue("collector", host=host)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        context.load_verify_locations(self._pki.trust)
        context.verify_mode = ssl.CERT_REQUIRED
        if most is not None:
            context.maximum_version = most
        self._server = await asyncio.start_server(self._client, "127.0.0.1", self.port, ssl=context)
        self.port = self._server.sockets[0].getsockname()[1]

    def settings(self) -> dict[str, object]:
        """Of a [syslog] section."""
        certificate, key = self._pki.issue("node")
        if not self.port:  # nobody listens there until `start`
            import socket

            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                self.port = int(probe.getsockname()[1])
        files = {"certificate": str(certificate), "key": str(key), "trust": str(self._pki.trust)}
        return {"server": f"localhost:{self.port}", **files}

    def foreign(self) -> dict[str, str]:
        """Credentials of an authority that the collector does not know."""
        certificate, key = Pki(self._folder / "foreign").issue("node")
        return {"certificate": str(certificate), "key": str(key)}

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        data = b""
        try:
            while piece := await reader.read(1000):
                messages, data = unframed(data + piece)
                for message in messages:
                    self._messages.put_nowait(parse(message))
        except OSError:
            return  # the other end broke the connection
        finally:
            writer.close()

    async def heard(self, count: int) -> list[Message]:
        async with asyncio.timeout(PATIENCE_S):
            return [await self._messages.get() for _ in range(count)]

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.close()
        self._writers.clear()

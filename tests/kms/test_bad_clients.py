"""Clients that are slow, silent, half-open or too loud take nothing from the others."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable

import pytest

from qkdd.kms.connections import IdleConnections
from qkdd.peer.tls import client_context
from qkdd.testing.clock import FakeClock
from qkdd.testing.patience import PATIENCE_S

from .sites import Sites, _profile

Play = Callable[..., None]


async def _connect(sites: Sites, context: ssl.SSLContext | None = None) -> asyncio.StreamWriter:
    host, port = sites.servers["alice"].addresses["sae.post-quantum"]
    reader, writer = await asyncio.open_connection(host, port, ssl=context)
    writer.qkd_reader = reader  # type: ignore[attr-defined]
    return writer


async def _gone(writer: asyncio.StreamWriter) -> bool:
    """True once the other end closed; TimeoutError if it does not."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            await writer.qkd_reader.read()  # type: ignore[attr-defined]
    except (ConnectionError, ssl.SSLError):
        pass
    return True


@pytest.mark.parametrize(
    "sends",
    [b"", b"POST /api/v1/keys/sae-bob/enc_keys HTTP/1.1\r\nHost: x\r\nX-Slow: ", b"GET /api/v1/keys/sae-bob/st"],
    ids=["silent", "half a header", "half a line"],
)
def test_a_connection_without_a_request_is_closed(play: Play, sends: bytes) -> None:
    async def scenario(sites: Sites) -> None:
        await sites.feed(0)
        clock = FakeClock()
        server = sites.servers["alice"]
        idle = server._idle
        idle._clock = clock
        writer = await _connect(sites, client_context(_profile(sites.pki.post_quantum["sae-alice"])))
        writer.write(sends)
        await writer.drain()
        assert (await sites.sae("alice", "GET", "sae-bob/status"))[0] == 200
        idle.close_idle()
        await clock.advance(74.0)
        assert (await sites.sae("alice", "GET", "sae-bob/status"))[0] == 200
        assert idle.close_idle() == 0
        await clock.advance(2.0)
        assert idle.close_idle() == 1  # the silent one, not the one that asked two seconds ago
        assert await _gone(writer)
        writer.close()
        assert (await sites.sae("alice", "GET", "sae-bob/enc_keys"))[0] == 200

    play(scenario)


def test_a_body_that_stops_half_way_is_refused(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(sites: Sites) -> None:
        await sites.feed(0)
        monkeypatch.setattr("qkdd.kms.http._BODY_SECONDS", 0.2)  # of the honest ones the bodies may take longer
        writer = await _connect(sites, client_context(_profile(sites.pki.post_quantum["sae-alice"])))
        writer.write(b"POST /api/v1/keys/sae-bob/enc_keys HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
        answer = await writer.qkd_reader.readuntil(b"\r\n")  # type: ignore[attr-defined]
        assert answer.startswith(b"HTTP/1.1 400")
        writer.close()
        assert (await sites.sae("alice", "GET", "sae-bob/status"))[1]["stored_key_count"] == 31

    play(scenario)


def test_tls_that_is_never_finished_and_no_tls_at_all(play: Play) -> None:
    async def scenario(sites: Sites) -> None:
        await sites.feed(0)
        dumb = [await _connect(sites) for _ in range(50)]
        for number, writer in enumerate(dumb):
            writer.write(b"\x16\x03\x01\x02\x00\x01" if number % 2 else b"")  # half a ClientHello
        loud = await _connect(sites)
        loud.write(b"GET /api/v1/keys/sae-bob/enc_keys HTTP/1.1\r\n\r\n")
        try:
            assert (await sites.sae("alice", "GET", "sae-bob/enc_keys"))[0] == 200
        finally:
            for writer in (*dumb, loud):
                writer.close()
            await asyncio.gather(*(_gone(writer) for writer in (*dumb, loud)))
            await asyncio.sleep(0.2)  # the server's ends see it too

    play(scenario)


@pytest.mark.parametrize("chunked", [False, True])
def test_bodies_beyond_the_limit(play: Play, chunked: bool) -> None:
    async def scenario(sites: Sites) -> None:
        await sites.feed(0)
        body = b" " * 65_537
        for method, path in (("POST", "sae-bob/enc_keys"), ("POST", "sae-bob/dec_keys")):
            host, port = sites.servers["alice"].addresses["sae.post-quantum"]

            async def pieces() -> object:
                for start in range(0, len(body), 4096):
                    yield body[start : start + 4096]

            data = pieces() if chunked else body
            url = f"https://{host}:{port}/api/v1/keys/{path}"
            async with sites.client("sae-alice").request(method, url, data=data) as response:
                assert response.status == 400
                assert "too long" in (await response.json())["message"]
        status, answer = await sites.push("alice", "0b5a7f0e-6a43-4a5f-9d8e-2f1c7b9d0a11", 1, bytes(7 << 20))
        assert status == 400
        assert "too long" in answer["detail"]
        assert (await sites.sae("alice", "GET", "sae-bob/enc_keys"))[0] == 200

    play(scenario)


def test_many_idle_connections(play: Play) -> None:
    async def scenario(sites: Sites) -> None:
        await sites.feed(0)
        context = client_context(_profile(sites.pki.post_quantum["sae-alice"]))
        writers = await asyncio.gather(*(_connect(sites, context) for _ in range(60)))
        idle: IdleConnections = sites.servers["alice"]._idle
        clock = FakeClock()
        idle._clock = clock
        idle.close_idle()
        assert (await sites.sae("alice", "GET", "sae-bob/enc_keys"))[0] == 200
        await clock.advance(80.0)
        assert idle.close_idle() >= 60
        assert all(await asyncio.gather(*(_gone(w) for w in writers)))
        for writer in writers:
            writer.close()

    play(scenario)

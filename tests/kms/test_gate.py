"""The door of a listener: more connections than there are places, with and without TLS, and service goes on."""

from __future__ import annotations

import asyncio
import resource
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from qkdd.kms.gate import Gate
from qkdd.peer.pki_demo import DemoPki
from qkdd.peer.tls import client_context
from qkdd.testing.clock import FakeClock
from qkdd.testing.patience import PATIENCE_S

from .processes import ProcessSites, two_processes
from .sites import Sites, _profile

Play = Callable[..., None]
PLACES = 12


def gate(sites: Sites) -> Gate:
    (site,) = (
        site
        for runner in sites.servers["alice"]._runners
        for site in runner.sites
        if getattr(site, "_listener", "") == "sae.post-quantum"
    )
    found = site._server
    assert isinstance(found, Gate)
    return found


def refused(sites: Sites, reason: str) -> float:
    labels = {"listener": "sae.post-quantum", "reason": reason}
    return sites.servers["alice"].meter.registry.get_sample_value("qkdd_kms_connections_refused_total", labels) or 0.0


async def _connect(sites: Sites, context: ssl.SSLContext | None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = sites.servers["alice"].addresses["sae.post-quantum"]
    return await asyncio.open_connection(host, port, ssl=context)


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110  # the accepting task has no event to wait for
            await asyncio.sleep(0.001)


async def _closed(reader: asyncio.StreamReader) -> None:
    async with asyncio.timeout(PATIENCE_S):
        try:
            while await reader.read(1000):
                pass
        except (ConnectionError, ssl.SSLError):
            pass


def test_idle_connections_make_room_for_new_ones(play: Play) -> None:
    async def scenario(sites: Sites) -> None:
        await sites.feed(0)
        clock = FakeClock()
        door = gate(sites)
        door._clock = sites.servers["alice"]._idle._clock = clock
        context = client_context(_profile(sites.pki.post_quantum["sae-alice"]))
        held = [await _connect(sites, context) for _ in range(PLACES)]
        door._idle.close_longest(door._server, 1e9)  # the first look at them
        with pytest.raises((ConnectionError, ssl.SSLError, EOFError)):  # all are young: the new one is closed
            await _connect(sites, context)
        assert refused(sites, "limit") == 1
        await clock.advance(3.0)
        assert (await sites.sae("alice", "GET", "sae-bob/enc_keys"))[0] == 200
        assert refused(sites, "made room") == 1
        assert len(door._server.connections) <= PLACES
        for reader, writer in held:
            writer.close()
            await _closed(reader)

    play(scenario, connections=PLACES)


def test_handshakes_that_never_end_do_not_fill_the_places(play: Play) -> None:
    async def scenario(sites: Sites) -> None:
        await sites.feed(0)
        clock = FakeClock()
        door = gate(sites)
        door._clock = clock
        dumb = []
        for _ in range(PLACES // 4):
            reader, writer = await _connect(sites, None)
            writer.write(b"\x16\x03\x01\x02\x00\x01")  # half a ClientHello
            dumb.append((reader, writer))
        await _until(lambda: len(door._handshakes) == PLACES // 4)
        reader, writer = await _connect(sites, None)
        await _closed(reader)  # no place, and none of the others is old enough
        writer.close()
        assert refused(sites, "handshakes") == 1
        await clock.advance(3.0)
        assert (await sites.sae("alice", "GET", "sae-bob/enc_keys"))[0] == 200
        assert refused(sites, "unfinished") == 1
        await _closed(dumb[0][0])
        for _, writer in dumb:
            writer.close()

    play(scenario, connections=PLACES)


@pytest.mark.slow
def test_ten_thousand_connections_that_say_nothing(pki: DemoPki, tmp_path: Path) -> None:
    """Against a process: memory bounded, every place taken again and again, and applications are served throughout."""
    many = 10_000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < many + 500:
        pytest.skip(f"the system allows {hard} open files, {many + 500} are needed")

    def memory(sites: ProcessSites) -> int:
        return int(Path(f"/proc/{sites.children['alice'].pid}/statm").read_text().split()[1]) * 4096

    async def main() -> None:
        async with two_processes(pki, tmp_path, connections=500) as sites:
            chunk = "0b5a7f0e-6a43-4a5f-9d8e-2f1c7b9d0a11"
            for site in ("alice", "bob"):
                assert (await sites.push(site, chunk, 0, bytes(range(256)) * 16))[0] == 200
            assert (await sites.sae("alice", "GET", "sae-bob/status"))[0] == 200
            before, open_ = memory(sites), []
            for number in range(many):
                reader, writer = await _connect(sites, None)
                writer.write(b"\x16\x03\x01")
                open_.append((reader, writer))
                if number % 1000 == 999:
                    assert (await sites.sae("alice", "GET", "sae-bob/status"))[0] == 200
            assert memory(sites) - before < 64 << 20
            for _, writer in open_:
                writer.transport.abort()
            assert (await sites.sae("alice", "GET", "sae-bob/status"))[0] == 200

    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        asyncio.run(main())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

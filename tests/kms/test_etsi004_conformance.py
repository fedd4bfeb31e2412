"""ETSI GS QKD 004 V2.1.1: every call, status and QoS parameter of the project's reference, one row each; lost calls."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from qkdd.core import units
from qkdd.kms import openapi004
from qkdd.kms.admin_sources import streams
from qkdd.kms.config import KmsConfig
from qkdd.kms.etsi004 import BASE, METADATA_BYTES
from qkdd.kms.server import KmsServer
from qkdd.kms.stream_config import StreamsConfig
from qkdd.kms.stream_messages import OpenConnect, Qos, Status
from qkdd.kms.streams import Streams
from qkdd.peer.pki_demo import DemoPki
from qkdd.testing.patience import PATIENCE_S

from .local import SITES, World, service_config, world
from .sites import Sites, kms_tree

NOBODY = str(uuid.UUID(int=5))


class Scene:
    """`open("alice")`, `get("bob")`, ... as the applications of two sites joined in memory."""

    def __init__(self, made: World) -> None:
        self.made = made
        self.ends = {site: Streams(made.services[site]) for site in SITES}
        for site, end in self.ends.items():
            made.answers[site] = {"stream-open": end.on_open, "stream-end": end.on_end, "stream-key": end.on_key}
        self.ksid = ""

    async def open(self, site: str, ksid: str | None = None, **changes: Any) -> tuple[int, Any]:
        qos = Qos(**{k: changes.pop(k) for k in list(changes) if k in Qos.__struct_fields__})
        names = {"source": f"sae-{site}", "destination": f"sae-{SITES[1 - SITES.index(site)]}"}
        opened = await self.ends[site].open(
            f"sae-{site}", OpenConnect(**(names | changes), QoS=qos, Key_stream_ID=ksid)
        )
        if opened.Key_stream_ID is not None:
            self.ksid = opened.Key_stream_ID
        return opened.status, opened

    async def both(self, **qos: Any) -> None:
        assert (await self.open("alice", **qos))[0] == Status.PEER_NOT_CONNECTED_YET
        assert (await self.open("bob", self.ksid, **qos))[0] == Status.OK

    async def get(self, site: str, index: int | None = None) -> tuple[int, int | None, bytes | None]:
        status, number, key = await self.ends[site].get(f"sae-{site}", self.ksid, index)
        return status, number, key.key if key is not None else None

    async def close(self, site: str) -> int:
        return await self.ends[site].close(f"sae-{site}", self.ksid)


Row = Callable[[Scene], Awaitable[None]]
ROWS: dict[str, Row] = {}


def row(check: Row) -> Row:
    ROWS[check.__name__] = check
    return check


@row
async def status_1_then_0(s: Scene) -> None:
    status, opened = await s.open("alice")
    assert (status, uuid.UUID(opened.Key_stream_ID).version) == (1, 4)
    assert (await s.open("bob", s.ksid.upper()))[0] == 0


@row
async def same_chunks_at_both_ends_each_once(s: Scene) -> None:
    await s.both()
    ours = [await s.get("alice") for _ in range(3)]
    theirs = [await s.get("bob") for _ in range(3)]
    assert ours == theirs
    [view] = await streams(s.made.services["bob"])
    assert (view.stream, view.cuts, view.ends) == (s.ksid, "kms-alice", ["sae-alice open", "sae-bob open at 3"])
    assert [(status, index) for status, index, _ in ours] == [(0, 0), (0, 1), (0, 2)]
    assert len({key for _, _, key in ours}) == 3
    assert (await s.get("bob", 1))[0] == 2  # it had that one


@row
async def the_other_end_may_ask_first_and_by_index(s: Scene) -> None:
    await s.both(Key_chunk_size=48)
    status, index, key = await s.get("bob", 7)
    assert (status, index, len(key or b"")) == (0, 7, 48)
    assert await s.get("alice", 7) == (0, 7, key)
    assert (await s.get("alice"))[1] == 8  # behind the last that it has got
    assert (await s.get("alice", 2))[:2] == (0, 2)


@row
async def both_ask_for_the_same_chunk_at_once(s: Scene) -> None:
    await s.both()
    found = await asyncio.gather(*(s.get(site, i) for i in range(4) for site in SITES))
    assert found[0::2] == found[1::2]
    assert all(status == 0 for status, _, _ in found)


@row
async def status_2_insufficient_key(s: Scene) -> None:
    await s.both(Key_chunk_size=4096)
    assert (await s.get("alice"))[::2] == (2, None)
    assert (await s.get("bob"))[::2] == (2, None)


@row
async def timeout_waits_for_key(s: Scene) -> None:
    await s.both(Key_chunk_size=2048, Timeout=2000)
    task = asyncio.create_task(s.get("bob"))
    await s.made.clock.advance(0.0)
    for index in range(2, 20, 2):
        await s.made.feed(index, 320)
    await s.made.sync()
    while not task.done():
        await s.made.services["alice"].database.run(lambda _: None)
        await s.made.clock.advance(0.01)
    status, index, key = task.result()
    assert (status, index) == (0, 0)
    assert await s.get("alice") == (0, 0, key)


@row
async def status_3_before_the_peer_and_after_it(s: Scene) -> None:
    await s.open("alice")
    assert (await s.get("alice"))[0] == 3
    await s.open("bob", s.ksid)
    chunk = await s.get("alice")
    assert await s.close("alice") == 0
    assert await s.get("bob") == chunk  # cut before the end
    assert (await s.get("bob"))[0] == 3
    assert (await s.get("alice"))[0] == 4


@row
async def status_4_without_pair_partner_or_line(s: Scene) -> None:
    assert (await s.open("alice", destination="sae-carol"))[0] == 4
    assert await s.close("alice") if s.ksid else True
    s.ksid = NOBODY
    assert (await s.get("alice"))[0] == 4
    assert await s.close("alice") == 4
    s.made.lines["alice"].up = False
    assert (await s.open("alice"))[0] == 4
    assert await s.ends["alice"].count() == 0
    s.made.lines["alice"].up = True


@row
async def status_5_in_use(s: Scene) -> None:
    await s.both()
    for site in SITES:
        assert (await s.open(site, s.ksid))[0] == 5
    await s.close("bob")
    assert (await s.open("bob", s.ksid))[0] == 5


@row
async def status_6_when_the_other_kms_does_not_answer(s: Scene) -> None:
    await s.both()
    s.made.lines["alice"].up = s.made.lines["bob"].up = False
    assert [(await s.get(site))[0] for site in SITES] == [6, 6]
    s.made.lines["alice"].up = s.made.lines["bob"].up = True
    assert (await s.get("alice")) == (await s.get("bob"))


@row
async def status_7_and_counter_proposal(s: Scene) -> None:
    wishes = {
        "Key_chunk_size": (1 << 20, 8192),
        "Max_bps": (4_000_000_000, 100_000_000),
        "Min_bps": (4_000_000_000, 100_000_000),
        "Timeout": (1_000_000, 30_000),
        "TTL": (1_000_000_000, 86_400),
        "Metadata_mimetype": ("text/xml", "application/json"),
    }
    for name, (wish, offer) in wishes.items():
        status, opened = await s.open("alice", **{name: wish})
        assert (name, status, getattr(opened.QoS, name)) == (name, 7, offer)
        assert opened.Key_stream_ID is None
        assert (await s.ends["alice"].open("sae-alice", OpenConnect("sae-alice", "sae-bob", opened.QoS))).status == 1
    assert (await s.open("alice", Key_chunk_size=0))[1].QoS.Key_chunk_size == 8
    status, opened = await s.open("alice", Max_bps=8000, Min_bps=16_000)
    assert (status, opened.QoS.Min_bps) == (7, 8000)


@row
async def status_7_for_the_second_end(s: Scene) -> None:
    await s.open("alice", Key_chunk_size=64, Max_bps=8000)
    status, opened = await s.open("bob", s.ksid)
    assert (status, opened.QoS.Key_chunk_size) == (7, 64)
    assert (await s.open("bob", s.ksid, **msgspec.structs.asdict(opened.QoS)))[0] == 0


@row
async def jitter_and_priority_come_back_as_asked(s: Scene) -> None:
    status, opened = await s.open("alice", Jitter=7, Priority=3)
    assert (status, opened.QoS.Jitter, opened.QoS.Priority) == (1, 7, 3)


@row
async def max_bps_holds(s: Scene) -> None:
    await s.both(Max_bps=256)
    assert (await s.get("alice"))[0] == 0
    assert (await s.get("alice"))[0] == 2
    await s.made.clock.advance(1.01)
    assert (await s.get("alice"))[0] == 0


@row
async def ttl_ends_what_one_end_did_not_fetch(s: Scene) -> None:
    await s.both(TTL=60)
    assert (await s.get("alice"))[0] == 0
    await s.made.clock.advance(61.0)
    assert (await s.get("bob", 0))[0] == 2
    for end in s.ends.values():
        await end.clean()
    assert (await s.get("bob", 0))[0] == 2
    assert (await s.get("bob", 1))[0] == 0


@row
async def an_agreed_id_opened_at_both_ends(s: Scene) -> None:
    name = str(uuid.uuid4())
    assert (await s.open("bob", name))[0] == 1
    assert (await s.open("alice", name))[0] == 0
    assert await s.get("alice") == await s.get("bob")


@row
async def an_agreed_id_opened_at_both_ends_at_once(s: Scene) -> None:
    name = str(uuid.uuid4())
    opened = await asyncio.gather(*(s.open(site, name) for site in SITES))
    assert {status for status, _ in opened} <= {0, 1}
    first = await s.get("alice")
    assert first[0] == 0
    assert await s.get("bob") == first


@row
async def uris_name_applications(s: Scene) -> None:
    assert (await s.open("alice", source="qkd://sae-alice/vpn", destination="qkd://sae-bob"))[0] == 1
    assert (await s.open("alice", source="sae-bob", destination="sae-alice"))[0] == 1  # either way round
    with pytest.raises(Exception, match="the caller and its partner"):
        await s.open("alice", source="sae-bob", destination="sae-carol")
    with pytest.raises(Exception, match="the caller and its partner"):
        await s.open("alice", destination="sae-alice")


@row
async def a_limit_of_open_streams(s: Scene) -> None:
    s.ends["alice"]._limits = StreamsConfig(per_sae=2)
    for _ in range(2):
        await s.open("alice")
    with pytest.raises(Exception, match="too many streams"):
        await s.open("alice")


@row
async def idle_ends_are_closed_and_the_other_hears_of_it(s: Scene) -> None:
    await s.both()
    await s.made.clock.advance(3601.0)
    await s.ends["alice"].clean()
    assert (await s.get("alice"))[0] == 4
    assert (await s.get("bob"))[0] == 3


@pytest.mark.parametrize("name", ROWS)
def test_conformance(tmp_path: Path, name: str) -> None:
    async def main() -> None:
        async with world(tmp_path) as made:
            for index in range(4):
                await made.feed(index, 320)
            await made.sync()
            await ROWS[name](Scene(made))

    asyncio.run(main())


@pytest.mark.parametrize("lost", ["before", "after"])
@pytest.mark.parametrize(
    "at", [0, 1, pytest.param(2, marks=pytest.mark.slow), 3, pytest.param(5, marks=pytest.mark.slow)]
)
def test_lost_calls_and_restarts(tmp_path: Path, lost: str, at: int) -> None:
    """Whatever call is lost and whoever restarts: what both ends get under one index is equal, and no chunk comes twice."""

    async def main() -> None:
        async with world(tmp_path) as made:
            for index in range(6):
                await made.feed(index, 320)
            await made.sync()
            s = Scene(made)
            await s.both()
            made.lines["bob"].script = ["ok"] * at + [lost]
            made.lines["alice"].script = ["ok"] * (at // 2) + [lost]
            got: dict[str, dict[int, bytes]] = {site: {} for site in SITES}
            for turn in range(4):
                for site in SITES:
                    status, index, key = await s.get(site)
                    assert status in (0, 6)
                    if status == 0 and index is not None and key is not None:
                        assert index not in got[site]
                        got[site][index] = key
                if turn == 1:
                    for site in SITES:
                        await made.restart(site)
                    ksid, s = s.ksid, Scene(made)
                    s.ksid = ksid
            for site, other in (SITES, SITES[::-1]):
                for index in got[site].keys() - got[other].keys():
                    got[other][index] = (await s.get(other, index))[2] or b""
            assert got["alice"] == got["bob"]
            assert len(set(got["alice"].values())) == len(got["alice"]) >= 3
            made.lines["bob"].script = [lost]
            assert await s.close("bob") == 0
            for end in s.ends.values():
                await end.clean()
            assert (await s.get("alice", 100))[0] == 3
            await s.close("alice")
            for end in s.ends.values():
                await end.clean()
                assert await end.count() == 0

    asyncio.run(main())


# over HTTP


BAD: list[tuple[str, bytes]] = [
    ("open_connect", b"{"),
    ("open_connect", b"[]"),
    ("open_connect", b"{}"),
    ("open_connect", b'{"source": "sae-alice", "destination": 7}'),
    ("open_connect", b'{"source": "sae-alice", "destination": "sae-bob", "QoS": {"Max_bps": -1}}'),
    ("open_connect", b'{"source": "sae-alice", "destination": "sae-bob", "QoS": {"Max_bps": 4294967296}}'),
    ("open_connect", b'{"source": "sae-alice", "destination": "sae-bob", "QoS": {"Max_bps": true}}'),
    ("open_connect", b'{"source": "sae-alice", "destination": "sae-bob", "QoS": {"max_bps": 1}}'),
    ("open_connect", b'{"source": "sae-alice", "destination": "sae-bob", "Key_stream_ID": "7"}'),
    ("open_connect", b'{"source": "sae-eve", "destination": "sae-bob"}'),
    ("open_connect", b'{"source": "sae-alice", "source": "sae-alice", "destination": "sae-bob"}'),
    ("get_key", b"{}"),
    ("get_key", b'{"Key_stream_ID": "x"}'),
    ("get_key", b'{"Key_stream_ID": "%s", "index": -1}' % NOBODY.encode()),
    ("get_key", b'{"Key_stream_ID": "%s", "index": "1"}' % NOBODY.encode()),
    ("close", b"{}"),
    ("close", b"x" * 70_000),
]


class Http(Sites):
    async def start(self, site: str) -> KmsServer:
        tree = kms_tree(self.pki, site, self.root / site, self.ports, **self.limits)
        for listener in tree["sae"].values():
            listener["interfaces"] = ["etsi014", "etsi004"]
        self.servers[site] = server = KmsServer(msgspec.convert(tree, KmsConfig, dec_hook=units.dec_hook))
        await server.start()
        return server

    def url(self, site: str, suite: str) -> str:
        return "https://{}:{}".format(*self.servers[site].addresses[f"sae.{suite}"]) + BASE

    async def call(self, site: str, name: str, body: Any, suite: str = "post-quantum", as_: str | None = None) -> Any:
        data = io.BytesIO(body if isinstance(body, bytes) else json.dumps(body).encode())
        url = f"{self.url(site, suite)}/{name}"
        async with self.client(as_ or f"sae-{site}", suite).post(url, data=data) as response:
            return response.status, await response.json(content_type=None), response.headers


def test_over_http_on_both_listeners_pull_and_push(pki: DemoPki, tmp_path: Path) -> None:
    async def main() -> None:
        sites = Http(pki, tmp_path)
        try:
            for site in SITES:
                await sites.start(site)
            for index in range(4):
                await sites.feed(index)
            names = {"source": "sae-alice", "destination": "sae-bob", "QoS": {"Key_chunk_size": 24}}
            status, opened, headers = await sites.call("alice", "open_connect", names)
            assert (status, opened["status"], headers["Cache-Control"]) == (200, 1, "no-store")
            name = opened["Key_stream_ID"]
            join = names | {"source": "sae-bob", "destination": "sae-alice", "Key_stream_ID": name}
            assert (await sites.call("bob", "open_connect", join, "classical"))[1]["status"] == 0
            one = {"Key_stream_ID": name}
            _, small, _ = await sites.call("alice", "get_key", one | {"Metadata_size": METADATA_BYTES - 1})
            assert (small["status"], small["Metadata"]["Metadata_size"]) == (8, METADATA_BYTES)
            _, first, headers = await sites.call("alice", "get_key", one | {"Metadata_size": METADATA_BYTES})
            assert (first["status"], first["index"], headers["Cache-Control"]) == (0, 0, "no-store")
            assert len(first["Metadata"]["Metadata_buffer"]) == METADATA_BYTES
            assert len(base64.b64decode(first["Key_buffer"])) == 24
            assert first["extension"] == {"qkdd_class": "its", "qkdd_links": ["a-b"]}
            # bob's end is pushed: the same chunk first, then what alice has not asked for yet, until alice closes
            async with sites.client("sae-bob", "classical").get(
                f"{sites.url('bob', 'classical')}/push/{name}"
            ) as pushed:
                assert (pushed.status, pushed.headers["Cache-Control"]) == (200, "no-store")
                lines = [json.loads(await asyncio.wait_for(pushed.content.readline(), PATIENCE_S)) for _ in range(3)]
                assert [(line["status"], line["index"]) for line in lines] == [(0, 0), (0, 1), (0, 2)]
                assert lines[0]["Key_buffer"] == first["Key_buffer"]
                _, second, _ = await sites.call("alice", "get_key", one)
                assert (second["index"], second["Key_buffer"]) == (1, lines[1]["Key_buffer"])
                assert (await sites.call("alice", "close", one))[1] == {"status": 0}
                while (line := json.loads(await asyncio.wait_for(pushed.content.readline(), PATIENCE_S)))[
                    "status"
                ] == 0:
                    lines.append(line)
                assert line["status"] == 3
                assert await pushed.content.read() == b""
            for call, body in BAD:
                status, answer, _ = await sites.call("alice", call, body)
                assert (call, body[:60], status) == (call, body[:60], 400)
                assert answer["message"]
            for path in ("push/x", f"push/{NOBODY}/x", "nothing"):
                async with sites.client("sae-alice").get(f"{sites.url('alice', 'post-quantum')}/{path}") as answer:
                    assert answer.status in (400, 404)
            assert (await sites.call("alice", "get_key", one, as_="sae-bob"))[0] == 401
            meter = sites.servers["alice"].meter.text().decode()
            assert 'qkdd_kms_stream_calls_total{call="GET_KEY",status="8"} 1.0' in meter
            assert 'qkdd_kms_interface_keys_total{interface="etsi004"} 2.0' in meter
        finally:
            await sites.close()

    asyncio.run(main())


def test_the_openapi_document_is_current() -> None:
    stored = Path(__file__).parents[2] / "docs" / "openapi" / "etsi004.json"
    assert stored.read_text() == openapi004.text(), "python -m qkdd.kms.openapi004 > docs/openapi/etsi004.json"
    paths = openapi004.document()["paths"]
    assert set(paths) == {f"{BASE}/{name}" for name in ("open_connect", "get_key", "close", "push/{ksid}")}


def test_a_stream_needs_its_interface(tmp_path: Path) -> None:
    assert service_config("alice", tmp_path).sae["post-quantum"].interfaces == ("etsi014",)

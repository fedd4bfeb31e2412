"""ETSI GS QKD 020, other makers' keys in: every status, both modes, voiding, over real TLS; and never two different answers."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web

from qkdd.core import units
from qkdd.kms.config import KmsConfig
from qkdd.kms.server import KmsServer
from qkdd.peer.pki_demo import DemoPki
from qkdd.peer.tls import TlsProfile, client_context, server_context
from qkdd.testing.patience import PATIENCE_S

from .sites import SITES, free_port, kms_tree


class Foreign:
    """Two of our KMSs, each with a source "maker"; the other maker's KMSs are the clients, with certificates of the nodes."""

    def __init__(self, pki: DemoPki, servers: dict[str, KmsServer], callback: str) -> None:
        self.servers, self.callback = servers, callback
        self.pki = pki
        self.refusals: list[int] = []
        self.acks: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()

    async def call(
        self, site: str, path: str, body: Any, *, as_: str | None = None, verb: str = "POST"
    ) -> tuple[int, Any]:
        paths = self.pki.post_quantum[as_ or site]
        profile = TlsProfile(certificate=paths.certificate, key=paths.key, trust=paths.trust, crl=paths.crl)
        host, port = self.servers[site].addresses["sources.maker.etsi020"]
        data = body if isinstance(body, bytes) else io.BytesIO(json.dumps(body).encode())
        url = f"https://{host}:{port}/kmapi/{path}"
        connector = aiohttp.TCPConnector(ssl=client_context(profile))
        async with aiohttp.ClientSession(connector=connector) as client, client.request(verb, url, data=data) as answer:
            return answer.status, await answer.json(content_type=None)

    async def push(self, site: str, keys: dict[str, bytes], **changes: Any) -> tuple[int, Any]:
        listed = [{"key_id": k, "value": base64.b64encode(v).decode()} for k, v in keys.items()]
        body = {"keys": listed, "initiator_sae_id": site, "target_sae_ids": ["us"], **changes}
        return await self.call(site, "v1/ext_keys", body)

    async def void(self, site: str, ids: list[str], **changes: Any) -> tuple[int, Any]:
        body = {"key_ids": ids, "initiator_sae_id": site, "target_sae_ids": ["us"], **changes}
        return await self.call(site, "v1/ext_keys/void", body)

    async def sync(self) -> None:
        for server in self.servers.values():
            await server.running.sync_once()

    async def pools(self) -> list[int]:
        found = []
        for site, server in self.servers.items():
            other = SITES[1 - SITES.index(site)]
            found.append(sum((await server.running.pool(f"kms-{other}")).values()))
        return found


@asynccontextmanager
async def foreign(pki: DemoPki, root: Path) -> AsyncIterator[Foreign]:
    ports = {site: free_port() for site in SITES}
    made = Foreign(pki, {}, f"https://127.0.0.1:{free_port()}/acks")

    async def take(request: web.Request) -> web.Response:
        status = made.refusals.pop(0) if made.refusals else 200
        if status == 200:
            made.acks.put_nowait((request.path, await request.json()))
        return web.Response(status=status)

    app = web.Application()
    app.router.add_post("/acks/{site}", take)
    runner = web.AppRunner(app)
    await runner.setup()
    paths = pki.post_quantum["alice"]
    profile = TlsProfile(certificate=paths.certificate, key=paths.key, trust=paths.trust, crl=paths.crl, identity=None)
    await web.TCPSite(
        runner, "127.0.0.1", int(made.callback.split(":")[2].split("/")[0]), ssl_context=server_context(profile)
    ).start()
    try:
        for site in SITES:
            tree = kms_tree(pki, site, root / site, ports)
            plane = {k: v for k, v in tree["node_plane"].items() if k != "nodes"}
            listener = {**plane, "sae_id": "us", "initiators": [site], "callback_urls": [made.callback]}
            tree["sources"] = {"maker": {"link": "a-b", "epsilon": 1e-9, "etsi020": listener}}
            made.servers[site] = KmsServer(msgspec.convert(tree, KmsConfig, dec_hook=units.dec_hook))
            await made.servers[site].start()
        yield made
    finally:
        for server in made.servers.values():
            await server.stop()
        await runner.cleanup()


@pytest.fixture
def scene(pki: DemoPki, tmp_path: Path) -> Callable[..., None]:
    def run(scenario: Any) -> None:
        async def main() -> None:
            async with foreign(pki, tmp_path) as made:
                await scenario(made)

        asyncio.run(main())

    return run


def keys(count: int, size: int = 32) -> dict[str, bytes]:
    return {str(uuid.uuid4()): os.urandom(size) for _ in range(count)}


def statuses(answer: list[dict[str, Any]]) -> dict[str, str]:
    return {k["key_id"]: part["ack_status"] for part in answer for k in part["key_id_container"]}


def test_pushed_at_both_sites_it_is_drawn_with_its_source_and_claim(scene: Callable[..., None]) -> None:
    async def scenario(made: Foreign) -> None:
        brought = keys(8)
        for site in SITES:
            status, answer = await made.push(
                site, brought, extension_optional={"E0_qkdd_claim": {"epsilon": 1e-11}, "E9_other": {"kept": 1}}
            )
            assert (status, set(statuses(answer).values())) == (200, {"relayed"})
            assert answer[0]["initiator_sae_id"] == site
            assert answer[0]["target_sae_ids"] == ["us"]
        await made.sync()
        assert await made.pools() == [256, 256]
        [key] = await made.servers["alice"].running.draw("sae-alice", ("sae-bob",), 1, 32)
        [same] = await made.servers["bob"].running.fetch("sae-bob", "sae-alice", [key.key_id])
        assert key.key == same.key
        assert key.key in brought.values()
        assert (key.origin.sources, key.origin.epsilon) == (("maker",), 1e-11)

    scene(scenario)


BAD: list[tuple[str, Any, int]] = [
    ("no json", b"{", 400),
    ("no object", b"[]", 400),
    ("no keys", {"keys": []}, 400),
    ("too many", {"keys": [{"key_id": str(uuid.UUID(int=i)), "value": "AAAA"} for i in range(1025)]}, 400),
    ("id no uuid", {"keys": [{"key_id": "7", "value": "AAAA"}]}, 400),
    ("value no base64", {"keys": [{"key_id": str(uuid.UUID(int=1)), "value": "@@"}]}, 400),
    ("value of the URL alphabet", {"keys": [{"key_id": str(uuid.UUID(int=1)), "value": "-_-_"}]}, 400),
    ("empty value", {"keys": [{"key_id": str(uuid.UUID(int=1)), "value": ""}]}, 400),
    ("014's names", {"keys": [{"key_ID": str(uuid.UUID(int=1)), "key": "AAAA"}]}, 400),
    ("an id twice", {"keys": [{"key_id": str(uuid.UUID(int=1)), "value": "AAAA"}] * 2}, 400),
    ("another initiator", {"initiator_sae_id": "mallory"}, 401),
    ("initiator too long", {"initiator_sae_id": "a" * 65}, 400),
    ("for others too", {"target_sae_ids": ["us", "them"]}, 400),
    ("for nobody", {"target_sae_ids": []}, 400),
    ("mandatory extension", {"extension_mandatory": {"E9_must": {}}}, 503),
    ("014's extensions", {"extension_mandatory": [{"E9_must": {}}]}, 400),
    ("claim no number", {"extension_optional": {"E0_qkdd_claim": {"epsilon": "small"}}}, 400),
    ("claim above one", {"extension_optional": {"E0_qkdd_claim": {"epsilon": 2}}}, 400),
    ("callback elsewhere", {"ack_callback_url": "https://elsewhere.example/"}, 400),
    ("callback that only begins alike", {"ack_callback_url": "https://127.0.0.1:1.example/"}, 400),
]


def test_what_breaks_a_rule_stores_nothing(scene: Callable[..., None]) -> None:
    async def scenario(made: Foreign) -> None:
        good = {
            "keys": [{"key_id": str(uuid.uuid4()), "value": "AAAAAAAA"}],
            "initiator_sae_id": "alice",
            "target_sae_ids": ["us"],
        }
        for name, change, wanted in BAD:
            body = change if isinstance(change, bytes) else {**good, **change}
            status, answer = await made.call("alice", "v1/ext_keys", body)
            assert (name, status) == (name, wanted)
            assert {"type", "status", "title", "details"} <= answer.keys(), name
            if wanted == 503:
                assert answer["details"]["unsupported_mandatory_extension"] == ["E9_must"]
        assert (await made.call("alice", "v1/ext_keys", good, as_="bob"))[0] == 401
        assert (await made.call("alice", "versions", b"", as_="bob", verb="GET"))[0] == 401
        status, answer = await made.call("alice", "versions", b"", verb="GET")
        assert (status, answer) == (200, {"versions": ["v1"], "capabilities": ["synchronous_mode"]})
        assert (await made.call("alice", "v1/versions", b"", verb="GET"))[0] == 404
        assert (await made.call("alice", "v1/ext_keys", b"", verb="GET"))[0] == 405
        service = made.servers["alice"].running
        assert await service.void_chunks("maker", "a-b", None) == {}  # nothing was stored

    scene(scenario)


def test_the_same_call_again_is_the_same_answer_and_another_value_is_refused(scene: Callable[..., None]) -> None:
    async def scenario(made: Foreign) -> None:
        brought = keys(3)
        for _ in range(3):
            status, answer = await made.push("alice", {k.upper(): v for k, v in brought.items()})
            assert (status, statuses(answer)) == (200, {k.upper(): "relayed" for k in brought})
        [first, *_] = brought
        status, answer = await made.push("alice", {first: os.urandom(32)})
        assert (status, answer["details"]["code"]) == (400, "QKD-KMS-CHUNK")
        more = keys(1)
        status, answer = await made.push("alice", {first: os.urandom(32), **more})
        assert (status, statuses(answer)) == (200, {first: "failed", **dict.fromkeys(more, "relayed")})

    scene(scenario)


def test_voiding(scene: Callable[..., None]) -> None:
    async def scenario(made: Foreign) -> None:
        brought = keys(4)
        a, b, c, d = brought
        never = str(uuid.uuid4())
        for site in SITES:
            await made.push(site, brought)
        await made.push("alice", late := keys(1))
        await made.sync()
        [drawn] = await made.servers["alice"].running.draw("sae-alice", ("sae-bob",), 1, 32)
        [used] = [k for k, v in brought.items() if v == drawn.key]
        free = next(k for k in (a, b, c, d) if k != used)
        for _ in range(2):  # and the same when it is asked again
            for site in SITES:
                status, answer = await made.void(site, [used, free, never])
                assert (status, statuses(answer)) == (
                    200,
                    {used: "failed to void", free: "voided", never: "key not present"},
                )
        # a voided key that comes late, or again, is not stored
        for site in SITES:
            status, answer = await made.push(site, {free: brought[free], never: os.urandom(32)})
            assert (status, set(statuses(answer).values())) == (200, {"voided"})
        assert await made.pools() == [64, 64]
        assert (await made.void("alice", []))[0] == 400
        assert (await made.void("alice", [a, a.upper()]))[0] == 400
        assert (await made.void("alice", ["x"]))[0] == 400
        status, answer = await made.void("alice", [], all_confirmation=True)
        assert (status, set(statuses(answer).values())) == (200, {"voided"})
        assert set(statuses(answer)) == ({a, b, c, d} - {used, free}) | set(late)
        assert await made.pools() == [0, 64]
        # bob's site may own some of them: what it draws meets alice's answer and is skipped, on both sides alike
        fetched = await made.servers["bob"].running.fetch("sae-bob", "sae-alice", [drawn.key_id])
        assert fetched[0].key == drawn.key

    scene(scenario)


def test_asynchronous_mode(scene: Callable[..., None]) -> None:
    async def scenario(made: Foreign) -> None:
        brought = keys(2)
        url = f"{made.callback}/alice"
        made.refusals = [503]
        status, answer = await made.push("alice", brought, ack_callback_url=url)
        assert (status, answer) == (202, {})
        path, answer = await asyncio.wait_for(made.acks.get(), PATIENCE_S)
        assert (path, statuses(answer)) == ("/acks/alice", dict.fromkeys(brought, "relayed"))
        status, _ = await made.void("alice", list(brought), ack_callback_url=url)
        assert status == 202
        path, answer = await asyncio.wait_for(made.acks.get(), PATIENCE_S)
        assert statuses(answer) == dict.fromkeys(brought, "voided")
        # at the address answers somebody else than the initiator: it hears nothing
        assert (await made.push("bob", brought, ack_callback_url=f"{made.callback}/bob"))[0] == 202
        await made.servers["bob"].stop()
        assert made.acks.empty()

    scene(scenario)

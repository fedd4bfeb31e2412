"""The sink of ETSI GS QKD 020 under the one state machine: bad wires, every crash point, both modes; one answer for each key."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web

from qkdd.core import units
from qkdd.core.counters import RecordingMeter
from qkdd.core.etsi020 import acks
from qkdd.core.units import Seconds
from qkdd.keys import HandOver, KeysConfig
from qkdd.keys.errors import HandOverFailed, HandOverRefused
from qkdd.keys.sinks.config import Etsi020Sink
from qkdd.keys.sinks.contract import key_ids_of
from qkdd.keys.sinks.etsi020 import Etsi020Target
from qkdd.kms.config import KmsConfig
from qkdd.kms.server import KmsServer
from qkdd.peer.pki_demo import DemoPki, demo_pki
from qkdd.peer.tls import TlsProfile, client_context, server_context
from qkdd.testing.clock import FakeClock
from qkdd.testing.patience import PATIENCE_S
from tests.kms.sites import free_port, kms_tree

from .nodes import Node, committed, pair


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> DemoPki:
    return demo_pki(tmp_path_factory.mktemp("pki") / "pki")


def files(pki: DemoPki, name: str) -> dict[str, str]:
    paths = pki.post_quantum[name]
    return {n: str(getattr(paths, n)) for n in ("certificate", "key", "trust", "crl")}


class Vendor:
    """Somebody else's KMS. `script`: what comes of the next calls; it holds its memory to ETSI GS QKD 020's promises."""

    def __init__(self, pki: DemoPki) -> None:
        self.pki, self.script = pki, []  # type: ignore[var-annotated]
        self.stored: dict[str, str] = {}
        self.given: set[str] = set()  # to applications
        self.voided: set[str] = set()
        self.calls: list[str] = []
        self.url = ""
        self.acked: list[int] = []
        self.second = asyncio.Event()

    async def _ext_keys(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.calls.append("ext_keys")
        step = self.script.pop(0) if self.script else "ok"
        if step in ("ok", "lost", "later", "half", "failed"):
            for key in body["keys"]:
                assert key["key_id"] not in self.voided, "a key that was voided is offered again"
                value = self.stored.setdefault(key["key_id"], key["value"])
                assert value == key["value"], "another value under the same id"
        ids = [k["key_id"] for k in body["keys"]]
        word = "failed" if step == "failed" else "relayed"
        return await self._answer(request, body, step, dict.fromkeys(ids, word))

    async def _void(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.calls.append("void")
        step = self.script.pop(0) if self.script else "ok"
        statuses = {}
        for key_id in body["key_ids"]:
            if key_id in self.given:
                statuses[key_id] = "failed to void"
            elif key_id in self.stored or key_id in self.voided:
                statuses[key_id] = "voided"
            else:
                statuses[key_id] = "key not present"
            if step in ("ok", "lost", "later") and key_id not in self.given:
                self.stored.pop(key_id, None)
                self.voided.add(key_id)
        return await self._answer(request, body, step, statuses)

    async def _answer(self, request: web.Request, body: Any, step: Any, statuses: dict[str, str]) -> web.StreamResponse:
        if step == "lost":
            assert request.transport is not None
            request.transport.close()
            return web.Response()
        if isinstance(step, int):
            return web.json_response({"title": "no", "detail": "because"}, status=step)
        if isinstance(step, bytes):
            return web.Response(body=step)
        if step == "half":
            statuses = dict(list(statuses.items())[1:])
        text = acks(statuses, body["initiator_sae_id"], body["target_sae_ids"])
        url = body.get("ack_callback_url")
        if url is None:
            return web.Response(body=text)
        if step == "later":
            self.second.set()
        else:
            self.acked.append(await self.call_back(url, text))
        return web.Response(status=202, body=b"{}")

    async def call_back(self, url: str, text: bytes, *, as_: str = "kms-alice") -> int:
        profile = TlsProfile(**{k: Path(v) for k, v in files(self.pki, as_).items()})
        connector = aiohttp.TCPConnector(ssl=client_context(profile))
        async with (
            aiohttp.ClientSession(connector=connector) as client,
            client.post(url, data=io.BytesIO(text)) as answer,
        ):
            return answer.status


@asynccontextmanager
async def vendor(pki: DemoPki) -> AsyncIterator[Vendor]:
    made = Vendor(pki)
    app = web.Application()
    app.router.add_post("/kmapi/v1/ext_keys", made._ext_keys)
    app.router.add_post("/kmapi/v1/ext_keys/void", made._void)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    profile = TlsProfile(**{k: Path(v) for k, v in files(pki, "kms-alice").items()})
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=server_context(profile)).start()
    made.url = "https://{}:{}".format(*runner.addresses[0][:2])
    try:
        yield made
    finally:
        await runner.cleanup()


def config(pki: DemoPki, url: str, mode: str = "synchronous", **more: Any) -> KeysConfig:
    port = free_port()
    back = {"callback_listen": f"127.0.0.1:{port}", "callback_url": f"https://127.0.0.1:{port}/acks"}
    sink = Etsi020Sink(
        url=url,
        kms_id="kms-alice",
        initiator_sae_id="alice",
        target_sae_ids=("us",),
        mode=mode,  # type: ignore[arg-type]
        keys_per_call=8,
        **files(pki, "alice"),
        **(back if mode == "asynchronous" else {}),
        **more,
    )
    assert list(sink.check()) == []
    return KeysConfig(etsi020=sink)


def hand_over(node: Node, keys: KeysConfig, clock: FakeClock | None = None) -> HandOver:
    return HandOver(
        keys,
        node.spool,
        node_id="alice",
        peer_id="bob",
        link="a-b",
        context=None,
        clock=clock or FakeClock(time.time()),
        meter=RecordingMeter(),
    )


def wanted(chunks: dict[str, bytes]) -> dict[str, str]:
    """Key id → value of every whole key of these chunks (by hexadecimal id)."""
    return {
        key_id: base64.b64encode(text[32 * n : 32 * n + 32]).decode()
        for chunk, text in chunks.items()
        for n, key_id in enumerate(key_ids_of(chunk, len(text), 32))
    }


async def states(node: Node) -> dict[str, int]:
    return {str(s): n for s, (n, _) in (await node.spool.totals()).items()}


WIRES: list[tuple[Any, type[Exception], str]] = [
    ("lost", HandOverFailed, "offered"),
    (503, HandOverFailed, "offered"),
    (408, HandOverFailed, "offered"),
    (404, HandOverFailed, "offered"),
    (202, HandOverFailed, "offered"),  # we asked for an answer at once
    (400, HandOverRefused, "sealed"),
    (401, HandOverRefused, "sealed"),
    (b"no json", HandOverFailed, "offered"),
    (b'{"keys": []}', HandOverFailed, "offered"),
    (b'[{"key_id_container": {"properties": {}}, "ack_status": "relayed"}]', HandOverFailed, "offered"),
    ("half", HandOverFailed, "offered"),
    ("failed", HandOverFailed, "offered"),
]


@pytest.mark.parametrize(("step", "error", "state"), WIRES)
def test_bad_wires(pki: DemoPki, tmp_path: Path, step: Any, error: type[Exception], state: str) -> None:
    async def main() -> None:
        async with vendor(pki) as kms:
            a, b = await pair(tmp_path)
            await committed(a, b, 1)
            all_keys = wanted(await a.chunks())
            kms.script = [step]
            out = hand_over(a, config(pki, kms.url))
            with pytest.raises(error):
                await out.push_once()
            assert await states(a) == {state: 1}
            if state == "offered":  # what was heard once stays maybe stored, whatever the next call is told
                kms.script = [401]
                with pytest.raises(HandOverFailed):
                    await out.push_once()
                assert await states(a) == {"offered": 1}
            await out.close()
            out = hand_over(a, config(pki, kms.url))
            assert await out.push_once() == 1
            assert kms.stored == all_keys
            assert await states(a) == {"released": 1}
            await out.close()
            for node in (a, b):
                await node.close()

    asyncio.run(main())


def test_asynchronous_mode(pki: DemoPki, tmp_path: Path) -> None:
    async def main() -> None:
        async with vendor(pki) as kms:
            a, b = await pair(tmp_path)
            await committed(a, b, 1)
            all_keys = wanted(await a.chunks())
            clock = FakeClock(time.time())
            keys = config(pki, kms.url, "asynchronous", ack_deadline=Seconds(60.0))
            out = hand_over(a, keys, clock)
            kms.script = ["ok", "later"]
            waits, sink = asyncio.Event(), out._sink
            assert isinstance(sink, Etsi020Target)
            real = sink._wait

            async def wait(ids: list[str]) -> None:
                if kms.second.is_set():
                    waits.set()
                await real(ids)

            sink._wait = wait  # type: ignore[method-assign]
            push = asyncio.create_task(out.push_once())
            await asyncio.wait_for(waits.wait(), PATIENCE_S)
            assert await states(a) == {"offered": 1}
            # garbage, another's word and keys that nobody asked about change nothing
            assert keys.etsi020 is not None
            url = keys.etsi020.callback_url
            assert await kms.call_back(url, b"{}") == 400
            twice = [{"key_id_container": [{"key_id": "a"}], "ack_status": s} for s in ("relayed", "failed")]
            assert await kms.call_back(url, json.dumps(twice).encode()) == 400
            assert await kms.call_back(url, acks({"x": "relayed"}, "alice", ["us"])) == 200
            with pytest.raises((aiohttp.ClientError, ConnectionError)):
                await kms.call_back(url, acks(dict.fromkeys(all_keys, "relayed"), "alice", ["us"]), as_="kms-bob")
            assert not push.done()
            await clock.advance(61.0)
            with pytest.raises(HandOverFailed, match="maybe stored"):
                await push
            # the acknowledgement comes late, for keys that are still under way: it counts, nothing is sent again for them
            assert await kms.call_back(url, acks(dict.fromkeys(all_keys, "relayed"), "alice", ["us"])) == 200
            before = len(kms.calls)
            assert await out.push_once() == 1
            assert len(kms.calls) - before == len(all_keys) // 8 - 2 or len(kms.calls) == before
            assert kms.acked == [200] * len(kms.acked)
            assert await states(a) == {"released": 1}
            await out.close()
            for node in (a, b):
                await node.close()

    asyncio.run(main())


class Crash(Exception):
    """The process ends here."""


def crashes() -> list[tuple[str, bool]]:
    steps = ("release", "withdraw", "waiting", "offer", "_post", "acknowledge", "voided_there")
    return [(step, after) for step in steps for after in (False, True)]


@pytest.mark.parametrize(("step", "after"), crashes())
@pytest.mark.parametrize("void", [False, True])
def test_every_crash_point(
    pki: DemoPki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, after: bool, void: bool
) -> None:
    """Whether it is handed over or voided in the end, the KMS and the node say the same of every key, and only one thing."""

    async def main() -> None:
        async with vendor(pki) as kms:
            a, b = await pair(tmp_path)
            await committed(a, b, 1)
            all_keys = wanted(await a.chunks())
            clock = FakeClock(time.time())
            keys = config(pki, kms.url, void_after=Seconds(3600.0))
            out = hand_over(a, keys, clock)
            if void:  # the KMS takes one call and then none for two hours
                kms.script = ["lost"]
                with pytest.raises(HandOverFailed):
                    await out.push_once()
                await clock.advance(7200.0)
            owner: Any = out._sink if step == "_post" else a.spool
            if step == "_post":
                assert isinstance(out._sink, Etsi020Target)
            real = getattr(owner, step)

            async def cut(*args: Any, **kwargs: Any) -> Any:
                if after:
                    await real(*args, **kwargs)
                raise Crash

            monkeypatch.setattr(owner, step, cut)
            with suppress(Crash):
                await out.push_once()
            monkeypatch.undo()
            await out.close()
            await a.close()
            a = await Node(tmp_path / "a.db", "alice").open()
            out = hand_over(a, keys, clock)
            await out.push_once()
            assert await states(a) == {"released": 1}
            assert set(all_keys) == set(kms.stored) | kms.voided
            assert not set(kms.stored) & kms.voided
            # all of a chunk goes one way
            assert kms.stored == all_keys or kms.voided == set(all_keys)
            handed = step == "release" or (
                step == "withdraw" and not after
            )  # the new process has not waited for long yet
            assert bool(kms.voided) == (void and not handed)
            await out.close()
            for node in (a, b):
                await node.close()

    asyncio.run(main())


def test_what_was_given_away_is_not_voided_and_other_blocks_go_on(pki: DemoPki, tmp_path: Path) -> None:
    async def main() -> None:
        async with vendor(pki) as kms:
            a, b = await pair(tmp_path)
            await committed(a, b, 1)
            all_keys = wanted(await a.chunks())
            clock = FakeClock(time.time())
            out = hand_over(a, config(pki, kms.url, void_after=Seconds(3600.0)), clock)
            kms.script = ["lost"]
            with pytest.raises(HandOverFailed):
                await out.push_once()
            [gone, *_] = kms.stored
            kms.given.add(gone)
            await clock.advance(3601.0)
            kms.script = ["lost", 503, 400, b"[]"]
            for _ in range(4):
                with pytest.raises(HandOverFailed):
                    await out.push_once()
                assert await states(a) == {"offered": 1}
                assert await a.spool.waiting(9) == []  # it is never offered again
            await committed(a, b, 2)
            assert await out.push_once() == 1
            assert kms.voided == set(all_keys) - {gone}
            assert set(kms.stored) >= {gone}
            assert await states(a) == {"released": 2}
            assert out._meter.total("qkdd_keys_voided_total") == 1  # type: ignore[attr-defined]
            await out.close()
            for node in (a, b):
                await node.close()

    asyncio.run(main())


def test_what_was_offered_to_one_goes_to_no_other(pki: DemoPki, tmp_path: Path) -> None:
    async def main() -> None:
        async with vendor(pki) as kms:
            a, b = await pair(tmp_path)
            await committed(a, b, 1)
            await committed(a, b, 2)
            first = config(pki, kms.url)
            out = hand_over(a, first)
            kms.script = [503]
            with pytest.raises(HandOverFailed):
                await out.push_once()
            await out.close()
            folder = tmp_path / "keys"
            other = hand_over(
                a, msgspec.convert({"file": {"directory": str(folder)}}, KeysConfig, dec_hook=units.dec_hook)
            )
            assert [await other.push_once(), await other.push_once()] == [1, 0]
            assert len(list(folder.iterdir())) == 1
            assert await states(a) == {"offered": 1, "released": 1}
            await other.close()
            out = hand_over(a, first)
            assert await out.push_once() == 1
            assert await states(a) == {"released": 2}
            await out.close()
            for node in (a, b):
                await node.close()

    asyncio.run(main())


@pytest.mark.parametrize("mode", ["synchronous", "asynchronous"])
def test_against_our_own_020_source_over_tls(pki: DemoPki, tmp_path: Path, mode: str) -> None:
    async def main() -> None:
        a, b = await pair(tmp_path)
        await committed(a, b, 1)
        all_keys = wanted(await a.chunks())
        tree = kms_tree(pki, "alice", tmp_path / "kms", {"alice": free_port(), "bob": free_port()})
        keys = config(pki, "https://127.0.0.1:1", mode)
        assert keys.etsi020 is not None
        back = {"callback_urls": [keys.etsi020.callback_url]} if mode == "asynchronous" else {}
        listener = {"listen": "127.0.0.1:0", **files(pki, "kms-alice"), "sae_id": "us", "initiators": ["alice"], **back}
        tree["sources"] = {"node": {"link": "a-b", "etsi020": listener}}
        server = KmsServer(msgspec.convert(tree, KmsConfig, dec_hook=units.dec_hook))
        await server.start()
        try:
            host, port = server.addresses["sources.node.etsi020"]
            sink = msgspec.structs.replace(keys.etsi020, url=f"https://{host}:{port}")
            out = hand_over(a, KeysConfig(etsi020=sink))
            assert await out.push_once() == 1
            await out.close()
            found = await server.running.void_chunks("node", "a-b", None)
            assert found == dict.fromkeys(all_keys, "voided")  # it had every key, and nothing else
        finally:
            await server.stop()
        for node in (a, b):
            await node.close()

    asyncio.run(main())


BAD: list[tuple[dict[str, Any], str]] = [
    ({"url": "http://x"}, "url"),
    ({"mode": "asynchronous"}, "callback_url"),
    ({"callback_url": "https://x"}, "callback_url"),
    ({"crl": None}, "crl"),
    ({"initiator_sae_id": "a b"}, "initiator_sae_id"),
    ({"target_sae_ids": ()}, "target_sae_ids"),
    ({"keys_per_call": 1025}, "keys_per_call"),
    ({"key_size": 12}, "key_size"),
    ({"void_after": Seconds(1.0)}, "void_after"),
    ({"deadline": Seconds(0.0)}, "deadline"),
]


@pytest.mark.parametrize(("change", "key"), BAD)
def test_settings_that_cannot_be(pki: DemoPki, change: dict[str, Any], key: str) -> None:
    good = config(pki, "https://x:1").etsi020
    assert good is not None
    assert key in {name for name, _, _ in msgspec.structs.replace(good, **change).check()}

"""Key pulled from another maker's KMSs at both ends: what comes live is equal, whatever is lost, cut or refused on the way."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from qkdd.core import units
from qkdd.core.secret import Secret
from qkdd.kms.config import KmsConfig
from qkdd.kms.dev_pair import DevPair
from qkdd.kms.errors import NotEntitled, PeerKmsDown
from qkdd.kms.etsi014_client import Etsi014Client
from qkdd.kms.foreign import Pull, SourceDown, SourceKeyRefused
from qkdd.kms.plane import Pulled
from qkdd.kms.pulling import PulledSource, PulledSources
from qkdd.kms.server import KmsServer
from qkdd.kms.source_config import Etsi014Source, SourceConfig
from qkdd.peer.pki_demo import DemoPki
from qkdd.testing.patience import PATIENCE_S

from .local import SITES, World, world
from .sites import free_port, kms_tree, two_sites
from .test_etsi004_conformance import Http


class Maker:
    """Both KMSs of another maker: a key pulled at one is there once at the other."""

    def __init__(self) -> None:
        self.there: dict[str, bytes] = {}
        self.pulls = 0
        self.failure: Exception | None = None
        self.slow: set[str] = set()  # not there yet
        self.empty = False

    async def pull(self) -> Pull | None:
        if self.failure is not None:
            raise self.failure
        if self.empty:
            return None
        self.pulls += 1
        keys = {str(uuid.uuid4()): os.urandom(32) for _ in range(4)}
        self.there |= keys
        return Pull(list(keys), Secret(b"".join(keys.values())), 4e-10)

    async def fetch(self, refs: list[str]) -> Secret | None:
        if self.failure is not None:
            raise self.failure
        if self.slow & set(refs) or not all(ref in self.there for ref in refs):
            return None
        return Secret(b"".join(self.there.pop(ref) for ref in refs))

    async def close(self) -> None:
        """Nothing is open."""


TLS = {"certificate": "", "key": "", "trust": "", "crl": "", "identity": "k"}
SOURCE = SourceConfig(
    link="a-b",
    etsi014=Etsi014Source(**TLS, url="https://x", sae_id="s", remote_sae_id="t", level=256),  # type: ignore[arg-type]
)


def pulled(made: World, maker: Maker) -> dict[str, PulledSource]:
    ends = {
        site: PulledSource("maker", SOURCE, made.services[site], maker, made.clock, made.meters[site]) for site in SITES
    }
    for site in SITES:
        made.answers[site] = {"pulled": PulledSources({"maker": ends[site]}).on_pulled}
    return ends


async def live(made: World) -> int:
    """Bytes that can be drawn, equal on both sites."""
    return await made.agree()


async def drain(made: World, site: str) -> int:
    """Draw everything that this site owns; every key is the same at the other end."""
    other, count = SITES[1 - SITES.index(site)], 0
    while (await made.pools())[site].get(f"kms-{site}", 0) >= 32:
        ours = await made.draw(site)
        assert await made.fetch(other, list(ours)) == ours
        count += 1
    return count


def test_both_sites_pull_what_they_draw(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as made:
            maker = Maker()
            ends = pulled(made, maker)
            for site in SITES:
                assert await ends[site].look() == 2
            assert (await made.pools())["alice"] == {"kms-alice": 256, "kms-bob": 256}
            assert await live(made) == 512
            [key] = await made.services["alice"].draw("sae-alice", ("sae-bob",), 1, 32)
            assert key.origin.sources == ("maker",)
            assert key.origin.epsilon == 4e-10
            assert await made.services["bob"].fetch("sae-bob", "sae-alice", [key.key_id])
            assert [await drain(made, site) for site in SITES] == [7, 8]
            assert await ends["alice"].look() == 2
            assert maker.there == {}

    asyncio.run(main())


@pytest.mark.parametrize("script", [["before"], ["after"], ["after", "before", "after"]])
def test_the_line_between_the_sites_loses_calls(tmp_path: Path, script: list[str]) -> None:
    async def main() -> None:
        async with world(tmp_path) as made:
            maker = Maker()
            ends = pulled(made, maker)
            made.lines["alice"].script = list(script)
            for _ in script:
                with pytest.raises(PeerKmsDown):
                    await ends["alice"].look()
            await made.restart("alice")  # and the process ended
            ends = pulled(made, maker)
            assert await ends["alice"].look() >= 1
            assert await live(made) == 256
            assert await drain(made, "alice") == 8
            assert maker.there == {}

    asyncio.run(main())


def test_the_other_site_crashes_between_fetching_and_storing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with world(tmp_path) as made:
            maker = Maker()
            ends = pulled(made, maker)
            real, calls = made.services["bob"].ingest, []

            async def full(*args: Any) -> None:
                calls.append(args)
                if len(calls) == 1:
                    raise SourceDown("nothing was stored (test)")
                await real(*args)

            monkeypatch.setattr(made.services["bob"], "ingest", full)
            assert await ends["alice"].look() == 0
            assert await live(made) == 0
            await made.clock.advance(61.0)
            await ends["alice"].look()
            await made.clock.advance(61.0)
            await ends["alice"].look()  # what bob cannot get any more is given up, and new key takes its place
            await ends["alice"].look()
            assert await live(made) == 256
            assert await drain(made, "alice") == 8
            assert made.meters["alice"].total("qkdd_kms_source_keys_total", result="gone") == 1

    asyncio.run(main())


def test_a_kms_that_knows_the_key_only_later(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as made:
            maker = Maker()
            ends = pulled(made, maker)
            real = maker.pull

            async def slow() -> Pull | None:
                made_key = await real()
                assert made_key is not None
                maker.slow |= set(made_key.refs)
                return made_key

            maker.pull = slow  # type: ignore[method-assign]
            assert await ends["alice"].look() == 0
            await made.clock.advance(30.0)
            assert await ends["alice"].look() == 0
            maker.slow.clear()
            assert await ends["alice"].look() >= 1
            assert made.meters["alice"].total("qkdd_kms_source_keys_total", result="gone") == 0

    asyncio.run(main())


def test_no_key_and_failures_leave_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as made:
            maker = Maker()
            ends = pulled(made, maker)
            maker.empty = True
            assert await ends["alice"].look() == 0
            maker.empty, maker.failure = False, SourceDown("away (test)")
            with pytest.raises(SourceDown):
                await ends["alice"].look()
            maker.failure = None
            answer = PulledSources({"maker": ends["alice"]}).on_pulled
            with pytest.raises(NotEntitled):
                await answer("kms-mallory", Pulled("maker", "a-b", []))
            with pytest.raises(NotEntitled):
                await answer("kms-alice", Pulled("maker", "x-y", []))
            assert await live(made) == 0
            task = asyncio.create_task(ends["alice"].run())
            maker.failure = SourceDown("away (test)")
            await made.clock.advance(3.0)
            task.cancel()
            await asyncio.wait([task])

    asyncio.run(main())


def source_014(pki: DemoPki, site: str, url: str, **more: Any) -> dict[str, Any]:
    paths = pki.post_quantum[f"sae-{site}"]
    return {
        **{n: str(getattr(paths, n)) for n in ("certificate", "key", "trust", "crl")},
        "url": url,
        "identity": f"kms-{site}",
        "sae_id": f"sae-{site}",
        "remote_sae_id": f"sae-{SITES[1 - SITES.index(site)]}",
        "level": 128,
        "keys_per_request": 4,
        **more,
    }


@asynccontextmanager
async def second_pair(
    pki: DemoPki, root: Path, source: dict[str, dict[str, Any]]
) -> AsyncIterator[dict[str, KmsServer]]:
    """Our pair, each site with a source "maker"."""
    ports = {site: free_port() for site in SITES}
    servers = {}
    try:
        for site in SITES:
            tree = kms_tree(pki, site, root / site, ports)
            tree["sources"] = {"maker": {"link": "a-b", **source[site]}}
            servers[site] = KmsServer(msgspec.convert(tree, KmsConfig, dec_hook=units.dec_hook))
            await servers[site].start()
        yield servers
    finally:
        for server in servers.values():
            await server.stop()


async def look(server: KmsServer) -> None:
    """Until it has pulled; the other site was not there yet when this one was started, or is slow."""
    async with asyncio.timeout(PATIENCE_S):
        while not (await server.running.pool("kms-bob")).get("kms-alice"):
            try:
                await server._pulled["maker"].look()
            except PeerKmsDown:
                await asyncio.sleep(0.1)


@pytest.mark.slow
def test_etsi014_from_another_pair_of_kms_over_tls(pki: DemoPki, tmp_path: Path) -> None:
    async def main() -> None:
        async with two_sites(pki, tmp_path / "theirs") as theirs:
            for index in range(4):
                await theirs.feed(index, 640)
            urls = {s: "https://{}:{}".format(*theirs.servers[s].addresses["sae.post-quantum"]) for s in SITES}
            source = {s: {"etsi014": source_014(pki, s, urls[s]), "epsilon": 1e-9} for s in SITES}
            async with second_pair(pki, tmp_path / "ours", source) as ours:
                await look(ours["alice"])
                [key] = await ours["alice"].running.draw("sae-alice", ("sae-bob",), 1, 32)
                [same] = await ours["bob"].running.fetch("sae-bob", "sae-alice", [key.key_id])
                assert key.key == same.key
                assert key.key in b"".join(theirs.chunks.values())
                assert (key.origin.sources, key.origin.epsilon) == (("maker",), 4e-9)

    asyncio.run(main())


def source_004(pki: DemoPki, site: str, url: str) -> dict[str, Any]:
    common = source_014(pki, site, url)
    names = {"source": common.pop("sae_id"), "destination": common.pop("remote_sae_id")}
    del common["keys_per_request"]
    return {**common, **names, "chunk_bytes": 64, "timeout": "0 s", "ttl": "1 h"}


@pytest.mark.slow
def test_etsi004_from_another_pair_of_kms_over_tls(pki: DemoPki, tmp_path: Path) -> None:
    async def main() -> None:
        theirs = Http(pki, tmp_path / "theirs")
        try:
            for site in SITES:
                await theirs.start(site)
            for index in range(4):
                await theirs.feed(index, 640)
            urls = {s: "https://{}:{}".format(*theirs.servers[s].addresses["sae.post-quantum"]) for s in SITES}
            source = {s: {"etsi004": source_004(pki, s, urls[s]), "epsilon": 1e-9} for s in SITES}
            async with second_pair(pki, tmp_path / "ours", source) as ours:
                await look(ours["alice"])
                [key] = await ours["alice"].running.draw("sae-alice", ("sae-bob",), 1, 32)
                [same] = await ours["bob"].running.fetch("sae-bob", "sae-alice", [key.key_id])
                assert key.key == same.key
                assert key.key in b"".join(theirs.chunks.values())
                assert (key.origin.sources, key.origin.epsilon) == (("maker",), 1e-9)
                # a stream that the other maker's KMS has lost is opened anew
                client: Any = ours["alice"]._pulled["maker"]._puller
                lost = client._stream
                client._stream = str(uuid.uuid4())
                assert await client.pull() is None
                assert await client.join() != lost
        finally:
            await theirs.close()

    asyncio.run(main())


def test_synthetic_key_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        developers = DevPair(tmp_path / "dev")
        await developers.start()
        try:
            end = developers.facts()["ends"]["alice"]
            names = {n: end[n] for n in ("certificate", "key", "trust")}
            url = end["url"].removesuffix("/api/v1/keys")
            client = Etsi014Client(
                "maker",
                Etsi014Source(
                    **names, suite="classical", identity="kms-alice", url=url, sae_id="a", remote_sae_id="sae-bob"
                ),
                None,
                developers._clock,
            )
            with pytest.raises(SourceKeyRefused, match="synthetic"):
                await client.pull()
            await client.close()
        finally:
            await developers.stop()

    asyncio.run(main())


KEY = {"key_ID": str(uuid.UUID(int=1)), "key": "A" * 43 + "="}
ANSWERS: list[tuple[int, Any, type[Exception] | None]] = [
    (503, {"message": "none"}, None),
    (400, {"message": "no"}, SourceDown),
    (401, {}, SourceDown),
    (302, {}, SourceDown),
    (200, {}, SourceKeyRefused),
    (200, {"keys": []}, SourceKeyRefused),
    (200, {"keys": [KEY, KEY | {"key": "B" * 43 + "="}]}, SourceKeyRefused),
    (200, {"keys": [KEY | {"key_ID": "7"}]}, SourceKeyRefused),
    (200, {"keys": [KEY | {"key": "@"}]}, SourceKeyRefused),
    (200, {"keys": [KEY | {"key": "AAAA"}]}, SourceKeyRefused),
    (200, {"keys": [{"key_ID": KEY["key_ID"]}]}, SourceKeyRefused),
    (200, {"keys": [KEY | {"key_extension": {"qkdd_class": "hybrid"}}]}, SourceKeyRefused),
]


@pytest.mark.parametrize(("status", "body", "error"), ANSWERS)
def test_answers_of_a_014_kme(status: int, body: Any, error: type[Exception] | None) -> None:
    assert SOURCE.etsi014 is not None
    client = Etsi014Client("maker", SOURCE.etsi014, None, None)  # type: ignore[arg-type]

    async def call(_path: str, _body: Any) -> tuple[int, Any]:
        return status, body

    client._kms.call = call  # type: ignore[method-assign]

    async def main() -> None:
        if error is None:
            assert await client.pull() is None
            return
        with pytest.raises(error) as caught:
            await client.pull()
        assert "BBBB" not in str(caught.value)

    asyncio.run(main())
    if status in (400, 404):
        assert asyncio.run(client.fetch(["x"])) is None


def test_capital_keys_and_ids_are_taken() -> None:
    assert SOURCE.etsi014 is not None
    client = Etsi014Client("maker", SOURCE.etsi014, 1e-9, None)  # type: ignore[arg-type]

    async def call(_path: str, _body: Any) -> tuple[int, Any]:
        return 200, {"Keys": [KEY | {"key_ID": str(KEY["key_ID"]).upper()}], "unknown": 1}

    client._kms.call = call  # type: ignore[method-assign]
    found = asyncio.run(client.pull())
    assert found is not None
    assert (found.refs, len(found.material), found.epsilon) == ([KEY["key_ID"]], 32, 1e-9)

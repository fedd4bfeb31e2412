"""A pair that may have key of some sources only, or of a bounded claim: it gets that or a clear refusal, on both sites alike."""

from __future__ import annotations

import asyncio
import os
import uuid
from pathlib import Path
from typing import Any

import msgspec
import pytest

from qkdd.core.secret import Secret
from qkdd.kms.admin_sources import sources
from qkdd.kms.config import KmsConfig
from qkdd.kms.errors import OriginShort, PeerDisagrees
from qkdd.kms.origin import Only, together
from qkdd.kms.source_config import SourceConfig

from .local import SITES, World, service_config, world


def config(site: str, root: Path, **pair: Any) -> KmsConfig:
    base = service_config(site, root)
    [only] = base.pairs
    sources = {name: SourceConfig(link="a-b", directory=name) for name in ("good", "other")}
    changed = msgspec.structs.replace(base, pairs=(msgspec.structs.replace(only, **pair),), sources=sources)
    assert list(changed.check()) == [] or pair.get("sources") == ("nowhere",)
    return changed


async def start(made: World, root: Path, here: dict[str, Any], there: dict[str, Any] | None = None) -> None:
    for site, pair in zip(SITES, (here, here if there is None else there), strict=True):
        await made.stop(site)
        await made.start(site, config(site, root, **pair))


async def feed(made: World, source: str | None, epsilon: float | None, index: int = 0, size: int = 64) -> bytes:
    chunk, text = str(uuid.uuid4()), os.urandom(size)
    about: dict[str, object] = {"epsilon": epsilon} | ({"source": source} if source else {})
    for site in SITES:
        await made.services[site].ingest(site, chunk, "a-b", index, Secret(text), about)
    await made.sync()
    return text


def test_only_the_wanted_source_is_drawn(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as made:
            await start(made, tmp_path, {"sources": ("good",)})
            await feed(made, None, 1e-12)
            good = await feed(made, "good", None, 2)
            await feed(made, "other", 1e-12, 4)
            only = made.services["alice"].site.origin("sae-alice", ("sae-bob",))
            assert only == Only(("good",))
            assert await made.services["alice"].stored_keys("kms-bob", only) == 2
            keys = await made.draw("alice", 2)
            assert b"".join(keys.values()) == good
            assert await made.fetch("bob", list(keys)) == keys
            views = {view.source: view for view in await sources(made.services["alice"])}
            assert (views["good"].live_bits, views["other"].live_bits, views["own"].live_bits) == (0, 512, 512)
            assert (views["other"].largest_epsilon, views["good"].kind) == (1e-12, "directory")
            assert made.meters["alice"].total("qkdd_kms_source_drawn_total", source="good") == 2
            before = await made.agree()
            with pytest.raises(OriginShort) as refused:
                await made.draw("alice")
            assert (refused.value.code, refused.value.status, refused.value.retry_after) == ("QKD-KMS-ORIGIN", 503, 5)
            assert await made.agree() == before

    asyncio.run(main())


def test_our_own_nodes_key_by_name_and_what_the_other_site_owns_is_borrowed(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as made:
            await start(made, tmp_path, {"sources": ("own",)})
            await feed(made, "other", 1e-12)
            own = await feed(made, None, 1e-12, 1)  # of bob's site
            await feed(made, "other", 1e-12, 3)
            keys = await made.draw("alice", 2)
            assert b"".join(keys.values()) == own

    asyncio.run(main())


def test_the_claims_of_a_draw_are_added_up(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as made:
            await start(made, tmp_path, {"max_epsilon": 2.5e-10})
            await feed(made, "good", None)
            await feed(made, "good", 1e-9, 2)
            for index in (4, 6, 8):
                await feed(made, "other", 1e-10, index)
            with pytest.raises(OriginShort):
                await made.draw("alice", 5)  # three chunks
            batch = await made.services["alice"].draw("sae-alice", ("sae-bob",), 4, 32)
            assert batch[0].origin.epsilon == pytest.approx(2e-10)
            assert len(await made.draw("alice", 2)) == 2
            with pytest.raises(OriginShort):
                await made.draw("alice")

    asyncio.run(main())


def test_what_a_lost_announcement_left_over_comes_back_to_a_pair_with_a_policy(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as made:
            await start(made, tmp_path, {"sources": ("good",)})
            good = await feed(made, "good", None)
            made.lines["alice"].script = ["before"]
            with pytest.raises(Exception, match="lost on the way"):
                await made.draw("alice", 2)
            await made.clock.advance(11.0)
            await made.services["alice"].sync_once()  # both sites forget it
            keys = {**await made.draw("alice"), **await made.draw("alice")}
            assert b"".join(keys.values()) == good

    asyncio.run(main())


def test_sites_that_disagree_give_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as made:
            await start(made, tmp_path, {}, {"sources": ("good",)})
            await feed(made, "other", 1e-12)
            before = await made.agree()
            with pytest.raises(PeerDisagrees, match="origin"):
                await made.draw("alice")
            await made.clock.advance(11.0)
            await made.services["alice"].sync_once()
            assert await made.agree() == before

    asyncio.run(main())


def test_policies_of_several_pairs() -> None:
    a, b, c = Only(("x", "y"), 1e-9), Only(("y", "z")), Only(("z",), 1e-10)
    assert together([a, b]) == Only(("y",), 1e-9)
    assert together([b, c, Only()]) == Only(("z",), 1e-10)
    assert together([a, c]) is None
    assert together([]) == Only()


def test_settings_that_cannot_be(tmp_path: Path) -> None:
    assert [key for key, _, _ in config("alice", tmp_path, sources=("nowhere",)).check()] == ["pairs.0.sources"]
    [pair] = service_config("alice", tmp_path).pairs
    assert [key for key, _, _ in msgspec.structs.replace(pair, max_epsilon=0.0).check()] == ["max_epsilon"]

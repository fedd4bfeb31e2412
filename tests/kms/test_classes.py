"""Classes of keys: hybrid derivation on both sites, policy, fallback and back, and how the exchange can go wrong."""

from __future__ import annotations

import asyncio
import hmac
import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from qkdd_hil.postgres import PostgresServer

from qkdd.core.postgres import Postgres
from qkdd.core.secret import Secret
from qkdd.kms import exchange
from qkdd.kms.classes import KeyClass
from qkdd.kms.config import HybridExchange
from qkdd.kms.errors import ClassRefused, ExchangeRefused, NotEnoughKey, PeerDisagrees, PeerKmsDown
from qkdd.kms.schema import ALLOCATIONS, EXCHANGES

from .local import SITES, World, service_config
from .postgres import server

HYBRID, PQC, ITS = KeyClass.HYBRID, KeyClass.PQC_ONLY, KeyClass.ITS


def play(root: Path, scenario: Any, *, classes: tuple[KeyClass, ...] = (HYBRID, PQC), curve: str = "") -> None:
    async def main() -> None:
        made = World(root)
        for site in SITES:
            config = service_config(site, root)
            pairs = tuple(replace(pair, classes=classes) for pair in config.pairs)
            await made.start(site, replace(config, pairs=pairs, hybrid=HybridExchange(curve=curve)))
        try:
            await scenario(made)
        finally:
            for site in SITES:
                await made.stop(site)

    asyncio.run(main())


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with server() as made:
        yield made


@pytest.fixture(params=["sqlite", "postgresql"])
def stores(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test runs on each kind of store."""
    if request.param == "sqlite":
        return
    made = request.getfixturevalue("postgres")
    urls = {site: made.create(f"{site}_{uuid.uuid4().hex}") for site in SITES}
    monkeypatch.setattr(World, "place", lambda self, site: _prepared(self, site, urls[site]))


def _prepared(made: World, site: str, url: str) -> Postgres:
    (made.root / site).mkdir(exist_ok=True)  # for the audit log
    return Postgres(url)


def events(made: World, site: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (made.root / site / "audit.log").read_text().splitlines()]


@pytest.mark.usefixtures("stores")
@pytest.mark.parametrize("curve", exchange.CURVES)
def test_both_sites_derive_the_same_keys(tmp_path: Path, curve: str) -> None:
    async def scenario(made: World) -> None:
        chunk = await made.feed(0)
        await made.sync()
        keys = await made.draw("alice", 3)
        assert await made.fetch("bob", list(keys)) == keys
        assert len(set(keys.values())) == 3
        assert all(key not in made.chunks[chunk] for key in keys.values())
        assert ("qkdd_kms_class_keys_total", (("key_class", "hybrid"),)) in made.meters["alice"].counters
        await made.agree()

    play(tmp_path, scenario, curve=curve)


def test_the_derivation_as_written_down() -> None:
    """RFC 5869 by hand: extract with the transcript as salt, expand with class and key ID."""
    shared, salt, quantum = Secret(b"s" * 32), b"t" * 64, b"q" * 32
    made = exchange.derive(quantum, 32, shared, salt, "hybrid", "some-id")
    prk = hmac.digest(salt, (32).to_bytes(4, "big") + quantum + b"s" * 32, "sha512")
    assert bytes(made.reveal()) == hmac.digest(prk, b"qkdd kms key 1|hybrid|some-id\x01", "sha512")[:32]


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_every_part_of_the_transcript_counts(data: st.DataObject) -> None:
    offer = exchange.Offer("0" * 32, "0" * 128, bytes(1568))
    said: list[object] = ["hybrid", "0" * 24, "a", ["b"], 32, 1, [("c", 0, 32)]]
    whole: list[Any] = ["kms-a", "kms-b", said, offer]
    base = exchange.transcript(*whole)
    part = data.draw(st.integers(0, 3 + len(said)))
    if part < 2:
        whole[part] = data.draw(st.text().filter(lambda t: t != whole[part]))
    elif part == 2:
        flipped = bytearray(1568)
        flipped[data.draw(st.integers(0, 1567))] = 1
        whole[3] = replace(offer, ciphertext=bytes(flipped))
    elif part == 3:
        whole[3] = replace(offer, digest="1" + "0" * 127)
    else:
        index = part - 4
        changed = [*said]
        changed[index] = data.draw(
            st.one_of(st.text(), st.integers(), st.lists(st.text())).filter(lambda v: v != said[index])
        )
        whole[2] = changed
    assert exchange.transcript(*whole) != base


@pytest.mark.parametrize("curve", exchange.CURVES)
def test_exchange_alone(curve: str) -> None:
    private, bundle = exchange.new_bundle("a" * 32, curve)
    offer, shared = exchange.encapsulate(bundle, curve)
    assert exchange.decapsulate(private, bundle, offer).same_as(shared)
    _, other = exchange.new_bundle("a" * 32, curve)
    with pytest.raises(ExchangeRefused):
        exchange.decapsulate(private, other, offer)
    with pytest.raises(ExchangeRefused):
        exchange.encapsulate(replace(bundle, kem=bundle.kem[:-1]), curve)
    with pytest.raises(ExchangeRefused):
        exchange.encapsulate(bundle, "X25519" if curve != "X25519" else "")
    if curve:
        with pytest.raises(ExchangeRefused):
            exchange.decapsulate(private, bundle, replace(offer, curve_public=b""))


@pytest.mark.usefixtures("stores")
def test_fallback_shows_and_ends_by_itself(tmp_path: Path) -> None:
    async def scenario(made: World) -> None:
        for service in made.services.values():
            await service.sync_once()
        [key] = await made.services["alice"].draw("sae-alice", ("sae-bob",), 1, 32)
        assert key.key_class is PQC
        [same] = await made.services["bob"].fetch("sae-bob", "sae-alice", [key.key_id])
        assert (same.key, same.key_class) == (key.key, PQC)
        assert made.meters["alice"].gauges["qkdd_kms_fallback_pairs", ()] == 1.0
        await made.feed(0)
        await made.sync()
        [key] = await made.services["alice"].draw("sae-alice", ("sae-bob",), 1, 32)
        assert key.key_class is HYBRID
        assert made.meters["alice"].gauges["qkdd_kms_fallback_pairs", ()] == 0.0
        await made.audits["alice"].settled()
        names = [e["event"] for e in events(made, "alice")]
        assert names.index("fallback to pqc-only began") < names.index("fallback to pqc-only ended")
        drawn = [e["key_class"] for e in events(made, "alice") if e["event"] == "keys drawn"]
        assert drawn == ["pqc-only", "hybrid"]
        await made.agree()

    play(tmp_path, scenario)


def test_no_fallback_where_policy_does_not_allow_it(tmp_path: Path) -> None:
    async def scenario(made: World) -> None:
        with pytest.raises(NotEnoughKey):
            await made.draw("alice")
        with pytest.raises(ClassRefused):
            await made.services["alice"].draw("sae-alice", ("sae-bob",), 1, 32, PQC)

    play(tmp_path, scenario, classes=(HYBRID,))


@pytest.mark.usefixtures("stores")
def test_the_other_site_keeps_its_own_policy(tmp_path: Path) -> None:
    async def scenario(made: World) -> None:
        await made.feed(0)
        await made.sync()
        before = await made.agree()
        await made.stop("bob")
        await made.start("bob")  # its configuration knows nothing but `its`
        with pytest.raises(PeerDisagrees):
            await made.draw("alice")
        await made.clock.advance(20)
        await made.sync()
        assert await made.agree() == before

    play(tmp_path, scenario)


@pytest.mark.usefixtures("stores")
@pytest.mark.parametrize("how", ["before", "after"])
def test_a_lost_announcement_costs_nothing(tmp_path: Path, how: str) -> None:
    """The next request takes the reservation with its offer: both sites hold one secret."""

    async def scenario(made: World) -> None:
        await made.feed(0)
        await made.sync()
        made.lines["alice"].script = ["ok", how]
        with pytest.raises(PeerKmsDown):
            await made.draw("alice", 2)
        keys = await made.draw("alice", 2)
        assert await made.fetch("bob", list(keys)) == keys
        assert await made.agree() == 320 - 64

    play(tmp_path, scenario)


@pytest.mark.parametrize("how", ["ok", "after"])
@pytest.mark.parametrize("classes", [(HYBRID,), (PQC,)])
def test_a_key_encapsulation_key_that_is_gone(tmp_path: Path, how: str, classes: tuple[KeyClass, ...]) -> None:
    async def scenario(made: World) -> None:
        await made.feed(0)
        await made.sync()
        first = await made.draw("alice")
        await made.databases["bob"].run(lambda c: c.execute(EXCHANGES.delete()))
        made.lines["alice"].script = [how]
        try:
            keys = await made.draw("alice", 2)
        except PeerKmsDown:
            keys = await made.draw("alice", 2)
        assert await made.fetch("bob", [*first, *keys]) == first | keys
        await made.sync()
        assert await made.agree() == (320 - 3 * 32 if classes == (HYBRID,) else 320)

    play(tmp_path, scenario, classes=classes)


@pytest.mark.parametrize("part", ["ciphertext", "confirmation", "range", "sizes", "bundle"])
def test_a_changed_announcement_is_never_recorded(tmp_path: Path, part: str) -> None:
    """ML-KEM's implicit rejection gives another secret without an error: the confirmation finds it."""

    def change(name: str, data: bytes) -> bytes:
        message = json.loads(data)
        if name != "allocations":
            return data
        if part in ("ciphertext", "bundle"):
            text = message["offer"][part]
            message["offer"][part] = ("0" if text[0] != "0" else "1") + text[1:]
        elif part == "confirmation":
            message[part] = ""
        elif part == "range":
            message["pieces"][0][1:] = [message["pieces"][0][1] + 32, message["pieces"][0][2] + 32]
        else:
            message["key_bytes"], message["amount"] = message["amount"] * 16, message["key_bytes"] // 16
        return json.dumps(message).encode()

    async def scenario(made: World) -> None:
        await made.feed(0)
        await made.sync()
        made.lines["alice"].change = change
        with pytest.raises(ExchangeRefused):
            await made.draw("alice")
        assert await made.databases["bob"].run(lambda c: c.execute(ALLOCATIONS.select()).all()) == []
        made.lines["alice"].change = lambda _name, data: data
        await made.sync()
        assert await made.agree() == 320

    play(tmp_path, scenario, classes=(HYBRID,))


def test_secrets_go_with_the_draw(tmp_path: Path) -> None:
    async def scenario(made: World) -> None:
        await made.feed(0)
        await made.sync()
        keys = await made.draw("alice")
        [row] = await made.databases["bob"].run(lambda c: c.execute(ALLOCATIONS.select()).all())
        assert row.mix is not None
        await made.fetch("bob", list(keys))
        for site in SITES:
            assert await made.databases[site].run(lambda c: c.execute(ALLOCATIONS.select()).all()) == []
        await made.clock.advance(1300)
        await made.services["bob"].clean()
        assert await made.databases["bob"].run(lambda c: c.execute(EXCHANGES.select()).all()) == []

    play(tmp_path, scenario)


def test_hybrid_over_http(pki: Any, tmp_path: Path) -> None:
    """Through two servers with TLS: the class stands in the key, on both ends."""
    from qkdd.core import units
    from qkdd.kms.config import KmsConfig
    from qkdd.kms.server import KmsServer

    from .sites import Sites, kms_tree

    async def main() -> None:
        sites = Sites(pki, tmp_path)
        try:
            for site in SITES:
                tree = kms_tree(pki, site, tmp_path / site, sites.ports)
                for pair in tree["pairs"]:
                    pair["classes"] = ["hybrid", "pqc-only"]
                tree["hybrid"] = {"curve": "X25519"}
                config = msgspec.convert(tree, KmsConfig, dec_hook=units.dec_hook)
                sites.servers[site] = KmsServer(config)
                await sites.servers[site].start()
            for expected in ("pqc-only", "hybrid"):
                status, answer, _ = await sites.sae("alice", "GET", "sae-bob/enc_keys")
                assert (status, answer["keys"][0]["key_extension"]["qkdd_class"]) == (200, expected)
                wanted = {"key_IDs": [{"key_ID": answer["keys"][0]["key_ID"]}]}
                status, same, _ = await sites.sae("bob", "POST", "sae-alice/dec_keys", wanted)
                assert (status, same) == (200, answer)
                await sites.feed(0)
        finally:
            await sites.close()

    asyncio.run(main())


def test_classes_are_checked() -> None:
    from qkdd.kms.config import Pair

    assert not list(Pair(master="a", slave="b", peer="k", classes=(ITS, PQC)).check())
    for wrong in ((), (ITS, ITS), (PQC, HYBRID)):
        assert list(Pair(master="a", slave="b", peer="k", classes=wrong).check())
    assert list(HybridExchange(curve="P-521").check())

"""The parts of qkd-psk by themselves: keys, state file, KMS client, configuration."""

from __future__ import annotations

import asyncio
import os
import uuid
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qkdd.core.clock import SystemClock
from qkdd.core.config import ConfigRefused, parse
from qkdd.core.errors import StorageFailed
from qkdd.core.sealing import Sealer
from qkdd.core.secret import Secret
from qkdd.kms.dev_pair import DevPair
from qkdd.peer.tls import Suite
from qkdd.psk import vici
from qkdd.psk.config import KmsAccess, PskConfig
from qkdd.psk.errors import KmsAway, KmsRefused, StateBroken
from qkdd.psk.keys import AgreedKey
from qkdd.psk.kms_client import Etsi014Client, key_of
from qkdd.psk.state import State, StateFile

ENDS = ("agent-a", "agent-b")


def derive(
    key: bytes = bytes(32), key_id: str = "k", purpose: str = "wireguard", ends: tuple[str, str] = ENDS
) -> AgreedKey:
    return AgreedKey.derive(Secret(key), key_id, purpose, ends, 0.0)


def test_everything_that_names_a_key_goes_into_what_is_derived() -> None:
    base = derive()
    assert base.psk.same_as(derive().psk)
    others = [
        derive(b"\1" * 32),
        derive(key_id="l"),
        derive(purpose="strongswan"),
        derive(ends=("agent-b", "agent-a")),
    ]
    assert not any(base.psk.same_as(other.psk) for other in others)
    assert not base.psk.same_as(Secret(bytes(32)))


def test_a_proof_is_of_one_step_on_one_connection_under_one_key() -> None:
    here, there = derive(), derive()
    given_proof = there.confirmation("ready", b"1" * 32)
    assert here.confirms("ready", b"1" * 32, given_proof)
    assert not here.confirms("switch", b"1" * 32, given_proof)
    assert not here.confirms("ready", b"2" * 32, given_proof)
    assert not derive(b"\1" * 32).confirms("ready", b"1" * 32, given_proof)


def test_state_file(tmp_path: Path) -> None:
    async def main() -> None:
        sealer = Sealer(Secret(os.urandom(32)), "qkd-psk")
        file = StateFile(tmp_path / "state", sealer, "wireguard")
        assert (await file.load()).ids() == (None, None, None)
        one, two = derive(key_id="1"), derive(os.urandom(32), "2")
        await file.save(State(current=one, previous=None, next=two))
        found = await file.load()
        assert found.ids() == ("1", None, "2")
        assert found.current is not None
        assert found.next is not None
        assert found.current.psk.same_as(one.psk)
        assert found.next.psk.same_as(two.psk)
        path = tmp_path / "state/state.bin"
        raw = await asyncio.to_thread(path.read_bytes)
        assert bytes(one.psk.reveal()) not in raw
        assert path.stat().st_mode & 0o777 == 0o600
        with pytest.raises(StateBroken, match="is of wireguard"):
            await StateFile(tmp_path / "state", sealer, "strongswan").load()
        with pytest.raises(StateBroken):
            await StateFile(tmp_path / "state", Sealer(Secret(os.urandom(32)), "qkd-psk"), "wireguard").load()
        await asyncio.to_thread(path.write_bytes, raw[:-1])
        with pytest.raises(StateBroken):
            await file.load()
        await asyncio.to_thread((tmp_path / "file").write_text, "in the way")
        with pytest.raises(StorageFailed):
            await StateFile(tmp_path / "file" / "below", sealer, "wireguard").save(found)

    asyncio.run(main())


def test_kms_client(tmp_path: Path) -> None:
    """Against two real KMSs, on both kinds of listener."""

    async def main() -> None:
        pair = DevPair(tmp_path / "dev")
        await pair.start()

        def client(site: str, partner: str, suite: Suite = "post-quantum") -> Etsi014Client:
            facts = pair.facts()["ends_post_quantum" if suite == "post-quantum" else "ends"][site]
            authority = "pq-ca" if suite == "post-quantum" else "classical-ca"
            config = KmsAccess(
                url=facts["url"].removesuffix("/api/v1/keys"),
                identity=f"kms-{site}",
                partner=partner,
                certificate=facts["certificate"],
                key=facts["key"],
                trust=facts["trust"],
                crl=str(pair.directory / "pki" / authority / "crl.pem"),
                suite=suite,
            )
            return Etsi014Client(config, SystemClock(), 10.0)

        clients = [client("alice", "sae-bob"), client("bob", "sae-alice", "classical"), client("alice", "nobody")]
        alice, bob, stranger = clients
        try:
            key_id, drawn = await alice.draw()
            assert len(drawn) == 32
            assert drawn.same_as(await bob.fetch(key_id))
            with pytest.raises(KmsRefused, match="not found"):
                await bob.fetch(key_id)
            with pytest.raises(KmsRefused):
                await bob.fetch(str(uuid.uuid4()))
            with pytest.raises(KmsRefused):
                await stranger.draw()
            await pair.servers["bob"].stop()
            with pytest.raises(KmsAway, match="503") as caught:
                await alice.draw()
            assert caught.value.retry_after > 0
            with pytest.raises(KmsAway):
                await bob.draw()
        finally:
            for one in clients:
                await one.close()
            await pair.stop()

    asyncio.run(main())


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"[]",
        b"{}",
        b'{"keys": []}',
        b'{"keys": [{"key_ID": "x", "key": "AA=="}]}',
        b'{"keys": [{"key_ID": "00000000-0000-0000-0000-000000000001", "key": "?"}]}',
        b'{"keys": [{"key_ID": "00000000-0000-0000-0000-000000000001", "key": "AAAA"}]}',
        b'{"keys": [{"key_ID": 1, "key": "AAAA"}]}',
        b'{"keys": [1, 2]}',
    ],
)
def test_what_is_no_container_of_one_key(answer: bytes) -> None:
    with pytest.raises(KmsRefused):
        key_of("https://kms", answer)


GOOD = """
[agent]
state_directory = "s"
master_key = "m"
[kms]
url = "https://kms.example:8443"
identity = "kms-a"
partner = "sae-b"
certificate = "c"
key = "k"
trust = "t"
crl = "r"
[partner]
identity = "agent-b"
connect = "192.0.2.2:7411"
certificate = "c"
key = "k"
trust = "t"
crl = "r"
[wireguard]
interface = "wg0"
peer = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
"""


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ('connect = "192.0.2.2:7411"', "", "partner.connect"),
        ('connect = "192.0.2.2:7411"', 'connect = "192.0.2.2:7411"\nlisten = "0.0.0.0:1"', "partner.connect"),
        ('connect = "192.0.2.2:7411"', 'connect = "192.0.2.2"', "partner.connect"),
        ("https://kms.example:8443", "https://kms.example:8443/api/v1/keys", "kms.url"),
        ("https://kms.example:8443", "http://kms.example:8443", "kms.url"),
        ("AAAA=", "AAA=", "wireguard.peer"),
        ('"wg0"', '"../../x"', "wireguard.interface"),
        ("[wireguard]", '[strongswan]\nname = "x"\n[wireguard]', "wireguard"),
        ('master_key = "m"', 'master_key = "m"\nperiod = "1 h"', "agent.max_age"),
        ('master_key = "m"', 'master_key = "m"\ntrial = "1 s"', "agent.trial"),
        ('master_key = "m"', 'master_key = "m"\nmetrics = "0.0.0.0:9121"', "agent.metrics"),
    ],
)
def test_configuration(old: str, new: str, key: str) -> None:
    parse(GOOD, PskConfig)
    assert old in GOOD
    with pytest.raises(ConfigRefused) as caught:
        parse(GOOD.replace(old, new), PskConfig)
    assert key in {finding.key for finding in caught.value.findings}


names = st.text(min_size=1, max_size=20)
trees = st.recursive(
    st.dictionaries(names, st.one_of(st.text(max_size=30), st.lists(st.text(max_size=9), max_size=3)), max_size=4),
    lambda inner: st.dictionaries(names, inner, max_size=3),
    max_leaves=8,
)


@given(trees)
def test_vici_there_and_back(tree: vici.Tree) -> None:
    assert vici.decode(vici.encode(tree)) == tree
    content = vici.packet(vici.CMD_REQUEST, "load-shared", vici.encode(tree))
    assert vici.unpack(content[4:]) == (vici.CMD_REQUEST, "load-shared", vici.encode(tree))
    assert int.from_bytes(content[:4], "big") == len(content) - 4


@given(st.binary(max_size=80))
def test_vici_of_rubbish(data: bytes) -> None:
    try:
        assert isinstance(vici.decode(data), dict)
    except vici.MalformedVici:
        return


def test_vici_as_documented() -> None:
    """The example of strongSwan's README.md of the vici plugin (section on the message encoding)."""
    expected = bytes.fromhex(
        "03046b657931000676616c756531"  # key1 = value1
        "010873656374696f6e31"  # section1 {
        "01" + "0b" + b"sub-section".hex() + "03046b657932000676616c75653202"
        "04056c697374310500056974656d310500056974656d320602"
    )
    tree = {"key1": "value1", "section1": {"sub-section": {"key2": "value2"}, "list1": ["item1", "item2"]}}
    assert vici.encode(tree) == expected

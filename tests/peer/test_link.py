"""Two links over real TLS on loopback: sessions, refusals, re-handshakes and reloads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from cryptography import x509

from qkdd.core import config as core_config
from qkdd.core.clock import SystemClock
from qkdd.core.counters import RecordingMeter
from qkdd.core.errors import QkddError
from qkdd.peer import Message, PeerClosed, PeerUnreachable
from qkdd.peer import errors as e
from qkdd.peer.config import PeerConfig
from qkdd.peer.link import PeerLink
from qkdd.peer.pki import CredentialPaths, DemoPki
from qkdd.peer.session import Session
from qkdd.testing.clock import FakeClock
from qkdd.testing.patience import PATIENCE_S
from qkdd.testing.peer import MemoryMasks


class Note(Message, tag="test.link.note"):
    text: str


class Bulk(Message, tag="test.link.bulk"):
    data: bytes


def config(paths: CredentialPaths, peer: str, **changes: Any) -> PeerConfig:
    files = {name: str(getattr(paths, name)) for name in ("certificate", "key", "trust", "crl")}
    return PeerConfig(peer_id=peer, **files, **changes)


def link(role: Any, section: PeerConfig, **changes: Any) -> PeerLink:
    options: dict[str, Any] = {
        "link": "a-b",
        "shared": {"protocol": "bbm92"},
        "masks": MemoryMasks(),
        "clock": SystemClock(),
        "meter": RecordingMeter(),
        **changes,
    }
    return PeerLink(
        section,
        role=role,
        local_id=changes.get("local_id", role),
        **{k: v for k, v in options.items() if k != "local_id"},
    )


@asynccontextmanager
async def links(
    alice_paths: CredentialPaths, bob_paths: CredentialPaths, *, alice: Any = None, bob: Any = None, **both: Any
) -> AsyncIterator[tuple[PeerLink, PeerLink]]:
    left = link("alice", config(alice_paths, "bob", listen="127.0.0.1:0"), **{**both, **(alice or {})})
    await left.start()
    section = config(bob_paths, "alice", connect=f"127.0.0.1:{left.port}", **both.pop("bob_config", {}))
    right = link("bob", section, **{**both, **(bob or {})})
    await right.start()
    try:
        yield left, right
    finally:
        await right.close()
        await left.close()


async def outcome(awaitable: Any) -> Any:
    try:
        return await asyncio.wait_for(awaitable, PATIENCE_S)
    except QkddError as error:
        return error


async def session_of(left: PeerLink, right: PeerLink) -> tuple[Session, Session]:
    found = await asyncio.gather(left.accept(), right.connect_once())
    return found[0], found[1]


async def until(condition: Any) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110  # the condition lies in two sessions
            await asyncio.sleep(0.005)


def test_a_session_and_ten_megabytes(pki: DemoPki) -> None:
    async def main() -> None:
        meter = RecordingMeter()
        stores = MemoryMasks(b"k", 20), MemoryMasks(b"k", 20)
        options = {"alice": {"masks": stores[0]}, "bob": {"masks": stores[1]}, "meter": meter}
        async with links(pki.post_quantum["alice"], pki.post_quantum["bob"], **options) as (left, right):
            alice, bob = await session_of(left, right)
            assert alice.session_id == bob.session_id
            assert alice.mode == "wegman-carter"
            data = bytes(10_000_000)
            _, got = await asyncio.gather(alice.send(Bulk(data)), bob.receive(Bulk))
            assert len(got.data) == len(data)
            seals = await asyncio.gather(alice.seal("sift", 1), bob.seal("sift", 1))
            assert seals[0].sent_bytes == seals[1].received_bytes > len(data)
            assert 0 < bob.rtt < 1
        assert meter.total("qkdd_peer_handshakes_total", result="ok") == 2
        assert meter.total("qkdd_peer_seals_total", mode="wegman-carter", result="ok") == 2
        assert meter.gauges[("qkdd_masks_left", (("direction", "alice→bob"),))] == 19

    asyncio.run(main())


def test_nobody_listens(pki: DemoPki) -> None:
    async def main() -> None:
        section = config(pki.post_quantum["bob"], "alice", connect="127.0.0.1:9")
        right = link("bob", section)
        await right.start()
        assert isinstance(await outcome(right.connect_once()), PeerUnreachable)
        await right.close()

    asyncio.run(main())


def test_configuration_mismatch_over_tls_and_then_healed(pki: DemoPki) -> None:
    async def main() -> None:
        spoilt = {"shared": {"protocol": "bbm92", "qber_max": "0.11"}}
        async with links(pki.post_quantum["alice"], pki.post_quantum["bob"], bob=spoilt) as (left, right):
            a, b = await asyncio.gather(outcome(left.accept()), outcome(right.connect_once()))
            assert isinstance(a, e.ConfigMismatch)
            assert isinstance(b, e.ConfigMismatch)
            right._who = msgspec.structs.replace(right._who, shared={"protocol": "bbm92"})
            alice, bob = await session_of(left, right)
            assert alice.session_id == bob.session_id

    asyncio.run(main())


@pytest.mark.parametrize("fault", ["revoked", "expired", "authority", "identity", "role"])
def test_a_wrong_certificate_is_named_on_the_side_that_sees_it(pki: DemoPki, site: Any, fault: str) -> None:
    async def main() -> None:
        alice = site.make("alice")
        bob = site.make("bob", days=0.0001 if fault == "expired" else 30)  # about nine seconds
        clock: Any = SystemClock()
        expected: Any = e.CertRevoked
        if fault == "authority":
            made = pki.post_quantum["bob"]
            bob = CredentialPaths(made.certificate, made.key, alice.trust, alice.crl)
            expected = e.CertUnknownCa
        elif fault == "identity":
            bob, expected = site.make("mallory"), e.CertIdentity
        elif fault == "role":
            bob, expected = site.make("kms-bob", "kms"), (e.CertPurpose, e.CertIdentity)
        section = config(bob, "alice", connect="127.0.0.1:1")
        async with links(alice, site.make("other")) as (left, _):
            right = link("bob", msgspec.structs.replace(section, connect=f"127.0.0.1:{left.port}"), clock=clock)
            right._context = right._new_context()  # without the self-test, which would already refuse some of these
            if fault == "revoked":
                site.ca.revoke(x509.load_pem_x509_certificate(bob.certificate.read_bytes()).serial_number)
                left.reload()
            if fault == "expired":
                expected = e.CertExpired
                left._clock = FakeClock(wall=SystemClock().wall() + 3600)
                left.reload()
            a, b = await asyncio.gather(outcome(left.accept()), outcome(right.connect_once()))
            assert isinstance(a, expected), a
            assert isinstance(b, e.CertRefusedByPeer), b
            assert left.last_failure is a
            await right.close()

    asyncio.run(main())


def test_the_own_certificate_is_judged_before_anything_starts(site: Any) -> None:
    async def main() -> None:
        alice = site.make("alice")
        site.ca.revoke(x509.load_pem_x509_certificate(alice.certificate.read_bytes()).serial_number)
        left = link("alice", config(alice, "bob", listen="127.0.0.1:0"))
        assert isinstance(await outcome(left.start()), e.CertRevoked)

    asyncio.run(main())


def test_strangers_at_the_port_do_not_disturb(pki: DemoPki) -> None:
    async def main() -> None:
        async with links(pki.post_quantum["alice"], pki.post_quantum["bob"]) as (left, right):
            accepting = asyncio.create_task(left.accept())
            for garbage in (b"GET / HTTP/1.0\r\n\r\n", b"", b"\x16\x03\x01\x00\x05hello"):
                _, writer = await asyncio.open_connection("127.0.0.1", left.port)
                writer.write(garbage)
                await writer.drain()
                writer.close()
                await writer.wait_closed()
            await until(lambda: left.last_failure is not None)
            assert not accepting.done()
            bob = await right.connect_once()
            assert (await accepting).session_id == bob.session_id

    asyncio.run(main())


def test_rehandshake_in_the_middle_of_a_block_and_pki_reload(site: Any) -> None:
    """Renewed certificates on both ends, hourly and asked for by alice, while messages flow."""

    async def main() -> None:
        alice_paths, bob_paths = site.make("alice"), site.make("bob")
        clock = FakeClock(wall=SystemClock().wall())
        meter = RecordingMeter()
        stores = MemoryMasks(b"k", 20), MemoryMasks(b"k", 20)
        options = {"alice": {"masks": stores[0]}, "bob": {"masks": stores[1]}, "meter": meter, "clock": clock}
        async with links(alice_paths, bob_paths, **options) as (left, right):
            alice, bob = await session_of(left, right)
            await alice.send(Note("before"))

            async def moved(trigger: Any) -> None:
                before, old = meter.total("qkdd_peer_handshakes_total", result="ok"), (alice._in, bob._in)
                await trigger()
                await until(lambda: alice._in is not old[0] and bob._in is not old[1] and alice._out is alice._in)
                assert meter.total("qkdd_peer_handshakes_total", result="ok") == before + 2

            async def an_hour() -> None:
                for _ in range(3600 // 4):
                    await clock.advance(4)  # small steps: pings and answers travel over real sockets
                    await asyncio.sleep(0)
                    if meter.total("qkdd_peer_handshakes_total", result="ok") > 2:
                        return

            await moved(an_hour)
            await bob.send(Note("between"))
            for paths, reload in ((alice_paths, left.reload), (bob_paths, right.reload)):
                leaf = x509.load_pem_x509_certificate(paths.certificate.read_bytes())
                site.ca.renew(leaf).write(paths.certificate, paths.key)

                async def now(reload: Any = reload) -> None:
                    reload()

                await moved(now)
            await alice.send(Note("after"))
            assert [(await bob.receive(Note)).text for _ in range(2)] == ["before", "after"]
            assert (await alice.receive(Note)).text == "between"
            seals = await asyncio.gather(alice.seal("sift", 1), bob.seal("sift", 1))
            assert [s.mode for s in seals] == ["wegman-carter"] * 2
            assert alice.failure is None
            assert bob.failure is None

    asyncio.run(main())


def test_reload_after_revocation_ends_the_session(site: Any) -> None:
    async def main() -> None:
        alice_paths, bob_paths = site.make("alice"), site.make("bob")
        async with links(alice_paths, bob_paths) as (left, right):
            alice, bob = await session_of(left, right)
            site.ca.revoke(x509.load_pem_x509_certificate(bob_paths.certificate.read_bytes()).serial_number)
            left.reload()
            assert isinstance(await asyncio.wait_for(bob.wait_ended(), PATIENCE_S), e.CertRefusedByPeer)
            assert isinstance(await asyncio.wait_for(alice.wait_ended(), PATIENCE_S), QkddError)
            a, b = await asyncio.gather(outcome(left.accept()), outcome(right.connect_once()))
            assert isinstance(a, e.CertRevoked)
            assert isinstance(b, e.CertRefusedByPeer)

    asyncio.run(main())


def test_a_restarted_peer_takes_the_place_of_its_old_session(pki: DemoPki) -> None:
    async def main() -> None:
        async with links(pki.post_quantum["alice"], pki.post_quantum["bob"]) as (left, right):
            alice, _bob = await session_of(left, right)
            again = link("bob", right.config)
            await again.start()
            fresh_alice, fresh_bob = await asyncio.gather(left.accept(), again.connect_once())
            assert isinstance(alice.failure, PeerClosed)
            assert fresh_alice.session_id == fresh_bob.session_id
            await again.close()

    asyncio.run(main())


def test_rebootstrap_is_an_operators_action_on_both_nodes(pki: DemoPki) -> None:
    async def main() -> None:
        stores = MemoryMasks(b"k", 2), MemoryMasks(b"k", 2)
        options = {"alice": {"masks": stores[0]}, "bob": {"masks": stores[1]}}
        async with links(pki.post_quantum["alice"], pki.post_quantum["bob"], **options) as (left, right):
            alice, bob = await session_of(left, right)
            await asyncio.gather(alice.seal("x", 1), bob.seal("x", 1))
            left.rebootstrap()
            await asyncio.wait_for(bob.wait_ended(), PATIENCE_S)
            a, b = await asyncio.gather(outcome(left.accept()), outcome(right.connect_once()))
            assert isinstance(a, e.AuthStateMismatch)
            assert isinstance(b, e.AuthStateMismatch)
            right.rebootstrap()
            alice, bob = await session_of(left, right)
            assert alice.mode == bob.mode == "ml-dsa"

    asyncio.run(main())


def test_section_checks() -> None:
    files = 'certificate = "a"\nkey = "b"\ntrust = "c"\ncrl = "d"\n'
    good = f'peer_id = "bob"\nlisten = "127.0.0.1:7001"\n{files}rehandshake = "30 min"\n'
    assert core_config.parse(good, PeerConfig).rehandshake == 1800
    for change in (
        'connect = "x:1"',
        'groups = ["X25519"]',
        'signatures = ["rsa"]',
        'silence = "5 s"',
        'rehandshake = "0 s"',
    ):
        text = good.replace('rehandshake = "30 min"\n', "") + change
        with pytest.raises(core_config.ConfigRefused):
            core_config.parse(text, PeerConfig)
    with pytest.raises(core_config.ConfigRefused, match="HOST:PORT"):
        core_config.parse(good.replace("127.0.0.1:7001", "nowhere"), PeerConfig)

"""TLS on loopback and through memory BIOs: what is accepted, what is refused and with which code, for whom."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import shutil
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web
from cryptography import x509

from qkdd.core.errors import CredentialError, QkddError
from qkdd.peer import errors as e
from qkdd.peer import tls, tls_engine
from qkdd.peer.authority import Authority
from qkdd.peer.pki import CredentialPaths, DemoPki
from qkdd.testing.clock import FakeClock
from qkdd.testing.patience import PATIENCE_S


def profile(paths: CredentialPaths, **changes: Any) -> tls.TlsProfile:
    base = tls.TlsProfile(certificate=paths.certificate, key=paths.key, trust=paths.trust, crl=paths.crl)
    return msgspec.structs.replace(base, **changes)


class Outcome(msgspec.Struct):
    """What each side came to: an error, or what was negotiated."""

    client: QkddError | tls.Negotiated | None = None
    server: QkddError | tls.Negotiated | None = None


async def meet(server_profile: tls.TlsProfile, client_profile: tls.TlsProfile, clock: Any = None) -> Outcome:
    """One connection over loopback TCP with a byte each way; the outcome as each side sees it."""
    outcome = Outcome()
    done = asyncio.Event()
    server_context = tls.server_context(server_profile, clock)

    def refused(error: QkddError) -> None:
        outcome.server = error
        done.set()

    server_context.on_failure = refused

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        outcome.server = tls.negotiated(writer)
        writer.write(await reader.readexactly(1))
        writer.close()
        done.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server_context, ssl_handshake_timeout=PATIENCE_S)
    port = server.sockets[0].getsockname()[1]
    try:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=tls.client_context(client_profile, clock), ssl_handshake_timeout=PATIENCE_S
        )
        writer.write(b"x")
        assert await reader.read(1) == b"x"
        outcome.client = tls.negotiated(writer)
        writer.close()
        await done.wait()
    except (OSError, AssertionError) as error:
        outcome.client = tls.explain(error)
    finally:
        server.close()
        await server.wait_closed()
        await asyncio.sleep(0.01)
    return outcome


def run(server: tls.TlsProfile, client: tls.TlsProfile, clock: Any = None) -> Outcome:
    return asyncio.run(meet(server, client, clock))


@pytest.mark.parametrize("algorithm", ["ml-dsa-65", "ml-dsa-87"])
@pytest.mark.parametrize("group", tls.POST_QUANTUM_GROUPS)
def test_every_algorithm_and_group(tmp_path: Path, algorithm: Any, group: str) -> None:
    ca = Authority.create(tmp_path / "ca", algorithm, "test", intermediate=True)
    paths = []
    for name in ("alice", "bob"):
        made = CredentialPaths(tmp_path / f"{name}.pem", tmp_path / f"{name}.key", ca.trust_file, ca.crl_file)
        ca.issue("node", name).write(made.certificate, made.key)
        paths.append(made)
    found = run(profile(paths[0], groups=(group,)), profile(paths[1], groups=(group,), identity="alice"))
    for end, peer in ((found.client, "alice"), (found.server, "bob")):
        assert isinstance(end, tls.Negotiated), end
        assert (end.version, end.group, end.peer, end.peer_role) == ("TLSv1.3", group, peer, "node")
        assert end.signature == algorithm.replace("-", "").replace("mldsa", "mldsa")
        assert len(end.peer_chain) == 3  # leaf, intermediate, root


def test_an_ml_dsa_87_authority_with_an_ml_dsa_65_leaf(tmp_path: Path) -> None:
    ca = Authority.create(tmp_path / "ca", "ml-dsa-87", "test")
    made = CredentialPaths(tmp_path / "a.pem", tmp_path / "a.key", ca.trust_file, ca.crl_file)
    ca.issue("node", "alice", algorithm="ml-dsa-65").write(made.certificate, made.key)
    assert tls.self_test(profile(made)).signature == "mldsa65"


def test_self_test_says_what_was_negotiated(pki: DemoPki) -> None:
    found = tls.self_test(profile(pki.post_quantum["alice"], groups=("X25519MLKEM768",)))
    assert (found.version, found.group, found.signature) == ("TLSv1.3", "X25519MLKEM768", "mldsa65")


def test_self_test_fails_closed_when_the_library_ignores_the_groups(
    pki: DemoPki, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trap of the private call: the default list stays, and a plain X25519 would be negotiated."""
    true_restrict = tls_engine._restrict
    monkeypatch.setattr(
        tls_engine, "_restrict", lambda c, _groups, signatures, name: true_restrict(c, ("X25519",), signatures, name)
    )
    with pytest.raises(e.TlsSelfTestFailed):
        tls.self_test(profile(pki.post_quantum["alice"]))


def test_a_list_that_the_library_refuses_is_an_error(pki: DemoPki) -> None:
    from OpenSSL import SSL

    context = SSL.Context(SSL.TLS_METHOD)
    with pytest.raises(e.TlsSettingRefused):
        tls_engine._restrict(context, ("NoSuchGroup",), ("mldsa65",), "test")
    with pytest.raises(e.TlsSettingRefused):
        tls_engine._restrict(context, ("X25519",), ("nonsense",), "test")


def test_names_outside_the_table_are_refused(pki: DemoPki) -> None:
    alice = pki.post_quantum["alice"]
    for changes in ({"groups": ("X25519",)}, {"signatures": ("ecdsa_secp256r1_sha256",)}, {"crl": None}):
        with pytest.raises(e.TlsSettingRefused):
            tls.server_context(profile(alice, **changes))
    with pytest.raises(e.TlsSettingRefused):  # a classical certificate in a post-quantum profile
        tls.server_context(profile(pki.classical["kms-alice"]))


def test_no_common_group(pki: DemoPki) -> None:
    found = run(
        profile(pki.post_quantum["alice"], groups=("MLKEM1024",)),
        profile(pki.post_quantum["bob"], groups=("X25519MLKEM768",)),
    )
    assert isinstance(found.server, e.TlsNegotiationFailed)
    assert isinstance(found.client, e.TlsNegotiationFailed)


def test_a_certificate_of_another_authority(pki: DemoPki, site: Any) -> None:
    found = run(
        profile(pki.post_quantum["alice"]),
        profile(site.make("bob"), trust=pki.post_quantum["bob"].trust, crl=pki.post_quantum["bob"].crl),
    )
    assert isinstance(found.server, e.CertUnknownCa)
    assert isinstance(found.client, e.CertRefusedByPeer)
    found = run(
        profile(site.make("alice"), trust=pki.post_quantum["bob"].trust, crl=pki.post_quantum["bob"].crl),
        profile(pki.post_quantum["bob"]),
    )
    assert isinstance(found.client, e.CertUnknownCa)


def test_expired_by_the_wall_clock(pki: DemoPki) -> None:
    alice, bob = profile(pki.post_quantum["alice"]), profile(pki.post_quantum["bob"])
    end = x509.load_pem_x509_certificates(pki.post_quantum["alice"].certificate.read_bytes())[0].not_valid_after_utc
    # the list expires earlier than the certificates: a fresh one is needed to see the certificate's own end
    ca = Authority(pki.directory / "pq-ca")
    old = ca.crl_file.read_bytes()
    ca.publish_crl(days=400)
    try:
        clock = FakeClock(wall=end.timestamp() - 10)
        assert isinstance(run(alice, bob, clock).client, tls.Negotiated)
        clock.step_wall(20)
        found = run(alice, bob, clock)
        assert isinstance(found.client, e.CertExpired), found
        assert "expired" in str(found.client)
        early = FakeClock(wall=end.timestamp() - 100 * 86400)  # before anything was made: the list is looked at first
        assert isinstance(run(alice, bob, early).client, e.CertCrl)
        with pytest.raises(e.CertExpired):
            tls.self_test(alice, clock)
    finally:
        ca.crl_file.write_bytes(old)


def test_the_server_sees_an_expired_client(site: Any) -> None:
    long, short = site.make("alice", days=300), site.make("bob", days=1)
    site.ca.publish_crl(days=200)
    clock = FakeClock(wall=datetime.datetime.now(datetime.UTC).timestamp() + 2 * 86400)
    found = run(profile(long), profile(short), clock)
    assert isinstance(found.server, e.CertExpired)
    assert isinstance(found.client, e.CertRefusedByPeer)
    assert "expired" in str(found.client)


def test_an_expired_revocation_list_refuses_everybody(pki: DemoPki) -> None:
    late = FakeClock(wall=datetime.datetime.now(datetime.UTC).timestamp() + 40 * 86400)
    found = run(profile(pki.post_quantum["alice"]), profile(pki.post_quantum["bob"]), late)
    assert isinstance(found.client, e.CertCrl)


@pytest.mark.parametrize("revoked", ["alice", "bob"])
def test_revoked(site: Any, revoked: str) -> None:
    made = {name: site.make(name) for name in ("alice", "bob")}
    certificate = x509.load_pem_x509_certificate(made[revoked].certificate.read_bytes())
    site.ca.revoke(certificate.serial_number, "keyCompromise")
    found = run(profile(made["alice"]), profile(made["bob"]))
    if revoked == "alice":
        assert isinstance(found.client, e.CertRevoked)
    else:
        assert isinstance(found.server, e.CertRevoked)
        assert isinstance(found.client, e.CertRefusedByPeer)
        assert "revoked" in str(found.client)


def test_another_identity_than_the_configured_one(pki: DemoPki) -> None:
    alice, bob = pki.post_quantum["alice"], pki.post_quantum["bob"]
    found = run(profile(alice), profile(bob, identity="carol"))
    assert isinstance(found.client, e.CertIdentity)
    assert "'alice'" in str(found.client)
    assert "'carol'" in str(found.client)
    found = run(profile(alice, identity="carol"), profile(bob))
    assert isinstance(found.server, e.CertIdentity)
    assert isinstance(found.client, e.CertRefusedByPeer)


def test_wrong_role_and_wrong_usage(pki: DemoPki) -> None:
    alice, sae = pki.post_quantum["alice"], pki.post_quantum["sae-bob"]
    found = run(profile(alice, roles=("node",)), profile(sae))
    assert isinstance(found.server, e.CertPurpose)
    found = run(profile(sae), profile(alice))  # a certificate for clients only, used by a server
    assert isinstance(found.client, e.CertPurpose)


def test_a_client_without_certificate_and_tls_1_2(pki: DemoPki) -> None:
    """Stock ssl as the client of the classical listener."""
    kms = pki.classical["kms-alice"]

    def attempt(change: Callable[[ssl.SSLContext], None]) -> tuple[QkddError | None, str]:
        seen: list[QkddError] = []

        async def main() -> str:
            context = tls.server_context(profile(kms, suite="classical"))
            context.on_failure = seen.append

            async def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                writer.write(b"hello")
                writer.close()

            server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
            client = ssl.create_default_context(cafile=str(kms.trust))
            change(client)
            try:
                reader, writer = await asyncio.open_connection(
                    "127.0.0.1", server.sockets[0].getsockname()[1], ssl=client, server_hostname="localhost"
                )
                text = (await reader.read()).decode()
                assert writer.get_extra_info("cipher")[1] == "TLSv1.3"
                writer.close()
            except OSError as error:
                text = str(error)
            server.close()
            await server.wait_closed()
            await asyncio.sleep(0.01)
            return text

        text = asyncio.run(main())
        return (seen[0] if seen else None), text

    sae = pki.classical["sae-alice"]
    assert attempt(lambda c: c.load_cert_chain(sae.certificate, sae.key)) == (None, "hello")
    error, _ = attempt(lambda c: None)
    assert isinstance(error, e.CertMissing)

    def old(context: ssl.SSLContext) -> None:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(sae.certificate, sae.key)

    error, text = attempt(old)
    assert isinstance(error, e.TlsNegotiationFailed)
    assert "hello" not in text


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_talks_to_the_classical_listener(pki: DemoPki) -> None:
    kms, sae = pki.classical["kms-alice"], pki.classical["sae-alice"]

    async def main() -> str:
        app = web.Application()

        async def who(request: web.Request) -> web.Response:
            return web.Response(text=tls.peer_identity(request.transport))

        app.router.add_get("/", who)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls.server_context(profile(kms, suite="classical")))
        await site.start()
        port = runner.addresses[0][1]
        process = await asyncio.create_subprocess_exec(
            *("curl", "-s", "--cacert", str(kms.trust), "--cert", str(sae.certificate), "--key", str(sae.key)),
            f"https://localhost:{port}/",
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await process.communicate()
        await runner.cleanup()
        return out.decode()

    assert asyncio.run(main()) == "sae-alice"


def test_aiohttp_both_ends_post_quantum(pki: DemoPki) -> None:
    async def main() -> None:
        app = web.Application(client_max_size=8 << 20)

        async def echo(request: web.Request) -> web.Response:
            found = tls.negotiated(request.transport)
            return web.json_response({"who": found.peer, "group": found.group, "size": len(await request.read())})

        app.router.add_post("/", echo)
        runner = web.AppRunner(app)
        await runner.setup()
        server = tls.server_context(profile(pki.post_quantum["kms-alice"], roles=("node",)))
        seen: list[QkddError] = []
        server.on_failure = seen.append
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=server).start()
        url = f"https://127.0.0.1:{runner.addresses[0][1]}/"
        client = tls.client_context(profile(pki.post_quantum["alice"], identity="kms-alice", roles=("kms",)))
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=client)) as http:
            for _ in range(2):  # the second over the kept connection
                async with http.post(url, data=bytes(1_000_000)) as answer:
                    assert await answer.json() == {"who": "alice", "group": "SecP384r1MLKEM1024", "size": 1_000_000}
        wrong = tls.client_context(profile(pki.post_quantum["alice"], identity="kms-bob"))
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=wrong)) as http:
            with pytest.raises(aiohttp.ClientConnectorError) as caught:
                await http.get(url)
            assert isinstance(tls.explain(caught.value), e.CertIdentity)
        stranger = tls.client_context(profile(pki.post_quantum["sae-alice"]))
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=stranger)) as http:
            with pytest.raises(aiohttp.ClientError) as refused:
                await http.get(url)
            assert isinstance(tls.explain(refused.value), e.CertRefusedByPeer)
        assert isinstance(seen[0], e.CertPurpose) or isinstance(seen[-1], e.CertPurpose)
        await runner.cleanup()

    asyncio.run(main())


def test_reload_takes_new_files_and_keeps_the_old_on_error(site: Any) -> None:
    alice, bob = site.make("alice"), site.make("bob")
    context = tls.server_context(profile(alice))
    before = context.material.leaf.serial_number
    site.ca.renew(context.material.leaf).write(alice.certificate, alice.key)
    context.reload()
    assert context.material.leaf.serial_number != before
    now = context.material.leaf.serial_number
    alice.key.write_bytes(bob.key.read_bytes())  # a key that does not belong to the certificate
    with pytest.raises(CredentialError):
        context.reload()
    assert context.material.leaf.serial_number == now


def test_a_key_that_others_may_read_is_refused(site: Any) -> None:
    alice = site.make("alice")
    alice.key.chmod(0o640)
    with pytest.raises(CredentialError, match="0640") as caught:
        tls.server_context(profile(alice))
    assert "chmod 600" in caught.value.remedy


def test_plain_sockets_are_refused(pki: DemoPki) -> None:
    with pytest.raises(e.TlsSettingRefused):
        tls.client_context(profile(pki.post_quantum["alice"])).wrap_socket(None)


def shaken(server_profile: tls.TlsProfile, client_profile: tls.TlsProfile) -> tuple[Any, Any, Any, Any]:
    """Server and client after their handshake in memory; where the server reads, and where the client writes."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = tls.server_context(server_profile).wrap_bio(to_server, down, server_side=True)
    client = tls.client_context(client_profile).wrap_bio(to_client, up, server_side=False)
    for _ in range(4):
        for end, output, target in ((client, up, to_server), (server, down, to_client)):
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
            if output.pending:
                target.write(output.read())
    return server, client, to_server, up


def test_many_records_are_one_write_and_one_read(pki: DemoPki) -> None:
    server, client, to_server, up = shaken(*(profile(pki.post_quantum[who]) for who in ("alice", "bob")))
    data = bytes(range(256)) * 400
    assert client.write(data) == len(data)
    to_server.write(up.read())
    assert server.read(70_000) == data[:70_000]
    rest = bytearray(50_000)
    assert server.read(50_000, rest) == len(data) - 70_000
    assert rest[: len(data) - 70_000] == data[70_000:]
    with pytest.raises(ssl.SSLWantReadError):
        server.read(16)


def test_what_came_before_a_forged_record_or_the_end_is_still_read(pki: DemoPki) -> None:
    server, client, to_server, up = shaken(*(profile(pki.post_quantum[who]) for who in ("alice", "bob")))
    client.write(b"true")
    true = up.read()
    client.write(b"to be forged")
    forged = bytearray(up.read())
    forged[-1] ^= 1
    to_server.write(true + forged)
    assert server.read() == b"true"
    assert tls_engine._openssl.ERR_peek_error() == 0  # what is behind it is nothing of the thread's next connection
    for _ in range(2):
        with pytest.raises(ssl.SSLError) as caught:
            server.read()
        assert not isinstance(caught.value, ssl.SSLWantReadError)

    server, client, to_server, up = shaken(*(profile(pki.post_quantum[who]) for who in ("alice", "bob")))
    client.write(b"the last word")
    with contextlib.suppress(ssl.SSLWantReadError):
        client.unwrap()
    to_server.write(up.read())
    assert server.read() == b"the last word"
    assert server.read() == b""

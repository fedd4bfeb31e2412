"""Our TLS against rustls, which shares no code with OpenSSL: both directions, both signature sets, what it has of our groups.

`make interop` does the same with Go and Node.
"""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import rtls

from qkdd.peer.pki_demo import CredentialPaths, DemoPki, demo_pki
from qkdd.peer.tls import TlsProfile, client_context, negotiated, server_context
from qkdd.peer.tls_engine import TlsObject
from qkdd.peer.tls_errors import TlsFailure

_FLIGHTS = 12


@pytest.fixture(scope="module", params=["ml-dsa-65", "ml-dsa-87"])
def pki(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> DemoPki:
    return demo_pki(tmp_path_factory.mktemp("interop") / "pki", algorithm=request.param)


def ours(paths: CredentialPaths, group: str, serving: bool) -> tuple[TlsObject, ssl.MemoryBIO, ssl.MemoryBIO]:
    profile = TlsProfile(
        certificate=paths.certificate, key=paths.key, trust=paths.trust, crl=paths.crl, groups=(group,), name="ours"
    )
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = server_context(profile) if serving else client_context(profile)
    return context.wrap_bio(incoming, outgoing, server_side=serving), incoming, outgoing


def theirs(
    paths: CredentialPaths, serving: bool, *, certificate: bool = True, trust: Path | None = None
) -> tuple[rtls.SSLObject, rtls.MemoryBIO, rtls.MemoryBIO]:
    context = rtls.SSLContext(rtls.PROTOCOL_TLS_SERVER if serving else rtls.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cafile=str(trust or paths.trust))
    if certificate:
        context.load_cert_chain(str(paths.certificate), str(paths.key))
    context.verify_mode = rtls.CERT_REQUIRED
    incoming, outgoing = rtls.MemoryBIO(), rtls.MemoryBIO()
    name = None if serving else "localhost"
    return context.wrap_bio(incoming, outgoing, server_side=serving, server_hostname=name), incoming, outgoing


def shake(a: tuple, b: tuple) -> None:  # type: ignore[type-arg]
    """Both ends to the end of the handshake. Raises what an end raises."""
    waiting = [a[0], b[0]]
    for _ in range(_FLIGHTS):
        for side in list(waiting):
            try:
                side.do_handshake()
                waiting.remove(side)
            except (ssl.SSLWantReadError, rtls.SSLWantReadError):
                pass
        b[1].write(a[2].read())
        a[1].write(b[2].read())
        if not waiting:
            return
    raise AssertionError("the handshake does not end")


@pytest.mark.parametrize("serving", [True, False], ids=["rustls asks", "rustls serves"])
@pytest.mark.parametrize("group", ["X25519MLKEM768"])
def test_both_directions(pki: DemoPki, group: str, serving: bool) -> None:
    mine_name, their_name = ("kms-alice", "sae-alice") if serving else ("sae-alice", "kms-alice")
    mine = ours(pki.post_quantum[mine_name], group, serving)
    other = theirs(pki.post_quantum[their_name], not serving)
    shake(mine, other)
    found = negotiated(mine[0])
    assert (found.version, found.group, found.peer) == ("TLSv1.3", group, their_name)
    assert found.signature in ("mldsa65", "mldsa87")
    mine[0].write(b"question")
    other[1].write(mine[2].read())
    assert other[0].read(100) == b"question"
    other[0].write(b"answer")
    mine[1].write(other[2].read())
    assert mine[0].read(100) == b"answer"


@pytest.mark.parametrize("serving", [True, False], ids=["rustls asks", "rustls serves"])
@pytest.mark.parametrize("group", ["SecP384r1MLKEM1024", "MLKEM1024"])
def test_groups_that_rustls_has_not_are_refused_by_name(pki: DemoPki, group: str, serving: bool) -> None:
    mine_name, their_name = ("kms-alice", "sae-alice") if serving else ("sae-alice", "kms-alice")
    mine = ours(pki.post_quantum[mine_name], group, serving)
    with pytest.raises((TlsFailure, rtls.SSLError), match=r"nothing in common|NoKxGroupsInCommon"):
        shake(mine, theirs(pki.post_quantum[their_name], not serving))


def test_a_client_without_certificate_gets_nothing(pki: DemoPki) -> None:
    mine = ours(pki.post_quantum["kms-alice"], "X25519MLKEM768", True)
    with pytest.raises((ssl.SSLError, rtls.SSLError)):
        shake(mine, theirs(pki.post_quantum["sae-alice"], False, certificate=False))
    assert mine[0].peer_certificate() is None
    with pytest.raises((ssl.SSLError, rtls.SSLError)):
        mine[0].read(100)

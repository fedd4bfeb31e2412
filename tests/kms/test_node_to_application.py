"""The whole way through the two rooms: committed by two nodes, handed over by TLS, drawn and fetched by applications."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path

from qkdd.core.clock import SystemClock
from qkdd.core.counters import RecordingMeter
from qkdd.keys import HandOver, KeysConfig, tls_profile
from qkdd.peer.tls import client_context

from ..keys.nodes import Node, committed, pair, text
from .sites import SITES, Sites


def _handover(sites: Sites, node: Node, site: str) -> HandOver:
    host, port = sites.servers[site].addresses["node_plane"]
    paths = sites.pki.post_quantum[site]
    config = KeysConfig(
        kms_url=f"https://{host}:{port}",
        kms_id=f"kms-{site}",
        certificate=str(paths.certificate),
        key=str(paths.key),
        trust=str(paths.trust),
        crl=str(paths.crl),
    )
    return HandOver(
        config,
        node.spool,
        node_id=site,
        peer_id=SITES[1 - SITES.index(site)],
        link="a-b",
        context=client_context(tls_profile(config)),
        clock=SystemClock(),
        meter=RecordingMeter(),
    )


def test_from_commit_to_two_equal_keys(play: Callable[..., None], tmp_path: Path) -> None:
    async def scenario(sites: Sites) -> None:
        nodes = await pair(tmp_path / "n")
        for number in (1, 2):
            await committed(*nodes, number)
        for site, node in zip(SITES, nodes, strict=True):
            handover = _handover(sites, node, site)
            assert await handover.push_once() == 2
            assert await handover.push_once() == 0
            assert await node.chunks() == {}
            await handover.close()
        for site in SITES:
            service = sites.servers[site].service
            assert service is not None
            await service.sync_once()
        status, answer, _ = await sites.sae("alice", "POST", "sae-bob/enc_keys", {"number": 20})
        assert status == 200
        body = {"key_IDs": [{"key_ID": k["key_ID"]} for k in answer["keys"]]}
        assert (await sites.sae("bob", "POST", "sae-alice/dec_keys", body))[:2] == (200, answer)
        given = b"".join(base64.b64decode(k["key"]) for k in answer["keys"])
        # alice's site owns the even sequence (2) first, then what it borrows; never a byte of the authentication's head
        assert given[:640] == text(2)[:640]
        for node in nodes:
            await node.close()

    play(scenario)

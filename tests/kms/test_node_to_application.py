"""The whole way through the two rooms: committed by two nodes, handed over by TLS, drawn and fetched by applications."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Callable
from pathlib import Path

from qkdd.core.clock import SystemClock
from qkdd.core.counters import RecordingMeter
from qkdd.core.secret import Secret
from qkdd.keys import HandOver, KeysConfig, MaskPool, Spool, node_store, tls_profile
from qkdd.peer.tls import client_context

from .sites import SITES, Sites


def _handover(sites: Sites, spool: Spool, site: str) -> HandOver:
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
        spool,
        node_id=site,
        peer_id=SITES[1 - SITES.index(site)],
        link="a-b",
        context=client_context(tls_profile(config)),
        clock=SystemClock(),
        meter=RecordingMeter(),
    )


def test_from_commit_to_two_equal_keys(play: Callable[..., None], tmp_path: Path) -> None:
    async def scenario(sites: Sites) -> None:
        keys = {number: secrets.token_bytes(700) for number in (1, 2)}
        ids = {number: secrets.token_bytes(16) for number in (1, 2)}
        for site in SITES:
            store, master = node_store(tmp_path / f"{site}.db"), Secret(bytes(32))
            await store.open()
            masks = MaskPool(store, master)
            spool = Spool(store, master, SystemClock(), RecordingMeter())
            for number, key in keys.items():
                await spool.prepare(
                    sequence=number,
                    block_id=ids[number],
                    number=number,
                    key=Secret(key),
                    first=number == 1,
                    masks=8 if number == 1 else 0,
                    details={"eps": 1e-12, "proof": "bbm92/tl2017", "auth": "ml-dsa"},
                )
                await spool.accept(ids[number], masks.fill)
            handover = _handover(sites, spool, site)
            assert await handover.push_once() == 2
            assert await handover.push_once() == 0
            assert {state: count for state, (count, _) in (await spool.totals()).items()} == {"released": 2}
            await handover.close()
            await store.close()
        for site in SITES:
            service = sites.servers[site].service
            assert service is not None
            await service.sync_once()
        status, answer, _ = await sites.sae("alice", "POST", "sae-bob/enc_keys", {"number": 20})
        assert status == 200
        body = {"key_IDs": [{"key_ID": k["key_ID"]} for k in answer["keys"]]}
        assert (await sites.sae("bob", "POST", "sae-alice/dec_keys", body))[:2] == (200, answer)
        given = b"".join(base64.b64decode(k["key"]) for k in answer["keys"])
        assert given == keys[2][:640]  # alice's site owns even sequences
        status, answer, _ = await sites.sae("bob", "POST", "sae-alice/enc_keys", {"number": 13})
        assert status == 200
        given = b"".join(base64.b64decode(k["key"]) for k in answer["keys"])
        assert given == keys[1][16 + 8 * 32 :][:416]  # never a byte of the head that pays for authentication

    play(scenario)

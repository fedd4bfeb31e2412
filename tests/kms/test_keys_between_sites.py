"""Two KMSs over real TLS: the same key on both sides, each once, whatever the other side does."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from typing import Any

import pytest

from qkdd.kms.draws import Draws

from .sites import SITES, Sites

Play = Callable[..., None]


def test_a_key_reaches_both_applications_once(play: Play) -> None:
    async def scenario(sites: Sites) -> None:
        await sites.feed(0)
        await sites.feed(1)
        for site, other in (SITES, SITES[::-1]):
            for suite in ("post-quantum", "classical"):
                status, answer, headers = await sites.sae(
                    site, "POST", f"sae-{other}/enc_keys", {"number": 2}, suite=suite
                )
                assert (status, headers["Cache-Control"]) == (200, "no-store")
                ids = {"key_IDs": [{"key_ID": k["key_ID"]} for k in answer["keys"]]}
                status, got, headers = await sites.sae(other, "POST", f"sae-{site}/dec_keys", ids)
                assert (status, got) == (200, answer)
                assert headers["Cache-Control"] == "no-store"
                assert {len(base64.b64decode(k["key"])) for k in got["keys"]} == {32}
                status, again, _ = await sites.sae(other, "POST", f"sae-{site}/dec_keys", ids)
                assert (status, again["message"]) == (400, "one or more keys specified are not found on KME")

    play(scenario)


def test_concurrent_masters_on_both_sites(play: Play) -> None:
    """Both sites draw at once, far beyond what each owns, so that ownership moves too: every byte at most once."""

    async def scenario(sites: Sites) -> None:
        for index in range(12):
            await sites.feed(index, 1001)  # keys run over the chunks' borders
        drawn: dict[str, list[Any]] = {site: [] for site in SITES}

        async def master(site: str, other: str, seed: int) -> None:
            refused = 0
            while refused < 3:
                number = 1 + seed % 3
                status, answer, headers = await sites.sae(site, "POST", f"sae-{other}/enc_keys", {"number": number})
                if status == 503:
                    assert int(headers["Retry-After"]) > 0
                    refused += 1
                    continue
                assert (status, len(answer["keys"])) == (200, number)
                drawn[site] += answer["keys"]

        await asyncio.gather(*(master(a, b, i) for i in range(4) for a, b in (SITES, SITES[::-1])))
        ids = [k["key_ID"] for site in SITES for k in drawn[site]]
        values = [k["key"] for site in SITES for k in drawn[site]]
        assert len(set(ids)) == len(ids)
        assert len(set(values)) == len(values)
        assert len(values) >= 0.95 * (12 * 1001 // 32)  # next to nothing is stranded
        for site, other in (SITES, SITES[::-1]):
            keys = drawn[site]
            for start in range(0, len(keys), 100):
                part = keys[start : start + 100]
                body = {"key_IDs": [{"key_ID": k["key_ID"]} for k in part]}
                status, got, _ = await sites.sae(other, "POST", f"sae-{site}/dec_keys", body)
                assert (status, got["keys"]) == (200, part)

    play(scenario)


def test_one_master_gets_everything(play: Play) -> None:
    """Bob draws nothing: the chunks that his site owns come to Alice when hers run dry."""

    async def scenario(sites: Sites) -> None:
        for index in range(4):
            await sites.feed(index, 320)
        keys = set()
        for _ in range(40):
            status, answer, _ = await sites.sae("alice", "GET", "sae-bob/enc_keys")
            assert status == 200, answer
            keys.add(answer["keys"][0]["key"])
        assert len(keys) == 40
        assert (await sites.sae("alice", "GET", "sae-bob/enc_keys"))[0] == 503
        status, answer, _ = await sites.sae("alice", "GET", "sae-bob/status")
        assert (status, answer["stored_key_count"]) == (200, 0)

    play(scenario)


def test_nothing_that_the_other_site_lacks(play: Play) -> None:
    async def scenario(sites: Sites) -> None:
        chunk_id = await sites.feed(0, sites=("alice",))
        status, _, headers = await sites.sae("alice", "GET", "sae-bob/enc_keys")
        assert (status, headers["Retry-After"]) == (503, "5")
        assert (await sites.sae("alice", "GET", "sae-bob/status"))[1]["stored_key_count"] == 0
        await sites.push("bob", chunk_id, 0, sites.chunks[chunk_id])
        await sites.servers["bob"].service.sync_once()  # type: ignore[union-attr]
        assert (await sites.sae("alice", "GET", "sae-bob/status"))[1]["stored_key_count"] == 31
        assert (await sites.sae("alice", "GET", "sae-bob/enc_keys"))[0] == 200

    play(scenario)


def test_the_other_kms_goes_and_comes_back(play: Play) -> None:
    async def scenario(sites: Sites) -> None:
        await sites.feed(0, 64)
        await sites.stop("bob")
        for _ in range(5):  # tries while the line is cut burn nothing
            status, answer, headers = await sites.sae("alice", "GET", "sae-bob/enc_keys")
            assert status == 503, answer
            assert int(headers["Retry-After"]) > 0
        await sites.start("bob")
        for _ in range(100):
            status, answer, _ = await sites.sae("alice", "GET", "sae-bob/enc_keys")
            if status == 200:
                break
            await asyncio.sleep(0.05)
        assert status == 200
        status, second, _ = await sites.sae("alice", "GET", "sae-bob/enc_keys")
        assert status == 200
        ids = {"key_IDs": [{"key_ID": k["key_ID"]} for k in answer["keys"] + second["keys"]]}
        status, got, _ = await sites.sae("bob", "POST", "sae-alice/dec_keys", ids)
        assert (status, got["keys"]) == (200, answer["keys"] + second["keys"])

    play(scenario)


def test_restart_between_draw_and_fetch(play: Play) -> None:
    async def scenario(sites: Sites) -> None:
        await sites.feed(0)
        _, answer, _ = await sites.sae("alice", "POST", "sae-bob/enc_keys", {"number": 3})
        for site in SITES:
            await sites.stop(site)
            await sites.start(site)
        ids = {"key_IDs": [{"key_ID": k["key_ID"]} for k in answer["keys"]]}
        status, got, _ = await sites.sae("bob", "POST", "sae-alice/dec_keys", ids)
        assert (status, got) == (200, answer)
        status, more, _ = await sites.sae("alice", "POST", "sae-bob/enc_keys", {"number": 3})
        assert status == 200
        assert not {k["key"] for k in more["keys"]} & {k["key"] for k in answer["keys"]}

    play(scenario)


@pytest.mark.parametrize(
    ("who", "changes", "status"),
    [
        ("bob", {}, 401),
        ("alice", {"initiator_sae_id": "bob"}, 401),
        ("alice", {"extension_mandatory": {"E9_x": {}}}, 503),
        ("alice", {"ack_callback_url": "https://x"}, 400),
        ("alice", {"keys": []}, 400),
        ("alice", {"keys": [{"key_id": "no", "value": "AAAA", "extension": {}}]}, 400),
    ],
)
def test_pushes_that_are_refused(play: Play, who: str, changes: dict[str, Any], status: int) -> None:
    async def scenario(sites: Sites) -> None:
        host, port = sites.servers["alice"].addresses["node_plane"]
        body = {
            "keys": [
                {
                    "key_id": "0b5a7f0e-6a43-4a5f-9d8e-2f1c7b9d0a11",
                    "value": "AAAA",
                    "extension": {"E0_qkdd_chunk": {"link": "a-b", "index": 0, "class": "its"}},
                }
            ],
            "initiator_sae_id": who,
            "target_sae_ids": ["x"],
            **changes,
        }
        async with sites.client(who).post(f"https://{host}:{port}/kmapi/v1/ext_keys", json=body) as response:
            assert response.status == status
            problem = await response.json(content_type="application/problem+json")
            assert problem["status"] == status
        service = sites.servers["alice"].service
        assert service is not None
        assert await service.pool("kms-bob") == {}

    play(scenario)


def test_pushing_again_stores_nothing_twice(play: Play) -> None:
    async def scenario(sites: Sites) -> None:
        chunk_id = await sites.feed(0, 320)
        for _ in range(2):
            assert (await sites.push("alice", chunk_id, 0, sites.chunks[chunk_id]))[0] == 200
        status, answer, _ = await sites.sae("alice", "POST", "sae-bob/enc_keys", {"number": 10})
        assert status == 200
        ids = {"key_IDs": [{"key_ID": k["key_ID"]} for k in answer["keys"]]}
        assert (await sites.sae("bob", "POST", "sae-alice/dec_keys", ids))[0] == 200
        # used up and erased on both sites: yesterday's hand-over, replayed, is acknowledged and brings no key back
        assert (await sites.push("alice", chunk_id, 0, sites.chunks[chunk_id]))[0] == 200
        assert (await sites.sae("alice", "GET", "sae-bob/enc_keys"))[0] == 503
        assert (await sites.push("alice", chunk_id, 0, b"other"))[0] == 400

    play(scenario)


def test_grants_that_somebody_else_draws_first(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every loan succeeds and is gone again before it is reserved: 503, and no defect."""

    async def scenario(sites: Any) -> None:
        async def lent(*_: Any) -> bool:
            return True

        monkeypatch.setattr(Draws, "_borrow", lent)
        status, answer, _ = await sites.sae("alice", "GET", "sae-bob/enc_keys")
        assert status == 503
        assert "not enough key" in answer["message"]

    play(scenario)

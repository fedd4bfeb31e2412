"""What a node reads in a refusal of the node plane: the stable code, whether anything was stored, and that it heals."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import pytest

from qkdd.core.errors import StorageFull

from .sites import Sites

Play = Callable[..., None]


def code(answer: Any) -> str:
    return str(answer["details"]["code"])


def test_each_refusal_has_its_code(play: Play) -> None:
    async def scenario(sites: Sites) -> None:
        chunk_id = await sites.feed(0, 320)
        # the same id with another size, and with another index
        for index, material in ((0, b"other"), (1, sites.chunks[chunk_id])):
            status, answer = await sites.push("alice", chunk_id, index, material)
            assert (status, code(answer)) == (400, "QKD-KMS-CHUNK")
        fresh = str(uuid.uuid4())
        status, answer = await sites.push("alice", fresh, 2, bytes(32), extension_mandatory={"E9_x": {}})
        assert (status, code(answer)) == (503, "QKD-KMS-EXTENSION")
        assert answer["details"]["unsupported_mandatory_extension"] == ["E9_x"]
        status, answer = await sites.push("alice", fresh, 2, bytes(32), initiator_sae_id="bob")
        assert (status, code(answer)) == (401, "QKD-KMS-NOT-ENTITLED")
        status, answer = await sites.push("alice", "no uuid", 2, bytes(32))
        assert (status, code(answer)) == (400, "QKD-KMS-REQUEST")
        service = sites.servers["alice"].service
        assert service is not None
        assert sum((await service.pool("kms-bob")).values()) == 320

    play(scenario)


def test_a_full_pool_takes_nothing_until_keys_were_drawn(play: Play) -> None:
    async def scenario(sites: Sites) -> None:
        await sites.feed(0, 320)
        waiting = str(uuid.uuid4())
        status, answer = await sites.push("alice", waiting, 2, bytes(320))
        assert (status, code(answer)) == (503, "QKD-KMS-POOL-FULL")
        status, _, _ = await sites.sae("alice", "POST", "sae-bob/enc_keys", {"number": 10})
        assert status == 200
        status, answer = await sites.push("alice", waiting, 2, bytes(320))
        assert (status, answer[0]["ack_status"]) == (200, "relayed")

    play(scenario, pool_bytes=400)


@pytest.mark.parametrize("failure", [StorageFull("no space (test)"), RuntimeError("a defect (test)")])
def test_a_reason_of_its_own_is_said_without_details_and_passes(
    play: Play, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    async def scenario(sites: Sites) -> None:
        async def full(*_: object, **__: object) -> None:
            raise failure

        service = sites.servers["alice"].service
        assert service is not None
        chunk_id = str(uuid.uuid4())
        with monkeypatch.context() as patched:
            patched.setattr(service, "ingest", full)
            status, answer = await sites.push("alice", chunk_id, 0, bytes(320))
        assert (status, code(answer)) == (503, "QKD-KMS-INTERNAL")
        assert "test" not in str(answer)
        assert (await sites.push("alice", chunk_id, 0, bytes(320)))[0] == 200

    play(scenario)

"""A key store that hangs, as an application and an operator see it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing

import msgspec
import pytest

from qkdd.core import units
from qkdd.kms.config import Limits

from .sites import Sites


def test_an_application_is_told_and_served_again(play: Callable[..., None]) -> None:
    async def scenario(sites: Sites) -> None:
        await sites.feed(0)
        meter = sites.servers["alice"].meter
        before = (await sites.sae("alice", "POST", "sae-bob/enc_keys", {"number": 2}))[1]["keys"]
        with closing(sqlite3.connect(sites.root / "alice" / "kms.db", isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            for method, path in (("POST", "sae-bob/enc_keys"), ("GET", "sae-bob/status")):
                status, answer, headers = await sites.sae("alice", method, path)
                assert (status, headers["Retry-After"]) == (503, "5")
                assert answer["details"] == [{"qkdd_code": "QKD-KMS-STORE"}, {"cause": "QKD-CORE-STORAGE-SILENT"}]
            assert meter.registry.get_sample_value("qkdd_kms_store_silent") == 1.0
            other.execute("ROLLBACK")
        while True:  # a request of the KMS itself may be the one that tries
            status, answer, _ = await sites.sae("alice", "POST", "sae-bob/enc_keys", {"number": 2})
            if status != 503:
                break
        keys = {key["key_ID"]: key["key"] for key in (*before, *answer["keys"])}
        assert len(set(keys.values())) == 4
        wanted = {"key_IDs": [{"key_ID": one} for one in keys]}
        status, got, _ = await sites.sae("bob", "POST", "sae-alice/dec_keys", wanted)
        assert {key["key_ID"]: key["key"] for key in got["keys"]} == keys
        assert meter.registry.get_sample_value("qkdd_kms_store_silent") == 0.0
        assert meter.registry.get_sample_value("qkdd_kms_store_silences_total") == 1.0

    play(scenario, store_deadline="2 s")


@pytest.mark.parametrize("value", ["1 s", "6 min"])
def test_a_deadline_out_of_reason_is_refused(value: str) -> None:
    limits = msgspec.convert({"store_deadline": value}, Limits, dec_hook=units.dec_hook)
    assert [name for name, _, _ in limits.check()] == ["store_deadline"]

"""Rates and quotas of applications: 503 with the time after which it passes, nothing drawn, others untouched."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from qkdd.kms.config import Limits, Sae
from qkdd.kms.errors import NotEnoughKey, QuotaSpent, RateExceeded
from qkdd.kms.quotas import Quotas
from qkdd.testing.clock import FakeClock

from .local import service_config, world
from .sites import Sites

Play = Callable[..., None]


def quotas(tmp_path: Path, clock: FakeClock, **sae: object) -> Quotas:
    config = service_config("alice", tmp_path, requests_per_s=2.0, key_bits_per_h=3600)
    return Quotas(replace(config, saes={"a": Sae(**sae), "b": Sae()}), clock)  # type: ignore[arg-type]


def test_a_rate_is_a_bucket_that_fills_evenly(tmp_path: Path) -> None:
    async def main() -> None:
        clock = FakeClock()
        made = quotas(tmp_path, clock)
        for _ in range(2):
            made.ask("a")
        with pytest.raises(RateExceeded) as refused:
            made.ask("a")
        assert refused.value.retry_after == 1
        made.ask("b")  # has a bucket of its own
        await clock.advance(0.5)
        made.ask("a")
        with pytest.raises(RateExceeded):
            made.ask("a")
        await clock.advance(3600.0)
        for _ in range(2):  # never more than a second's worth at once
            made.ask("a")
        with pytest.raises(RateExceeded):
            made.ask("a")

    asyncio.run(main())


def test_a_quota_counts_what_was_drawn(tmp_path: Path) -> None:
    async def main() -> None:
        clock = FakeClock()
        made = quotas(tmp_path, clock, key_bits_per_h=7200)
        assert made.key_bits("a") == (7200, 7200)
        with made.drawing("a", 7000):
            pass
        with pytest.raises(QuotaSpent) as refused, made.drawing("a", 256):
            pass
        assert refused.value.retry_after == 28  # 56 bits at 2 a second
        assert refused.value.details["bits_left"] == 200
        with pytest.raises(ZeroDivisionError), made.drawing("a", 200):
            1 / 0  # noqa: B018  # a draw that fails
        assert made.key_bits("a") == (7200, 200)
        with pytest.raises(QuotaSpent) as refused, made.drawing("a", 7201):
            pass
        assert refused.value.retry_after is None  # never
        await clock.advance(28.0)
        with made.drawing("a", 256):
            pass

    asyncio.run(main())


def test_overrides_and_none(tmp_path: Path) -> None:
    made = quotas(tmp_path, FakeClock(), requests_per_s=0.0, key_bits_per_h=0)
    for _ in range(100):
        made.ask("a")
    with made.drawing("a", 10**9):
        pass
    assert (made.requests_per_s("a"), made.key_bits("a")) == (None, None)
    assert (made.requests_per_s("b"), made.key_bits("b")) == (2.0, (3600, 3600))


@pytest.mark.parametrize("name", ["requests_per_s", "key_bits_per_h"])
def test_negative_limits_are_refused(name: str) -> None:
    for section in (Limits(**{name: -1}), Sae(**{name: -1})):
        assert [key for key, *_ in section.check()] == [name]


def test_a_draw_without_key_costs_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path, key_bits_per_h=512) as made:
            with pytest.raises(NotEnoughKey):
                await made.draw("alice", 2)
            await made.feed(0)
            await made.sync()
            await made.draw("alice", 2)
            with pytest.raises(QuotaSpent):
                await made.draw("alice", 1)
            assert made.services["alice"].site.quotas.key_bits("sae-alice") == (512, 0)

    asyncio.run(main())


def test_over_http_it_is_503_with_retry_after(play: Play) -> None:
    async def scenario(sites: Sites) -> None:
        await sites.feed(0)
        assert (await sites.sae("alice", "GET", "sae-bob/enc_keys?number=2"))[0] == 200
        status, answer, headers = await sites.sae("alice", "GET", "sae-bob/enc_keys")
        assert (status, answer["details"][0]["qkdd_code"]) == (503, "QKD-KMS-QUOTA")
        assert int(headers["Retry-After"]) > 1000
        status, answer, headers = await sites.sae("alice", "GET", "sae-bob/status")
        assert (status, answer["details"][0]["qkdd_code"], headers["Retry-After"]) == (503, "QKD-KMS-RATE", "1")

    play(scenario, key_bits_per_h=512, requests_per_s=0.001 + 2.0)

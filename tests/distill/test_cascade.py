"""Cascade over the session: lanes, the budget, and a peer that says what does not fit."""

from __future__ import annotations

import asyncio
import itertools
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from qkdd.core.errors import QkddError
from qkdd.distill import cascade
from qkdd.distill.config import DistillConfig
from qkdd.distill.messages import Parities, ReconcileSeed
from qkdd.distill.packed import PackedBits
from qkdd.distill.plan import BlockPlan, plan_block
from qkdd.peer import Message

sys.path.insert(0, str(Path(__file__).parent))
import bench_sessions as bench

from qkdd.testing.patience import PATIENCE_S

CONFIG = DistillConfig()


def plan_for(n: int, error: float, budget: int | None = None) -> BlockPlan:
    plan = plan_block(400_000, error + 0.005, CONFIG)
    return replace(plan, n=n, leak_budget=10 * n + 100 if budget is None else budget)


def run(
    n: int, error: float, *, budget: int | None = None, tamper: bench.Tamper | None = None
) -> tuple[list[object], list[np.ndarray], bench.Wire, bench.Wire]:
    plan = plan_for(n, error, budget)
    alice, bob, there, back = bench.pair(tamper, authentic=tamper is None)
    blocks = bench.noisy_blocks(n, error, 3)
    before = [block.bits.unpacked() for block in blocks]

    async def one(session: bench.MemorySession, bits: PackedBits) -> object:
        try:
            return await cascade.correct(bits, round(plan.k * error), plan, session, 1)
        except QkddError as refusal:
            await session.abort(refusal)
            return refusal

    async def main() -> list[object]:
        async with asyncio.timeout(PATIENCE_S):
            return list(await asyncio.gather(one(alice, blocks[0].bits), one(bob, blocks[1].bits)))

    return asyncio.run(main()), before, there, back


@pytest.fixture
def small_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cascade, "FRAME_BITS", 2000)
    monkeypatch.setattr(cascade, "_LANE_FRAMES", {True: 10, False: 10})


@pytest.mark.parametrize("n", [1, 100, 4096, 50_000, 200_001])
def test_lanes_correct_everything_and_count_what_they_send(n: int, small_frames: None) -> None:
    results, bits, there, back = run(n, 0.02)
    for result in results:
        assert isinstance(result, cascade.Corrected)
        np.testing.assert_array_equal(result.key.unpacked(), bits[0])
        assert result.errors == np.count_nonzero(bits[0] != bits[1])
    first = results[0]
    assert isinstance(first, cascade.Corrected)
    for wire in (there, back):
        said = [m for m in wire.sent if isinstance(m, Parities)]
        assert 0 <= 8 * sum(len(m.bits) for m in said) - first.parities < 8 * len(said)
    lanes = {m.lane for m in there.sent if isinstance(m, Parities)}
    assert len(lanes) == cascade.shape(n, 0.0)[0]
    assert first.rounds == max(m.round for m in there.sent if isinstance(m, Parities))


def test_lanes_are_on_their_way_together(small_frames: None) -> None:
    """Alice says the first round of every lane before she hears anything."""
    _, _, there, _ = run(100_000, 0.02)
    said = [m for m in there.sent if isinstance(m, Parities)]
    assert [(m.lane, m.round) for m in said[:6]] == [(lane, 1) for lane in range(5)] + [(0, 2)]


def test_no_parity_beyond_the_budget_is_sent(small_frames: None) -> None:
    for budget in (101, 5_001, 15_001, 25_001):
        results, _, there, back = run(100_000, 0.02, budget=budget)
        assert [getattr(r, "code", None) for r in results] == ["QKD-BLK-LEAK"] * 2
        for wire in (there, back):
            said = [m for m in wire.sent if isinstance(m, Parities)]
            assert 2 * (8 * sum(len(m.bits) for m in said) - 7 * len(said)) < budget
        assert not there.queue.qsize() - 1  # nothing of the block is left in the way, but for the abort
        assert not back.queue.qsize() - 1


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        (ReconcileSeed, "seed", bytes(31)),
        (ReconcileSeed, "lanes", 0),
        (ReconcileSeed, "lanes", 9),
        (ReconcileSeed, "in_flight", 0),
        (ReconcileSeed, "in_flight", 10**9),
        (Parities, "lane", 1),
        (Parities, "round", 2),
        (Parities, "bits", b"\x00"),
    ],
)
def test_what_does_not_fit_is_refused(kind: type[Message], field: str, value: object) -> None:
    def tamper(who: str, index: int, message: Message) -> Message:
        return (
            msgspec.structs.replace(message, **{field: value})
            if who == "alice" and isinstance(message, kind)
            else message
        )

    results, _, _, _ = run(20_000, 0.02, tamper=tamper)
    assert getattr(results[1], "code", None) == "QKD-BLK-MALFORMED"


def test_the_shape_follows_size_and_way() -> None:
    assert cascade.shape(1, 0.0) == (1, 1)
    assert cascade.shape(150_000, 0.1) == (1, 1)
    near, far = cascade.shape(1 << 28, 0.0), cascade.shape(1 << 28, 0.02)
    assert near[0] < far[0]
    assert near[0] * near[1] < far[0] * far[1]
    for n in (1, 10**5, 10**6, 10**9):
        for way in (0.0, 0.001, 1.0):
            lanes, flight = cascade.shape(n, way)
            assert 1 <= lanes <= cascade.LANES_MOST
            assert lanes * flight <= cascade.IN_FLIGHT_MOST
            parts = cascade.lane_parts(n, lanes)
            assert parts[0].start == 0
            assert parts[-1].stop == (n + 7) // 8
            assert all(a.stop == b.start and a.stop % 512 == 0 for a, b in itertools.pairwise(parts))


def test_estimate_is_never_zero() -> None:
    assert 0 < cascade.error_estimate(0, 10**6) < 1e-5
    assert cascade.error_estimate(5, 5) == 0.5

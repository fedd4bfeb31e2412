"""Two ends of a pulsed link joined in memory: from clicks and symbols to equal blocks, and every way a block can be refused."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from qkdd.link import LinkState
from qkdd.link.errors import SlotSlip, SymbolsMissing, TagsLost


def run(make, body, **options):
    async def main():
        pair = await make(**options)
        await pair.start()
        try:
            await body(pair)
        finally:
            await pair.finish()

    asyncio.run(main())


@pytest.mark.parametrize("symbols", ["stream", "on_demand"])
def test_both_nodes_hand_equal_blocks_to_the_distiller(make_pulse_pair, symbols):
    async def body(pair):
        await pair.until(lambda: pair.alice.accepted >= 3 and pair.bob.accepted >= 3)
        assert pair.alice.refused == pair.bob.refused == {}
        for k in range(3):
            (number, a_bits, a_bases), (b_number, b_bits, b_bases) = (
                node.distiller.blocks[k] for node in (pair.alice, pair.bob)
            )
            levels = pair.alice.distiller.intensities[k]
            assert number == b_number
            assert np.array_equal(a_bases, b_bases)
            assert np.array_equal(levels, pair.bob.distiller.intensities[k])
            assert pair.alice.distiller.pulses[k] == pair.bob.distiller.pulses[k] == 1_000_000
            # 1e6·(0.7·0.5 + 0.2·0.1)·0.1 = 37000 detections, 0.95 of them outside a dead time; half in Z (0.7), half in X (0.3)
            assert len(a_bits) == pytest.approx(37000 * 0.95 / 2, rel=0.04)
            assert np.mean(a_bases) == pytest.approx(0.3, abs=0.02)
            assert np.mean(levels == 0) == pytest.approx(0.35 / 0.37, abs=0.02)
            assert np.mean(a_bits != b_bits) == pytest.approx(0.012, abs=0.006)
        assert pair.alice.tagger.prepared[0] == pytest.approx(0.3)
        for node in (pair.alice, pair.bob):
            shot = node.snapshot
            assert shot.state is LinkState.RUNNING
            assert shot.gains == pytest.approx((0.046, 0.0093, 0.0002), rel=0.15, abs=2e-4)
            assert shot.error_rates[0] == pytest.approx(0.011, abs=0.01)
            assert shot.detected_ratio == pytest.approx(0.035, rel=0.05)
            assert node.distiller.seeds[0][1] > 500
            assert node.beats > 5
        assert pair.bob.snapshot.drift == pytest.approx(-(3e-6 - -4e-6) * -1, abs=2e-8)
        assert pair.bob.snapshot.slot_phase_worst < 0.1
        if symbols == "on_demand":
            assert pair.alice.tagger.asked < 0.1 * pair.alice.tagger._made() + 1.1 * (1 << 17)  # far from a full stream

    run(make_pulse_pair, body, symbols=symbols)


def test_a_sifting_message_is_near_its_entropy(make_pulse_pair):
    async def body(pair):
        await pair.until(lambda: pair.alice.accepted >= 1 and pair.bob.accepted >= 1)
        detected = 0.035
        gap = -(detected * np.log2(detected) + (1 - detected) * np.log2(1 - detected)) / detected
        bits = pair.alice.snapshot.sifting_bits
        assert bits == pair.bob.snapshot.sifting_bits
        same = 0.5
        answer = -(same * np.log2(same) * 2) / 2 + 0.4
        assert bits < gap + 1.0 + answer + 0.6

    run(make_pulse_pair, body)


@pytest.mark.parametrize("loser", ["alice", "bob"])
def test_what_a_device_loses_costs_the_block_on_both_nodes(make_pulse_pair, loser):
    async def body(pair):
        await pair.until(lambda: pair.bob.accepted >= 1)
        getattr(pair, loser).tagger.lose = 5 if loser == "alice" else True
        await pair.until(lambda: pair.bob.refused and pair.alice.refused)
        before = pair.alice.accepted
        await pair.until(lambda: pair.alice.accepted >= before + 2 and pair.bob.accepted >= before + 2)
        code = SymbolsMissing.code if loser == "alice" else TagsLost.code
        assert pair.alice.refused == pair.bob.refused == {code: 1}

    run(make_pulse_pair, body)


@pytest.mark.parametrize("slots", [0.4, 3.0])
def test_a_tagger_that_slips_costs_the_block_and_a_new_alignment(make_pulse_pair, slots):
    """By a part of a slot: the phase jumps. By whole slots: only the brightness of what is detected shows it."""

    async def body(pair):
        await pair.until(lambda: pair.bob.accepted >= 1)
        good = len(pair.bob.distiller.blocks)
        pair.bob.tagger.slip_ps = round(slots * 1e6)
        await pair.until(lambda: SlotSlip.code in pair.bob.refused and SlotSlip.code in pair.alice.refused)
        accepted = pair.alice.accepted
        await pair.until(lambda: pair.alice.accepted >= accepted + 2 and pair.bob.accepted >= accepted + 2)
        for (_, a, _), (_, b, _) in zip(pair.alice.distiller.blocks, pair.bob.distiller.blocks, strict=True):
            assert np.mean(a != b) < 0.1
        assert len(pair.bob.distiller.blocks) > good

    run(make_pulse_pair, body)


def test_slots_without_a_pulse_are_no_loss(make_pulse_pair, pulse_kit):
    source = pulse_kit.PulseSource()
    source.pause = {k: 20_000 for k in range(20, 60)}

    async def body(pair):
        await pair.until(lambda: pair.bob.accepted >= 5 and pair.alice.accepted >= 5)
        assert pair.alice.refused == pair.bob.refused == {}
        assert pair.alice.distiller.pulses == pair.bob.distiller.pulses
        assert min(pair.alice.distiller.pulses) == 800_000

    run(make_pulse_pair, body, source=source)

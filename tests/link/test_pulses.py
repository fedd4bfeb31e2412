"""Two ends of a pulsed link joined in memory: from clicks and symbols to equal blocks, and every way a block can be refused."""

from __future__ import annotations

import asyncio

import msgspec
import numpy as np
import pytest

from qkdd import kernels
from qkdd.core.units import Fraction, Seconds
from qkdd.distill.distiller import Distiller
from qkdd.distill.errors import BlockMalformed
from qkdd.link import LinkState, sifting
from qkdd.link.errors import (
    AlignmentFailed,
    DetectionsRefused,
    LinkConfigError,
    SlotSlip,
    SymbolsMissing,
    TagsLost,
)
from qkdd.link.messages import DetectedBases, DetectedSlots, PreparedRounds
from qkdd.peer.errors import PeerClosed, PeerUnreachable


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
            # 1 % wrong detector, half of the random bits of double clicks, dark clicks
            assert np.mean(a_bits != b_bits) == pytest.approx(0.0165, abs=0.004)
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


@pytest.mark.parametrize("slots", [0.4, 3.0, -200_000.0])
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
    source = pulse_kit.PulseSource(private=True)
    source.pause = {k: 20_000 for k in range(20, 60)}

    async def body(pair):
        await pair.until(lambda: pair.bob.accepted >= 5 and pair.alice.accepted >= 5)
        assert pair.alice.refused == pair.bob.refused == {}
        assert pair.alice.distiller.pulses == pair.bob.distiller.pulses
        assert min(pair.alice.distiller.pulses) == 800_000

    run(make_pulse_pair, body, source=source)


def _spoiler(pair, kind, change, *, times=1):
    """The sender's messages of this kind are changed on their way, the first `times` times after the first block."""
    node = pair.alice if kind is PreparedRounds else pair.bob
    real, done = node.session.send, []

    async def send(message):
        if isinstance(message, kind) and node.accepted and len(done) < times:
            done.append(message)
            message = change(message)
        await real(message)

    node.session.send = send
    return done


def _recoded(message, change):
    """DetectedSlots with other slots: what an honest sender could not write is coded as if it were of no dead time."""
    slots = change(sifting.decode_slots(message.slots, message.count, 0, 1_000_000, 1))
    coded = kernels.gap_encode(np.sort(slots - np.arange(len(slots)))) if len(slots) else b""
    return msgspec.structs.replace(message, count=len(slots), slots=coded)


@pytest.mark.parametrize(
    ("kind", "change", "code"),
    [
        (DetectedSlots, lambda m: msgspec.structs.replace(m, count=m.count + 1), DetectionsRefused.code),
        (DetectedSlots, lambda m: msgspec.structs.replace(m, count=10**7), DetectionsRefused.code),
        (DetectedSlots, lambda m: msgspec.structs.replace(m, until=2_000_000), DetectionsRefused.code),
        (DetectedSlots, lambda m: msgspec.structs.replace(m, until=0), DetectionsRefused.code),
        (DetectedSlots, lambda m: msgspec.structs.replace(m, block=m.block + 1), DetectionsRefused.code),
        (DetectedSlots, lambda m: msgspec.structs.replace(m, slots=m.slots[:-3]), DetectionsRefused.code),
        (DetectedSlots, lambda m: _recoded(m, lambda s: s + 500_000), DetectionsRefused.code),
        (DetectedBases, lambda m: msgspec.structs.replace(m, count=m.count - 1), DetectionsRefused.code),
        (DetectedBases, lambda m: msgspec.structs.replace(m, bases=m.bases[:-4]), BlockMalformed.code),
        (PreparedRounds, lambda m: msgspec.structs.replace(m, pulses=10**9), BlockMalformed.code),
        (PreparedRounds, lambda m: msgspec.structs.replace(m, pulses=5), BlockMalformed.code),
        (PreparedRounds, lambda m: msgspec.structs.replace(m, z=m.x, x=m.z), BlockMalformed.code),
        (PreparedRounds, lambda m: msgspec.structs.replace(m, z=b""), BlockMalformed.code),
    ],
)
def test_a_lying_node_costs_the_block_and_no_more(make_pulse_pair, kind, change, code):
    async def body(pair):
        done = _spoiler(pair, kind, change)
        await pair.until(lambda: pair.alice.refused and pair.bob.refused)
        before = pair.alice.accepted
        await pair.until(lambda: pair.alice.accepted >= before + 2 and pair.bob.accepted >= before + 2)
        assert done
        assert pair.alice.refused == pair.bob.refused == {code: 1}

    run(make_pulse_pair, body)


def test_detections_that_lie_where_they_were_not_made_are_taken_for_a_slip(make_pulse_pair):
    async def body(pair):
        _spoiler(pair, DetectedSlots, lambda m: _recoded(m, lambda s: np.minimum(s + 7, 999_999)[:-50]))
        await pair.until(lambda: pair.alice.refused and pair.bob.refused)
        assert set(pair.alice.refused) <= {SlotSlip.code, DetectionsRefused.code}
        await pair.until(lambda: pair.alice.accepted >= 3 and pair.bob.accepted >= 3)

    run(make_pulse_pair, body)


def test_a_board_whose_memory_is_too_short_is_refused_with_the_reason(make_pulse_pair):
    async def body(pair):
        await pair.until(lambda: SymbolsMissing.code in pair.alice.refused or pair.alice.snapshot.reason is not None)
        assert pair.alice.accepted == 0
        assert (
            SymbolsMissing.code in pair.alice.refused
            or pair.alice.snapshot.reason == pair.bob.snapshot.reason == SymbolsMissing.code
        )

    run(make_pulse_pair, body, symbols="on_demand", window=40_000)


def test_a_board_that_answers_after_its_memory_was_written_over_costs_the_block_and_no_more(make_pulse_pair):
    async def body(pair):
        await pair.until(lambda: pair.bob.accepted >= 1)
        pair.alice.tagger.late = 3.0  # its memory reaches back 1.05 s
        await pair.until(lambda: pair.alice.refused and pair.bob.refused)
        assert pair.alice.refused == pair.bob.refused == {SymbolsMissing.code: 1}
        assert pair.alice.meter.total("qkdd_link_symbols_lost_total") > 0
        before = pair.alice.accepted
        await pair.until(lambda: pair.alice.accepted >= before + 2 and pair.bob.accepted >= before + 2)
        for (_, a, _), (_, b, _) in zip(pair.alice.distiller.blocks, pair.bob.distiller.blocks, strict=True):
            assert np.mean(a != b) < 0.1
        assert pair.alice.refused == pair.bob.refused == {SymbolsMissing.code: 1}

    run(make_pulse_pair, body, symbols="on_demand")


def test_no_light_is_no_alignment_and_light_brings_it(make_pulse_pair, pulse_kit):
    source = pulse_kit.PulseSource(private=True)
    source.blocked = True

    async def body(pair):
        await pair.until(lambda: pair.bob.snapshot.reason == AlignmentFailed.code)
        assert pair.bob.accepted == 0
        source.blocked = False
        await pair.until(lambda: pair.alice.accepted >= 1 and pair.bob.accepted >= 1, 120.0)

    run(make_pulse_pair, body, source=source)


@pytest.mark.parametrize("who", ["alice", "bob"])
def test_a_probe_measures_a_fresh_error_rate(make_pulse_pair, who):
    async def body(pair):
        await pair.until(lambda: pair.bob.accepted >= 1)
        asked = asyncio.create_task(getattr(pair, who).link.measure_error())
        await pair.until(asked.done)
        assert asked.result() == pytest.approx(0.0165, abs=0.012)
        accepted = pair.bob.accepted
        await pair.until(lambda: pair.bob.accepted > accepted)
        assert pair.alice.refused == pair.bob.refused == {}

    run(make_pulse_pair, body)


@pytest.mark.parametrize("who", ["alice", "bob"])
def test_drain_finishes_and_stops_both(make_pulse_pair, who):
    async def body(pair):
        await pair.until(lambda: pair.bob.accepted >= 1)
        pair.may_end = True
        getattr(pair, who).link.drain()
        await pair.until(lambda: pair.alice.task.done() and pair.bob.task.done())
        assert {pair.alice.task.result(), pair.bob.task.result()} == {"drained", "peer drained"}
        assert pair.alice.committer.committed == pair.bob.committer.committed
        assert pair.alice.tagger.stopped == pair.bob.tagger.stopped == 1

    run(make_pulse_pair, body)


@pytest.mark.parametrize("who", ["alice", "bob"])
def test_a_device_that_fails_ends_the_run(make_pulse_pair, who):
    async def body(pair):
        await pair.until(lambda: pair.bob.accepted >= 1)
        node, other = (pair.alice, pair.bob) if who == "alice" else (pair.bob, pair.alice)
        pair.may_end = True
        node.tagger.failure = PeerUnreachable("stands for a device that is offline")
        await pair.until(lambda: node.task.done() and other.task.done())
        assert node.task.exception() is node.tagger.failure
        assert isinstance(other.task.exception(), PeerClosed)

    run(make_pulse_pair, body)


def test_the_real_distiller_makes_the_same_key(make_pulse_pair, pulse_kit):
    keys = {}

    async def main():
        source = pulse_kit.PulseSource(p=(0.5, 0.3, 0.2), x=0.5, eta=0.4)
        pair = await make_pulse_pair(source=source, pulses=12_000_000, dead_time=Seconds(0.6e-6))
        for node in (pair.alice, pair.bob):
            node.distiller = Distiller(node.config.shared)

            async def commit(block, session, node=node):
                keys[node.config.role] = bytes(block.key.reveal())

            node.committer.commit = commit
            node.link = node.build()
        await pair.start()
        try:
            await pair.until(lambda: len(keys) == 2, 120.0)
        finally:
            await pair.finish()

    asyncio.run(main())
    assert keys["alice"] == keys["bob"]
    assert len(keys["alice"]) > 100


def test_a_slot_below_ten_bins_of_the_tagger_is_refused_by_its_key(make_pulse_pair):
    async def main():
        pair = await make_pulse_pair()
        pair.bob.tagger.resolution_ps = 100_001
        with pytest.raises(LinkConfigError, match=r"at most 0\.99"):
            pair.bob.build()
        await pair.finish()

    asyncio.run(main())


def test_a_transmitter_of_another_rate_is_refused(make_pulse_pair):
    async def body(pair):
        pair.may_end = True
        await pair.until(pair.alice.task.done)
        assert isinstance(pair.alice.task.exception(), LinkConfigError)

    async def main():
        pair = await make_pulse_pair()
        type(pair.alice.tagger).pulse_rate_hz = property(lambda self: 1.01e6)
        try:
            await pair.start()
            await body(pair)
        finally:
            type(pair.alice.tagger).pulse_rate_hz = property(lambda self: self.source.rate)
            await pair.finish()

    asyncio.run(main())


def test_unequal_delays_of_the_detectors_are_measured_and_taken_off(make_pulse_pair):
    delays = np.array([60e-9, -110e-9, 0.0, 200e-9])

    async def main():
        pair = await make_pulse_pair(gate=Fraction(0.2))
        pair.bob.tagger.delays[:] = delays
        await pair.start()
        try:
            await pair.until(lambda: pair.alice.accepted >= 2 and pair.bob.accepted >= 2)
        finally:
            await pair.finish()
        shot = pair.bob.snapshot
        measured = np.array(shot.delays_ps) * 1e-12
        assert np.abs((measured - measured[2]) - delays).max() < 3e-9
        assert shot.gated_ratio < 0.02
        assert shot.slot_contrast > 0.98

    asyncio.run(main())


@pytest.mark.parametrize("who", ["alice", "bob"])
def test_a_pulsed_link_held_open_shows_the_same_on_both_nodes_and_makes_no_key(make_pulse_pair, who):
    async def body(pair):
        await pair.until(lambda: pair.bob.accepted >= 1 and pair.alice.accepted >= 1)
        nodes = (pair.alice, pair.bob)
        getattr(pair, who).link.hold_open(True)
        await pair.until(lambda: all(n.snapshot.opened is not None and n.snapshot.opened.number >= 3 for n in nodes))
        accepted, first = pair.bob.accepted, pair.bob.snapshot.opened.number
        await pair.until(lambda: all(n.snapshot.opened.number >= first + 2 for n in nodes))
        assert pair.bob.accepted == accepted
        assert pair.alice.snapshot.state is pair.bob.snapshot.state is LinkState.OPEN
        a, b = (n.snapshot.opened for n in nodes)
        assert a.number != b.number or a == b
        assert a.qber == pytest.approx(0.0165, abs=0.02)
        assert sum(b.singles_bob) == sum(map(sum, b.matrix)) > 1000
        getattr(pair, who).link.hold_open(False)
        await pair.until(lambda: pair.bob.accepted > accepted and pair.alice.accepted > accepted)
        assert pair.alice.refused == pair.bob.refused == {}

    run(make_pulse_pair, body)

"""Two links joined in memory: from clicks to an accepted block, and every way a block can be refused."""

from __future__ import annotations

import asyncio

import msgspec
import numpy as np
import pytest

from qkdd.core.errors import StorageFull
from qkdd.core.units import Fraction, Seconds
from qkdd.distill.distiller import Distiller
from qkdd.distill.errors import QberExceeded
from qkdd.link import LinkState
from qkdd.link.errors import ClockRejected, LinkConfigError, LockLost, OpenStretchRefused, TagsLost
from qkdd.link.messages import Aligned
from qkdd.peer.errors import PeerClosed, PeerUnreachable
from qkdd.security.errors import EpsilonSpent
from qkdd.testing.patience import PATIENCE_S


def run(make_pair, body, **options):
    async def main():
        pair = await make_pair(**options)
        await pair.start()
        try:
            await body(pair)
        finally:
            await pair.finish()

    asyncio.run(main())


def test_clicks_become_equal_blocks_on_both_nodes(make_pair):
    async def body(pair):
        await pair.until(lambda: pair.alice.accepted >= 3 and pair.bob.accepted >= 3)
        for (number, a_bits, a_bases), (b_number, b_bits, b_bases) in zip(
            pair.alice.distiller.blocks, pair.bob.distiller.blocks, strict=False
        ):
            assert number == b_number
            assert np.array_equal(a_bases, b_bases)
            # 2.5e5 pairs/s · 0.04 · half sifted · blanking 2·0.5 %: about 4900 bits a second
            assert 4300 < len(a_bits) < 5200
            assert np.mean(a_bits != b_bits) == pytest.approx(0.011, abs=0.006)
        assert pair.alice.committer.committed[:3] == pair.bob.committer.committed[:3] == [1, 2, 3]
        assert pair.alice.refused == pair.bob.refused == {}
        assert len(pair.alice.ledger.charged) >= 3
        for node in (pair.alice, pair.bob):
            shot = node.snapshot
            assert shot.state is LinkState.RUNNING
            assert shot.offset_s == pytest.approx(-0.3, abs=1e-3)
            assert shot.drift == pytest.approx(-7.1e-6, abs=1e-8)
            assert shot.chsh_s_inferred == pytest.approx(2 * 2**0.5 * 0.98, abs=0.06)
            assert 0 < shot.chsh_s_error < 0.05
            assert min(shot.visibility) > 0.95
            assert shot.last_blocks[0].accepted
            assert node.beats > 10
            assert node.distiller.seeds[0][1] > 3000
        assert pair.alice.snapshot.timing_leak_bits < 0.06  # bob's delays below his announce bin stay

    run(make_pair, body)


def test_the_real_distiller_makes_the_same_key(make_pair):
    keys = {}

    async def main():
        pair = await make_pair(block=Seconds(8.0))
        for node in (pair.alice, pair.bob):
            node.distiller = Distiller(node.config.shared)

            async def commit(block, session, node=node):
                keys[node.config.role] = bytes(block.key.reveal())

            node.committer.commit = commit
            node.link = node.build()
        await pair.start()
        try:
            await pair.until(lambda: len(keys) == 2)
        finally:
            await pair.finish()

    asyncio.run(main())
    assert keys["alice"] == keys["bob"]
    assert len(keys["alice"]) > 100


@pytest.mark.parametrize("loser", ["alice", "bob"])
def test_a_block_with_lost_tags_is_refused_on_both_nodes_and_the_next_goes_on(make_pair, loser):
    async def body(pair):
        await pair.until(lambda: pair.bob.accepted >= 1)
        getattr(pair, loser).tagger.lose = True
        await pair.until(lambda: pair.bob.refused and pair.alice.refused)
        before = pair.alice.accepted
        await pair.until(lambda: pair.alice.accepted >= before + 2 and pair.bob.accepted >= before + 2)
        assert pair.alice.refused == pair.bob.refused == {TagsLost.code: 1}
        assert getattr(pair, loser).meter.total("qkdd_link_tags_lost_total") == 7

    run(make_pair, body)


@pytest.mark.parametrize("stage", ["distil", "commit"])
@pytest.mark.parametrize("who", ["alice", "bob"])
def test_a_refusal_at_each_later_phase_discards_the_block_on_both(make_pair, stage, who):
    async def body(pair):
        await pair.until(lambda: pair.bob.accepted >= 1)
        node = getattr(pair, who)
        part = node.distiller if stage == "distil" else node.committer
        part.refusal = (
            QberExceeded("too many", test_errors=9, test_size=100) if stage == "distil" else StorageFull("disk full")
        )
        await pair.until(lambda: pair.alice.refused and pair.bob.refused)
        part.refusal = None
        before = pair.bob.accepted
        await pair.until(lambda: pair.bob.accepted > before)
        code = QberExceeded.code if stage == "distil" else StorageFull.code
        assert set(pair.alice.refused) == set(pair.bob.refused) == {code}
        refused = [record for record in node.snapshot.last_blocks if not record.accepted]
        assert refused[0].code == code
        assert refused[0].length == 0
        if stage == "distil":
            assert refused[0].qber == pytest.approx(0.09)

    run(make_pair, body)


def test_imbalanced_bases_refuse_the_block(make_pair, source_kit):
    async def body(pair):
        await pair.until(lambda: len(pair.alice.refused) and len(pair.bob.refused))
        assert set(pair.alice.refused) == set(pair.bob.refused) == {"QKD-BLK-BASIS-IMBALANCE"}
        assert pair.alice.distiller.blocks == []

    run(make_pair, body, basis_imbalance_max=Fraction(0.0))


def test_no_light_loses_the_lock_honestly_and_light_brings_it_back(make_pair):
    async def body(pair):
        await pair.until(lambda: pair.bob.accepted >= 1)
        pair.bob.tagger.dark = True
        await pair.until(lambda: pair.alice.snapshot.state is LinkState.LOST)
        assert pair.alice.snapshot.reason == LockLost.code
        await pair.until(lambda: pair.bob.snapshot.reason == "QKD-LNK-ALIGN-FAILED")
        # a block that saw part of the light may be refused for another reason, but never accepted
        assert pair.alice.refused[LockLost.code] >= 3
        assert pair.alice.snapshot.lock_losses == 1
        accepted = pair.alice.accepted
        pair.bob.tagger.dark = False
        await pair.until(lambda: pair.alice.accepted >= accepted + 2, 90.0)
        assert pair.alice.snapshot.state is LinkState.RUNNING

    run(make_pair, body)


@pytest.mark.parametrize("wraps", [1, -1])
def test_a_missed_rollover_is_found_by_alignment(make_pair, wraps):
    async def body(pair):
        await pair.until(lambda: pair.bob.accepted >= 1)
        pair.alice.tagger.missed_wraps = wraps
        await pair.until(lambda: LockLost.code in pair.alice.refused)
        accepted = pair.alice.accepted
        await pair.until(lambda: pair.alice.accepted >= accepted + 2, 90.0)
        assert pair.alice.snapshot.offset_s == pytest.approx(-0.3 + wraps * 0.268435456, abs=1e-3)

    run(make_pair, body)


def test_host_stamps_that_are_off_do_not_matter(make_pair):
    async def body(pair):
        await pair.until(lambda: pair.alice.accepted >= 1 and pair.bob.accepted >= 1)

    run(make_pair, body, latencies=(0.26, 0.02))


@pytest.mark.parametrize("who", ["alice", "bob"])
def test_drain_while_the_other_node_is_drained_and_settles_nothing(make_pair, who):
    """The first drain ended the run on both nodes; this node's next run waits for a settlement that no one answers."""

    async def main():
        pair = await make_pair()
        node = getattr(pair, who)

        async def settle(_session):
            await asyncio.Event().wait()

        node.committer.settle = settle
        node.task = asyncio.create_task(node.link.run())
        await asyncio.sleep(0)
        node.link.drain()
        assert await asyncio.wait_for(node.task, PATIENCE_S) == "drained"
        assert isinstance(node.session.failure, PeerClosed)  # the next run gets a session of its own
        await pair.finish()

    asyncio.run(main())


@pytest.mark.parametrize("who", ["alice", "bob"])
def test_drain_finishes_and_stops_both(make_pair, who):
    async def body(pair):
        await pair.until(lambda: pair.bob.accepted >= 1)
        pair.may_end = True
        getattr(pair, who).link.drain()
        await pair.until(lambda: pair.alice.task.done() and pair.bob.task.done())
        other = pair.bob if who == "alice" else pair.alice
        assert getattr(pair, who).task.result() == "drained"
        assert other.task.result() == "peer drained"
        assert pair.alice.committer.committed == pair.bob.committer.committed
        assert pair.alice.tagger.stopped == pair.bob.tagger.stopped == 1

    run(make_pair, body)


@pytest.mark.parametrize("who", ["alice", "bob"])
@pytest.mark.parametrize("stops", [True, False])
def test_an_unplugged_tagger_ends_the_run_and_the_other_node_learns_why(make_pair, who, stops):
    """Also when the tagger that is gone cannot be stopped: the session has to end in any case."""

    async def body(pair):
        await pair.until(lambda: pair.bob.accepted >= 1)
        node, other = (pair.alice, pair.bob) if who == "alice" else (pair.bob, pair.alice)
        pair.may_end = True
        node.tagger.unstoppable = not stops
        node.tagger.failure = PeerUnreachable("stands for a device that is offline")
        await pair.until(lambda: node.task.done() and other.task.done())
        assert node.task.exception() is node.tagger.failure
        assert isinstance(other.task.exception(), PeerClosed)
        assert other.refused.get(PeerUnreachable.code, 0) + other.refused.get("QKD-PEER-CLOSED", 0) >= 1
        assert node.tagger.stopped == other.tagger.stopped == 1

    run(make_pair, body)


def test_a_spent_ledger_ends_the_run_with_its_code_and_makes_no_key(make_pair):
    async def body(pair):
        pair.may_end = True
        for node in (pair.alice, pair.bob):
            node.ledger.refusal = EpsilonSpent("spent")
        await pair.until(lambda: pair.alice.task.done() and pair.bob.task.done())
        errors = {type(node.task.exception()) for node in (pair.alice, pair.bob)}
        assert EpsilonSpent in errors
        assert errors <= {EpsilonSpent, PeerClosed}
        assert pair.alice.accepted == pair.bob.accepted == 0
        assert pair.alice.distiller.blocks == []

    run(make_pair, body)


@pytest.mark.parametrize("who", ["alice", "bob"])
def test_a_probe_measures_a_fresh_error_rate(make_pair, who):
    async def body(pair):
        await pair.until(lambda: pair.bob.accepted >= 1)
        asked = asyncio.create_task(getattr(pair, who).link.measure_error())
        await pair.until(asked.done)
        assert asked.result() == pytest.approx(0.011, abs=0.006)
        accepted = pair.bob.accepted
        await pair.until(lambda: pair.bob.accepted > accepted)
        assert pair.alice.refused == {}

    run(make_pair, body)


def test_status_watchers_get_states_and_blocks(make_pair):
    async def body(pair):
        queue = pair.bob.link.status.watch()
        await pair.until(lambda: pair.bob.accepted >= 1)
        kinds = [queue.get_nowait().kind for _ in range(queue.qsize())]
        assert kinds[0] == "state"
        assert "aligned" in kinds
        assert kinds[-1] in {"block", "state"}
        assert "block" in kinds

    run(make_pair, body)


def test_block_numbers_go_on_over_sessions_and_restarts(make_pair):
    async def main():
        pair = await make_pair()
        pair.bob.link.status.last_number = 41  # what an earlier session, or the store after a restart, said
        pair.bob.link = pair.bob.build(status=pair.bob.link.status)
        await pair.start()
        try:
            await pair.until(lambda: pair.alice.accepted >= 1 and pair.bob.accepted >= 1)
            assert pair.alice.committer.committed[:1] == pair.bob.committer.committed[:1] == [42]
            assert pair.alice.snapshot.last_blocks[0].number == 42
            assert pair.bob.link.status.last_number >= 42
        finally:
            await pair.finish()

    asyncio.run(main())


@pytest.mark.parametrize("step", [3600.0, -86_400.0])
def test_a_wall_clock_stepped_by_ntp_changes_nothing(make_pair, step):
    """Tags, offsets and deadlines rest on the tagger and the monotonic clock; the wall clock is only shown."""

    async def body(pair):
        await pair.until(lambda: pair.bob.accepted >= 1)
        pair.clock.step_wall(step)
        accepted = pair.alice.accepted
        await pair.until(lambda: pair.alice.accepted >= accepted + 3 and pair.bob.accepted >= accepted + 3)
        assert pair.alice.refused == pair.bob.refused == {}
        assert pair.alice.snapshot.lock_losses == 0
        assert pair.alice.snapshot.offset_s == pytest.approx(-0.3, abs=1e-3)

    run(make_pair, body)


def test_a_block_of_another_length_is_refused_on_both_nodes(make_pair):
    async def body(pair):
        shared = msgspec.structs.replace(
            pair.bob.config.shared, block=Seconds(0.8)
        )  # what the peers' hello would refuse
        pair.bob.config = msgspec.structs.replace(pair.bob.config, shared=shared)
        pair.bob.link = pair.bob.build()
        await pair.start()
        await pair.until(lambda: pair.alice.refused and pair.bob.refused)
        assert set(pair.alice.refused) == set(pair.bob.refused) == {ClockRejected.code}
        assert pair.alice.accepted == pair.bob.accepted == 0

    async def main():
        pair = await make_pair()
        try:
            await body(pair)
        finally:
            await pair.finish()

    asyncio.run(main())


def test_a_window_below_two_bins_of_the_tagger_is_refused_by_its_key(make_pair):
    async def main():
        pair = await make_pair()
        pair.alice.tagger.resolution_ps = 4000  # bins of 4 ns and a window of 6 ns
        with pytest.raises(LinkConfigError, match=r"shared\.window"):
            pair.alice.build()
        await pair.finish()

    asyncio.run(main())


@pytest.mark.parametrize("spoilt", [{"number": 99}, {"offset_ps": float("nan")}, {"delays_ps": (1e9, 0.0, 0.0, 0.0)}])
def test_an_alignment_that_cannot_be_is_thrown_away_and_the_next_is_taken(make_pair, spoilt):
    async def body(pair):
        await pair.until(lambda: pair.bob.accepted >= 1)
        assert pair.bob.snapshot.state is LinkState.RUNNING

    async def main():
        pair = await make_pair()
        real, reasons = pair.alice.session.send, []

        async def send(message):
            if isinstance(message, Aligned) and message.found and not reasons:
                reasons.append(spoilt)
                message = msgspec.structs.replace(message, **spoilt)
            await real(message)

        pair.alice.session.send = send
        queue = pair.bob.link.status.watch()
        await pair.start()
        try:
            await body(pair)
            codes = set()
            while not queue.empty():
                codes.add(queue.get_nowait().fields.get("reason"))
            assert OpenStretchRefused.code in codes
        finally:
            await pair.finish()

    asyncio.run(main())


@pytest.mark.parametrize("who", ["alice", "bob"])
def test_a_link_held_open_shows_the_same_on_both_nodes_and_makes_no_key(make_pair, who):
    async def body(pair):
        await pair.until(lambda: pair.bob.accepted >= 1 and pair.alice.accepted >= 1)
        holder = getattr(pair, who).link
        holder.hold_open(True)

        def stretch(node):
            return node.snapshot.opened

        await pair.until(lambda: all(stretch(n) is not None and stretch(n).number >= 4 for n in (pair.alice, pair.bob)))
        accepted, numbers = pair.bob.accepted, list(pair.alice.committer.committed)
        seeds, masks = len(pair.bob.distiller.seeds), len(pair.alice.ledger.charged)
        assert pair.alice.snapshot.state is pair.bob.snapshot.state is LinkState.OPEN
        first = stretch(pair.bob).number
        await pair.until(lambda: stretch(pair.alice).number >= first + 3 and stretch(pair.bob).number >= first + 3)
        assert pair.bob.accepted == accepted
        assert pair.alice.committer.committed == numbers
        assert len(pair.alice.ledger.charged) == masks  # an open stretch costs no budget
        assert len(pair.bob.distiller.seeds) == seeds  # and teaches the distiller nothing
        seen = {node: stretch(node) for node in (pair.alice, pair.bob)}
        if seen[pair.alice].number == seen[pair.bob].number:
            assert msgspec.structs.asdict(seen[pair.alice]) == msgspec.structs.asdict(seen[pair.bob])
        shown = seen[pair.bob]
        assert shown.qber == pytest.approx(0.011, abs=0.006)
        assert max(shown.histogram) > 20 * np.median(shown.histogram) + 20
        assert abs(int(np.argmax(shown.histogram)) - len(shown.histogram) / 2) < 4
        assert min(shown.singles_alice) > 0
        assert min(shown.singles_bob) > 0
        holder.hold_open(False)
        await pair.until(lambda: pair.bob.accepted > accepted and pair.alice.accepted > accepted)
        assert len(pair.bob.distiller.seeds) == len(pair.alice.distiller.seeds) == seeds + 1  # a clean alignment
        assert pair.alice.snapshot.state is pair.bob.snapshot.state is LinkState.RUNNING
        assert pair.alice.refused == pair.bob.refused == {}

    run(make_pair, body)


def test_held_open_and_let_go_at_once_does_not_disturb(make_pair):
    async def body(pair):
        await pair.until(lambda: pair.bob.accepted >= 1)
        pair.bob.link.hold_open(True)
        pair.bob.link.hold_open(False)
        accepted = pair.bob.accepted
        await pair.until(lambda: pair.bob.accepted > accepted)
        assert pair.bob.snapshot.opened is None

    run(make_pair, body)

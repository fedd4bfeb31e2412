"""BBM92 (Bennett, Brassard, Mermin 1992): both nodes measure halves of pairs in Z or X, equal bases make key.

A block is a fixed time, never "until enough" (security-proofs S4.10 E11). Bases are announced only after both nodes hold
every click of the block. Both bases make key, as the proof of S5.2 has it, so they must be equally likely.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qkdd import kernels
from qkdd.distill.errors import BlockMalformed
from qkdd.distill.packed import PackedBits
from qkdd.link.clockmap import ClockMap
from qkdd.link.config import LinkShared
from qkdd.link.errors import BasisImbalance
from qkdd.link.events import Events
from qkdd.link.messages import Announce, Matches
from qkdd.link.track import follow
from qkdd.link.wire import unpack_bits, unpack_rising
from qkdd.peer.contract import PeerSession


@dataclass(frozen=True, slots=True, eq=False)
class SiftTask:
    """One registered block on one node. start_ps, stop_ps on bob's clock; events on this node's own.

    clock, pairs_expected, resolution_ps: alice's knowledge of the alignment; None and 0 on bob's side.
    """

    number: int
    start_ps: int
    stop_ps: int
    events: Events
    shared: LinkShared
    clock: ClockMap | None = None
    pairs_expected: float = 0.0
    resolution_ps: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class SiftedRounds:
    """Equal rounds on both nodes. bits: m of them; bases: uint8[m]. pairs: all coincidences.

    clock: the alignment to go on with, known to alice only.
    """

    bits: PackedBits
    bases: NDArray[np.uint8]
    pairs: int
    clock: ClockMap | None = None


class Bbm92:
    """Basis sifting of one block."""

    async def bob(self, task: SiftTask, session: PeerSession) -> SiftedRounds:
        events, shared = task.events, task.shared
        announce = await kernels.run(_announcement, task)
        await session.send(announce)
        matches = await session.receive(Matches)
        if matches.block != task.number:
            raise BlockMalformed(f"matches are of block {matches.block}, not {task.number}")
        if not 0 <= matches.count <= matches.pairs <= len(events):
            raise BlockMalformed(f"{matches.count} of {matches.pairs} pairs are no share of {len(events)} events")
        chosen = unpack_rising(matches.matches, matches.count, len(events))
        bases = events.bases[chosen]
        flips = np.array(shared.flips, np.uint8)
        bits = events.bits[chosen]
        bits ^= flips[bases]
        rounds = SiftedRounds(PackedBits.of(bits), bases, matches.pairs)
        bits.fill(0)
        check_balance(rounds.bases, shared.basis_imbalance_max)
        return rounds

    async def alice(self, task: SiftTask, session: PeerSession) -> SiftedRounds:
        announce = await session.receive(Announce)
        if announce.block != task.number or task.clock is None:
            raise BlockMalformed(f"announced times are of block {announce.block}, not {task.number}")
        rounds, matches = await kernels.run(_match, task, task.clock, announce)
        check_balance(rounds.bases, task.shared.basis_imbalance_max)
        await session.send(matches)
        return rounds


def announced_bins(times: NDArray[np.int64], start_ps: int, bin_ps: int) -> NDArray[np.int64]:
    """Times since the block's start, rounded to the nearest announce bin."""
    return (times - start_ps + bin_ps // 2) // bin_ps


def check_balance(bases: NDArray[np.uint8], bound: float) -> None:
    """Raises BasisImbalance when |n_Z - n_X| exceeds bound·(n_Z + n_X)."""
    total, x = len(bases), int(np.count_nonzero(bases))
    if abs(total - 2 * x) > bound * total:
        share = abs(total - 2 * x) / total
        raise BasisImbalance(
            f"{total - x} sifted bits in Z, {x} in X: imbalance {share:.1%}, at most {bound:.1%} is allowed",
            z=total - x,
            x=x,
        )


def _announcement(task: SiftTask) -> Announce:
    bins = announced_bins(task.events.times, task.start_ps, task.shared.announce_ps)
    return Announce(task.number, len(bins), kernels.gap_encode(bins), kernels.pack_bits(task.events.bases))


def _match(task: SiftTask, clock: ClockMap, announce: Announce) -> tuple[SiftedRounds, Matches]:
    """Alice's work on one block: follow the peak, pair the events, keep the pairs of equal basis."""
    events, shared = task.events, task.shared
    bins = unpack_rising(announce.times, announce.count, (task.stop_ps - task.start_ps) // shared.announce_ps + 2)
    b_bases = unpack_bits(announce.bases, announce.count)
    b_times = task.start_ps + bins * shared.announce_ps
    track = follow(
        events.times,
        b_times,
        task.start_ps,
        task.stop_ps,
        clock,
        max(task.resolution_ps, shared.announce_ps),
        shared.window_ps,
        task.pairs_expected,
    )
    marks = np.bitwise_or(events.bases << 1, events.bits, dtype=np.uint8)
    bobs = np.left_shift(b_bases, 1, dtype=np.uint8)
    found = kernels.sift_coincidences(events.times, marks, track.mapped, bobs, shared.window_ps, 0.0, 0.0, 0)
    kept = len(found.ia)
    bits = PackedBits(bytearray(found.a_bits), kept)
    for used in (marks, found.a_bits):  # bits of the key
        used.fill(0)
    rounds = SiftedRounds(bits, events.bases[found.ia], found.pairs, track.clock)
    return rounds, Matches(task.number, found.pairs, kept, kernels.gap_encode(found.ib.astype(np.int64)))

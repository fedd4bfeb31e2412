"""The align phase: a sacrificed stretch of clicks is opened, the clocks are aligned from it, both nodes learn the same.

Everything of the stretch is public afterwards and none of it becomes key.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from qkdd import kernels
from qkdd.link import openview
from qkdd.link.clockmap import PS, ClockMap
from qkdd.link.coarse import Candidate
from qkdd.link.config import LinkConfig
from qkdd.link.errors import AlignmentFailed, OpenStretchRefused
from qkdd.link.estimate import PairStatistics, coincidence_matrix, pair_statistics, timing_information
from qkdd.link.messages import Aligned, OpenStretch, Turn
from qkdd.link.receiver import Receiver
from qkdd.link.refine import Alignment, OpenClicks, align
from qkdd.link.wire import pack_detectors, unpack_detectors, unpack_rising
from qkdd.peer.contract import PeerSession

_ANSWER_TIMEOUT = 300.0  # the deepest search takes about half a minute on a slow core
_NEAR_RANGE_PS = 1_000_000  # search about a known alignment
_NEAR_ERROR_PS, _NEAR_DRIFT = 50_000.0, 1e-8
_DELAY_LIMIT_PS = 1_000_000.0
_WANDER = 2e-8  # relative frequency change a second


@dataclass(frozen=True, slots=True)
class AlignmentResult:
    """What both nodes know after the phase. clock: bob's on alice's. pairs_per_s: coincidences a second."""

    clock: ClockMap
    statistics: PairStatistics
    pairs_per_s: float
    timing_leak: float


async def align_bob(
    turn: Turn, receiver: Receiver, session: PeerSession, config: LinkConfig, show: openview.Show
) -> AlignmentResult:
    """Bob opens his clicks. Raises AlignmentFailed when alice found no peak (the session goes on)."""
    await receiver.registered(turn.stop)
    clicks = await receiver.open_clicks(turn.start, turn.stop)
    since_start = clicks.times - turn.start
    await session.send(
        OpenStretch(turn.number, len(clicks.times), kernels.gap_encode(since_start), pack_detectors(clicks.detectors))
    )
    answer = await session.receive(Aligned, timeout=_ANSWER_TIMEOUT)
    if turn.action != "open":
        await session.seal("align", turn.number)
    if answer.number != turn.number:
        raise OpenStretchRefused(f"the answer is of stretch {answer.number}, not {turn.number}")
    if not answer.found:
        if turn.action == "open":
            await openview.show_bob(turn, clicks, receiver, session, show, None)
        raise AlignmentFailed(f"link {config.name}: no coincidence peak in {len(clicks.times)} opened clicks")
    numbers = (answer.offset_ps, answer.drift, answer.timing_leak, *answer.delays_ps)
    if not all(map(math.isfinite, numbers)) or max(map(abs, answer.delays_ps)) > _DELAY_LIMIT_PS:
        raise OpenStretchRefused("the other node's alignment has numbers that cannot be")
    chosen = unpack_rising(answer.matches, answer.count, len(clicks.times))
    matrix = coincidence_matrix(unpack_detectors(answer.detectors, answer.count), clicks.detectors[chosen])
    receiver.equalise(answer.delays_ps)
    result = AlignmentResult(
        ClockMap(answer.origin_ps, answer.offset_ps, answer.drift),
        pair_statistics(matrix, config.shared.flips),
        answer.count / ((turn.stop - turn.start) / PS),
        answer.timing_leak,
    )
    if turn.action == "open":
        seen = openview.seen(result.statistics, result.pairs_per_s)
        await openview.show_bob(turn, clicks, receiver, session, show, seen)
    return result


async def align_alice(
    turn: Turn,
    centre_ps: float,
    known: ClockMap | None,
    receiver: Receiver,
    session: PeerSession,
    config: LinkConfig,
    show: openview.Show,
    depth: int,
) -> AlignmentResult:
    """Alice finds bob's clock. centre_ps: offset guessed from the two streams' positions. known: the alignment so far."""
    shared = config.shared
    middle = (turn.start + turn.stop) // 2
    prior, range_ps = None, shared.offset_range * PS
    if known is not None:
        centre_ps, range_ps = known.offset_at(middle), float(_NEAR_RANGE_PS)
        gap = max(0.0, (middle - known.origin_ps) / PS)
        prior = Candidate(
            middle, centre_ps, _NEAR_ERROR_PS + _WANDER * gap * gap * PS, known.drift, _NEAR_DRIFT + _WANDER * gap, 0.0
        )
    first, last = int(turn.start + centre_ps - range_ps), int(turn.stop + centre_ps + range_ps)
    await receiver.registered(last)
    own = await receiver.open_clicks(first, last)
    opened = await session.receive(OpenStretch)
    if opened.number != turn.number:
        raise OpenStretchRefused(f"the opened clicks are of stretch {opened.number}, not {turn.number}")
    times = turn.start + unpack_rising(opened.times, opened.count, turn.stop - turn.start)
    theirs = OpenClicks(times, unpack_detectors(opened.detectors, opened.count))
    bin_ps = max(receiver.resolution_ps, turn.resolution_ps)
    found = await kernels.run(
        align, own, theirs, centre_ps, range_ps, shared.clock_error_max, bin_ps, prior=prior, depth=depth
    )
    reach = 2 * shared.window_ps
    if found is None:
        await session.send(Aligned(turn.number, False, 0, 0.0, 0.0, (0.0,) * 4, 0.0, 0, b"", b""))
        if turn.action == "open":
            view = openview.view_of(turn, own, theirs, None, receiver.delays_ps, reach)
            await openview.show_alice(turn, theirs, view, session, show, None)
        else:
            await session.seal("align", turn.number)
        raise AlignmentFailed(f"link {config.name}: no coincidence peak in {len(times)} opened clicks")
    answer, result = await kernels.run(_conclude, turn, own, theirs, found, config)
    await session.send(answer)
    if turn.action == "open":
        view = await kernels.run(openview.view_of, turn, own, theirs, found, receiver.delays_ps, reach)
        await openview.show_alice(
            turn, theirs, view, session, show, openview.seen(result.statistics, result.pairs_per_s)
        )
    else:
        await session.seal("align", turn.number)
    receiver.equalise(found.a_delays_ps)
    return result


def _conclude(
    turn: Turn, own: OpenClicks, theirs: OpenClicks, found: Alignment, config: LinkConfig
) -> tuple[Aligned, AlignmentResult]:
    shared = config.shared
    alice = own.equalised(found.a_delays_ps)
    shift = np.round(found.b_delays_ps).astype(np.int64)[theirs.detectors]
    bob_times = found.clock.to_alice(theirs.times - shift)
    order = np.argsort(bob_times, kind="stable")  # indices stay those of the opened list
    ia, picked = kernels.match_coincidences(alice.times, bob_times[order], shared.window_ps, 0.0, 0.0, 0)
    ib = order[picked]
    rising = np.argsort(ib)
    ia, ib = ia[rising], ib[rising]
    a_detectors, b_detectors = alice.detectors[ia], theirs.detectors[ib]
    residuals = (alice.times[ia] - bob_times[ib]).astype(np.float64)
    # pairs of unequal bases: alice's detector is independent of bob's bit there, so her own delays do not count
    bases = b_detectors >> 1
    unequal = a_detectors >> 1 != bases
    leak = sum(
        timing_information(residuals[chosen], b_detectors[chosen] & 1, shared.announce_ps) / 2
        for basis in (0, 1)
        if np.any(chosen := unequal & (bases == basis))
    )
    result = AlignmentResult(
        found.clock,
        pair_statistics(coincidence_matrix(a_detectors, b_detectors), shared.flips),
        len(ib) / ((turn.stop - turn.start) / PS),
        leak,
    )
    answer = Aligned(
        turn.number,
        True,
        found.clock.origin_ps,
        found.clock.offset_ps,
        found.clock.drift,
        found.b_delays_ps,
        leak,
        len(ib),
        kernels.gap_encode(ib.astype(np.int64)),
        pack_detectors(np.ascontiguousarray(a_detectors)),
    )
    return answer, result

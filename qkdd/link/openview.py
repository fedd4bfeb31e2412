"""What an operator sees of a stretch of an open link, made equal on both nodes. No key comes from such a stretch.

The frames of an open stretch have no seal of their own: nothing derived from them outlives it, and the seal of the alignment
that ends the open time covers them (docs/decisions/0153-align-mode.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qkdd.link.clockmap import PS
from qkdd.link.errors import OpenStretchRefused
from qkdd.link.estimate import PairStatistics
from qkdd.link.messages import OpenDelays, OpenView, Turn
from qkdd.link.pulse_statistics import OpenedPulses
from qkdd.link.receiver import Receiver
from qkdd.link.refine import Alignment, OpenClicks
from qkdd.link.status import OpenedStretch
from qkdd.peer.contract import PeerSession

Show = Callable[[OpenedStretch], None]
BINS = 96
_LONGEST = 4 * BINS
_NO_PEAK = "no coincidence peak stands out"


@dataclass(frozen=True, slots=True)
class Seen:
    """What the coincidences of a stretch showed."""

    matrix: tuple[tuple[int, ...], ...]
    qber: float | None
    visibility: tuple[float, float]
    pairs_per_s: float


def seen(statistics: PairStatistics, pairs_per_s: float) -> Seen:
    """Of pairs."""
    return Seen(statistics.matrix, statistics.qber, statistics.visibility, pairs_per_s)


def view_of(
    turn: Turn,
    own: OpenClicks,
    theirs: OpenClicks,
    found: Alignment | None,
    delays_ps: tuple[float, ...],
    reach_ps: int,
) -> OpenView:
    """Alice's view. delays_ps: taken off her detectors so far, without what `found` adds."""
    # her clicks reach further than the stretch: what is counted is brought to its length
    span = max(float(own.times[-1] - own.times[0]), 1.0) if len(own.times) else 1.0
    share = min(1.0, (turn.stop - turn.start) / span)
    h, v, d, a = (round(count * share) for count in singles(own))
    added = found.a_delays_ps if found is not None else (0.0,) * 4
    dh, dv, dd, da = (old + new for old, new in zip(delays_ps, added, strict=True))
    counts = histogram(own, theirs, found, reach_ps) if found is not None else ()
    return OpenView(turn.number, -float(reach_ps), 2.0 * reach_ps / BINS, counts, (h, v, d, a), (dh, dv, dd, da))


def singles(clicks: OpenClicks) -> tuple[int, int, int, int]:
    """Events by detector."""
    h, v, d, a = np.bincount(clicks.detectors, minlength=4)[:4].tolist()
    return h, v, d, a


def histogram(own: OpenClicks, theirs: OpenClicks, found: Alignment, reach_ps: int) -> tuple[int, ...]:
    """All differences alice - bob within +-reach_ps, delays and clock taken off, in BINS bins."""
    alice = own.equalised(found.a_delays_ps).times
    shift = np.round(found.b_delays_ps).astype(np.int64)[theirs.detectors]
    bob: NDArray[np.int64] = np.sort(found.clock.to_alice(theirs.times - shift))
    first, last = np.searchsorted(alice, bob - reach_ps), np.searchsorted(alice, bob + reach_ps)
    many = last - first
    owner = np.repeat(np.arange(len(bob)), many)
    partner = np.arange(len(owner)) - np.repeat(np.cumsum(many) - many, many) + np.repeat(first, many)
    counts, _ = np.histogram(alice[partner] - bob[owner], BINS, (-reach_ps, reach_ps))
    return tuple(counts.tolist())


async def show_alice(
    turn: Turn, theirs: OpenClicks, view: OpenView, session: PeerSession, show: Show, statistics: Seen | None
) -> None:  # fmt: skip
    """Tell bob, hear his delays, show. statistics: matrix, error rate, visibilities, pairs a second; None without a peak."""
    await session.send(view)
    answer = await session.receive(OpenDelays)
    if answer.number != turn.number or not np.all(np.isfinite(answer.delays_ps)):
        raise OpenStretchRefused(f"the delays are of stretch {answer.number}, not {turn.number}")
    show(_stretch(turn, view.singles, singles(theirs), view, answer.delays_ps, statistics))


async def show_bob(
    turn: Turn, clicks: OpenClicks, receiver: Receiver, session: PeerSession, show: Show, statistics: Seen | None
) -> None:  # fmt: skip
    """Hear what alice saw, tell the delays, show."""
    view = await session.receive(OpenView)
    if (
        view.number != turn.number
        or len(view.histogram) > _LONGEST
        or not np.isfinite((view.low_ps, view.bin_ps)).all()
    ):
        raise OpenStretchRefused(f"the view of stretch {view.number} cannot be that of stretch {turn.number}")
    h, v, d, a = receiver.delays_ps
    await session.send(OpenDelays(turn.number, (h, v, d, a)))
    show(_stretch(turn, view.singles, singles(clicks), view, (h, v, d, a), statistics))


def _stretch(
    turn: Turn, alice: tuple[int, ...], bob: tuple[int, ...], view: OpenView, delays_bob: tuple[float, ...],
    statistics: Seen | None,
) -> OpenedStretch:  # fmt: skip
    return OpenedStretch(
        turn.number,
        (turn.stop - turn.start) / PS,
        alice,
        bob,
        statistics.matrix if statistics else (),
        statistics.qber if statistics else None,
        statistics.visibility if statistics else None,
        statistics.pairs_per_s if statistics else None,
        view.delays_ps,
        delays_bob,
        view.histogram,
        view.low_ps,
        view.bin_ps,
        None if statistics else _NO_PEAK,
    )


def show_pulses(turn: Turn, opened: OpenedPulses, rate: float, show: Show) -> None:
    """A pulsed link: both nodes know the same already."""
    z, x = opened.basis_rates
    seconds = (turn.stop - turn.start) / rate
    columns = tuple(sum(row[d] for row in opened.matrix) for d in range(4))
    show(
        OpenedStretch(
            turn.number,
            seconds,
            (),
            columns,
            opened.matrix,
            opened.error_rate,
            (1 - 2 * z, 1 - 2 * x),
            sum(opened.detected) / seconds,
        )
    )

"""Clicks into the slots of a pulsed transmitter, and lists of small symbols coded at their entropy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qkdd_native._kernels import ffi, lib
from qkdd_native.arrays import ByteLike, integer, octets, pointer, same_length, size, vector
from qkdd_native.status import check

_EARLIEST = -(1 << 61)
# One measured piece: its end (ps), clicks, phase error (slots; clicks come so much behind the model's centre), contrast of the
# folded clicks (0 to 1), rate from here on (slots a ps), whether the model followed.
PIECE = np.dtype(
    [
        ("moment", np.int64),
        ("clicks", np.uint64),
        ("error", np.float64),
        ("contrast", np.float64),
        ("rate", np.float64),
        ("followed", np.int64),
    ]
)


@dataclass(frozen=True, slots=True)
class SlotSettings:
    """half_gate: part of a slot, on each side of its centre, in which clicks count (to 0.5). dead_ps: see `SlotAssigner`.

    A piece ends after piece_clicks (16 or more) clicks or piece_ps; its phase error then corrects the model's phase and rate
    by the gains (0 to 1), unless its contrast is below `contrast` or within the noise of its clicks. rate_low, rate_high: slots
    a ps, bounds of the rate.
    """

    half_gate: float
    dead_ps: int
    piece_clicks: int
    piece_ps: int
    gain_phase: float
    gain_rate: float
    contrast: float
    rate_low: float
    rate_high: float


class SlotAssigner:
    """Follows a transmitter's clock through a receiver's clicks and gives each detection its slot.

    The model: a slot's centre is where slot + (t - origin)·rate + phase is whole. One event a slot at most. An event begins
    with a click in the gate of a slot later than the last event's, if no click of any detector, in a gate or not, came less
    than dead_ps before; clicks in the gate of the same slot join it. Sources: security-proofs S4.10 E17 (blanking of all
    detectors); the loop is a second-order phase-locked loop on the mean phasor of a piece.
    """

    __slots__ = ("_settings", "_state", "piece_clicks", "piece_ps")

    def __init__(self, settings: SlotSettings, origin_ps: int, slot: int, phase: float, rate: float) -> None:
        """The model at origin_ps; clicks before it are refused."""
        s = self._state = ffi.new("qkdd_slot_state *")
        s.origin = s.piece_start = integer(origin_ps, "origin_ps")
        s.slot, s.phase, s.rate = integer(slot, "slot"), float(phase), float(rate)
        s.last, s.open = _EARLIEST, _EARLIEST
        a = self._settings = ffi.new("qkdd_slot_settings *")
        a.half_gate, a.dead = settings.half_gate, integer(settings.dead_ps, "dead_ps")
        self.piece_clicks = a.piece_clicks = size(settings.piece_clicks, "piece_clicks")
        self.piece_ps = a.piece_ps = size(settings.piece_ps, "piece_ps", 1 << 60)
        a.gain_phase, a.gain_rate, a.contrast = settings.gain_phase, settings.gain_rate, settings.contrast
        a.rate_low, a.rate_high = settings.rate_low, settings.rate_high

    def __call__(
        self, times: NDArray[np.int64], detectors: NDArray[np.uint8], until_ps: int
    ) -> tuple[NDArray[np.int64], NDArray[np.uint8], NDArray[np.void]]:
        """All clicks since the last call up to until_ps -> (slots int64[k], patterns uint8[k], pieces PIECE[m]).

        times: int64[n] ps, sorted, not before the last call's until_ps. detectors: uint8[n], 0 to 3; bit d of a pattern stands
        for detector d. Slots rise strictly over all calls; the last event is held back until its slot is over.
        """
        times = vector(times, np.int64, "times")
        detectors = vector(detectors, np.uint8, "detectors")
        same_length(times, detectors, "times and detectors")
        state = self._state
        span = max(0, integer(until_ps, "until_ps") - state.piece_start)
        most = (state.piece_count + len(times)) // max(1, self.piece_clicks) + span // max(1, self.piece_ps) + 2
        slots = np.empty(len(times) + 1, np.int64)
        patterns = np.empty(len(times) + 1, np.uint8)
        pieces = np.zeros(size(most, "pieces of the stretch", 1 << 28), PIECE)
        counts = ffi.new("size_t[2]")
        code = lib.qkdd_assign_slots(
            state,
            self._settings,
            pointer(times),
            pointer(detectors),
            len(times),
            until_ps,
            pointer(slots),
            pointer(patterns),
            len(slots),
            counts,
            ffi.cast("qkdd_slot_piece *", ffi.from_buffer(pieces)),
            len(pieces),
            counts + 1,
        )
        check(code, "assign_slots")
        return slots[: counts[0]], patterns[: counts[0]], pieces[: counts[1]]

    def shift(self, slots: int) -> None:
        """Count the slots anew: every slot from now on is larger by `slots`."""
        self._state.slot += integer(slots, "slots")
        if self._state.open > _EARLIEST:
            self._state.open += slots

    def model(self) -> tuple[int, int, float, float]:
        """(origin_ps, slot, phase, rate) as it stands."""
        s = self._state
        return int(s.origin), int(s.slot), float(s.phase), float(s.rate)

    def time_of(self, slot: int) -> int:
        """When the centre of a slot is expected, ps."""
        s = self._state
        return int(s.origin) + round((slot - int(s.slot) - float(s.phase)) / float(s.rate))

    def slot_at(self, moment_ps: int) -> int:
        """The slot whose centre is nearest to a moment."""
        s = self._state
        return int(s.slot) + int(np.floor((moment_ps - int(s.origin)) * s.rate + s.phase + 0.5))

    @property
    def counts(self) -> tuple[int, int, int, int]:
        """Clicks since the start: all, outside the gate, dropped by the dead time, joined to an event of another click."""
        s = self._state
        return int(s.clicks), int(s.outside), int(s.blanked), int(s.joined)

    @property
    def held_back(self) -> int | None:
        """Slot of the event that may still grow, None when there is none."""
        return int(self._state.open) if self._state.pattern else None


def symbol_encode(symbols: NDArray[np.uint8], alphabet: int) -> bytes:
    """uint8[n] below `alphabet` (2 to 16), coded at the entropy of their frequencies (range ANS); b"" for none."""
    symbols = vector(symbols, np.uint8, "symbols")
    out = np.empty(lib.qkdd_symbol_bound(len(symbols), size(alphabet, "alphabet", 255)), np.uint8)
    written = ffi.new("size_t *")
    check(
        lib.qkdd_symbol_encode(pointer(symbols), len(symbols), alphabet, pointer(out), len(out), written),
        "symbol_encode",
    )
    return out[: written[0]].tobytes()


def symbol_decode(data: ByteLike, alphabet: int, count: int) -> NDArray[np.uint8]:
    """Inverse of symbol_encode: uint8[count]. Anything but an encoding of exactly `count` symbols is refused."""
    view = octets(data, "data")
    symbols = np.empty(size(count, "count"), np.uint8)
    check(
        lib.qkdd_symbol_decode(view, len(view), size(alphabet, "alphabet", 255), pointer(symbols), count),
        "symbol_decode",
    )
    return symbols

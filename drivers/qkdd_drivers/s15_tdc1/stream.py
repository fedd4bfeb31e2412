"""From bytes of a TDC1 to tag blocks: keeps records aligned and says what was lost. No I/O.

What healthy records promise: a step between neighbours is short (a dummy comes about every 134 ms when nothing clicks). So
a longer step means lost records, and steps that jump about mean that the bytes have slipped; then the place is searched
from which records make sense again, and the doubtful ones are dropped. The vendor's library re-aligns by the same sign
(a step beyond 2^25 units), fact sheet section 2.

Loss without a long step shows as a gap that a steady rate makes impossible (40 mean intervals, once in 10^13 clicks when
the mean is taken from 64 of them), and as tag time that stays behind the host's clock. A rate is known only from 64
intervals on, each counted once however the bytes were cut; before that nothing is judged by rate, and a gap is judged when
64 records stand on either side of it. What cannot be seen here alone: a missed wrap (268 ms) is only repaired to
the accuracy of the host's clock, so after the fault QKD-DEV-TAGS-LOST the link must align again.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from qkdd import kernels
from qkdd.device.errors import TagsLost, TagsSlipped
from qkdd.device.tags import TagBlock, in_order
from qkdd_drivers.s15_tdc1.protocol import DUMMY, DUMMY_UNITS, PATTERN, UNIT_PS, WRAP_UNITS

Words = NDArray[np.uint32]

_SHORT = 1 << 25  # units; at a click rate above 1 kHz no healthy step comes near
_LONG = DUMMY_UNITS * 12 // 10  # units; the longest healthy step, 161 ms
_DUE = DUMMY_UNITS * 3 // 4  # units; a dummy after a dummy comes no sooner
_BUSY = 1 << 19  # mean step in units (1 ms) below which a stream counts as busy
_DOUBT = 6  # records before the first impossible step that may already be wrong
_RUN, _RUN_LONG = 16, 32  # records in a row that must make sense before bytes count as aligned
_DISORDER = 1 << 16  # units by which inputs may be out of order, as the kernel has it
_OTHER_RATE = 64.0  # by so much a click rate does not change at the moment when bytes slip
_SLOWER = 16.0  # times the usual mean step: as slow as that, a stream is looked at closely
_PATIENCE = 256  # records in which one that fits must be found
_NEAR = 1 << 8  # units by which inputs may be out of order where the alignment is in doubt
_LOOK = 2048  # records that are looked at first for a place that is wrong, or for one that is right again
_TAIL = 8  # records of the last call that are looked at again
_GAP = 40.0  # mean intervals that no healthy gap exceeds
_MEMORY = 256  # steps over which the mean step is taken
_WITNESS = 64  # steps that a rate is known from: at the start, and on either side of a gap
_HUNT_BYTES = 1 << 18  # while searching, older bytes than this are given up
_WRAP_S = WRAP_UNITS * UNIT_PS * 1e-12
_BEHIND = 0.75 * _WRAP_S  # seconds behind the host's clock that only a missed wrap explains
_CONFIRM = 1.0  # seconds for which that must last,
_STEADY = 0.25 * _WRAP_S  # and change by less: a host that does not keep up falls back and catches up


class TagStream:
    """Decoder of one stream; feed it what came and it gives the block up to the last record."""

    def __init__(self) -> None:
        self._state = kernels.Tdc1State()  # before the tail
        self._tail = b""  # last records, already given out, and the bytes of an unfinished one
        self._given = 0  # bytes of the tail that were given out
        self._hunting = False
        self._origin: int | None = None  # ps of the first record
        self._until = 0
        self._mean = 0.0  # mean step in units, recent; 0 while too few were seen
        self._steps = np.empty(0, np.int64)  # recent steps: first those judged, then those that wait for witnesses
        self._judged = 0  # how many of them were judged
        self._clock: tuple[float, int] | None = None  # (host seconds, until) that belong together
        self._behind: list[float] = []
        self._behind_since = 0.0

    @property
    def aligned(self) -> bool:
        """False while the place where records begin is being searched."""
        return not self._hunting

    def feed(self, data: bytes, now: float) -> TagBlock:
        """Decode what came. now: seconds of the host's monotonic clock when it came."""
        if not data:
            return self._block([], [], 0, set())
        raw = self._tail + data
        words = np.frombuffer(raw, "<u4", len(raw) // 4)
        if not self._mean and len(words) > _WITNESS:
            first = _steps(words[: _WITNESS + 1])
            self._mean = float(np.mean(first)) if int(np.max(first)) <= _SHORT else 0.0
        given = self._given // 4
        trial = replace(self._state)
        kernels.decode_tdc1(words[:given], trial)
        voids, last = trial.voids, trial.last
        times, patterns, _ = kernels.decode_tdc1(words[given:], trial)
        longest = trial.largest_step_ps // UNIT_PS
        if self._hunting or trial.voids > voids or longest > _SHORT or self._slower(words):
            return self._careful(raw, now)
        if self._origin is None and len(words):
            self._origin = int(words[0] >> np.uint32(5)) * UNIT_PS
        lost = self._judge(_steps(words[given:], last))
        tail = min(_TAIL, len(words))
        kernels.decode_tdc1(words[: len(words) - tail], self._state)
        self._tail, self._given = raw[4 * (len(words) - tail) :], 4 * tail
        return self._finish([times], [patterns], trial, lost, {TagsLost.code} if lost else set(), now)

    # The usual way

    def _finish(
        self,
        times: list[NDArray[np.int64]],
        patterns: list[NDArray[np.uint8]],
        end: kernels.Tdc1State,
        lost: int,
        faults: set[str],
        now: float,
    ) -> TagBlock:
        if end.last is not None and self._origin is not None:
            reached = (end.wraps * WRAP_UNITS + end.last) * UNIT_PS
            self._until = max(self._until, reached - self._origin)
            if self._missed_wraps(now):
                faults.add(TagsLost.code)
                lost += 1
        return self._block(times, patterns, lost, faults)

    def _block(
        self,
        times: list[NDArray[np.int64]],
        patterns: list[NDArray[np.uint8]],
        lost: int,
        faults: set[str],
    ) -> TagBlock:
        stamps, channels, reordered = np.empty(0, np.int64), np.empty(0, np.uint8), 0
        if times:
            stamps, channels = kernels.expand_patterns(np.concatenate(times), np.concatenate(patterns))
            stamps, channels, reordered = in_order(stamps - (self._origin or 0), channels)
        return TagBlock(stamps, channels, self._until, lost, tuple(sorted(faults)), reordered)

    def _slower(self, words: Words) -> bool:
        """Whether the last records come far slower than before: they may be read at a wrong offset."""
        tail = words[-_WITNESS - 1 :]
        return 0 < self._mean < _BUSY and len(tail) > _RUN and float(np.mean(_steps(tail))) > _SLOWER * self._mean

    # Loss that leaves no impossible step

    def _judge(self, new: NDArray[np.int64]) -> int:
        """Learn the rate from new steps. Lower bound of clicks lost in gaps that a steady rate makes impossible.

        A step is judged, once, when _WITNESS steps have followed it: the verdict does not depend on how bytes were cut.
        """
        steps = np.concatenate((self._steps, new))
        end = len(steps) - _WITNESS
        lost = 0
        first = max(self._judged, _WITNESS)
        if end > first:
            sums = np.concatenate((np.zeros(1, np.int64), np.cumsum(steps[first - _WITNESS :])))
            means = (sums[_WITNESS:] - sums[:-_WITNESS]) / _WITNESS  # of the _WITNESS steps from each place on
            before, after = means[: end - first], means[_WITNESS + 1 :]
            for at in np.flatnonzero(steps[first:end] > _GAP * np.maximum(before, after)):
                sides = float(before[at]), float(after[at])
                lost += _missing(float(steps[first + at]), min(sides), max(sides))
        end = max(end, 0)
        start = max(0, end - _MEMORY)
        if end > self._judged and end - start >= _WITNESS:
            self._mean = float(np.mean(steps[start:end]))
        self._steps, self._judged = steps[start:], end - start
        return lost

    def _missed_wraps(self, now: float) -> bool:
        """Compare with the host's clock; add the wraps that were missed, if any."""
        if self._hunting:  # what came is not decoded yet
            return False
        if self._clock is None or not 0 < self._mean <= 5 * _BUSY:  # too few clicks to tell late from missed wraps
            self._clock = (now, self._until)
            return False
        behind = (now - self._clock[0]) - (self._until - self._clock[1]) * 1e-12
        if behind < _BEHIND:
            self._behind.clear()
            self._clock = (now, self._until)
            return False
        if not self._behind or max(*self._behind, behind) - min(*self._behind, behind) > _STEADY:
            self._behind, self._behind_since = [], now
        self._behind.append(behind)
        if now - self._behind_since < _CONFIRM:
            return False
        wraps = round(min(self._behind) / _WRAP_S)
        self._behind.clear()
        self._state.wraps += wraps
        self._until += wraps * WRAP_UNITS * UNIT_PS
        self._clock = (now, self._until)
        return True

    # When something is wrong

    def _careful(self, raw: bytes, now: float) -> TagBlock:
        """Go through `raw` from one impossible step to the next, finding the alignment again after each."""
        given = self._given
        if not self._hunting:  # void words, which the fact sheet says may appear, are no fault
            words = np.frombuffer(raw, "<u4", len(raw) // 4)
            given = 4 * int(np.count_nonzero(words[: given // 4]))
            raw = words[words != 0].tobytes() + raw[4 * len(words) :]
        faults: set[str] = set()
        times: list[NDArray[np.int64]] = []
        patterns: list[NDArray[np.uint8]] = []
        lost = 0
        state = replace(self._state)
        position = 0  # first byte not yet judged
        while True:
            words = np.frombuffer(raw, "<u4", (len(raw) - position) // 4, position)
            bad = self._first_bad(words, state)
            if not self._hunting and bad == len(words):
                new = max(0, given - position) // 4
                before = int(words[new - 1] >> np.uint32(5)) if new else state.last
                self._accept(words, state, times, patterns, given - position)
                if missing := self._judge(_steps(words[new:], before)):
                    faults.add(TagsLost.code)
                    lost += missing
                break
            if not self._hunting:
                start = max(0, bad - _DOUBT)
                self._accept(words[:start], state, times, patterns, given - position)
                position += 4 * start
                self._hunting = True
                self._steps, self._judged = np.empty(0, np.int64), 0  # whatever follows, it is no neighbour
            found = self._search(raw, position, state)
            if found is None:
                if len(raw) - position > _HUNT_BYTES:
                    lost += (len(raw) - position - _HUNT_BYTES // 2) // 4
                    position = len(raw) - _HUNT_BYTES // 2
                    faults.add(TagsSlipped.code)
                break
            self._hunting = False
            skipped = found - position
            if skipped % 4 == 0 and self._only_gap(raw, position, found):
                # nothing is wrong with the bytes: records are missing, or the rate has changed
                sound = np.frombuffer(raw, "<u4", skipped // 4, position)
                self._accept(sound, state, times, patterns, given - position)
                after = np.frombuffer(raw, "<u4", _RUN, found)
                step = (int(after[0] >> np.uint32(5)) - (state.last or 0)) % WRAP_UNITS
                mean = float(np.mean(_steps(after)))
                missing = _missing(step, min(mean, self._mean), max(mean, self._mean))
                if step > _LONG or missing:
                    faults.add(TagsLost.code)
                    lost += max(1, missing)
                elif self._mean:
                    self._mean = mean
            else:
                faults.add(TagsSlipped.code)
                lost += max(1, skipped // 4)
            # the first record after the gap is good by itself
            one = np.frombuffer(raw, "<u4", 1, found)
            self._accept(one, state, times, patterns, given - found)
            position = found + 4
        # while the place is searched, the doubtful records that were given out already stay marked as given
        self._state, self._tail, self._given = state, raw[position:], max(0, given - position)
        if not self._hunting:
            rest = len(raw) - position
            self._tail, self._given = raw[position + rest // 4 * 4 :], 0
        return self._finish_careful(times, patterns, lost, faults, now)

    def _finish_careful(
        self,
        times: list[NDArray[np.int64]],
        patterns: list[NDArray[np.uint8]],
        lost: int,
        faults: set[str],
        now: float,
    ) -> TagBlock:
        # records read at a wrong offset may have been given out: time does not run back behind them
        if TagsSlipped.code in faults and times and self._origin is not None:
            stamps, found = np.concatenate(times), np.concatenate(patterns)
            fresh = stamps - self._origin > self._until
            times, patterns = [stamps[fresh]], [found[fresh]]
        return self._finish(times, patterns, self._state, lost, faults, now)

    def _accept(
        self,
        words: Words,
        state: kernels.Tdc1State,
        times: list[NDArray[np.int64]],
        patterns: list[NDArray[np.uint8]],
        given: int = 0,
    ) -> None:
        """Decode sound records. given: of their bytes, so many at the front were given out before (may be negative)."""
        old = min(max(0, given) // 4, len(words))
        kernels.decode_tdc1(words[:old], state)
        words = words[old:]
        if not len(words):
            return
        if self._origin is None:
            self._origin = int(words[0] >> np.uint32(5)) * UNIT_PS
        stamps, found, _ = kernels.decode_tdc1(words, state)
        times.append(stamps)
        patterns.append(found)

    def _first_bad(self, words: Words, state: kernels.Tdc1State) -> int:
        """Index of the first record that cannot follow its predecessor; len(words) when there is none."""
        start, size = 0, _LOOK
        while start < len(words):  # by pieces: what a piece shows as bad need not be looked for in all that follows
            piece = words[start : start + size]
            ticks = (piece >> np.uint32(5)).astype(np.int64)
            last = int(words[start - 1] >> np.uint32(5)) if start else state.last
            previous = np.concatenate(([ticks[0] if last is None else last], ticks[:-1]))
            before = np.concatenate((words[start - 1 : start] if start else np.array([PATTERN], np.uint32), piece[:-1]))
            bad = np.flatnonzero(~_plausible((ticks - previous) % WRAP_UNITS, before, piece, self._limit))
            if len(bad):
                return start + int(bad[0])
            start, size = start + len(piece), 2 * size
        return len(words)

    @property
    def _limit(self) -> int:
        """Longest step in units that raises no doubt."""
        return int(_GAP * self._mean) + 1 if 0 < self._mean < _BUSY else _LONG

    def _search(self, raw: bytes, position: int, state: kernels.Tdc1State) -> int | None:
        """First byte at or after `position` from which records make sense; None when more bytes are needed.

        Looks at a few kilobytes first, because a backlog with many gaps would be searched as often as it has gaps.
        """
        size = 4 * _LOOK
        while True:
            found = self._search_within(raw[position : position + size], state)
            if found is not None:
                return position + found
            if position + size >= len(raw):
                return None
            size *= 2

    def _search_within(self, raw: bytes, state: kernels.Tdc1State) -> int | None:
        """The same for bytes that begin at the position."""
        count = len(raw) - 3
        if count <= 4 * _RUN:
            return None
        octets = np.frombuffer(raw, np.uint8).astype(np.uint32)
        words = np.zeros(count, np.uint32)
        for k in range(4):
            words |= octets[k : count + k] << np.uint32(8 * k)
        ticks = (words >> np.uint32(5)).astype(np.int64)
        steps = (ticks[4:] - ticks[:-4]) % WRAP_UNITS
        first = self._at_rate(_candidates(steps, words, self._limit, _RUN))
        if state.last is not None:
            # the record before a sound run may be one that lost its bytes and seems sound by chance: try the next ones too
            starts = [at + 4 * k for _, at in first for k in range(_RUN // 2)]
            goes_on = [at for at in starts if (int(ticks[at]) - state.last) % WRAP_UNITS <= self._limit]
            if goes_on:
                return min(goes_on)
        # nothing continues the records before: ask for longer evidence that many are missing
        longer = self._at_rate(_candidates(steps, words, self._limit, _RUN_LONG))
        if longer and count >= 4 * (_RUN_LONG + _RUN):
            return min(at for _, at in longer)
        if count < 4 * _PATIENCE:
            return None
        # so many bytes and none at the usual rate: the rate itself has changed
        changed = _candidates(steps, words, _SHORT, _RUN_LONG) + _candidates(steps, words, _LONG, _RUN_LONG)
        same = [at for _, at in changed if at % 4 == 0]
        if same:
            return min(same)
        return min(changed)[1] if changed else None

    def _at_rate(self, candidates: list[tuple[float, int]]) -> list[tuple[float, int]]:
        """Those that fit the click rate; read at a wrong offset, the counter seems to run 256 times faster or slower."""
        if not self._mean:
            return candidates
        return [c for c in candidates if self._mean / _OTHER_RATE < c[0] < self._mean * _OTHER_RATE]

    def _only_gap(self, raw: bytes, position: int, found: int) -> bool:
        """Whether the bytes from `position` to `found` are sound records with at most one long step at their end."""
        words = np.frombuffer(raw, "<u4", (found - position) // 4, position)
        # bytes read at a wrong offset look 256 times slower: many such records are no change of rate
        if len(words) > _DOUBT and not float(np.mean(_steps(words))) < _OTHER_RATE * self._mean:
            return False
        return bool(np.all(_steps(words) <= _SHORT)) and bool(np.all(words & (PATTERN | DUMMY) != 0))


def _steps(words: Words, last: int | None = None) -> NDArray[np.int64]:
    """Steps forward between neighbouring records, in units, int64[n-1]; 0 for disorder between inputs.

    last: counter value of the record before the first, if there is one; then int64[n].
    """
    ticks = (words >> np.uint32(5)).astype(np.int64)
    if last is not None:
        ticks = np.concatenate((np.array([last], np.int64), ticks))
    steps = (ticks[1:] - ticks[:-1]) % WRAP_UNITS
    steps[steps >= WRAP_UNITS - _DISORDER] = 0
    return steps


def _plausible(steps: NDArray[np.int64], before: Words, words: Words, limit: int) -> NDArray[np.bool_]:
    """Which records may follow the ones before them after `steps` units."""
    marks = words & np.uint32(PATTERN | DUMMY)
    dummy = marks == DUMMY
    due = dummy & (steps >= _DUE) & (steps <= _LONG)
    close = (steps <= limit) | (steps >= WRAP_UNITS - _NEAR)
    # two dummies never follow each other closely
    close &= ~(dummy & (before & np.uint32(PATTERN | DUMMY) == DUMMY))
    return np.asarray((close | due) & (marks != 0), np.bool_)


def _missing(step: float, low: float, high: float) -> int:
    """Lower bound of the clicks lost in a gap between two stretches of mean steps `low` and `high`; 0 when none."""
    # a shutter that closes makes a gap too, but then the rate differs on its two sides
    if not 0 < high < 3 * low or step <= _GAP * high:
        return 0
    expected = step / high
    return max(1, int(expected - 6 * expected**0.5))


def _candidates(steps: NDArray[np.int64], words: Words, limit: int, run: int) -> list[tuple[float, int]]:
    """(mean step, byte offset) of the first place of each alignment from which `run` records make sense."""
    fits = _plausible(steps, words[:-4], words[4:], limit) & (words[:-4] & (PATTERN | DUMMY) != 0)
    forward = np.where(steps >= WRAP_UNITS - _NEAR, 0, steps)
    return [(float(np.mean(forward[at : at + 4 * (run - 1) : 4])), at) for at in _first_runs(fits, run - 1)]


def _first_runs(fits: NDArray[np.bool_], run: int) -> list[int]:
    """For each of the four alignments the first byte offset from which `run` entries at distance 4 are all true."""
    if len(fits) < 4 * (run - 1) + 1:
        return []
    good = fits[: len(fits) - 4 * (run - 1)].copy()
    for k in range(1, run):
        good &= fits[4 * k : 4 * k + len(good)]
    firsts = (np.flatnonzero(good[offset::4]) for offset in range(4))
    return [4 * int(found[0]) + offset for offset, found in enumerate(firsts) if len(found)]

"""The two ends of a pulsed link (`decoy_bb84`): alice's transmitter and bob's receiver, blocks of a fixed number of slots.

Decoy-state BB84 (Bennett, Brassard 1984; Hwang, Lo, Ma, Chen, Wang 2003-2005). A block is a fixed number of pulses, never "until
enough" (security-proofs S4.10 E11). Bob names slots; bases and intensities are said after all detections of the block are
registered on both nodes. Rounds of equal basis go to the distiller, all of them, with their intensities.
"""

from __future__ import annotations

import math
from typing import cast

import numpy as np
from numpy.typing import NDArray

from qkdd import kernels
from qkdd.device.roles import SymbolSource, TimeTagger
from qkdd.distill.blocks import DecoyBlock
from qkdd.distill.errors import BlockMalformed
from qkdd.link import openview, sifting
from qkdd.link.acquisition import Acquisition
from qkdd.link.clockmap import PS
from qkdd.link.delay_search import find_first
from qkdd.link.errors import (
    AlignmentFailed,
    ClockRejected,
    DetectionsRefused,
    LinkConfigError,
    OpenStretchRefused,
    SlotSlip,
    SymbolsMissing,
)
from qkdd.link.events import squash
from qkdd.link.messages import (
    Action,
    DetectedBases,
    DetectedSlots,
    FoundSymbols,
    OpenSymbols,
    PreparedRounds,
    Turn,
    TurnAnswer,
)
from qkdd.link.protocols.base import AliceEnd, BobEnd, Opened, Setup
from qkdd.link.pulse_statistics import OpenedPulses, opened_pulses
from qkdd.link.slot_receiver import Detections, SlotReceiver, Tracking
from qkdd.link.symbol_store import AskedForSymbols, StreamedSymbols
from qkdd.link.wire import pack_detectors, unpack_detectors, unpack_rising

_NEAR = 64  # slots searched about a known number
_ANSWER_TIMEOUT = 300.0
_AHEAD_PS = 300_000_000_000  # how far ahead a block on demand begins
_PIECE_PS = 50_000_000_000  # how often its slots are announced
_SLACK = 10.0
_PULSES_MIN = 0.5  # share of a block's slots that must have had a pulse
_SINGLE = np.full(16, 255, np.uint8)
_SINGLE[[1, 2, 4, 8]] = [0, 1, 2, 3]


class Pulses:
    """The protocol of `decoy_bb84`."""

    def alice(self, setup: Setup, device: object) -> AliceEnd:
        return PulseAlice(setup, cast(SymbolSource, device))

    def bob(self, setup: Setup, device: object) -> BobEnd:
        return PulseBob(setup, cast(TimeTagger, device))


class _PulseEnd:
    """What both ends share."""

    def __init__(self, setup: Setup) -> None:
        config = setup.config
        if config.shared.decoy is None:
            raise LinkConfigError(f"link {config.name}: decoy_bb84 needs a section", key="link.shared.decoy")
        self._config, self._shared, self._settings = config, config.shared, config.shared.decoy
        self._session, self._clock, self._book = setup.session, setup.clock, setup.book
        self._rate = float(self._settings.pulse_rate)
        self._levels = len(self._settings.mu)
        self._apart = sifting.spacing(config.shared)
        self._next_slot = 0  # where the next block may begin
        self._locked = False
        self.registered_at = 0.0

    @property
    def locked(self) -> bool:
        return self._locked

    def begin(self) -> None:
        self.registered_at = self._clock.monotonic()

    async def _seal(self, turn: Turn) -> None:
        """Not of an open stretch: nothing of it is used, and the next seal covers it."""
        if turn.action != "open":
            await self._session.seal("align", turn.number)

    def _opened(self, turn: Turn, opened: OpenedPulses, stop: int) -> Opened:
        self._locked = True
        self._next_slot = max(self._next_slot, stop)
        self._book.pulses_aligned(opened)
        if turn.action == "open":
            openview.show_pulses(turn, opened, self._rate, self._book.opened)
        return Opened(opened.key_errors, opened.key_bits, opened.error_rate)

    def _block(
        self, turn: Turn, bits: NDArray[np.uint8], rounds: sifting.Rounds, pulses: int, detected: int
    ) -> DecoyBlock:
        self._book.pulses_sifted(rounds.intensities, self._settings.probabilities, pulses, detected)
        return DecoyBlock(
            number=turn.number,
            bits=bits,
            bases=rounds.bases,
            intensities=rounds.intensities,
            pulses=pulses,
            acquisition_s=self._settings.block_s,
        )


class PulseBob(_PulseEnd):
    """Measures, numbers the slots, proposes blocks."""

    def __init__(self, setup: Setup, tagger: TimeTagger) -> None:
        super().__init__(setup)
        config, shared = self._config, self._shared
        keep = max(30.0, config.buffer_blocks * min(self._settings.block_s, 30.0)) + 2 * shared.offset_range
        self.source = Acquisition(
            tagger, config.channels, setup.clock, setup.meter, config.name, round(keep * PS), setup.heartbeat
        )
        self._receiver = SlotReceiver(config, self.source, tagger.resolution_ps)
        self._ready: Detections | None = None
        self._on_demand = shared.symbols == "on_demand"

    def lose_lock(self) -> None:
        self._locked = False
        self._next_slot = (
            0  # by a count that may have been wrong; alice keeps the true one, and the next alignment says it
        )
        self._receiver.lose()

    def begin(self) -> None:
        super().begin()
        ready, self._ready = self._ready, None
        if ready is not None:
            ready.wipe()

    def _turn(self, action: Action, number: int, start: int, stop: int) -> Turn:
        return Turn(action, number, start, stop, self.source.position(), self._receiver.resolution_ps, self._locked)

    def farewell(self, number: int) -> Turn:
        return self._turn("rest", number, 0, 0)

    # align -----------------------------------------------------------------------------------------------------------

    def alignment(self, number: int) -> Turn:
        return self._turn("align", number, 0, self._shared.align_symbols)

    async def align(self, turn: Turn) -> Opened:
        count = self._shared.align_symbols
        opened = await self._session.receive(OpenSymbols, timeout=count / self._rate + 60.0)
        arrived = self.source.position() - round((self._session.rtt / 2 + _finite(opened.age_s)) * PS)
        if opened.number != turn.number or opened.count != count or opened.first < self._next_slot:
            raise OpenStretchRefused(f"the opened symbols are {opened.count} of stretch {opened.number}")
        symbols = sifting.unpack_symbols(opened.symbols, count)
        try:
            await self._number_slots(opened.first, symbols, arrived)
        except AlignmentFailed:
            await self._session.send(FoundSymbols(turn.number, False, 0, b"", b""))
            await self._seal(turn)
            raise
        found = self._receiver.peek(opened.first, opened.first + count)
        single = _SINGLE[found.patterns]
        at, detectors = found.slots[single < 4] - opened.first, single[single < 4]
        await self._session.send(
            FoundSymbols(turn.number, True, len(at), kernels.gap_encode(at), pack_detectors(detectors))
        )
        await self._seal(turn)
        self._receiver.tracking()  # what was measured while the loop pulled in says nothing about a block
        self._receiver.clicks()
        stop = opened.first + count
        result = self._opened(turn, opened_pulses(symbols, at, detectors, self._levels), stop)
        self._receiver.drop(stop)
        self._book.slot_clock(self._receiver.clock_error, None, self._receiver.delays_ps)
        return result

    async def _number_slots(self, first: int, symbols: NDArray[np.uint8], arrived: int) -> None:
        """After this the receiver counts absolute slots. arrived: when the first opened slot came, ps, to some 100 ms."""
        receiver, count = self._receiver, len(symbols)
        slot_ps = self._shared.slot_ps
        if self._locked and receiver.following:
            centre, reach = first, _NEAR
            await self._followed(first + count + _NEAR)
        else:
            range_ps = round(self._shared.offset_range * PS)
            stop = arrived + round(count * slot_ps) + range_ps
            receiver.lose()
            await receiver.registered(stop)
            await receiver.lock(max(arrived - range_ps, receiver.earliest), stop)
            centre, reach = receiver.slot_at(arrived), round(range_ps / slot_ps)
        found = receiver.peek(centre - reach, centre + reach + count)
        single = _SINGLE[found.patterns]
        place = await kernels.run(
            find_first, found.slots[single < 4], single[single < 4], symbols, self._settings.mu, centre, reach
        )
        if place is None:
            receiver.lose()
            raise AlignmentFailed(f"link {self._config.name}: the opened symbols fit none of {len(found)} detections")
        receiver.number(first - place)

    async def _followed(self, slot: int) -> None:
        """Every slot below is assigned."""
        while True:
            moment = self._receiver.time_of(slot)
            await self._receiver.registered(moment)
            if self._receiver.time_of(slot) <= moment:
                return

    # block -----------------------------------------------------------------------------------------------------------

    async def registered(self, number: int) -> Turn:
        receiver, length = self._receiver, self._settings.block_pulses
        if self._on_demand:
            await receiver.registered(self.source.until - 1)
            start = max(self._next_slot, receiver.slot_at(self.source.position() + _AHEAD_PS))
            self._next_slot = start + length
            receiver.tracking()
            return self._turn("block", number, start, start + length)
        behind = (receiver.slot_at(self.source.until) - self._next_slot) // length
        if behind > self._config.buffer_blocks:
            self._next_slot += (behind - 1) * length
            receiver.drop(self._next_slot)
        start, stop = self._next_slot, self._next_slot + length
        await self._followed(stop)
        self._next_slot = stop
        self.registered_at = self._clock.monotonic()
        ready = receiver.take(start, stop)
        try:
            self._show(receiver.tracking(), ready)
        except BaseException:
            ready.wipe()
            raise
        self._ready = ready
        return self._turn("block", number, start, stop)

    def _show(self, tracking: Tracking, found: Detections) -> None:
        self._book.slot_clock(self._receiver.clock_error, tracking)
        several = int(np.count_nonzero(_SINGLE[found.patterns] == 255))
        self._book.slot_events(self._receiver.clicks(), len(found), several, self._settings)

    async def sift(self, turn: Turn) -> DecoyBlock:
        parts: list[Detections] = []
        try:
            return await self._sift(turn, parts)
        finally:
            for part in parts:
                part.wipe()

    async def _sift(self, turn: Turn, parts: list[Detections]) -> DecoyBlock:
        length, sent = turn.stop - turn.start, 0
        if self._on_demand:
            self._receiver.drop(turn.start)
        done = turn.start
        while done < turn.stop:
            upto = await self._passed(done, turn.stop) if self._on_demand else turn.stop
            part, self._ready = self._ready, None
            part = part or self._receiver.take(done, upto)
            parts.append(part)
            coded = await kernels.run(sifting.encode_slots, part.slots, done, self._apart)
            await self._session.send(DetectedSlots(turn.number, upto - turn.start, len(part), coded))
            sent += len(coded)
            done = upto
        slots, patterns = (
            np.concatenate(columns) for columns in zip(*((p.slots, p.patterns) for p in parts), strict=True)
        )
        if self._on_demand:
            self.registered_at = self._clock.monotonic()
            self._show(self._receiver.tracking(), Detections(slots, patterns))
        bases, bits = await kernels.run(squash, patterns)
        patterns.fill(0)
        coded = sifting.encode_bases(bases)
        await self._session.send(DetectedBases(turn.number, len(bases), coded))
        answer = await self._session.receive(PreparedRounds)
        if answer.block != turn.number or not 0 < answer.pulses <= length or len(bases) > answer.pulses:
            raise BlockMalformed(f"{answer.pulses} pulses of block {answer.block}, for {len(bases)} detections")
        rounds = await kernels.run(sifting.chosen_rounds, answer.z, answer.x, bases, self._levels)
        self._book.sifting(sent + len(coded), len(answer.z) + len(answer.x), len(bases))
        kept = bits[rounds.chosen]
        bits.fill(0)
        return self._block(turn, kept, rounds, answer.pulses, len(bases))

    async def _passed(self, done: int, stop: int) -> int:
        """Wait for the next piece of a block on demand; the slot up to which its detections are there."""
        moment = self._receiver.time_of(done) + _PIECE_PS
        if moment >= self._receiver.time_of(stop):
            await self._followed(stop)
            return stop
        await self._receiver.registered(moment)
        return min(stop, max(done, self._receiver.slot_at(moment) - 3))


class PulseAlice(_PulseEnd):
    """Prepares, opens symbols, answers with bases and intensities."""

    holds_open = False

    def __init__(self, setup: Setup, transmitter: SymbolSource) -> None:
        super().__init__(setup)
        kind = AskedForSymbols if self._shared.symbols == "on_demand" else StreamedSymbols
        self.source = kind(transmitter, self._config, setup.clock, setup.meter, setup.heartbeat)
        self._slip = sifting.SlipTest.of(self._settings.probabilities, self._settings.mu)

    def lose_lock(self) -> None:
        self._locked = False

    @property
    def patience(self) -> float:
        return self._settings.block_s + 2 * float(self._shared.offset_range) + 120.0

    async def align(self, turn: Turn, failures: int) -> Opened:
        count = self._shared.align_symbols
        position, now = self.source.position(), self._clock.monotonic()
        first = max(position, self._next_slot)
        await self._session.send(TurnAnswer("open" if self.holds_open else "align", turn.number))
        self._next_slot = first + count  # whatever becomes of them, they are public now
        await self.source.release(first)
        symbols = await self.source.collect(first, count)
        age = self._clock.monotonic() - now - (first - position) / self._rate
        packed = await kernels.run(sifting.pack_symbols, symbols)
        await self._session.send(OpenSymbols(turn.number, first, count, age, packed))
        found = await self._session.receive(FoundSymbols, timeout=_ANSWER_TIMEOUT)
        await self._seal(turn)
        if found.number != turn.number:
            raise OpenStretchRefused(f"the answer is of stretch {found.number}, not {turn.number}")
        if not found.found:
            raise AlignmentFailed(f"link {self._config.name}: the other node found no place for {count} opened symbols")
        at = unpack_rising(found.slots, found.count, count)
        detectors = unpack_detectors(found.detectors, found.count)
        return self._opened(turn, opened_pulses(symbols, at, detectors, self._levels), first + count)

    async def registered(self, turn: Turn) -> None:
        length = self._settings.block_pulses
        if turn.stop - turn.start != length:
            raise ClockRejected(
                f"block {turn.number} of the other node has {turn.stop - turn.start} slots, not {length}"
            )
        ahead = turn.start - self.source.position()
        if turn.start < self._next_slot or ahead > 10 * self._rate:
            raise ClockRejected(f"block {turn.number} of the other node overlaps an earlier one, or lies far ahead")
        self._next_slot = turn.stop
        if not self.source.on_demand:
            late = max(0, turn.stop - self.source.position()) / self._rate
            await self.source.wait_until(turn.stop, late + _SLACK)
        self.registered_at = self._clock.monotonic()

    async def sift(self, turn: Turn) -> DecoyBlock:
        parts: list[NDArray[np.uint8]] = []
        try:
            return await self._sift(turn, parts)
        finally:
            for part in parts:
                part.fill(0)
            if not self.source.on_demand:  # that one is told as the block goes on
                await self.source.release(turn.stop)

    async def _sift(self, turn: Turn, parts: list[NDArray[np.uint8]]) -> DecoyBlock:
        length, done, last = turn.stop - turn.start, 0, -self._apart
        received = 0
        while done < length:
            piece = await self._session.receive(DetectedSlots, timeout=60.0)
            if piece.block != turn.number or not done < piece.until <= length:
                raise DetectionsRefused(
                    f"slots {done} to {piece.until} of block {piece.block}, expected of {turn.number}"
                )
            slots = await kernels.run(sifting.decode_slots, piece.slots, piece.count, done, piece.until, self._apart)
            if len(slots):
                if int(slots[0]) - last < self._apart:
                    raise DetectionsRefused(f"slots {last} and {int(slots[0])} are nearer than the dead time allows")
                last = int(slots[-1])
            parts.append(await self.source.symbols(turn.start + slots))
            received += len(piece.slots)
            done = piece.until
            if self.source.on_demand:
                await self.source.release(turn.start + done)
        symbols = np.concatenate(parts)
        parts.append(symbols)
        self.registered_at = max(self.registered_at, self._clock.monotonic() if self.source.on_demand else 0.0)
        bases_said = await self._session.receive(DetectedBases)
        if bases_said.block != turn.number or bases_said.count != len(symbols):
            raise DetectionsRefused(
                f"{bases_said.count} bases of block {bases_said.block} for {len(symbols)} detections"
            )
        bases = await kernels.run(sifting.decode_bases, bases_said.bases, len(symbols))
        pulses = length - self.source.absent(turn.start, turn.stop)
        if pulses < _PULSES_MIN * length or len(symbols) > pulses:
            raise SymbolsMissing(
                f"link {self._config.name}: pulses went out in {pulses} of {length} slots of the block"
            )
        if (piece_number := self._slip.slipped(symbols)) is not None:
            raise SlotSlip(
                f"link {self._config.name}: from piece {piece_number} on, detections do not prefer bright pulses"
            )
        rounds, z, x = await kernels.run(sifting.compare, symbols, bases, self._levels)
        await self._session.send(PreparedRounds(turn.number, pulses, z, x))
        self._book.sifting(received + len(bases_said.bases), len(z) + len(x), len(symbols))
        bits = ((symbols[rounds.chosen] >> 2) & 1).astype(np.uint8)
        return self._block(turn, bits, rounds, pulses, len(symbols))


def _finite(value: float) -> float:
    if not math.isfinite(value) or abs(value) > 3600.0:
        raise OpenStretchRefused("the age of the opened symbols cannot be")
    return value

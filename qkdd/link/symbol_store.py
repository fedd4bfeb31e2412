"""Alice's side of a pulsed link: what her transmitter prepared, slot by slot.

Two ways. A stream: every symbol comes over the cable and is kept, half a byte each, until the block it belongs to is done. On
demand: the transmitter keeps its last symbols itself and is asked for the slots that bob announced; nothing of the rest ever
leaves it. Symbols that are lost on either way spoil the block they belong to; slots without a pulse (the board paused, or had
no random bits) are no loss: nothing was sent in them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qkdd.core.clock import Clock
from qkdd.core.counters import Meter
from qkdd.device.roles import PreparedSymbols, SymbolSource
from qkdd.link.config import LinkConfig
from qkdd.link.delay_search import SYMBOL_ABSENT
from qkdd.link.errors import LinkConfigError, RegisterTimeout, SymbolsMissing

_ASK = 32768  # slots asked for at a time
_POLL_S = 0.5
_PORTION_S = 0.01
_SLACK = 10.0  # seconds that the transmitter may lag
_SYMBOLS_LIMIT = 1 << 31  # half a byte each
_PULSE_RATE_TOLERANCE = 1e-3


def _packed(symbols: PreparedSymbols) -> NDArray[np.uint8]:
    whole = np.zeros(len(symbols.basis) + len(symbols.basis) % 2, np.uint8)
    whole[: len(symbols.basis)] = symbols.basis << 3 | symbols.bit << 2 | symbols.intensity
    packed: NDArray[np.uint8] = (whole[0::2] << 4 | whole[1::2]).astype(np.uint8)
    return packed


@dataclass(frozen=True, slots=True, eq=False)
class _Chunk:
    first: int
    count: int
    packed: NDArray[np.uint8]

    def at(self, slots: NDArray[np.int64]) -> NDArray[np.uint8]:
        index = slots - self.first
        both = self.packed[index >> 1]
        symbols: NDArray[np.uint8] = np.where(index & 1, both & 15, both >> 4).astype(np.uint8)
        return symbols


class SymbolStore:
    """Common to both ways; the transmitter's stream from `start` to `stop`."""

    def __init__(
        self, source: SymbolSource, config: LinkConfig, clock: Clock, meter: Meter, heartbeat: Callable[[], None]
    ) -> None:
        settings = config.shared.decoy
        if settings is None:
            raise LinkConfigError(f"link {config.name}: decoy_bb84 needs a section", key="link.shared.decoy")
        self._source, self._settings, self._clock, self._meter = source, settings, clock, meter
        self._name, self._heartbeat = config.name, heartbeat
        self._task: asyncio.Task[None] | None = None
        self._failure: BaseException | None = None
        self._moved = asyncio.Event()
        self._told = 0.0
        self.until = 0  # slots below are known (stream) or made (on demand)

    on_demand = False

    @property
    def failure(self) -> BaseException | None:
        return self._failure

    async def failed(self) -> BaseException:
        while self._failure is None:
            await self._moved.wait()
        return self._failure

    async def start(self) -> None:
        settings = self._settings
        p = settings.probabilities
        await self._source.prepare(float(settings.x_basis), (p[0], p[1], p[2] if len(p) == 3 else 0.0))
        self.until = await self._source.start_symbols(on_demand=self.on_demand)
        rate = self._source.pulse_rate_hz
        if abs(rate / float(settings.pulse_rate) - 1.0) > _PULSE_RATE_TOLERANCE:
            await self._source.stop_symbols()
            raise LinkConfigError(
                f"link {self._name}: the transmitter makes {rate:g} pulses a second, not {float(settings.pulse_rate):g}",
                key="link.shared.decoy.pulse_rate",
            )
        self._told = self._clock.monotonic()
        self._task = asyncio.create_task(self._run(), name=f"symbols {self._name}")

    async def stop(self) -> None:
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        await asyncio.wait([task])
        await self._source.stop_symbols()

    async def _run(self) -> None:
        try:
            while True:
                await self._step()
                self._heartbeat()
        except BaseException as error:  # handed to whoever waits for symbols; a cancelled task has no waiters
            self._failure = error
            self._moved.set()
            if isinstance(error, asyncio.CancelledError):
                raise

    async def _step(self) -> None:
        raise NotImplementedError

    def _reached(self, slot: int) -> None:
        self.until, self._told = slot, self._clock.monotonic()
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    def position(self) -> int:
        """The slot that goes out about now; good to some 100 ms."""
        return self.until + round((self._clock.monotonic() - self._told) * float(self._settings.pulse_rate))

    async def wait_until(self, slot: int, timeout: float) -> None:
        """Return when all slots below are known. Raises RegisterTimeout, or what the transmitter raised."""
        try:
            async with self._clock.deadline(timeout):
                while self.until < slot:
                    if self._failure is not None:
                        raise self._failure
                    await self._moved.wait()
        except TimeoutError:
            raise RegisterTimeout(
                f"link {self._name}: the transmitter's symbols are {slot - self.until} slots behind after {timeout:.1f} s"
            ) from None

    async def symbols(self, slots: NDArray[np.int64]) -> NDArray[np.uint8]:
        """uint8[n]: basis << 3 | bit << 2 | intensity of rising slots, SYMBOL_ABSENT without a pulse. Raises SymbolsMissing."""
        raise NotImplementedError

    async def collect(self, first: int, count: int) -> NDArray[np.uint8]:
        """The same for consecutive slots, once they have gone out."""
        late = max(0, first + count - self.position()) / float(self._settings.pulse_rate)
        await self.wait_until(first + count, late + _SLACK)
        return await self.symbols(np.arange(first, first + count, dtype=np.int64))

    def absent(self, first: int, stop: int) -> int:
        """Slots of [first, stop) that are known to have had no pulse."""
        raise NotImplementedError

    async def release(self, below: int) -> None:
        """Slots below are no longer needed."""
        raise NotImplementedError


class StreamedSymbols(SymbolStore):
    """Every symbol comes over the cable."""

    def __init__(
        self, source: SymbolSource, config: LinkConfig, clock: Clock, meter: Meter, heartbeat: Callable[[], None]
    ) -> None:
        super().__init__(source, config, clock, meter, heartbeat)
        self._chunks: deque[_Chunk] = deque()
        self._held = 0
        self._kept_from = 0
        self._lost: deque[tuple[int, int, tuple[str, ...]]] = deque()  # stretches that cannot be trusted

    async def _step(self) -> None:
        for part in await self._source.read_symbols():
            self._admit(part)

    def _admit(self, part: PreparedSymbols) -> None:
        begin = self.until
        stop = part.first_slot + len(part.basis)
        missing = part.first_slot - begin
        faults = part.faults
        if missing < 0 or missing != part.skipped + part.lost:
            faults = (*faults, "QKD-LNK-SYMBOLS-ORDER")  # a reason inside QKD-LNK-SYMBOLS-LOST
        if part.lost or faults:
            self._lost.append((min(begin, part.first_slot), max(stop, begin) + 1, faults or (f"{part.lost} lost",)))
            self._meter.add("qkdd_link_symbols_lost_total", max(1, part.lost), link=self._name)
        if missing >= 0:
            if len(part.basis):
                self._chunks.append(_Chunk(part.first_slot, len(part.basis), _packed(part)))
                self._held += len(part.basis)
                self._meter.add("qkdd_link_pulses_total", len(part.basis), link=self._name)
            while self._held > _SYMBOLS_LIMIT:
                self._kept_from = self._forget_first()
            self._reached(stop)

    def _forget_first(self) -> int:
        chunk = self._chunks.popleft()
        self._held -= chunk.count
        chunk.packed.fill(0)
        return chunk.first + chunk.count

    async def symbols(self, slots: NDArray[np.int64]) -> NDArray[np.uint8]:
        found = np.full(len(slots), SYMBOL_ABSENT, np.uint8)
        if not len(slots):
            return found
        self._whole(int(slots[0]), int(slots[-1]) + 1)
        for chunk in self._chunks:
            low, high = np.searchsorted(slots, (chunk.first, chunk.first + chunk.count))
            if high > low:
                found[low:high] = chunk.at(slots[low:high])
        return found

    def _whole(self, first: int, stop: int) -> None:
        if first < self._kept_from or stop > self.until:
            raise SymbolsMissing(
                f"link {self._name}: symbols of slots {first} to {stop} are no longer, or not yet, in memory"
            )
        for low, high, reasons in self._lost:
            if low < stop and high > first:
                raise SymbolsMissing(f"link {self._name}: symbols of this block were lost: {', '.join(reasons)}")

    def absent(self, first: int, stop: int) -> int:
        """Raises SymbolsMissing when a part of it is not known."""
        self._whole(first, stop)
        here = sum(max(0, min(stop, c.first + c.count) - max(first, c.first)) for c in self._chunks)
        return stop - first - here

    async def release(self, below: int) -> None:
        while self._chunks and self._chunks[0].first + self._chunks[0].count <= below:
            self._forget_first()
        self._kept_from = max(self._kept_from, min(below, self.until))
        while self._lost and self._lost[0][1] <= below:
            self._lost.popleft()


class AskedForSymbols(SymbolStore):
    """The transmitter keeps the symbols; it is asked for those that count."""

    on_demand = True

    async def _step(self) -> None:
        await self._ask_where()
        await self._clock.sleep(_POLL_S)

    async def _ask_where(self) -> None:
        asked = await self._source.ask_symbols(np.array([max(0, self.until - 1)], np.int64))
        self._reached(max(self.until, asked.next_slot))

    async def collect(self, first: int, count: int) -> NDArray[np.uint8]:
        """In portions, before the transmitter's memory is written over."""
        parts = []
        for low in range(first, first + count, _ASK):
            high = min(low + _ASK, first + count)
            while self.until < high:
                await self._clock.sleep(max(_PORTION_S, (high - self.position()) / float(self._settings.pulse_rate)))
                await self._ask_where()
            parts.append(await self.symbols(np.arange(low, high, dtype=np.int64)))
            await self.release(high)
        return np.concatenate(parts)

    async def symbols(self, slots: NDArray[np.int64]) -> NDArray[np.uint8]:
        parts = []
        for low in range(0, len(slots), _ASK):
            wanted = slots[low : low + _ASK]
            asked = await self._source.ask_symbols(wanted)
            self._reached(max(self.until, asked.next_slot))
            self._meter.add("qkdd_link_symbols_asked_total", len(wanted), link=self._name)
            # how long the oldest of them would still have been there; below 0 it was too late
            margin = (int(wanted[0]) - asked.oldest) / float(self._settings.pulse_rate)
            if asked.oldest > 0:  # before that nothing was ever written over
                self._meter.set("qkdd_link_symbols_margin_seconds", margin, link=self._name)
            gone = ~asked.here & ((wanted < asked.oldest) | (wanted >= asked.next_slot))
            if gone.any():
                self._meter.add("qkdd_link_symbols_lost_total", int(gone.sum()), link=self._name)
                late = f"; the first was asked for {-margin:.3f} s too late" if margin < 0 else ""
                raise SymbolsMissing(
                    f"link {self._name}: the transmitter holds slots {asked.oldest} to {asked.next_slot}, "
                    f"{int(gone.sum())} of the {len(wanted)} asked ones lie outside{late}"
                )
            known = (asked.basis << 3 | asked.bit << 2 | asked.intensity).astype(np.uint8)
            parts.append(np.where(asked.here, known, SYMBOL_ABSENT).astype(np.uint8))
        return np.concatenate(parts) if parts else np.empty(0, np.uint8)

    def absent(self, first: int, stop: int) -> int:
        """Only the transmitter knows; its own counters say it (`qkdctl devices`)."""
        return 0

    async def release(self, below: int) -> None:
        await self._source.release_symbols(below)

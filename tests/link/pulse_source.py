"""A small source of weak coherent pulses for the link's tests, with a transmitter and a tagger that play it. Nothing to do with
the bench. Means: security-proofs S8; each detector sees a Poisson number of photons of its own."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np

from qkdd.core.errors import QkddError
from qkdd.device.roles import AskedSymbols, PreparedSymbols
from qkdd.device.tags import StreamStart, TagBlock

ABSENT = 255
CHUNK_S = 0.1
Chunk = tuple[np.ndarray, np.ndarray, np.ndarray]
_MADE: dict[Any, tuple[np.random.Generator, list[Chunk]]] = {}


class PulseSource:
    """Pulses of one transmitter through one channel onto four detectors behind a 50:50 splitter."""

    def __init__(
        self,
        rate: float = 1e6,
        mu: tuple[float, ...] = (0.5, 0.1, 0.001),
        p: tuple[float, ...] = (0.7, 0.2, 0.1),
        x: float = 0.3,
        eta: float = 0.1,
        error: float = 0.01,
        dark: float = 200.0,
        seed: int = 1,
        private: bool = False,
    ) -> None:
        """private: this source is going to be tampered with."""
        self.rate, self.mu, self.p, self.x, self.eta, self.error, self.dark = rate, mu, p, x, eta, error, dark
        self.per_chunk = round(rate * CHUNK_S)
        # the same pulses for every test that wants none of its own: making them takes most of a test's time
        key = (rate, mu, p, x, eta, error, dark, seed)
        made = {} if private else _MADE
        self._rng, self._chunks = made.setdefault(key, (np.random.default_rng(seed), []))
        self.pause: dict[int, int] = {}  # chunk -> slots at its start without a pulse
        self.blocked = False  # the fibre is cut

    def chunk(self, index: int) -> Chunk:
        """(symbols, slots of the clicks as floats, detectors) of the pulses of one tenth of a second."""
        while len(self._chunks) <= index:
            k, n, rng = len(self._chunks), self.per_chunk, self._rng
            level = rng.choice(len(self.p), n, p=self.p)
            basis, bit = (rng.random(n) < self.x).astype(int), rng.integers(0, 2, n)
            symbols = (basis << 3 | bit << 2 | level).astype(np.uint8)
            quiet = self.pause.get(k, 0)
            symbols[:quiet] = ABSENT
            power = np.array(self.mu)[level] * self.eta / 2 * (not self.blocked)
            power[:quiet] = 0.0
            slots, detectors = [], []
            for detector in range(4):
                same = basis == detector >> 1
                share = np.where(same, np.where(bit == (detector & 1), 1 - self.error, self.error), 0.5)
                hit = np.flatnonzero(rng.random(n) < 1 - np.exp(-power * share))
                dark = rng.uniform(-0.5, n - 0.5, rng.poisson(self.dark / 4 * CHUNK_S))
                slots += [hit.astype(float), dark]
                detectors.append(np.full(len(hit) + len(dark), detector, np.uint8))
            self._chunks.append((symbols, np.concatenate(slots) + k * n, np.concatenate(detectors)))
        return self._chunks[index]


class LabTransmitter:
    """Role SymbolSource on a fake clock. `error`: relative error of its clock against true time."""

    def __init__(self, source: PulseSource, clock: Any, error: float = 3e-6, window: int = 1 << 20) -> None:
        self.source, self._clock, self.error, self.window = source, clock, error, window
        self.began: float | None = None  # true time of slot 0
        self.stopped = 0
        self.lose = 0  # symbols that the cable loses next
        self.failure: QkddError | None = None
        self.prepared: Any = None
        self.asked = 0
        self.late = 0.0  # s that its next answer takes
        self._read = 0

    @property
    def pulse_rate_hz(self) -> float:
        return self.source.rate

    @property
    def chunk_s(self) -> float:
        """True duration of a chunk."""
        return CHUNK_S / (1 + self.error)

    async def prepare(self, x_basis: float, intensities: tuple[float, float, float]) -> None:
        self.prepared = (x_basis, intensities)

    async def start_symbols(self, *, on_demand: bool) -> int:
        self.began = self._clock.monotonic()
        return 0

    async def read_symbols(self) -> list[PreparedSymbols]:
        index, self._read = self._read, self._read + 1
        assert self.began is not None
        await self._clock.sleep(max(0.0, self.began + (index + 1) * self.chunk_s - self._clock.monotonic()))
        if self.failure is not None:
            raise self.failure
        symbols, _, _ = self.source.chunk(index)
        first = index * len(symbols)
        skipped = int(np.count_nonzero(symbols == ABSENT))
        lost, self.lose = self.lose, 0
        here = symbols[skipped + lost :]
        faults = ("QKD-FWB-SYMBOLS-LOST",) if lost else ()
        return [PreparedSymbols(first + skipped + lost, here >> 3, (here >> 2) & 1, here & 3, skipped, lost, faults)]

    def _made(self) -> int:
        assert self.began is not None
        return int((self._clock.monotonic() - self.began) / self.chunk_s * self.source.per_chunk)

    async def ask_symbols(self, slots: np.ndarray) -> AskedSymbols:
        if self.failure is not None:
            raise self.failure
        self.asked += len(slots)
        if self.late and len(slots) > 1:  # not the question where it stands
            late, self.late = self.late, 0.0
            await self._clock.sleep(late)
        made = self._made()
        oldest = max(0, made - self.window)
        values = np.full(len(slots), ABSENT, np.uint8)
        for i, slot in enumerate(slots.tolist()):
            if oldest <= slot < made:
                values[i] = self.source.chunk(slot // self.source.per_chunk)[0][slot % self.source.per_chunk]
        here = values != ABSENT
        known = np.where(here, values, 0)
        return AskedSymbols(here, known >> 3, (known >> 2) & 1, known & 3, oldest, made)

    async def release_symbols(self, below: int) -> None:
        assert 0 <= below <= self._made() + self.source.per_chunk * 10

    async def stop_symbols(self) -> list[PreparedSymbols]:
        self.stopped += 1
        return []


class PulseTagger:
    """Role TimeTagger: what the four detectors stamp. offset: its reading at true time zero."""

    inputs = 4
    resolution_ps = 2000

    def __init__(
        self, source: PulseSource, transmitter: LabTransmitter, clock: Any, offset: float = 0.1, error: float = -4e-6
    ) -> None:
        self._source, self._transmitter, self._clock = source, transmitter, clock
        self.offset, self.error = offset, error
        self._rng = np.random.default_rng(9)
        self._chunk = self._index = 0
        self._until = 0
        self._began = clock.monotonic()
        self._held = (np.empty(0, np.int64), np.empty(0, np.uint8))
        self.stopped = 0
        self.lose = False
        self.delays = np.zeros(4)  # s, of the detectors
        self.slip_ps = 0  # the stream is so far behind from now on
        self.failure: QkddError | None = None

    def _stamp(self, true: Any) -> Any:
        return ((true - self._began) * (1 + self.error) + self.offset) * 1e12

    async def start(self) -> StreamStart:
        return StreamStart(self._clock.wall(), self._clock.monotonic())

    async def read(self) -> TagBlock:
        self._index += 1
        await self._clock.sleep(max(0.0, self._began + self._index * 0.1 + 0.05 - self._clock.monotonic()))
        if self.failure is not None:
            raise self.failure
        tx, now = self._transmitter, self._clock.monotonic()
        times, detectors = [self._held[0]], [self._held[1]]
        complete = now - 1e-4
        if tx.began is not None:
            while tx.began + (self._chunk + 1) * tx.chunk_s + 1e-3 <= now:
                _, slots, which = self._source.chunk(self._chunk)
                true = tx.began + slots / self._source.rate / (1 + tx.error) + self._rng.normal(0, 2e-9, len(slots))
                true += self.delays[which]
                times.append(np.round(self._stamp(true) / 2000).astype(np.int64) * 2000)
                detectors.append(which)
                self._chunk += 1
            complete = tx.began + self._chunk * tx.chunk_s - 2e-6 if self._chunk else min(complete, tx.began - 2e-6)
        every, which = np.concatenate(times), np.concatenate(detectors)
        order = np.argsort(every, kind="stable")
        every, which = every[order], which[order]
        until = max(self._until, int(self._stamp(complete)))
        ready = int(np.searchsorted(every, until))
        self._held = every[ready:], which[ready:]
        self._until = until
        lost, self.lose = 7 * self.lose, False
        out = every[:ready] - self.slip_ps
        shown = max(int(out[-1]) if len(out) else 0, until - self.slip_ps)
        faults = ("QKD-DEV-TAGS-LOST",) if lost else ()
        await asyncio.sleep(0)
        return TagBlock(out, which[:ready], shown, lost, faults)

    async def stop(self) -> None:
        self.stopped += 1

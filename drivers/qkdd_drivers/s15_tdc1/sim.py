"""A TDC1 that behaves: text commands, counting modes, and a tag stream paced in real time out of a finite FIFO.

Its counter runs freely from power-up. When the host does not fetch, the FIFO fills and clicks are lost, as in hardware.
"""

from __future__ import annotations

import asyncio
import os
import select
import threading
import time
from collections.abc import Callable
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from qkdd_drivers.s15_tdc1 import protocol
from qkdd_drivers.simkit import Address, ClickSource, Simulator, make_wire

_TICK = 0.01  # seconds between two questions to the source
_FIFO_WORDS = 1 << 18  # generous, so that a busy machine under test does not lose what a real FIFO would keep
_HELP = (
    b"TDC1 simulator: *IDN? *RST singles pairs timestamp mode? time time? counts? abort level? NIM TTL NEG POS REFCLK"
)


class PoissonClicks:
    """Uncorrelated clicks of constant mean rate on every input: what `qkdd-sim tdc1` shows when no bench is behind it."""

    def __init__(self, rate: float, seed: int, inputs: int = protocol.INPUTS) -> None:
        self._rate, self._inputs = rate, inputs
        self._random = np.random.default_rng(seed)

    def clicks(self, start_ps: int, stop_ps: int) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        count = int(self._random.poisson(self._rate * (stop_ps - start_ps) * 1e-12))
        times = np.sort(self._random.integers(start_ps, stop_ps, count, dtype=np.int64))
        return times, self._random.integers(0, self._inputs, count, dtype=np.uint8)


class Tdc1Sim(Simulator):
    """One TDC1. `pty`: path of the symbolic link to make; `listen`: serve TCP instead; both None: a fresh pty.

    Own faults: `slip` (bytes=2: so many bytes of the stream vanish), `lose` (words=10000: so many records vanish),
    `deaf` (seconds=2: the device takes nothing out of its FIFO for so long, as when the host does not fetch).
    """

    model = "tdc1"
    faults: ClassVar[frozenset[str]] = Simulator.faults | {"slip", "lose", "deaf"}

    def __init__(
        self,
        source: ClickSource,
        *,
        pty: str | None = None,
        listen: tuple[str, int] | None = None,
        seed: int = 1,
        fifo_words: int = _FIFO_WORDS,
    ) -> None:
        super().__init__(seed)
        self._source = source
        self._wire = make_wire(self._received, pty, listen)
        self._fifo_words = fifo_words
        self._input = bytearray()
        self._origin = time.monotonic()
        self._asked_until = 0  # ps; the source is asked in order
        self._mode, self._time_ms, self._level, self._clock = 0, 1000, -0.5, 0
        self._stream: _Stream | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._counting: asyncio.Task[None] | None = None
        self.words_sent = 0
        self.words_lost = 0

    async def start(self) -> Address:
        self._origin = time.monotonic()
        address = await self._wire.listen()
        return Address(self.model, address.port, address.host, address.tcp_ports)

    async def stop(self) -> None:
        self._abort()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._wire.close()

    def unplug(self) -> None:
        self._abort()
        self._wire.cut()

    def plug(self) -> None:
        self._wire.mend()

    def send(self, data: bytes) -> None:
        if self._stream is not None:
            self._stream.insert(data)
        else:
            self._wire.write(data)

    def inject(self, fault: str, **args: float) -> None:
        super().inject(fault, **args)
        if self._stream is not None and fault in ("hang", "clear"):  # a tagger that hangs sends no tags either
            self._stream.deafen(3600.0 if fault == "hang" else 0.0)

    def inject_own(self, fault: str, args: dict[str, float]) -> None:
        stream = self._stream
        if stream is None:
            return
        match fault:
            case "slip":
                stream.skip(int(args.get("bytes", 2)))
            case "lose":
                stream.skip(4 * int(args.get("words", 10_000)))
            case "deaf":
                stream.deafen(args.get("seconds", 2.0))

    # Commands

    def _received(self, data: bytes) -> None:
        if self.hang:
            return
        self._input += data
        while (
            end := min((at for at in (self._input.find(s) for s in (b";", b"\r", b"\n")) if at >= 0), default=-1)
        ) >= 0:
            command = bytes(self._input[:end]).decode("ascii", "replace").strip()
            del self._input[: end + 1]
            if command:
                self._command(command)
        if len(self._input) > protocol.MAX_WRITE:
            self._input.clear()

    def _command(self, text: str) -> None:
        verb, _, argument = text.partition(" ")
        match verb.lower():
            case "*idn?":
                self._answer(
                    b"S-Fifteen Instruments,SPD,simulated" if self.wrong_identity else b"TDC1 four-channel counter"
                )
            case "abort":
                self._abort()
            case "*rst":
                self._abort()
                self._mode, self._time_ms = 0, 1000
            case "mode?":
                self._answer(b"%d" % self._mode)
            case "time?":
                self._answer(b"%d" % (self._time_ms - 65536 if self._time_ms > 32767 else self._time_ms))
            case "counts?":
                self._abort()
                self._count()
            case "level?":
                self._answer(b"%.3f V" % self._level)
            case "refclk?" | "eclock?":
                self._answer(b"%d" % self._clock)
            case "help":
                self._answer(_HELP)
            case _ if self.refuse:
                return  # this instrument has no word for no: it does nothing
            case "singles" | "pairs" | "timestamp" as mode:
                self._mode = {"singles": 0, "pairs": 1, "timestamp": 3}[mode]
            case "time":
                self._time_ms = _whole(argument, 0, 65535, self._time_ms)
            case "nim":
                self._level = -0.5
            case "ttl":
                self._level = 1.0
            case "neg" | "pos":
                self._level = _voltage(argument, self._level)
            case "refclk":
                self._clock = _whole(argument, 0, 2, self._clock)

    def _answer(self, line: bytes) -> None:
        if self.late:
            asyncio.get_running_loop().call_later(self.late, self._wire.write, line + protocol.END)
        else:
            self._wire.write(line + protocol.END)

    def _abort(self) -> None:
        if self._stream is not None:
            self._stream.end()
            self.words_sent += self._stream.sent
            self.words_lost += self._stream.lost
            self._asked_until = self._stream.asked_until
            self._stream = None
        if self._counting is not None:
            self._counting.cancel()
            self._counting = None

    # Measuring

    def _now_ps(self) -> int:
        return int((time.monotonic() - self._origin) * 1e12)

    def _count(self) -> None:
        start = max(self._now_ps(), self._asked_until)
        if self._mode == 3:
            stop = start + self._time_ms * 10**9 if self._time_ms else None
            self._stream = _Stream(self._source, self._wire.dup, start, stop, self._now_ps, self._fifo_words)
            return
        task = asyncio.get_running_loop().create_task(self._integrate(start))
        self._counting = task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _integrate(self, start: int) -> None:
        await asyncio.sleep(self._time_ms / 1000)
        stop = start + self._time_ms * 10**9
        self._asked_until = stop
        times, channels = await asyncio.to_thread(self._source.clicks, start, stop)
        values = [int(n) for n in np.bincount(channels, minlength=protocol.INPUTS)[: protocol.INPUTS]]
        if self._mode == 1:
            values += [_pairs(times, channels, a, b) for a, b in ((0, 2), (0, 3), (1, 2), (1, 3))]
        self._answer(b" ".join(b"%d" % value for value in values))


class _Stream:
    """The tag stream: a thread that asks the source, fills the FIFO and empties it into the line."""

    def __init__(
        self,
        source: ClickSource,
        dup: Callable[[], int],
        start_ps: int,
        stop_ps: int | None,
        now_ps: Callable[[], int],
        fifo_words: int,
    ) -> None:
        self.sent = self.lost = 0
        self.asked_until = start_ps
        self._source, self._stop_ps, self._now_ps = source, stop_ps, now_ps
        self._capacity = 4 * fifo_words
        self._fifo = bytearray()
        self._last_word_ps = start_ps
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._skip = 0
        self._deaf_until = 0.0
        self._fd = dup()
        self._thread = threading.Thread(target=self._work, name="tdc1-sim", daemon=True)
        self._thread.start()

    def end(self) -> None:
        self._ending.set()
        self._thread.join()

    def skip(self, count: int) -> None:
        """So many bytes vanish between FIFO and line."""
        with self._lock:
            self._skip += count

    def insert(self, data: bytes) -> None:
        with self._lock:
            self._fifo += data

    def deafen(self, seconds: float) -> None:
        self._deaf_until = time.monotonic() + seconds

    def _work(self) -> None:
        try:
            while not self._ending.is_set() and self._fd >= 0:
                now = self._now_ps()
                if self._stop_ps is not None:
                    now = min(now, self._stop_ps)
                if now > self.asked_until:
                    self._fill(now)
                if not self._drain(time.monotonic() + _TICK):
                    return
                if self._stop_ps is not None and now >= self._stop_ps and not self._fifo:
                    return
        finally:
            if self._fd >= 0:
                os.close(self._fd)

    def _fill(self, until: int) -> None:
        """Put the clicks up to `until`, and a dummy when there were none for long, into the FIFO."""
        times, channels = self._source.clicks(self.asked_until, until)
        self.asked_until = until
        words: list[NDArray[np.uint32]] = []
        dummy_ps = protocol.DUMMY_UNITS * protocol.UNIT_PS
        first = int(times[0]) if len(times) else until
        while first - self._last_word_ps > dummy_ps:
            self._last_word_ps += dummy_ps
            words.append(protocol.dummy(self._last_word_ps))
        if len(times):
            words.append(protocol.encode(times, channels))
            self._last_word_ps = int(times[-1])
        data = np.concatenate(words).tobytes() if words else b""
        with self._lock:
            room = max(0, self._capacity - len(self._fifo)) // 4 * 4
            self._fifo += data[:room]
            self.sent += min(len(data), room) // 4
            self.lost += max(0, len(data) - room) // 4

    def _drain(self, until: float) -> bool:
        """Write out of the FIFO until it is empty or the time has come; False when the line has gone."""
        while (left := until - time.monotonic()) > 0 and not self._ending.is_set():
            with self._lock:
                taken = min(self._skip, len(self._fifo))
                del self._fifo[:taken]
                self._skip -= taken
                chunk = bytes(self._fifo[:16384])
            if not chunk or time.monotonic() < self._deaf_until:
                self._ending.wait(left)
                continue
            try:
                written = os.write(self._fd, chunk)
            except BlockingIOError:
                select.select([], [self._fd], [], left)
                continue
            except OSError:
                return False
            with self._lock:
                del self._fifo[:written]
        return True


def _pairs(times: NDArray[np.int64], channels: NDArray[np.uint8], a: int, b: int) -> int:
    """Clicks of both inputs in one 2 ns step."""
    ticks = times // protocol.UNIT_PS
    return len(np.intersect1d(ticks[channels == a], ticks[channels == b]))


def _whole(text: str, low: int, high: int, otherwise: int) -> int:
    value = int(text) if text.strip().isdigit() else otherwise
    return value if low <= value <= high else otherwise


def _voltage(text: str, otherwise: float) -> float:
    try:
        value = float(text)
    except ValueError:
        return otherwise
    return value if abs(value) <= 3.3 else otherwise

"""Test kit of the link room: a tagger that plays the generator, and two links joined in memory on one fake clock."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qkdd import kernels
from qkdd.core.counters import RecordingMeter
from qkdd.core.errors import QkddError
from qkdd.core.secret import Secret
from qkdd.core.units import Fraction, Hertz, Seconds
from qkdd.device.tags import StreamStart, TagBlock
from qkdd.distill import DecoySettings
from qkdd.distill.blocks import DecoyBlock, DistilledBlock, SiftedBlock
from qkdd.link import LinkConfig, LinkShared
from qkdd.link.session import LinkSession
from qkdd.link.status import LinkStatus
from qkdd.peer.contract import Message
from qkdd.testing.clock import FakeClock
from qkdd.testing.peer import session_pair

STEP = 0.1  # seconds that one read returns
WRAP_PS = 268_435_456_000


@pytest.fixture(autouse=True)
def _heavy_calls_inline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Heavy calls run on the loop, so that the fake clock stands still meanwhile."""

    async def run(func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return func(*args, **kwargs)

    monkeypatch.setattr(kernels, "run", run)


class Lab:
    """The generator's clicks, made once for both nodes, step by step."""

    def __init__(self, source: Any) -> None:
        self.source = source
        self._steps: list[tuple[Any, Any, Any, Any]] = []

    def step(self, index: int, side: int) -> tuple[np.ndarray, np.ndarray]:
        while len(self._steps) <= index:
            low = len(self._steps) * STEP
            self._steps.append(self.source.clicks(low, low + STEP))
        clicks = self._steps[index]
        return clicks[2 * side], clicks[2 * side + 1]


class LabTagger:
    """One node's tagger: the generator's stamps in steps, delivered `latency` seconds after they were made."""

    inputs = 4
    resolution_ps = 2000

    def __init__(self, lab: Lab, side: int, clock: FakeClock, latency: float = 0.0) -> None:
        self._lab, self._side, self._clock, self._latency = lab, side, clock, latency
        self._began = clock.monotonic()
        self._index = 0
        self._until = 0
        self._held = (np.empty(0, np.int64), np.empty(0, np.uint8))
        self.stopped = 0
        self.lose = False  # the next read reports a loss
        self.failure: QkddError | None = None  # raised by the next read
        self.unstoppable = False  # a failure is raised by the stop as well
        self.missed_wraps = 0  # the stream is so many rollovers behind
        self.dark = False  # the fibre is unplugged: only a few dark clicks

    async def start(self) -> StreamStart:
        return StreamStart(self._clock.wall(), self._clock.monotonic())

    async def read(self) -> TagBlock:
        self._index += 1
        await self._clock.sleep(max(0.0, self._began + self._index * STEP + self._latency - self._clock.monotonic()))
        if self.failure is not None:
            raise self.failure
        side = self._lab.source.alice if self._side == 0 else self._lab.source.bob
        times, channels = self._lab.step(self._index - 1, self._side)
        if self.dark:
            spread = np.random.default_rng(self._index).integers(0, 10**9, len(times[::50]))
            times, channels = np.sort(times[::50] - spread), channels[::50]
        times = np.concatenate((self._held[0], times))
        channels = np.concatenate((self._held[1], channels))
        complete = int((side.offset + self._index * STEP * (1 + side.error) - 1e-6) * 1e12)
        ready = int(np.searchsorted(times, complete))
        self._held = times[ready:], channels[ready:]
        behind = self.missed_wraps * WRAP_PS
        fresh = times[:ready] - behind >= self._until
        self._until = max(self._until, complete - behind)
        lost, self.lose = 7 * self.lose, False
        faults = ("QKD-DEV-TAGS-LOST",) if lost else ()
        return TagBlock(times[:ready][fresh] - behind, channels[:ready][fresh], self._until, lost, faults)

    async def stop(self) -> None:
        self.stopped += 1
        if self.unstoppable and self.failure is not None:
            raise self.failure


class Note(Message, frozen=True, tag="test.note"):
    """What the fake distiller and committer exchange."""

    text: str


def plain(block: SiftedBlock | DecoyBlock) -> np.ndarray:
    return block.bits.unpacked() if isinstance(block, SiftedBlock) else block.bits.copy()


class FakeDistiller:
    """Checks that both nodes hold the same rounds, by saying so in clear; refuses with `refusal` when it is set."""

    def __init__(self) -> None:
        self.seeds: list[tuple[int, int]] = []
        self.blocks: list[tuple[int, np.ndarray, np.ndarray]] = []
        self.intensities: list[np.ndarray] = []
        self.pulses: list[int] = []
        self.refusal: QkddError | None = None

    def seed(self, errors: int, count: int) -> None:
        self.seeds.append((errors, count))

    async def distil(self, block: SiftedBlock, session: Any) -> DistilledBlock:
        self.blocks.append((block.number, plain(block), block.bases.copy()))
        self.intensities.append(getattr(block, "intensities", np.empty(0, np.uint8)).copy())
        self.pulses.append(getattr(block, "pulses", 0))
        await session.send(Note(f"{block.number} {len(block)}"))
        assert (await session.receive(Note)).text == f"{block.number} {len(block)}"
        await session.seal("sift", block.number)
        if self.refusal is not None:
            raise self.refusal
        size = len(block)
        return DistilledBlock(
            number=block.number,
            key=Secret(bytes(4)),
            length=32,
            proof="bbm92/tl2017",
            sifted=size,
            tolerated_error=0.03,
            test_errors=1,
            test_size=100,
            actual_errors=1,
            key_size=size - 100,
            leak=10,
            leak_budget=20,
            rounds=1,
            f_parities=1.0,
            f_sec=2.0,
            eps=1e-12,
            eps_sec=1e-12,
            eps_cor=1e-15,
            acquisition_s=block.acquisition_s,
        )


class FakeCommitter:
    def __init__(self) -> None:
        self.settled = 0
        self.committed: list[int] = []
        self.refusal: QkddError | None = None

    async def settle(self, session: Any) -> None:
        self.settled += 1

    async def commit(self, block: DistilledBlock, session: Any) -> None:
        if self.refusal is not None:
            raise self.refusal
        await session.send(Note("prepared"))
        assert (await session.receive(Note)).text == "prepared"
        await session.seal("commit", block.number)
        self.committed.append(block.number)


class FakeLedger:
    def __init__(self) -> None:
        self.charged: list[float] = []
        self.refusal: QkddError | None = None

    def charge(self, eps: float, *, now: float) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.charged.append(eps)


class Node:
    """One end of the pair."""

    def __init__(
        self, role: str, lab: Lab, side: int, clock: FakeClock, session: Any, shared: LinkShared, latency: float
    ) -> None:
        self.tagger = LabTagger(lab, side, clock, latency)
        self.session = session
        self.meter = RecordingMeter()
        self.distiller, self.committer, self.ledger = FakeDistiller(), FakeCommitter(), FakeLedger()
        self.beats = 0
        self.config = LinkConfig(name="a-b", role=role, shared=shared)
        self.clock = clock
        self.link: LinkSession = self.build()
        self.task: asyncio.Task[str] | None = None

    def build(self, status: LinkStatus | None = None) -> LinkSession:
        return LinkSession(
            self.config, self.config.role, self.tagger, self.session, self.distiller, self.committer, self.ledger,
            self.clock, self.meter, status=status, heartbeat=self._beat,
        )  # fmt: skip

    def _beat(self) -> None:
        self.beats += 1

    @property
    def snapshot(self) -> Any:
        return self.link.status.snapshot

    @property
    def accepted(self) -> int:
        return self.snapshot.blocks_accepted

    @property
    def refused(self) -> dict[str, int]:
        return self.snapshot.blocks_refused


class Pair:
    """Two nodes on one clock."""

    def __init__(self, clock: FakeClock, alice: Node, bob: Node) -> None:
        self.clock, self.alice, self.bob = clock, alice, bob
        self.may_end = False  # whether a test expects a run to end

    async def start(self) -> None:
        for node in (self.alice, self.bob):
            node.task = asyncio.create_task(node.link.run())

    async def until(self, condition: Callable[[], bool], seconds: float = 60.0) -> None:
        """Let fake time pass until the condition holds."""
        end = self.clock.monotonic() + seconds
        while not condition():
            for node in (self.alice, self.bob):
                if node.task is not None and node.task.done() and not self.may_end:
                    node.task.result()
            if self.clock.monotonic() >= end:
                raise AssertionError(f"not within {seconds} s: {self.alice.snapshot} {self.bob.snapshot}")
            await self.clock.advance(STEP / 2)
            await asyncio.sleep(0.001)  # the ledger's thread

    async def finish(self) -> None:
        for node in (self.alice, self.bob):
            if node.task is not None and not node.task.done():
                node.task.cancel()
        await asyncio.gather(*(n.task for n in (self.alice, self.bob) if n.task), return_exceptions=True)
        for node in (self.alice, self.bob):
            await node.session.close()


@pytest.fixture
def make_pair(source_kit: Any) -> Callable[..., Any]:
    """Factory of a Pair; short blocks and modest rates, so that a block costs some milliseconds."""

    async def make(
        *, latencies: tuple[float, float] = (0.05, 0.05), distiller: Any = None, source: Any = None, **shared: Any
    ) -> Pair:
        clock = FakeClock()
        kit = source_kit
        source = source or kit.Source(
            pairs=2.5e5,
            seed=3,
            alice=kit.Side(offset=0.4, error=3.1e-6, delays=(0.0, 1.1e-9, -0.7e-9, 2.0e-9)),
            bob=kit.Side(offset=0.1, error=-4.0e-6, delays=(1.5e-9, 0.0, 0.4e-9, -1.0e-9)),
        )
        lab = Lab(source)
        settings = {"block": Seconds(1.0), "open_stretch": Seconds(1.0), "offset_range": Seconds(0.3)} | shared
        both = LinkShared(**settings)
        sessions = await session_pair(clock=clock)
        alice = Node("alice", lab, 0, clock, sessions[0], both, latencies[0])
        bob = Node("bob", lab, 1, clock, sessions[1], both, latencies[1])
        return Pair(clock, alice, bob)

    return make


class PulseNode(Node):
    """One end of a pulsed link: alice has a transmitter, bob a tagger."""

    def __init__(self, role: str, device: Any, clock: FakeClock, session: Any, shared: LinkShared) -> None:
        self.tagger = device
        self.session = session
        self.meter = RecordingMeter()
        self.distiller, self.committer, self.ledger = FakeDistiller(), FakeCommitter(), FakeLedger()
        self.beats = 0
        self.config = LinkConfig(name="a-b", role=role, shared=shared)
        self.clock = clock
        self.link = self.build()
        self.task = None


@pytest.fixture
def make_pulse_pair(pulse_kit: Any) -> Callable[..., Any]:
    """Factory of a Pair on a pulsed link of 1 MHz; a block is a second."""

    async def make(*, source: Any = None, pulses: int = 1_000_000, window: int = 1 << 20, **shared: Any) -> Pair:
        clock = FakeClock()
        source = source or pulse_kit.PulseSource()
        decoy = DecoySettings(
            pulse_rate=Hertz(source.rate),
            block_pulses=pulses,
            mu=source.mu,
            p=source.p,
            mu_intervals=tuple((m * 0.98, m * 1.02) for m in source.mu),
            x_basis=Fraction(source.x),
        )
        settings = {
            "protocol": "decoy_bb84",
            "decoy": decoy,
            "offset_range": Seconds(0.3),
            "align_symbols": 1 << 17,
            "dead_time": Seconds(1.5e-6),
        }
        both = LinkShared(**(settings | shared))
        sessions = await session_pair(clock=clock)
        transmitter = pulse_kit.LabTransmitter(source, clock, window=window)
        tagger = pulse_kit.PulseTagger(source, transmitter, clock)
        alice = PulseNode("alice", transmitter, clock, sessions[0], both)
        bob = PulseNode("bob", tagger, clock, sessions[1], both)
        return Pair(clock, alice, bob)

    return make


def _module(name: str) -> Any:
    """A module beside this file."""
    spec = importlib.util.spec_from_file_location(f"link_{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules.setdefault(f"link_{name}", importlib.util.module_from_spec(spec))
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def source_kit() -> Any:
    """The module tests/link/source.py."""
    return _module("source")


@pytest.fixture(scope="session")
def pulse_kit() -> Any:
    """The module tests/link/pulse_source.py."""
    return _module("pulse_source")

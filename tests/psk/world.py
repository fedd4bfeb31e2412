"""Two agents, their disks, a KMS, a line that can be cut and a WireGuard that shakes hands every five seconds; no real time.

Every operation with an effect (disk, program, KMS, line) counts as two steps, one before and one after its effect. A fault can
be laid on any step.
"""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Callable
from typing import Any

from qkdd.core.counters import RecordingMeter
from qkdd.core.errors import StorageFailed
from qkdd.core.secret import Secret
from qkdd.core.units import Seconds
from qkdd.psk.agent import Agent
from qkdd.psk.config import AgentConfig
from qkdd.psk.errors import KmsAway, KmsRefused, PartnerAway, TargetFailed
from qkdd.psk.initiator import Initiator
from qkdd.psk.keys import AgreedKey
from qkdd.psk.line import LineMessage, decode, encode
from qkdd.psk.responder import Responder
from qkdd.psk.state import State
from qkdd.testing.clock import FakeClock

KNOCK = 5.0  # seconds between WireGuard's handshakes that get no answer
OTHER = {"a": "b", "b": "a"}


class Crash(BaseException):
    """The process is gone."""


class World:
    def __init__(self, fault: Callable[[World, int, str, str], None] | None = None, **settings: Any) -> None:
        settings = {"period": Seconds(20), "max_age": Seconds(60), **settings}
        self.config = AgentConfig(state_directory="-", master_key="-", **settings)
        self.clock = FakeClock()
        self.fault = fault
        self.steps: list[tuple[str, str]] = []
        self.disks = {"a": State(), "b": State()}
        self.full = {"a": False, "b": False}
        self.interfaces = {"a": b"old", "b": b"old"}
        self.gone = {"a": False, "b": False}  # the interfaces
        self.handshakes = 0
        self.quiet = self.longest_quiet = 0.0
        self.keys: dict[str, bytes] = {}
        self.kms_away = False
        self.cut = False
        self.lines: list[MemoryLine] = []
        self.agents: dict[str, Agent] = {}
        self.meters = {"a": RecordingMeter(), "b": RecordingMeter()}
        self.tasks: dict[str, list[asyncio.Task[Any]]] = {"a": [], "b": []}

    def step(self, end: str, what: str) -> None:
        self.steps.append((end, what))
        if self.fault is not None:
            self.fault(self, len(self.steps) - 1, end, what)

    async def start(self, end: str) -> None:
        parts: dict[str, Any] = {
            "kms": MemoryKms(self, end),
            "store": MemoryStore(self, end),
            "target": MemoryTarget(self, end),
            "clock": self.clock,
            "meter": self.meters[end],
        }
        agent: Agent
        if end == "a":
            agent = Initiator(self.config, connect=self.connect, ends=("agent-a", "agent-b"), **parts)
        else:
            agent = Responder(self.config, ends=("agent-a", "agent-b"), **parts)
        self.agents[end] = agent
        self.spawn(end, self.life(agent))

    async def life(self, agent: Agent) -> None:
        await agent.open()
        async with asyncio.TaskGroup() as group:
            group.create_task(agent.upkeep())
            if isinstance(agent, Initiator):
                group.create_task(agent.run())

    def spawn(self, end: str, work: Any) -> None:
        async def guarded() -> None:
            try:
                await work
            except (Crash, asyncio.CancelledError):
                return
            except BaseExceptionGroup as group:
                if group.split(Crash)[1] is not None:
                    raise

        self.tasks[end].append(asyncio.create_task(guarded()))

    def kill(self, end: str) -> None:
        """As kill -9: nothing of the process runs any more; the kernel closes its connections."""
        me = asyncio.current_task()
        for task in self.tasks.pop(end):
            if task is not me:
                task.cancel()
        self.tasks[end] = []
        self.agents.pop(end, None)
        for line in self.lines:
            if line.end == end:
                line.broken = True
                line.hang_up()

    async def connect(self) -> MemoryLine:
        await asyncio.sleep(0)
        if self.cut or "b" not in self.agents:
            raise PartnerAway("nobody answers")
        binding = os.urandom(32)
        ours, theirs = MemoryLine(self, "a", binding), MemoryLine(self, "b", binding)
        ours.other, theirs.other = theirs, ours
        self.lines += [ours, theirs]
        agent = self.agents["b"]
        assert isinstance(agent, Responder)
        self.spawn("b", agent.serve(theirs))
        return ours

    async def run(self, seconds: float) -> None:
        """Time goes on, with a handshake attempt of the tunnel every five seconds."""
        for _ in range(round(seconds / KNOCK)):
            await self.clock.advance(KNOCK)
            if self.interfaces["a"] == self.interfaces["b"] and not any(self.gone.values()):
                self.handshakes += 1
                self.quiet = 0.0
            else:
                self.quiet += KNOCK
                self.longest_quiet = max(self.longest_quiet, self.quiet)

    async def stop(self) -> None:
        for end in ("a", "b"):
            self.kill(end)
        await self.clock.settle()

    def agreed(self) -> bool:
        ids = {state.ids()[0] for state in self.disks.values()}
        return len(ids) == 1 and None not in ids and self.interfaces["a"] == self.interfaces["b"]


class MemoryLine:
    def __init__(self, world: World, end: str, binding: bytes) -> None:
        self.world, self.end, self.binding = world, end, binding
        self.inbox: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.other: MemoryLine = self
        self.broken = False

    async def send(self, message: LineMessage) -> None:
        if self.broken:
            raise PartnerAway("the line broke")
        self.world.step(self.end, f"send {type(message).__name__}")
        if not self.world.cut:
            self.other.inbox.put_nowait(encode(message))
        self.world.step(self.end, f"sent {type(message).__name__}")
        await asyncio.sleep(0)

    async def receive(self, timeout: float) -> LineMessage:
        try:
            async with self.world.clock.deadline(timeout):
                data = await self.inbox.get()
        except TimeoutError:
            raise PartnerAway("nothing came") from None
        if data is None:
            raise PartnerAway("closed")
        return decode(data[4:])

    def hang_up(self) -> None:
        if not self.world.cut:
            self.other.inbox.put_nowait(None)

    async def close(self) -> None:
        if not self.broken:
            self.broken = True
            self.inbox.put_nowait(None)
            self.hang_up()


class MemoryKms:
    def __init__(self, world: World, end: str) -> None:
        self.world, self.end = world, end

    async def draw(self) -> tuple[str, Secret]:
        self.world.step(self.end, "draw")
        if self.world.kms_away:
            raise KmsAway("no")
        key_id = str(uuid.uuid4())
        self.world.keys[key_id] = os.urandom(32)
        self.world.step(self.end, "drawn")
        await asyncio.sleep(0)
        return key_id, Secret(self.world.keys[key_id])

    async def fetch(self, key_id: str) -> Secret:
        self.world.step(self.end, "fetch")
        if self.world.kms_away:
            raise KmsAway("no")
        if key_id not in self.world.keys:
            raise KmsRefused("not found")
        key = Secret(self.world.keys.pop(key_id))  # once
        self.world.step(self.end, "fetched")
        await asyncio.sleep(0)
        return key

    async def close(self) -> None:
        await asyncio.sleep(0)


class MemoryStore:
    def __init__(self, world: World, end: str) -> None:
        self.world, self.end = world, end

    async def load(self) -> State:
        await asyncio.sleep(0)
        found = self.world.disks[self.end]
        return State(*(None if k is None else AgreedKey(k.key_id, k.psk, None, k.made) for k in keys(found)))

    async def save(self, state: State) -> None:
        self.world.step(self.end, "save")
        if self.world.full[self.end]:
            raise StorageFailed("no space left")
        await asyncio.sleep(0)
        self.world.disks[self.end] = state
        self.world.step(self.end, "saved")


def keys(state: State) -> tuple[AgreedKey | None, ...]:
    return state.current, state.previous, state.next


class MemoryTarget:
    purpose = "wireguard"
    exclusive = True

    def __init__(self, world: World, end: str) -> None:
        self.world, self.end = world, end

    def _there(self) -> None:
        if self.world.gone[self.end]:
            raise TargetFailed("no such interface")

    async def prepare(self, key: AgreedKey) -> None:
        self._there()
        await asyncio.sleep(0)

    async def use(self, key: AgreedKey, previous: AgreedKey | None) -> None:
        self.world.step(self.end, "use")
        self._there()
        await asyncio.sleep(0)
        self.world.interfaces[self.end] = bytes(key.psk.reveal())
        self.world.step(self.end, "used")

    async def holds(self, key: AgreedKey) -> bool:
        self._there()
        return self.world.interfaces[self.end] == bytes(key.psk.reveal())

    async def block(self) -> None:
        self._there()
        self.world.interfaces[self.end] = b"blocked by " + self.end.encode()

    async def blocked(self) -> bool:
        return self.world.interfaces[self.end].startswith(b"blocked")

    async def last_handshake(self) -> int:
        self._there()
        return self.world.handshakes

    async def close(self) -> None:
        await asyncio.sleep(0)

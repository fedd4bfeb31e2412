"""A KMS of several processes on one PostgreSQL database: no key twice, whoever dies."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from qkdd_hil.postgres import PostgresServer

from qkdd.core.audit import AuditLog
from qkdd.core.database import Database, is_alive, owner
from qkdd.core.errors import ConfigError, StorageFailed, StorageSilent
from qkdd.core.postgres import Postgres, parse
from qkdd.core.secret import Secret
from qkdd.kms import together
from qkdd.kms.errors import NotEnoughKey, PeerKmsDown
from qkdd.kms.rotation import NoEarlierKey, Rotation, siblings
from qkdd.kms.schema import kms_store
from qkdd.kms.service import KeyService

from .local import World, service_config
from .postgres import server


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with server() as made:
        yield made


DEADLINE = 10.0


class Replicas(World):
    """Alice's KMS has `count` processes (here: key services with stores of their own) on one database; bob's has a file."""

    def __init__(self, root: Path, url: str, count: int, **limits: Any) -> None:
        super().__init__(root, **limits)
        self.url, self.count = url, count
        self.replicas: list[KeyService] = []

    async def begin(self) -> None:
        await self.start("bob")
        self.replicas = [await self.replica() for _ in range(self.count)]
        self.services["alice"] = self.replicas[0]

    async def replica(self, master: bytes = bytes(32), *others: bytes) -> KeyService:
        """others: master keys under which other processes seal."""
        (self.root / "alice").mkdir(exist_ok=True)
        if "alice" not in self.audits:
            self.audits["alice"] = AuditLog(self.root / "alice" / "audit.log", self.clock)
        service = KeyService(
            service_config("alice", self.root, **self.limits),
            kms_store(Postgres(self.url, DEADLINE), DEADLINE, self.clock),
            Secret(master),
            {"kms-bob": self.lines["alice"]},  # type: ignore[dict-item]
            clock=self.clock,
            meter=self.meters["alice"],
            audit=self.audits["alice"],
        )
        for other in others:
            service.sealer.also_opens(Secret(other))
        await service.open()
        return service

    async def finish(self) -> None:
        for service in self.replicas:
            await service.close()
        await self.stop("bob")
        self.audits["alice"].close()


def play(scenario: Callable[[Replicas], Any], root: Path, url: str, count: int = 2, **limits: Any) -> None:
    async def main() -> None:
        made = Replicas(root, url, count, **limits)
        await made.begin()
        try:
            await scenario(made)
        finally:
            await made.finish()

    asyncio.run(main())


def test_two_processes_share_a_pool(postgres: PostgresServer, tmp_path: Path) -> None:
    async def scenario(world: Replicas) -> None:
        for index in range(0, 20, 2):
            await world.feed(index)
        await world.sync()
        drawn: dict[str, bytes] = {}

        async def draw(service: KeyService) -> None:
            for _ in range(10):
                for key in await service.draw("sae-alice", ("sae-bob",), 2, 32):
                    assert key.key_id not in drawn
                    drawn[key.key_id] = key.key

        await asyncio.gather(*(draw(service) for service in world.replicas for _ in range(2)))
        assert len(drawn) == len(set(drawn.values())) == 80
        assert await world.fetch("bob", list(drawn)) == drawn
        keys = await world.draw("bob", 5)  # one process records what the other gives out
        first, second = list(keys)[:3], list(keys)[3:]
        got = await world.replicas[1].fetch("sae-alice", "sae-bob", first)
        assert {k.key_id: k.key for k in got} == {i: keys[i] for i in first}
        got = await world.replicas[0].fetch("sae-alice", "sae-bob", second)
        assert {k.key_id: k.key for k in got} == {i: keys[i] for i in second}
        await world.agree()

    play(scenario, tmp_path, postgres.create("shared"))


def test_processes_on_one_store_change_their_master_key_while_keys_are_drawn(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    """Each step of the operator's procedure, with keys drawn, fetched and fed between them by processes of both kinds."""
    old, new = bytes(32), bytes(range(32))

    async def scenario(world: Replicas) -> None:
        drawn: dict[str, bytes] = {}

        async def work(index: int) -> None:
            await world.feed(index)
            await world.sync()
            for service in world.replicas:
                drawn.update({k.key_id: k.key for k in await service.draw("sae-alice", ("sae-bob",), 2, 32)})

        async def restart(place: int, *keys: bytes) -> None:
            await world.replicas[place].close()
            world.replicas[place] = await world.replica(*keys)
            world.services["alice"] = world.replicas[place]

        await work(0)
        for step, keys in enumerate(((old, new), (new, old))):
            for place in range(2):
                await restart(place, *keys)
                await work(2 + 4 * step + 2 * place)
        path = tmp_path / "master.key"
        for file, key in ((path, new), (siblings(path)[1], old)):
            file.write_text(key.hex())
            file.chmod(0o600)
        first = world.replicas[0]
        rotation = Rotation(path, first.database, first.sealer, world.audits["alice"])
        rotation.begin()
        await asyncio.gather(rotation.run(), work(10))
        assert (rotation.progress.state, siblings(path)[1].exists()) == ("done", True)
        for place in range(2):  # the old key is gone, and nothing needs it
            await restart(place, new)
        await work(12)
        assert await world.fetch("bob", list(drawn)) == drawn
        await world.agree()

    play(scenario, tmp_path, postgres.create("rotated"))


def test_a_shared_store_is_not_sealed_anew_before_the_new_key_is_everywhere(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    async def scenario(world: Replicas) -> None:
        service, path = world.replicas[0], tmp_path / "master.key"
        rotation = Rotation(path, service.database, service.sealer, world.audits["alice"])
        assert not rotation.resume()
        with pytest.raises(NoEarlierKey, match="no earlier master key"):
            rotation.begin()
        assert rotation.progress.state == "idle"

    play(scenario, tmp_path, postgres.create("early"), count=1)


def test_a_dead_process_frees_its_reservations(postgres: PostgresServer, tmp_path: Path) -> None:
    """Its announced but undelivered draw is taken by a request of the same shape at the other process, once."""

    async def scenario(world: Replicas) -> None:
        await world.feed(0, 640)
        await world.sync()
        line = world.lines["alice"]
        held = asyncio.Event()
        true_call = line.call

        async def hanging(name: str, message: Any, answer: Any) -> Any:
            reply = await true_call(name, message, answer)
            if name == "allocations" and not held.is_set():
                held.set()
                await asyncio.Event().wait()  # recorded at the other site, the answer never comes
            return reply

        line.call = hanging  # type: ignore[method-assign]
        dying = asyncio.create_task(world.replicas[0].draw("sae-alice", ("sae-bob",), 4, 32))
        await held.wait()
        other = await world.replicas[1].draw("sae-alice", ("sae-bob",), 4, 32)  # does not take what is under way
        await world.replicas[1].clean()
        # the first process loses its connection, as if it had been killed
        database = world.replicas[0].database
        await asyncio.to_thread(database._release)
        for _ in range(100):
            await world.replicas[1].clean()
            taken = await world.replicas[1].site.run(
                lambda c: c.execute(sa.text("SELECT count(*) FROM allocations WHERE claimant IS NULL")).scalar_one()
            )
            if taken > 1:  # the delivered one has none either
                break
        again = await world.replicas[1].draw("sae-alice", ("sae-bob",), 4, 32)
        assert not {k.key for k in other} & {k.key for k in again}
        dying.cancel()
        await asyncio.wait([dying])
        ids = {k.key_id: k.key for k in (*other, *again)}
        assert await world.fetch("bob", list(ids)) == ids
        await world.agree()

    play(scenario, tmp_path, postgres.create("dying"))


def test_a_lost_store_delivers_nothing_that_another_took(postgres: PostgresServer, tmp_path: Path) -> None:
    async def scenario(world: Replicas) -> None:
        await world.feed(0, 640)
        await world.sync()
        line, go, asked = world.lines["alice"], asyncio.Event(), asyncio.Event()
        true_call = line.call

        async def slow(name: str, message: Any, answer: Any) -> Any:
            reply = await true_call(name, message, answer)
            if name == "allocations" and not asked.is_set():
                asked.set()
                await go.wait()
            return reply

        line.call = slow  # type: ignore[method-assign]
        slow_draw = asyncio.create_task(world.replicas[0].draw("sae-alice", ("sae-bob",), 4, 32))
        await asked.wait()
        await asyncio.to_thread(world.replicas[0].database._release)
        while True:
            await world.replicas[1].clean()
            again = await world.replicas[1].draw("sae-alice", ("sae-bob",), 4, 32)
            if again[0].key_id[:18] == line.sent[-1].id[:12] or len(line.sent) > 1:
                break
        go.set()
        with pytest.raises(StorageFailed):
            await slow_draw
        ids = {k.key_id: k.key for k in again}
        assert await world.fetch("bob", list(ids)) == ids

    play(scenario, tmp_path, postgres.create("lost"))


@pytest.mark.parametrize("hard", [False, True], ids=["restarted", "killed"])
def test_the_server_goes_and_comes_back(postgres: PostgresServer, tmp_path: Path, hard: bool) -> None:
    async def scenario(world: Replicas) -> None:
        await world.feed(0, 3200)
        await world.sync()
        before = await world.draw("alice", 3)
        await asyncio.to_thread(postgres.kill if hard else postgres.stop)
        for service in world.replicas:
            with pytest.raises(StorageFailed):
                await service.draw("sae-alice", ("sae-bob",), 1, 32)
        await asyncio.to_thread(postgres.start)
        after = [k for service in world.replicas for k in await service.draw("sae-alice", ("sae-bob",), 3, 32)]
        ids = before | {k.key_id: k.key for k in after}
        assert len(set(ids.values())) == 9
        assert await world.fetch("bob", list(ids)) == ids

    play(scenario, tmp_path, postgres.create(f"restart_{hard}".lower()))


@pytest.mark.parametrize("moment", ["reserve", "announced", "commit"])
def test_the_server_is_there_and_says_nothing(postgres: PostgresServer, tmp_path: Path, moment: str) -> None:
    """Stopped (SIGSTOP) before, in the middle and at the end of a draw: the request is told after the deadline, others at once;
    when the server goes on so does the KMS, and no key was given twice or lost after it had been given."""

    async def scenario(world: Replicas) -> None:
        await world.feed(0, 3200)
        await world.sync()
        before = await world.draw("alice", 3)
        site, line = world.replicas[0].site, world.lines["alice"]
        true_call, true_run = line.call, site.run

        async def call(name: str, message: Any, answer: Any) -> Any:
            reply = await true_call(name, message, answer)
            if moment == "announced" and name == "allocations":
                postgres.pause()
            return reply

        async def run(work: Any, *arguments: Any, **named: Any) -> Any:
            def at_commit(connection: sa.Connection, *given: Any, **more: Any) -> Any:
                result = work(connection, *given, **more)
                postgres.pause()
                return result

            hit = moment == "commit" and work is together.deliver
            return await true_run(at_commit if hit else work, *arguments, **named)

        line.call, site.run = call, run  # type: ignore[method-assign]
        if moment == "reserve":
            postgres.pause()
        try:
            drawing = asyncio.create_task(world.replicas[0].draw("sae-alice", ("sae-bob",), 4, 32))
            while not drawing.done():
                await world.clock.advance(1.0)
                await asyncio.sleep(0.01)
            with pytest.raises(StorageSilent, match="no answer within 10 s"):
                await drawing
        finally:
            postgres.resume()
        line.call, site.run = true_call, true_run  # type: ignore[method-assign]
        after: dict[str, bytes] = {}
        for service in world.replicas:
            for _ in range(500):
                try:
                    await service.clean()
                    after |= {k.key_id: k.key for k in await service.draw("sae-alice", ("sae-bob",), 3, 32)}
                    break
                except StorageSilent:  # told at once while the worker takes leave of the line
                    await asyncio.sleep(0.01)
        assert len(set((before | after).values())) == 9
        assert await world.fetch("bob", list(before | after)) == before | after
        await world.agree()

    play(scenario, tmp_path, postgres.create(f"silent_{moment}"))


def test_a_server_that_never_answered(postgres: PostgresServer) -> None:
    """It accepts the connection: the start ends with an error, for the service manager to try again."""

    async def main() -> None:
        url = postgres.create("mute")
        postgres.pause()
        try:
            with pytest.raises(StorageSilent):
                await kms_store(Postgres(url, 2.0), 30.0).open()
        finally:
            postgres.resume()

    asyncio.run(main())


def test_another_session_holds_the_turn(postgres: PostgresServer) -> None:
    """A replica that hangs in a transaction: the server ends the wait, all that waited are told together, and it goes on."""

    async def main() -> None:
        url = postgres.create("turn")
        holder, other = kms_store(Postgres(url, 60.0), 60.0), kms_store(Postgres(url, 0.4), 60.0)
        await holder.open()
        await other.open()
        gate, begun = threading.Event(), threading.Event()

        def hold(_connection: sa.Connection) -> None:
            begun.set()
            gate.wait(60)

        holding = asyncio.create_task(holder.run(hold))
        await asyncio.to_thread(begun.wait)
        results = await asyncio.gather(*(other.run(owner) for _ in range(50)), return_exceptions=True)
        assert {type(r) for r in results} == {StorageSilent}
        gate.set()
        await holding
        assert await other.run(owner)
        await holder.close()
        await other.close()

    asyncio.run(main())


def test_in_doubt_work_does_not_run_again(postgres: PostgresServer) -> None:
    """A connection that is lost inside a group fails the whole group; the next work finds a new connection."""

    async def main() -> None:
        database = Database(Postgres(postgres.create("doubt")), [lambda c: None])
        await database.open()
        runs = []

        def kills(connection: sa.Connection) -> None:
            runs.append(owner(connection))
            connection.exec_driver_sql("SELECT pg_terminate_backend(pg_backend_pid())")

        with pytest.raises(StorageFailed):
            await database.run(kills)
        assert len(runs) == 1
        fresh = await database.run(owner)
        assert fresh != runs[0]
        assert await database.run(lambda c: is_alive(c, fresh))
        assert not await database.run(lambda c: is_alive(c, runs[0]))
        await database.close()

    asyncio.run(main())


def test_the_line_between_the_sites_is_cut(postgres: PostgresServer, tmp_path: Path) -> None:
    async def scenario(world: Replicas) -> None:
        await world.feed(0, 320)
        await world.sync()
        world.lines["alice"].script = ["after"]
        with pytest.raises(PeerKmsDown):
            await world.replicas[0].draw("sae-alice", ("sae-bob",), 10, 32)
        with pytest.raises(NotEnoughKey):  # the shape differs, the bytes are reserved
            await world.replicas[1].draw("sae-alice", ("sae-bob",), 9, 32)
        keys = await world.replicas[1].draw("sae-alice", ("sae-bob",), 10, 32)
        ids = {k.key_id: k.key for k in keys}
        assert await world.fetch("bob", list(ids)) == ids

    play(scenario, tmp_path, postgres.create("cut"))


def test_urls() -> None:
    assert Postgres("postgresql://kms@db.example/keys").name == "postgresql://db.example/keys"
    for url, hint in (
        ("postgresql://kms:secret@db/keys", "passfile"),
        ("mysql://db/keys", "postgresql://"),
        ("nonsense", "postgresql://"),
    ):
        with pytest.raises(ConfigError) as caught:
            parse(url)
        assert hint in caught.value.remedy
        assert "secret" not in str(caught.value)

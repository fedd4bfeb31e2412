"""Announcements that travel together: each keeps its own answer, one failure is everybody's, nobody waits for ever."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Any

import pytest

from qkdd.kms.errors import PeerKmsDown
from qkdd.kms.grouping import MOST, AllNoted, Announcements, GroupingPeer
from qkdd.kms.plane import Announce, Held, Holds, Noted, PeerKms
from qkdd.testing.clock import FakeClock

from .sites import Sites

Play = Callable[..., None]


def announce(number: int, pieces: int = 1) -> Announce:
    ranges = [("chunk", n, n + 1) for n in range(pieces)]
    return Announce(f"{number:024x}", "a", ["b"], 32, 1, ranges)


class Scripted(GroupingPeer):
    """Calls wait for `gate`; `script`: what the next ones of several announcements do; `calls`: announcements in each."""

    def __init__(self) -> None:
        super().__init__("kms-b", ["https://nowhere"], ssl.create_default_context(), FakeClock(), 3.0)
        self.gate = asyncio.Event()
        self.calls: list[int] = []
        self.script: list[Exception | int] = []


async def _answer(self: Scripted, name: str, message: Any, answer: Any) -> Any:
    count = len(message.announcements) if isinstance(message, Announcements) else 1
    self.calls.append(count)
    await self.gate.wait()
    step = self.script.pop(0) if self.script and count > 1 else 0
    if isinstance(step, Exception):
        raise step
    if isinstance(message, Announcements):
        assert (name, answer) == ("announcements", AllNoted)
        return AllNoted([Noted(True, cursor=int(one.id, 16)) for one in message.announcements[step:]])
    if isinstance(message, Announce):
        assert (name, answer) == ("allocations", Noted)
        return Noted(True, cursor=int(message.id, 16))
    return Held([])


@pytest.fixture(autouse=True)
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    async def call(self: PeerKms, name: str, message: Any, answer: Any) -> Any:
        if isinstance(self, Scripted):
            return await _answer(self, name, message, answer)
        return await true(self, name, message, answer)

    true = PeerKms.call
    monkeypatch.setattr(PeerKms, "call", call)


async def ask(peer: Scripted, numbers: range) -> list[asyncio.Task[Noted]]:
    """The first two leave at once, one a call; the others wait for them."""
    tasks = []
    for number in numbers:
        tasks.append(asyncio.create_task(peer.call("allocations", announce(number), Noted)))
        for _ in range(3):
            await asyncio.sleep(0)
    return tasks


def test_what_waits_goes_together_and_each_gets_its_own_answer() -> None:
    async def main() -> None:
        peer = Scripted()
        tasks = await ask(peer, range(2 * MOST + 10))
        peer.gate.set()
        noted = await asyncio.gather(*tasks)
        assert [one.cursor for one in noted] == list(range(2 * MOST + 10))
        assert sum(peer.calls) == 2 * MOST + 10
        assert len(peer.calls) <= 5
        assert (await peer.call("allocations", announce(7), Noted)).cursor == 7  # the senders ended, a new one starts
        assert peer.calls[-1] == 1
        assert await peer.call("chunks", Holds([]), Held) == Held([])

    asyncio.run(main())


def test_long_announcements_travel_apart() -> None:
    async def main() -> None:
        peer = Scripted()
        peer.gate.set()
        long = [asyncio.create_task(peer.call("allocations", announce(n, 6000), Noted)) for n in range(4)]
        await asyncio.gather(*long)
        assert peer.calls == [1, 1, 1, 1]

    asyncio.run(main())


@pytest.mark.parametrize("failure", [PeerKmsDown("gone (test)"), 1], ids=["no answer", "an answer too few"])
def test_a_call_that_fails_is_told_to_all_that_went_with_it(failure: Any) -> None:
    async def main() -> None:
        peer = Scripted()
        tasks = await ask(peer, range(20))
        peer.script = [failure]
        peer.gate.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        failed = [isinstance(result, PeerKmsDown) for result in results]
        assert any(failed)
        assert not all(failed)
        peer.script = []
        assert (await peer.call("allocations", announce(1), Noted)).recorded

    asyncio.run(main())


def test_requests_that_were_given_up_are_not_announced() -> None:
    async def main() -> None:
        peer = Scripted()
        tasks = await ask(peer, range(10))
        sent = sum(peer.calls)
        for task in tasks[sent:]:
            task.cancel()
        await asyncio.sleep(0)
        peer.gate.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert sum(peer.calls) == sent

    asyncio.run(main())


def test_an_older_program_gets_them_one_by_one() -> None:
    async def main() -> None:
        peer = Scripted()
        tasks = await ask(peer, range(6))
        peer.script = [PeerKmsDown("not found (test)", status=404)]
        peer.gate.set()
        noted = await asyncio.gather(*tasks)
        assert [one.cursor for one in noted] == list(range(6))

    asyncio.run(main())


def test_over_the_plane(play: Play) -> None:
    async def scenario(sites: Sites) -> None:
        for index in range(0, 8, 2):
            await sites.feed(index)
        answers = await asyncio.gather(
            *(sites.sae("alice", "POST", "sae-bob/enc_keys", {"number": 2}) for _ in range(12))
        )
        assert {status for status, _, _ in answers} == {200}
        ids = [key["key_ID"] for _, body, _ in answers for key in body["keys"]]
        keys = [key["key"] for _, body, _ in answers for key in body["keys"]]
        assert len(set(keys)) == 24
        body = {"key_IDs": [{"key_ID": one} for one in ids]}
        status, got, _ = await sites.sae("bob", "POST", "sae-alice/dec_keys", body)
        assert (status, [key["key"] for key in got["keys"]]) == (200, keys)
        labels = {"plane": "kms", "status": "200"}
        calls = sites.servers["bob"].meter.registry.get_sample_value("qkdd_kms_requests_total", labels)
        assert calls is not None

    play(scenario)

"""Hand-over to a KMS that is down, refuses, forgets to answer, answers nonsense: nothing lost, nothing erased too early."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import pytest

from qkdd.core.counters import RecordingMeter
from qkdd.core.errors import StorageFull
from qkdd.keys import HandOver, KeysConfig
from qkdd.keys.errors import HandOverFailed, HandOverRefused
from qkdd.testing.clock import FakeClock

from .nodes import Node, committed, pair

CONFIG = KeysConfig(kms_url="https://127.0.0.1:1", kms_id="kms-alice", certificate="", key="", trust="", crl="")


class ScriptedKms(HandOver):
    """The HTTP call is scripted; everything else is real. A KMS may store and still not answer."""

    def __init__(self, node: Node, script: list[Any], clock: FakeClock) -> None:
        super().__init__(
            CONFIG,
            node.spool,
            node_id="alice",
            peer_id="bob",
            link="a-b",
            context=None,  # type: ignore[arg-type]
            clock=clock,
            meter=RecordingMeter(),
        )
        self.script, self.stored, self.calls = script, {}, 0  # type: ignore[var-annotated]

    async def _post(self, body: bytes) -> tuple[int, bytes]:
        self.calls += 1
        step = self.script.pop(0) if self.script else "ok"
        keys = json.loads(body)["keys"]
        if step in ("ok", "stored, no answer"):
            for key in keys:
                value = base64.b64decode(key["value"])
                assert self.stored.setdefault(key["key_id"], value) == value
        if step in ("no answer", "stored, no answer"):
            raise HandOverFailed("no answer (test)")
        if isinstance(step, int):
            return step, b'{"title": "no", "detail": "because"}'
        if isinstance(step, bytes):
            return 200, step
        acks = [{"key_id_container": [{"key_id": k["key_id"]}], "ack_status": "relayed"} for k in keys]
        return 200, json.dumps(acks).encode()


@pytest.mark.parametrize(
    ("step", "error", "state"),
    [
        ("no answer", HandOverFailed, "offered"),
        ("stored, no answer", HandOverFailed, "offered"),
        (503, HandOverFailed, "offered"),
        (404, HandOverFailed, "offered"),
        (408, HandOverFailed, "offered"),
        (400, HandOverRefused, "sealed"),
        (401, HandOverRefused, "sealed"),
        (b"[]", HandOverFailed, "offered"),
        (b"no json", HandOverFailed, "offered"),
        (b'{"a": 1}', HandOverFailed, "offered"),
    ],
)
def test_every_outcome(tmp_path: Path, step: Any, error: type[Exception], state: str) -> None:
    async def main() -> None:
        a, b = await pair(tmp_path)
        await committed(a, b, 1)
        await committed(a, b, 2)
        chunks = await a.chunks()
        kms = ScriptedKms(a, [step], FakeClock())
        with pytest.raises(error):
            await kms.push_once()
        assert kms._meter.total("qkdd_keys_hand_over_failures_total", code=error.code) == 1  # type: ignore[attr-defined]
        assert list((await a.spool.totals()).keys()) == [state]
        assert await a.chunks() == chunks
        await a.close()  # and a crash on top
        a = await Node(tmp_path / "a.db", "alice").open()
        kms._spool = a.spool
        assert await kms.push_once() == 2
        assert {k.replace("-", ""): v for k, v in kms.stored.items()} == chunks
        assert await a.chunks() == {}
        assert {s: n for s, (n, _) in (await a.spool.totals()).items()} == {"released": 2}
        assert await kms.push_once() == 0
        await a.close()
        await b.close()

    asyncio.run(main())


@pytest.mark.parametrize("method", ["offer", "acknowledge", "release"])
def test_the_disk_is_full_at_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    async def main() -> None:
        a, b = await pair(tmp_path)
        await committed(a, b, 1)
        chunks = await a.chunks()
        kms = ScriptedKms(a, [], FakeClock())

        async def full(*_: Any) -> Any:
            raise StorageFull("no space (test)")

        monkeypatch.setattr(a.spool, method, full)
        with pytest.raises(StorageFull):
            await kms.push_once()
        monkeypatch.undo()
        assert await a.chunks() == chunks
        await kms.push_once()
        assert {k.replace("-", ""): v for k, v in kms.stored.items()} == chunks
        await a.close()
        await b.close()

    asyncio.run(main())


def test_a_kms_that_is_down_for_an_hour(tmp_path: Path) -> None:
    async def main() -> None:
        clock = FakeClock()
        a, b = await pair(tmp_path)
        kms = ScriptedKms(a, ["no answer"] * 65, clock)
        task = asyncio.create_task(kms.run(lambda failures: min(60.0, 2.0**failures)))
        await committed(a, b, 1)
        kms.notify()

        async def real(seconds: float) -> None:
            await clock.advance(seconds)
            for _ in range(4):  # the store's thread is not on the fake clock: what was asked before these is done
                await a.database.run(lambda _: None)

        for _ in range(10):
            await real(0.0)
        for _ in range(70):
            await real(60.0)
        for _ in range(200):
            if not await a.chunks():
                break
            await real(1.0)
        assert await a.chunks() == {}
        assert len(kms.stored) == 1
        assert kms.calls == 66
        await committed(a, b, 2)
        kms.notify()
        for _ in range(200):
            if len(kms.stored) == 2:
                break
            await real(0.0)
        assert len(kms.stored) == 2
        task.cancel()
        await asyncio.wait([task])
        await a.close()
        await b.close()

    asyncio.run(main())

"""What a drill is made of, and what its parts see of the running rig."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from qkdd.core.errors import QkddError
from qkdd_hil.demo.applications import pairs
from qkdd_hil.demo.layout import SIDES
from qkdd_hil.rig import Rig

USUAL_BLOCKS = 3
_THIRST = 0.2  # s between two requests of an application that found no key
_KEYS = 64  # a request


class Scene:
    """The rig, what was usual before the injection, and whatever a drill has to remember until it cleans up."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.usual_bits = 0.0
        """Mean secret bits of a block before the injection."""
        self.kept: dict[str, Any] = {}
        self._counts: dict[tuple[str, str], float] = {}
        self._since = 0.0

    def remember(self) -> None:
        """Take what is usual now."""
        blocks = [b for b in self.rig.get("bob", "/v1/blocks", limit=20) if b["accepted"]][:USUAL_BLOCKS]
        self.usual_bits = sum(block["secret_bits"] for block in blocks) / len(blocks)
        self._since = self.rig.newest("bob")
        self._counts = {}
        for side in SIDES:
            for entry in self.rig.get(side, "/v1/errors"):
                self._counts[side, entry["code"]] = entry["count"]
            for name in ("qkdd_peer_seals_total", "qkdd_link_up_seconds_total"):
                labels = {"result": "failed"} if name == "qkdd_peer_seals_total" else {}
                self._counts[side, name] = self.rig.metric(side, name, **labels)

    def errors(self, side: str, code: str) -> float:
        """How often the daemon met this code since the injection; after its restart: since then."""
        now = self.rig.error(side, code)
        before = self._counts.get((side, code), 0)
        return now - before if now >= before else now

    def since(self, side: str, name: str, **labels: str) -> float:
        """Growth of a counter since the injection."""
        now = self.rig.metric(side, name, **labels)
        before = self._counts.get((side, name), 0.0)
        return now - before if now >= before else now

    def poor_block(self, side: str) -> bool:
        """Whether the newest block gave less than half of the usual key, or the link is not even aligned. Blocks that the
        machine cost (clicks lost by a busy host) do not count."""
        if self.rig.get(side, "/v1/link")["state"] == "aligning":
            return True
        newest = next((b for b in self.rig.get(side, "/v1/blocks", limit=1) if b["time"] > self._since), None)
        return (
            newest is not None and newest["code"] != "QKD-BLK-TAGS-LOST" and newest["secret_bits"] < self.usual_bits / 2
        )

    def edit(self, side: str, pattern: str, replacement: str) -> None:
        """Change a node's configuration file; the first change of a drill keeps the text from before. ValueError: no match."""
        file = self.file(side)
        text = file.read_text(encoding="utf-8")
        self.kept.setdefault(f"file {side}", text)
        changed, count = re.subn(pattern, replacement, text, count=1)
        if not count:
            raise ValueError(f"{file} has nothing like {pattern!r}")
        file.write_text(changed, encoding="utf-8")

    def restore(self, side: str) -> None:
        """The configuration file as it was before the first `edit`."""
        if (text := self.kept.pop(f"file {side}", None)) is not None:
            self.file(side).write_text(text, encoding="utf-8")

    def file(self, side: str) -> Path:
        return Path(self.rig.processes[side].command[-1])

    def restart(self, side: str, command: list[str] | None = None) -> None:
        """End a daemon and start it, with another command if given."""
        self.rig.stop(side)
        if command is not None:
            self.rig.processes[side].command = command
        self.rig.again(side)

    def drink(self) -> None:
        """An application at alice's site takes every key as soon as it is there, until `stop_drinking`."""
        stop = self.kept["thirst"] = threading.Event()
        thread = self.kept["drinker"] = threading.Thread(target=lambda: asyncio.run(self._drink(stop)), daemon=True)
        thread.start()

    def stop_drinking(self) -> None:
        if (stop := self.kept.pop("thirst", None)) is not None:
            stop.set()
            self.kept.pop("drinker").join()

    async def _drink(self, stop: threading.Event) -> None:
        layout = self.rig.layout
        pair = pairs(layout.ports, layout.pki.classical, layout.pki.post_quantum)[0]
        applications = ((pair.alice, pair.bob.sae_id), (pair.bob, pair.alice.sae_id))
        async with pair.alice.session() as first, pair.bob.session() as second:
            sessions = (first, second)
            while not stop.is_set():
                statuses = []
                for session, (mine, theirs) in zip(sessions, applications, strict=True):
                    url = f"{mine.base_url}/{theirs}/enc_keys?number={_KEYS}&size=256"
                    with suppress(aiohttp.ClientError, TimeoutError):
                        async with session.get(url) as answer:
                            await answer.read()
                            statuses.append(answer.status)
                if 200 not in statuses:
                    await asyncio.sleep(_THIRST)


Act = Callable[[Scene], None]


def nothing(_scene: Scene) -> None:
    """For drills whose healing leaves nothing behind."""


@dataclass(frozen=True, slots=True)
class Sign:
    """The first thing by which an operator can know. words: which alert, metric, code or field of status, precisely."""

    words: str
    test: Callable[[Scene], bool]

    def shows(self, scene: Scene) -> bool:
        """False also while the daemon does not answer, unless the test is about that."""
        try:
            return self.test(scene)
        except (QkddError, OSError):
            return False


@dataclass(frozen=True, slots=True)
class Drill:
    """name: on the command line; page: of docs/runbooks. here: the side whose operator follows the page; `heal` names the page's
    block. hands: what is done by hand, by the page's keys. prepare: before the clock starts. clean: at the end in any case."""

    name: str
    page: str
    title: str
    cause: str
    sign: Sign
    inject: Act
    here: str = "bob"
    heal: str = ""
    hands: Mapping[str, Act] = field(default_factory=dict)
    prepare: Act | None = None
    clean: Act = nothing

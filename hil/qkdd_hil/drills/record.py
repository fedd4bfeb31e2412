"""What both nodes said while a drill ran, sampled twice a second in a thread of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType

from qkdd.core.errors import QkddError
from qkdd_hil.demo.layout import SIDES
from qkdd_hil.drills.report import Block, Sample
from qkdd_hil.rig import Rig

PERIOD = 0.5  # s
_BLOCKS = 50


class Recorder:
    """Use as a context manager. `now` gives seconds; times of blocks are those at which they were first seen."""

    def __init__(self, rig: Rig, now: Callable[[], float] = time.monotonic) -> None:
        self._rig, self._now = rig, now
        self.samples: list[Sample] = []
        self.blocks: list[Block] = []
        self._seen: set[tuple[str, int, float]] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)

    def __enter__(self) -> Recorder:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        for side in SIDES:
            self._look(side, first=True)
        while not self._stop.wait(PERIOD):
            for side in SIDES:
                self._look(side)

    def _look(self, side: str, *, first: bool = False) -> None:
        try:
            status = self._rig.get(side, "/v1/status")
            blocks = self._rig.get(side, "/v1/blocks", limit=_BLOCKS)
        except (QkddError, OSError):
            self.samples.append(Sample(self._now(), side, "no daemon", False, None))
            return
        state = "tripped" if any(part["state"] == "tripped" for part in status["parts"]) else status["state"]
        self.samples.append(Sample(self._now(), side, state, status["healthy"], status["link"]["qber"]))
        for block in reversed(blocks):
            key = (side, block["number"], block["time"])
            if key not in self._seen:
                self._seen.add(key)
                if not first:  # those from before the drill
                    found = Block(
                        self._now(), side, block["number"], block["accepted"], block["code"], block["secret_bits"]
                    )
                    self.blocks.append(found)

"""An OSW switch that behaves: it takes time to switch and says nothing about it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from qkdd_drivers.dialogue_sim import LineSimulator
from qkdd_drivers.thorlabs_osw.protocol import END_IN


class OswSim(LineSimulator):
    """`on_switch` is called with the position (1 bar, 2 cross) when it is commanded. switch_s: seconds that it takes."""

    model = "osw"

    def __init__(
        self,
        on_switch: Callable[[int], None] = lambda _: None,
        *,
        pty: str | None = None,
        listen: tuple[str, int] | None = None,
        seed: int = 1,
        switch_s: float = 0.05,
    ) -> None:
        super().__init__(pty=pty, listen=listen, seed=seed)
        self._on_switch = on_switch
        self._switch_s = switch_s
        self._position = self._target = 1
        self._there_at = 0.0

    def answer(self, command: bytes) -> bytes:
        if self.wrong_identity:
            return b"CMD_NOT_DEFINED" + END_IN
        now = asyncio.get_running_loop().time()
        if now >= self._there_at:
            self._position = self._target
        match command:
            case b"S?":
                return b"%d" % self._position + END_IN
            case b"T?":
                return b"1" + END_IN
            case b"I?":
                return b"OSW BOARD V 1.30" + END_IN
            case b"S 1" | b"S 2" if not self.refuse:
                self._target = int(command[2:])
                self._there_at = now + self._switch_s
                self._on_switch(self._target)
        return b""

"""An FF switch that behaves: it answers whole frames and echoes what it has done."""

from __future__ import annotations

from collections.abc import Callable

from qkdd_drivers.agiltron_ff import protocol as ff
from qkdd_drivers.dialogue_sim import DialogueSimulator

_COMMANDS = (ff.GET[:3], ff.set_channel(0)[:3])


class FfSim(DialogueSimulator):
    """`on_switch` is called with the output (from 1) whenever one is selected."""

    model = "agiltron"

    def __init__(
        self,
        on_switch: Callable[[int], None] = lambda _: None,
        *,
        pty: str | None = None,
        listen: tuple[str, int] | None = None,
        seed: int = 1,
        channels: int = 4,
    ) -> None:
        super().__init__(pty=pty, listen=listen, seed=seed)
        self._on_switch = on_switch
        self._channels = channels
        self._channel = 1

    def take(self, data: bytearray) -> bytes | None:
        while len(data) >= ff.FRAME_BYTES:
            if bytes(data[:3]) in _COMMANDS:
                frame = bytes(data[: ff.FRAME_BYTES])
                del data[: ff.FRAME_BYTES]
                return frame
            del data[0]  # look for the next place where a frame may begin
        return None

    def answer(self, command: bytes) -> bytes:
        if self.wrong_identity:
            return b"ERR\n"
        if command[1] == ff.GET[1]:
            return ff.GET[:3] + bytes((self._channel,))
        if self.refuse or not 1 <= command[3] <= self._channels:
            return command[:3] + b"\x00"
        self._channel = command[3]
        self._on_switch(self._channel)
        return command

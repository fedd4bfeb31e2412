"""Tamper inputs: a file that takes a value (a GPIO), a descriptor on which a byte arrives, a program that prints `tamper`.

An input that cannot be read is an error in the log and in `qkdd_tamper_inputs_lost`, and no reason to erase: a missing driver
must not destroy a network's key.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from qkdd.core import log
from qkdd.core.clock import Clock
from qkdd.core.counters import Meter
from qkdd.core.zeroise import ZeroiseConfig

_LOG = log.get("tamper")
_PERIOD = 0.05  # seconds between two looks at a file
_AGAIN = 1.0

Trip = Callable[[str], Awaitable[None]]


class TamperWatch:
    """`await run()` for ever; `trip(reason)` is called at the first sign of any input."""

    def __init__(self, config: ZeroiseConfig, clock: Clock, meter: Meter, trip: Trip) -> None:
        self._config, self._clock, self._meter, self._trip = config, clock, meter, trip
        self._lost: set[str] = set()

    async def run(self) -> None:
        config = self._config
        self._meter.set("qkdd_tamper_inputs_lost", 0.0)
        async with asyncio.TaskGroup() as group:
            if config.tamper_file is not None:
                group.create_task(self._file(Path(config.tamper_file)))
            if config.tamper_descriptor is not None:
                group.create_task(self._descriptor(config.tamper_descriptor))
            if config.tamper_command:
                group.create_task(self._command(config.tamper_command))

    def _note(self, name: str, problem: str | None) -> None:
        if (problem is not None) == (name in self._lost):
            return
        if problem is not None:
            self._lost.add(name)
            _LOG.error("tamper input lost", input=name, problem=problem)
        else:
            self._lost.discard(name)
            _LOG.info("tamper input is back", input=name)
        self._meter.set("qkdd_tamper_inputs_lost", float(len(self._lost)))

    async def _file(self, path: Path) -> None:
        while True:
            try:
                text = await asyncio.to_thread(path.read_text, encoding="ascii", errors="replace")
            except OSError as error:
                self._note("file", error.strerror or type(error).__name__)
            else:
                self._note("file", None)
                if text.strip() == self._config.tamper_value:
                    await self._trip(f"tamper input {path}")
                    return
            await self._clock.sleep(_PERIOD)

    async def _descriptor(self, number: int) -> None:
        loop, arrived = asyncio.get_running_loop(), asyncio.Event()
        try:
            os.set_blocking(number, False)
            loop.add_reader(number, arrived.set)
        except OSError as error:
            self._note("descriptor", error.strerror or type(error).__name__)
            return
        try:
            await arrived.wait()
            data = os.read(number, 1)
        finally:
            loop.remove_reader(number)
        if data:
            await self._trip(f"tamper input on descriptor {number}")
        else:
            self._note("descriptor", "its other end was closed")

    async def _command(self, command: tuple[str, ...]) -> None:
        while True:
            try:
                process = await asyncio.create_subprocess_exec(
                    *command, stdout=asyncio.subprocess.PIPE, start_new_session=True
                )
            except OSError as error:
                self._note("command", error.strerror or type(error).__name__)
            else:
                self._note("command", None)
                try:
                    if process.stdout is not None:
                        while line := await process.stdout.readline():
                            if line.strip() == b"tamper":
                                await self._trip(f"tamper input {command[0]}")
                                return
                except ValueError:
                    self._note("command", "printed a line without end")
                else:
                    self._note("command", f"ended with status {await process.wait()}")
                finally:
                    with suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)  # with whatever it started
                    await process.communicate()
            await self._clock.sleep(_AGAIN)

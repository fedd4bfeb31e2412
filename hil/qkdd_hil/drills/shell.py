"""The operator's shell of a drill: commands of a page, run against the children of the rig instead of two machines.

`qkdctl`, `qkdd`, `qkdd-kms` and `shred` are the real programs. There is no systemd around the children, so `systemctl`
(start, stop, restart, reload, status) of qkdd and qkdd-kms acts on them, and `journalctl -u UNIT` shows their log.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tomllib
from dataclasses import dataclass
from pathlib import Path

from qkdd_hil.drills.pages import PLACEHOLDERS, Command
from qkdd_hil.rig import BIN, Rig

PATIENCE = 900.0  # s; a calibration on a busy machine
NOT_RUNNING = 3  # exit code of `systemctl status`, systemctl(1)
LOG_LINES = 50


@dataclass(frozen=True, slots=True)
class Outcome:
    """Exit code and what was printed, standard error last."""

    code: int
    output: str


class Shell:
    """Runs commands at one side's node."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig

    def run(self, command: Command, side: str) -> Outcome:
        """Raises subprocess.TimeoutExpired after a quarter of an hour, OSError when a program is missing."""
        words = [self._filled(word, side) for word in command.words]
        if words[0] == "systemctl":
            return self._systemctl(words[1:], side)
        if words[0] == "journalctl":
            return Outcome(0, self._rig.processes[_unit(words[1:], side)].child.tail(LOG_LINES))
        environment = {**os.environ, "QKDD_SOCKET": str(self._rig.layout.control_socket(side)), "COLUMNS": "120"}
        program = words[0] if words[0] == "shred" else str(BIN / words[0])
        done = subprocess.run(
            [program, *words[1:]], capture_output=True, text=True, timeout=PATIENCE, check=False, env=environment
        )
        return Outcome(done.returncode, (done.stdout + done.stderr).rstrip())

    def _filled(self, word: str, side: str) -> str:
        if not any(name in word for name in PLACEHOLDERS):
            return word
        file, kms = Path(self._rig.processes[side].command[-1]), self._rig.processes[f"kms-{side}"].command[-1]
        state = tomllib.loads(file.read_text())["node"]["state_directory"]
        values = {"KMS-CONFIG": kms, "CONFIG": str(file), "STATE": state}  # the bench has no tunnel, so no PSK-CONFIG
        for name in PLACEHOLDERS:
            if name in word:
                word = word.replace(name, values[name])
        return word

    def _systemctl(self, words: list[str], side: str) -> Outcome:
        verb, name = words[0], _unit(words[1:], side)
        running = self._rig.running(name)
        match verb:
            case "status":
                return Outcome(0 if running else NOT_RUNNING, "active (running)" if running else "inactive (dead)")
            case "start" if not running:
                self._rig.again(name)
            case "stop":
                self._rig.stop(name)
            case "restart":
                self._rig.stop(name)
                self._rig.again(name)
            case "reload":
                self._rig.send(name, signal.SIGHUP)
            case "start" | "reset-failed":
                pass
            case _:
                return Outcome(1, f"Unknown command verb {verb}.")
        return Outcome(0, "")


def _unit(words: list[str], side: str) -> str:
    """The child that a unit's name means."""
    return f"kms-{side}" if "qkdd-kms" in words else side

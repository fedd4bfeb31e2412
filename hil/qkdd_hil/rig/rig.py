"""All processes of a run of two nodes on the virtual bench, with the eyes and hands of an operator."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qkdd.control.client import ControlClient
from qkdd.control.errors import NoDaemon
from qkdd_hil.crash import stores
from qkdd_hil.demo.applications import pairs
from qkdd_hil.demo.children import Child, Children
from qkdd_hil.demo.layout import SIDES, Layout
from qkdd_hil.demo.options import Options
from qkdd_hil.rig.relay import Relay

BIN = Path(sys.executable).parent
START, HEAL = 90.0, 90.0  # s; generous, because the machine may be busy with other things
SILENCE = 8.0  # s without a sign of life after which the other node counts as silent
STEP = 0.2  # s between two looks
LABELLED = re.compile(r"^(\w+)(?:\{(.*)\})? ([0-9.e+-]+|NaN)$")


class TooLate(Exception):
    """What was waited for did not come; the message says what the nodes looked like then."""


@dataclass
class Process:
    command: list[str]
    child: Child
    starts: int = 1


class Rig:
    """All processes, and the eyes and hands of an operator. Blocking, except where the processes are started and ended."""

    def __init__(
        self, runner: asyncio.Runner, layout: Layout, options: Options, *, relayed: bool = False, node: str = ""
    ) -> None:
        """relayed: the nodes talk through `relay`, so that their line can be cut. node: further TOML of both nodes."""
        self._runner, self.layout, self.options, self._node = runner, layout, options, node
        self.relay = Relay(layout.ports["relay"], layout.ports["peer"]) if relayed else None
        self._children = Children(layout.logs)
        self.processes: dict[str, Process] = {}
        self.keep_logs = False
        """Whether the run folder stays although nothing was raised."""
        self._clients = {side: ControlClient(str(layout.control_socket(side))) for side in SIDES}
        self._bench = ControlClient(str(layout.control_socket("bench")))

    # --- processes -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        options = self.options
        if self.relay is not None:
            self.relay.start()
        bench = self._runner.run(
            self._children.start(
                "bench",
                [sys.executable, "-m", "qkdd_hil.bench", "--config", self.layout.write_bench(options)],
                piped=True,
            )
        )
        addresses = json.loads(self._runner.run(asyncio.wait_for(_first_line(bench), START)))
        for side in SIDES:
            self._launch(f"kms-{side}", [BIN / "qkdd-kms", "run", self.layout.write_kms(side, options)])
        for side in SIDES:
            file = self.layout.write_node(side, addresses[side], options)
            text = file.read_text().replace("[peer]", f'[peer]\nsilence = "{SILENCE:g} s"\nping = "2 s"')
            # a search that begins by itself would turn the paddles in the middle of another test
            text += '\n[calibration]\non_drift = "never"\ntarget = 0.03\n' + self._node
            if side == "bob" and self.relay is not None:
                text = text.replace(f"127.0.0.1:{self.layout.ports['peer']}", f"127.0.0.1:{self.layout.ports['relay']}")
            file.write_text(text)
            self._launch(side, [BIN / "qkdd", "run", file])

    def _launch(self, name: str, command: list[Path | str]) -> None:
        words = [str(word) for word in command]
        self.processes[name] = Process(words, self._runner.run(self._children.start(f"{name}.0", words)))

    def send(self, name: str, number: signal.Signals) -> None:
        self.processes[name].child.process.send_signal(number)

    def ended(self, name: str) -> int:
        """Wait for the process's end; its exit code."""
        return self._runner.run(asyncio.wait_for(self.processes[name].child.process.wait(), 60))

    def running(self, name: str) -> bool:
        return self.processes[name].child.process.returncode is None

    def stop(self, name: str) -> None:
        """As `systemctl stop`: SIGTERM, and wait. Nothing when it does not run."""
        if self.running(name):
            self.send(name, signal.SIGTERM)
            self.ended(name)

    def again(self, name: str) -> None:
        """Start a process that has ended, with its command as it is now."""
        process = self.processes[name]
        process.child = self._runner.run(self._children.start(f"{name}.{process.starts}", process.command))
        process.starts += 1

    def end(self) -> None:
        self._runner.run(self._children.end())
        if self.relay is not None:
            self.relay.stop()

    # --- looking ---------------------------------------------------------------------------------------------------------

    def get(self, side: str, route: str, **query: int) -> Any:
        """JSON of a route of the daemon's control socket."""
        return self._clients[side].get(route, **query)

    def error(self, side: str, code: str) -> int:
        """How often the daemon has met this code."""
        return sum(entry["count"] for entry in self.get(side, "/v1/errors") if entry["code"] == code)

    def metric(self, side: str, name: str, **labels: str) -> float:
        """Sum of all samples with these labels; 0 when there are none."""
        return sum(self.samples(side, name, **labels))

    def samples(self, process: str, name: str, **labels: str) -> list[float]:
        """The samples of "alice", "bob", "kms-alice" or "kms-bob" with these labels. Raises OSError when nobody answers."""
        kind, _, side = process.rpartition("-")
        port = self.layout.ports[f"{kind}-metrics-{side}" if kind else f"metrics-{side}"]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:  # loopback, our own
            lines = answer.read().decode().splitlines()
        values = []
        for line in lines:
            found = LABELLED.match(line)
            if found is None or found[1] != name:
                continue
            have = dict(re.findall(r'(\w+)="([^"]*)"', found[2] or ""))
            if all(have.get(key) == value for key, value in labels.items()):
                values.append(float(found[3]))
        return values

    def accepted(self, side: str) -> int:
        """Number of the newest block that gave key; -1 when there is none."""
        return max(
            (block["number"] for block in self.get(side, "/v1/blocks", limit=100) if block["accepted"]), default=-1
        )

    def newest(self, side: str) -> float:
        """Unix time of the newest finished block, accepted or not; 0 when there is none."""
        return max((block["time"] for block in self.get(side, "/v1/blocks", limit=100)), default=0.0)

    def accepted_after(self, side: str, moment: float) -> list[dict[str, Any]]:
        """Blocks that gave key after this Unix time, newest first; numbers begin anew with a new key store."""
        blocks = self.get(side, "/v1/blocks", limit=100)
        return [block for block in blocks if block["accepted"] and block["time"] > moment]

    def refused(self, side: str, code: str, after: int) -> list[int]:
        """Numbers of blocks after `after` that were refused with this code."""
        blocks = self.get(side, "/v1/blocks", limit=100)
        return [block["number"] for block in blocks if block["code"] == code and block["number"] > after]

    def part(self, side: str, name: str) -> dict[str, Any]:
        (found,) = [part for part in self.get(side, "/v1/status")["parts"] if part["name"] == name]
        part: dict[str, Any] = found
        return part

    def held(self, side: str) -> set[bytes]:
        """Blocks that this node holds, or has handed over, as key."""
        return {block for block, state in stores.blocks(self.layout.node_store(side)).items() if state in stores.HELD}

    def spool(self, side: str, *states: str) -> int:
        found = stores.blocks(self.layout.node_store(side)).values()
        return sum(state in states for state in found)

    def until(self, condition: Callable[[], Any], what: str, seconds: float = HEAL) -> None:
        end = time.monotonic() + seconds
        while True:
            try:
                if condition():
                    return
            except (NoDaemon, OSError):  # it is just starting
                pass
            if time.monotonic() > end:
                raise TooLate(f"not within {seconds:.0f} s: {what}\n{self.story()}")
            time.sleep(STEP)

    def in_service(self) -> None:
        """Wait until all parts are up and both nodes have accepted a block that began after now."""
        self.until(lambda: all(self.get(side, "/v1/status")["healthy"] for side in SIDES), "both nodes healthy")
        before = {side: self.newest(side) for side in SIDES}
        self.until(
            lambda: all(len(self.accepted_after(side, before[side])) >= 2 for side in SIDES), "new blocks on both nodes"
        )

    def story(self) -> str:
        lines = []
        for side in SIDES:
            try:
                status = self.get(side, "/v1/status")
            except NoDaemon:
                lines.append(f"{side}: no daemon; {self.processes[side].child.tail(6)}")
                continue
            parts = ", ".join(f"{part['name']} {part['state']}" for part in status["parts"])
            link = status["link"]
            codes = {entry["code"]: entry["count"] for entry in self.get(side, "/v1/errors")}
            lines.append(f"{side}: {status['state']}; {parts}; link {link['state']} qber {link['qber']}; {codes}")
        return "\n".join(lines)

    # --- hands -----------------------------------------------------------------------------------------------------------

    def fault(self, instrument: str, fault: str, **args: float) -> None:
        self._bench.post("/v1/fault", {"instrument": instrument, "fault": fault, "args": args})

    def turn(self, what: str, **settings: Any) -> None:
        """A setting of the bench; what: "line", "alice" or "bob"."""
        self._bench.post("/v1/line" if what == "line" else f"/v1/side/{what}", settings)

    def bench(self) -> dict[str, Any]:
        body: dict[str, Any] = self._bench.get("/v1/bench")
        return body

    def ctl(self, side: str, *words: str, seconds: float = 60.0) -> tuple[int, str]:
        """`qkdctl` as an operator types it: exit code and standard output."""
        command = [str(BIN / "qkdctl"), "--socket", str(self.layout.control_socket(side)), *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
        return done.returncode, done.stdout

    def fetch_keys(self) -> list[bool]:
        """One key through each listener; whether both sides got the same."""

        async def both() -> list[bool]:
            found = []
            for pair in pairs(self.layout.ports, self.layout.pki.classical, self.layout.pki.post_quantum):
                delivery = await pair.fetch()
                found.append(delivery is not None and delivery.equal)
            return found

        return self._runner.run(both())


async def _first_line(child: Child) -> bytes:
    """What the bench says when all its instruments listen; empty when it ended before."""
    return b"" if child.process.stdout is None else await child.process.stdout.readline()


@contextmanager
def running_rig(options: Options, *, relayed: bool = False, node: str = "") -> Iterator[Rig]:
    """A rig in service; ended in any case, its logs kept when something failed. relayed, node: see `Rig`."""
    with asyncio.Runner() as runner:
        layout = Layout.make(options)
        rig = Rig(runner, layout, options, relayed=relayed, node=node)
        good = False
        try:
            rig.start()
            rig.in_service()
            yield rig
            good = True
        finally:
            rig.end()
            layout.remove(keep_logs=not good or rig.keep_logs)

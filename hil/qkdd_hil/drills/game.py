"""One game day: inject, notice, look, heal by the page's own commands, verify, report."""

from __future__ import annotations

import dataclasses
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from qkdd import __version__
from qkdd.core.errors import QkddError
from qkdd_hil.demo.layout import SIDES
from qkdd_hil.drills.pages import ByHand, Command, Page, PageProblem, Step
from qkdd_hil.drills.record import Recorder
from qkdd_hil.drills.report import OUTPUT_KEPT, Did, Report, machine
from qkdd_hil.drills.scene import Drill, Scene
from qkdd_hil.drills.shell import Shell
from qkdd_hil.rig import Rig, TooLate

DETECT, RECOVER, VERIFY = 300.0, 300.0, 120.0  # s; generous, because the machine may be busy with other things
PAUSE = 1.0  # s between two verifications
Tell = Callable[[str, float, str], None]
"""(kind, seconds from the injection, words)"""


class DidNotRecover(Exception):
    """The drill's result, not a defect of the drill."""


def other(side: str) -> str:
    return SIDES[1 - SIDES.index(side)]


class Game:
    """One drill on a rig that is in service; leaves it in service unless the drill fails."""

    def __init__(self, rig: Rig, drill: Drill, page: Page, tell: Tell) -> None:
        """Raises PageProblem when the page has not what the drill needs."""
        self._rig, self._drill, self._page, self._tell = rig, drill, page, tell
        self._shell = Shell(rig)
        self._scene = Scene(rig)
        self._start = time.monotonic()
        self._did: list[Did] = []
        self._times: dict[str, float] = {}
        check(drill, page)

    def run(self) -> Report:
        """The report; `good` says whether it recovered."""
        rig, drill = self._rig, self._drill
        problem = ""
        injected_at = ""
        with Recorder(rig) as recorder:
            try:
                rig.in_service()
                if drill.prepare is not None:
                    self._tell("prepare", self._now(), "preparing")
                    drill.prepare(self._scene)
                    rig.in_service()
                self._scene.remember()
                self._start = time.monotonic()
                injected_at = datetime.now(UTC).isoformat(timespec="seconds")
                self._tell("injected", 0.0, drill.cause)
                drill.inject(self._scene)
                self._play()
            except (TooLate, DidNotRecover, QkddError, OSError, subprocess.TimeoutExpired) as error:
                problem = str(error)
                self._tell("failed", self._now(), problem)
            finally:
                drill.clean(self._scene)
        start = self._start
        samples = [msgspec.structs.replace(s, time=round(s.time - start, 2)) for s in recorder.samples]
        blocks = [msgspec.structs.replace(b, time=round(b.time - start, 2)) for b in recorder.blocks]
        return Report(
            drill=drill.name, page=self._page.name, title=drill.title, cause=drill.cause, sign=drill.sign.words,
            sign_at=drill.here, injected_at=injected_at, detected=self._times.get("detected"),
            healed=self._times.get("healed"), recovered=self._times.get("recovered"), good=not problem, problem=problem,
            qkdd=__version__, machine=machine(), steps=self._did, samples=samples, blocks=blocks,
        )  # fmt: skip

    def _now(self) -> float:
        return round(time.monotonic() - self._start, 2)

    def _reached(self, what: str, words: str) -> None:
        self._times[what] = self._now()
        self._tell(what, self._times[what], words)

    def _play(self) -> None:
        rig, drill, page = self._rig, self._drill, self._page
        rig.until(self._sign, f"a sign of it: {drill.sign.words}", DETECT)
        self._reached("detected", drill.sign.words)
        for step in page.look:
            self._do(step, "look")
        for step in page.heal[drill.heal]:
            if any(code for code in self._do(step, "heal")):
                raise DidNotRecover(f"`{step.text}` ended with {self._did[-1].code}: {self._did[-1].output[-300:]}")
        self._reached("healed", "the page's commands are done")
        rig.until(lambda: all(rig.get(side, "/v1/status")["healthy"] for side in SIDES), "both nodes healthy", RECOVER)
        before = {side: rig.newest(side) for side in SIDES}
        rig.until(
            lambda: all(len(rig.accepted_after(side, before[side])) >= 2 for side in SIDES),
            "two new blocks accepted on both nodes",
            RECOVER,
        )
        rig.until(lambda: not self._sign(), f"an end of the sign: {drill.sign.words}", RECOVER)
        self._reached("recovered", "both nodes healthy, new blocks accepted, the sign gone")
        end = time.monotonic() + VERIFY
        while any(code for step in page.verify for code in self._do(step, "verify")):
            if time.monotonic() > end:
                raise DidNotRecover(f"the page's verification still ends with {self._did[-1].code}")
            time.sleep(PAUSE)

    def _sign(self) -> bool:
        return self._drill.sign.shows(self._scene)

    def _do(self, step: Step, purpose: Literal["look", "heal", "verify"]) -> list[int]:
        """Carry out one step; exit codes, none for what is done by hand."""
        if isinstance(step, ByHand):
            begin = self._now()
            self._tell(purpose, begin, f"by hand: {step.text}")
            self._drill.hands[step.key](self._scene)
            self._did.append(Did(begin, round(self._now() - begin, 2), purpose, "", step.text, None, ""))
            return []
        return [self._command(step, purpose, side) for side in self._sides(step)]

    def _sides(self, command: Command) -> tuple[str, ...]:
        here = self._drill.here
        match command.where:
            case "both nodes":
                return (here, other(here))
            case "the other node":
                return (other(here),)
        return (here,)

    def _command(self, command: Command, purpose: Literal["look", "heal", "verify"], side: str) -> int:
        begin = self._now()
        self._tell(purpose, begin, f"{side}$ {command.text}")
        done = self._shell.run(command, side)
        took = round(self._now() - begin, 2)
        self._did.append(Did(begin, took, purpose, side, command.text, done.code, done.output[:OUTPUT_KEPT]))
        return done.code


def check(drill: Drill, page: Page) -> None:
    """Raises PageProblem when the page lacks what the drill follows, or asks for a hand that the drill has not."""
    if drill.heal not in page.heal:
        raise PageProblem(f"{page.name} has no block `sh heal {drill.heal}`")
    for steps, name in ((page.look, "look"), (page.heal[drill.heal], f"heal {drill.heal}"), (page.verify, "verify")):
        if not steps:
            raise PageProblem(f"{page.name} has no block `sh {name}`")
        for step in steps:
            if isinstance(step, ByHand) and step.key not in drill.hands:
                raise PageProblem(f"{page.name}: the drill {drill.name} has no hand for {step.key!r}")


def event(kind: str, seconds: float, words: str) -> dict[str, Any]:
    """A line of `qkdctl drill --json`."""
    return dataclasses.asdict(_Event(kind, seconds, words))


@dataclasses.dataclass(frozen=True, slots=True)
class _Event:
    kind: str
    time: float
    text: str

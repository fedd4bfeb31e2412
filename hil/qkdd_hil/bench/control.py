"""HTTP and JSON on a UNIX socket: turn the line and break the instruments while everything runs.

GET  /v1/bench             addresses, settings, means that the closed forms expect
POST /v1/line              {"eve": 0.3, "pns": true, "brightness": 0.5, "source_on": false, "frozen": true}
POST /v1/side/bob          {"transmission": 0.1, "rotation": [0.1, 0, 0], "dark_factor": 10, "background_factor": 2,
                            "efficiency": [0.4, 1, 1, 1], "dark": [20, 1, 1, 1], "light": [4e5, 0, 0, 0],
                            "climate": [4, 20]}
POST /v1/fault             {"instrument": "alice.tagger", "fault": "unplug", "args": {"seconds": 2}}
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec
from aiohttp import web

from qkdd_hil.physics import PulsedLine, QuantumLine

WINDOW = 6e-9  # s, of the means that are shown
T = TypeVar("T", bound=msgspec.Struct)


class Breakable(Protocol):
    """A simulator, as far as faults go."""

    def inject(self, fault: str, **args: float) -> None: ...


class LineChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is left out stays as it is."""

    eve: float | None = None
    pns: bool | None = None
    brightness: float | None = None
    source_on: bool | None = None
    frozen: bool | None = None


class SideChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is left out stays as it is."""

    transmission: float | None = None
    rotation: tuple[float, float, float] | None = None
    dark_factor: float | None = None
    background_factor: float | None = None
    efficiency: tuple[float, float, float, float] | None = None
    dark: tuple[float, float, float, float] | None = None
    light: tuple[float, float, float, float] | None = None
    climate: tuple[float, float] | None = None


class Fault(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`instrument`: alice.tagger, alice.detectors, alice.polarization, or bob's; with pulses alice.board instead of hers."""

    instrument: str
    fault: str
    args: dict[str, float] = {}


_LIMITS: dict[str, tuple[float, float]] = {
    "eve": (0.0, 1.0),
    "brightness": (0.0, 100.0),
    "transmission": (0.0, 1.0),
    "dark_factor": (0.0, 1e6),
    "background_factor": (0.0, 1e6),
    "efficiency": (0.0, 1.0),
    "dark": (0.0, 1e6),
    "light": (0.0, 1e7),
    "climate": (-100.0, 1e6),
}


def _apply(target: object, change: msgspec.Struct) -> None:
    """Check all of `change`, then set what it names."""
    wanted = {k: v for k, v in msgspec.structs.asdict(change).items() if v is not None}
    for key, value in wanted.items():
        if not hasattr(target, key):
            raise web.HTTPBadRequest(text=f"{key}: this bench has nothing of the kind")
        for number in value if isinstance(value, tuple) else (value,):
            low, high = _LIMITS.get(key, (-math.inf, math.inf))
            if not math.isfinite(number) or not low <= number <= high:
                raise web.HTTPBadRequest(text=f"{key}: {number} lies outside {low:g} to {high:g}")
    for key, value in wanted.items():
        setattr(target, key, value)


async def _body(request: web.Request, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(await request.read(), type=kind)
    except msgspec.DecodeError as error:
        raise web.HTTPBadRequest(text=str(error)) from None


class BenchControl:
    """Serves the bench's control socket."""

    def __init__(
        self,
        path: Path,
        line: QuantumLine | PulsedLine,
        instruments: Mapping[str, Breakable],
        describe: Callable[[], object],
    ) -> None:
        self._path = path
        self._line = line
        self._instruments = instruments
        self._describe = describe
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listen; only this user may connect."""
        app = web.Application()
        app.router.add_get("/v1/bench", self._bench)
        app.router.add_post("/v1/line", self._turn_line)
        app.router.add_post("/v1/side/{side}", self._turn_side)
        app.router.add_post("/v1/fault", self._break)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.UnixSite(self._runner, self._path).start()
        self._path.chmod(0o600)

    async def stop(self) -> None:
        """Close and remove the path. Idempotent."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
            self._path.unlink(missing_ok=True)

    def _state(self) -> dict[str, Any]:
        state = {"addresses": self._describe(), "setting": dataclasses.asdict(self._line.setting)}
        if isinstance(self._line, PulsedLine):
            return state | {"expected": {"counts_bob": self._line.count_rates().tolist()}}
        means = self._line.expected(WINDOW)
        return state | {
            "expected": {
                "singles_alice": means.singles_a.tolist(),
                "singles_bob": means.singles_b.tolist(),
                "sifted_rate": means.sifted_rate,
                "qber": means.qber,
                "chsh_s": means.chsh_s,
                "window_s": WINDOW,
            },
        }

    async def _bench(self, _request: web.Request) -> web.Response:
        return web.json_response(self._state())

    async def _turn_line(self, request: web.Request) -> web.Response:
        _apply(self._line.setting, await _body(request, LineChange))
        return web.json_response(self._state())

    async def _turn_side(self, request: web.Request) -> web.Response:
        side = request.match_info["side"]
        if side not in {"alice", "bob"} or not hasattr(self._line.setting, side):
            raise web.HTTPNotFound(text="receivers are alice and bob; with pulses only bob")
        _apply(getattr(self._line.setting, side), await _body(request, SideChange))
        return web.json_response(self._state())

    async def _break(self, request: web.Request) -> web.Response:
        wanted = await _body(request, Fault)
        instrument = self._instruments.get(wanted.instrument)
        if instrument is None:
            raise web.HTTPBadRequest(text=f"there is {', '.join(sorted(self._instruments))}")
        try:
            instrument.inject(wanted.fault, **wanted.args)
        except (ValueError, TypeError) as error:
            raise web.HTTPBadRequest(text=str(error)) from None
        return web.json_response({"instrument": wanted.instrument, "fault": wanted.fault})

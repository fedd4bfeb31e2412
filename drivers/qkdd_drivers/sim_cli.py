"""`qkdd-sim MODEL`: one simulated instrument in a process of its own, for any program that speaks its protocol."""

from __future__ import annotations

import asyncio
import math
import signal
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from qkdd_fwbridge.keys import load_public
from qkdd_fwbridge.messages import Role

from qkdd_drivers.agiltron_ff.sim import FfSim
from qkdd_drivers.generic_scpi.sim import GenericSim
from qkdd_drivers.idq_id120.sim import Id120Sim
from qkdd_drivers.idq_quantis.sim import QuantisSim
from qkdd_drivers.ozoptics_dd100.sim import Dd100Sim
from qkdd_drivers.ozoptics_epc400.sim import Epc400Sim
from qkdd_drivers.qkdd_board.emission import WINDOW
from qkdd_drivers.qkdd_board.sim import BoardSim
from qkdd_drivers.s15_spd.sim import SpdSim
from qkdd_drivers.s15_tdc1.sim import PoissonClicks, Tdc1Sim
from qkdd_drivers.scpi_sim import ScpiSimulator
from qkdd_drivers.sim_options import Fault, Listen, Over, Pty, Rate, Seed, place
from qkdd_drivers.sim_taggers import add_to
from qkdd_drivers.simkit import Simulator
from qkdd_drivers.single_quantum_websq import protocol as websq
from qkdd_drivers.single_quantum_websq.sim import SteadyBench, WebSqSim
from qkdd_drivers.srs_fs725.sim import Fs725Sim
from qkdd_drivers.thorlabs_cld1015.sim import Cld1015Sim
from qkdd_drivers.thorlabs_ell14.sim import Ell14Sim
from qkdd_drivers.thorlabs_mpc320.sim import Mpc320Sim
from qkdd_drivers.thorlabs_osw.sim import OswSim
from qkdd_drivers.thorlabs_pm100d.sim import Pm100dSim

app = typer.Typer(
    no_args_is_help=True,
    help="Simulated instruments. Each prints one line of JSON that says where it listens, and runs until it is stopped.",
)


def _scpi_place(pty: str | None, listen: str | None) -> tuple[str, int] | None:
    """SCPI is served by TCP unless a pseudo terminal is asked for."""
    return None if pty is not None else place(listen) or ("127.0.0.1", 0)


def _run_scpi(
    simulator: ScpiSimulator, pty: str | None, listen: str | None, over: str, faults: list[str] | None
) -> None:
    if over != "socket":
        if pty is not None:
            raise typer.BadParameter("a pseudo terminal is no VISA interface", param_hint="--over")
        try:
            simulator.over(over, place(listen) or ("127.0.0.1", 0))
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--over") from None
    _run(simulator, faults)


def parse_fault(text: str) -> tuple[float, str, dict[str, float]]:
    """`NAME[:ARGUMENT=NUMBER,…]@SECONDS` → (seconds, name, arguments). Raises ValueError."""
    what, at, when = text.rpartition("@")
    name, _, arguments = what.partition(":")
    pairs = [pair.partition("=") for pair in arguments.split(",") if pair]
    if not at or not name or any(not sign for _, sign, _ in pairs):
        raise ValueError(f"{text!r} is not NAME[:ARGUMENT=NUMBER]@SECONDS")
    seconds = float(when)
    if not (math.isfinite(seconds) and seconds >= 0):
        raise ValueError(f"{when!r} is no time after the start")
    return seconds, name, {key: float(value) for key, _, value in pairs}


def _run(simulator: Simulator, faults: list[str] | None) -> None:
    try:
        plan = sorted((parse_fault(text) for text in faults or []), key=lambda entry: entry[0])
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--fault") from None
    for _, name, _ in plan:
        if name not in simulator.faults:
            raise typer.BadParameter(
                f"{simulator.model} knows {', '.join(sorted(simulator.faults))}", param_hint=f"--fault {name}"
            )
    try:
        asyncio.run(_serve(simulator, plan))
    except OSError as error:
        typer.echo(f"qkdd-sim: cannot listen: {error}", err=True)
        raise typer.Exit(1) from None


async def _serve(simulator: Simulator, plan: list[tuple[float, str, dict[str, float]]]) -> None:
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    try:
        address = await simulator.start()
        print(address.to_json(), flush=True)
        for seconds, name, arguments in plan:
            loop.call_later(seconds, partial(simulator.inject, name, **arguments))
        await stopped.wait()
    finally:
        await simulator.stop()


@app.command()
def tdc1(pty: Pty = None, listen: Listen = None, seed: Seed = 1, rate: Rate = 10_000.0, fault: Fault = None) -> None:
    """S-Fifteen TDC1 time tagger (serial)."""
    _one_place(pty, listen)
    _run(Tdc1Sim(PoissonClicks(rate, seed), pty=pty, listen=place(listen), seed=seed), fault)


@app.command("websq")
def websq_command(
    listen: Listen = None,
    counts_port: Annotated[int, typer.Option(help="TCP port of the counts; 0 chooses a free one.")] = websq.COUNTS_PORT,
    detectors: Annotated[int, typer.Option(min=1, max=64, help="How many detectors.")] = 4,
    seed: Seed = 1,
    rate: Rate = 10_000.0,
    fault: Fault = None,
) -> None:
    """Single Quantum WebSQ detector control (two TCP ports)."""
    host, port = place(listen) or ("127.0.0.1", websq.CONTROL_PORT)
    bench = SteadyBench(rate, seed, detectors)
    _run(WebSqSim(bench, host=host, port=port, counts_port=counts_port, seed=seed), fault)


@app.command()
def mpc320(pty: Pty = None, listen: Listen = None, seed: Seed = 1, fault: Fault = None) -> None:
    """Thorlabs MPC320 polarization controller (serial)."""
    _one_place(pty, listen)
    _run(Mpc320Sim(lambda _: None, pty=pty, listen=place(listen), seed=seed), fault)


@app.command()
def epc400(pty: Pty = None, listen: Listen = None, seed: Seed = 1, fault: Fault = None) -> None:
    """OZ Optics EPC-400 polarization controller (serial)."""
    _one_place(pty, listen)
    _run(Epc400Sim(pty=pty, listen=place(listen), seed=seed), fault)


@app.command()
def dd100(
    pty: Pty = None,
    listen: Listen = None,
    seed: Seed = 1,
    homed: Annotated[bool, typer.Option(help="Whether it was homed since power-up.")] = True,
    fault: Fault = None,
) -> None:
    """OZ Optics DD-100-MC attenuator (serial)."""
    _one_place(pty, listen)
    _run(Dd100Sim(pty=pty, listen=place(listen), seed=seed, homed=homed), fault)


@app.command()
def ell14(pty: Pty = None, listen: Listen = None, seed: Seed = 1, fault: Fault = None) -> None:
    """Thorlabs ELL14 rotation mount (serial)."""
    _one_place(pty, listen)
    _run(Ell14Sim(pty=pty, listen=place(listen), seed=seed), fault)


@app.command()
def agiltron(
    pty: Pty = None,
    listen: Listen = None,
    seed: Seed = 1,
    channels: Annotated[int, typer.Option(min=4, max=8, help="4 or 8 outputs.")] = 4,
    fault: Fault = None,
) -> None:
    """Agiltron FF 1x4 or 1x8 optical switch (serial)."""
    _one_place(pty, listen)
    _run(FfSim(pty=pty, listen=place(listen), seed=seed, channels=channels), fault)


@app.command()
def osw(pty: Pty = None, listen: Listen = None, seed: Seed = 1, fault: Fault = None) -> None:
    """Thorlabs OSW optical switch (serial)."""
    _one_place(pty, listen)
    _run(OswSim(pty=pty, listen=place(listen), seed=seed), fault)


@app.command()
def fs725(pty: Pty = None, listen: Listen = None, seed: Seed = 1, fault: Fault = None) -> None:
    """SRS FS725 rubidium frequency standard (serial)."""
    _one_place(pty, listen)
    _run(Fs725Sim(pty=pty, listen=place(listen), seed=seed), fault)


@app.command()
def spd(pty: Pty = None, listen: Listen = None, seed: Seed = 1, rate: Rate = 10_000.0, fault: Fault = None) -> None:
    """S-Fifteen SPD detector (serial)."""
    _one_place(pty, listen)
    _run(SpdSim(SteadyBench(rate, seed, 1, working=140.0), pty=pty, listen=place(listen), seed=seed), fault)


@app.command()
def id120(
    pty: Pty = None,
    listen: Listen = None,
    over: Over = "socket",
    seed: Seed = 1,
    rate: Rate = 10_000.0,
    fault: Fault = None,
) -> None:
    """ID Quantique ID120 detector (VISA)."""
    _one_place(pty, listen)
    simulator = Id120Sim(SteadyBench(rate, seed, 1, working=180.0), pty=pty, listen=_scpi_place(pty, listen), seed=seed)
    _run_scpi(simulator, pty, listen, over, fault)


@app.command()
def pm100d(
    pty: Pty = None,
    listen: Listen = None,
    over: Over = "socket",
    seed: Seed = 1,
    watt: Annotated[float, typer.Option(min=0.0, help="Power on the sensor.")] = 12.5e-6,
    sensor: Annotated[bool, typer.Option(help="Whether a sensor is plugged in.")] = True,
    fault: Fault = None,
) -> None:
    """Thorlabs PM100D power meter (VISA)."""
    _one_place(pty, listen)
    simulator = Pm100dSim(lambda: watt, pty=pty, listen=_scpi_place(pty, listen), seed=seed, sensor=sensor)
    _run_scpi(simulator, pty, listen, over, fault)


@app.command()
def cld1015(pty: Pty = None, listen: Listen = None, over: Over = "socket", seed: Seed = 1, fault: Fault = None) -> None:
    """Thorlabs CLD1015 laser and temperature driver (VISA)."""
    _one_place(pty, listen)
    _run_scpi(Cld1015Sim(pty=pty, listen=_scpi_place(pty, listen), seed=seed), pty, listen, over, fault)


class Kind(StrEnum):
    """What a mapping file may describe."""

    ATTENUATOR = "attenuator"
    SWITCH = "switch"
    DETECTOR = "detector"


@app.command()
def generic(
    pty: Pty = None, listen: Listen = None, seed: Seed = 1, kind: Kind = Kind.ATTENUATOR, fault: Fault = None
) -> None:
    """An instrument for the generic SCPI drivers (VISA), with its mapping file."""
    _one_place(pty, listen)
    _run(GenericSim(kind.value, pty=pty, listen=_scpi_place(pty, listen), seed=seed), fault)


@app.command()
def quantis(
    listen: Listen = None,
    seed: Seed = 1,
    serial: Annotated[str, typer.Option(help="Its serial number.")] = "163041A410",
    fault: Fault = None,
) -> None:
    """ID Quantique Quantis-USB noise source (USB/IP)."""
    _run(QuantisSim(listen=place(listen) or ("127.0.0.1", 0), seed=seed, serial=serial), fault)


@app.command("qkdd-board")
def qkdd_board(
    pty: Pty = None,
    listen: Listen = None,
    seed: Seed = 1,
    receiver: Annotated[bool, typer.Option("--receiver", help="A receiver board instead of a transmitter.")] = False,
    trust: Annotated[list[Path] | None, typer.Option(help="Public key whose firmware it takes; repeatable.")] = None,
    window: Annotated[int, typer.Option(help="Slots kept for a stream on demand.", min=1024, max=1 << 30)] = WINDOW,
    fault: Fault = None,
) -> None:
    """Our own board: transmitter or receiver (serial or TCP), with A/B firmware slots."""
    _one_place(pty, listen)
    role = Role.RECEIVER if receiver else Role.TRANSMITTER
    trusted = tuple(load_public(path) for path in trust or ())
    _run(BoardSim(role, pty=pty, listen=place(listen), seed=seed, trusted=trusted, window=window), fault)


def _one_place(pty: str | None, listen: str | None) -> None:
    if pty is not None and listen is not None:
        raise typer.BadParameter("either --pty or --listen", param_hint="--listen")


add_to(app, _run)


def main() -> None:
    """Entry point of the console script."""
    app()

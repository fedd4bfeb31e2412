"""Commands of `qkdd-sim` for time taggers whose vendor gives a library, a package or a program."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from qkdd_drivers.id900 import protocol as id900_protocol
from qkdd_drivers.id900.sim import Id900Sim
from qkdd_drivers.picoquant.sim import HydraHarpSim, MultiHarpSim, PicoHarpSim
from qkdd_drivers.qutag.sim import QuTagSim
from qkdd_drivers.s15_tdc1.sim import PoissonClicks
from qkdd_drivers.s15_tdc2.sim import Tdc2Sim
from qkdd_drivers.sim_options import Fault, Generate, Listen, Rate, Seed, place
from qkdd_drivers.simkit import Simulator
from qkdd_drivers.swabian.sim import SwabianSim

Run = Callable[[Simulator, list[str] | None], None]


def add_to(app: typer.Typer, run: Run) -> None:
    """Register the commands; `run` serves a simulator until it is stopped."""

    @app.command()
    def multiharp(seed: Seed = 1, rate: Rate = 10_000.0, generate: Generate = 0, fault: Fault = None) -> None:
        """PicoQuant MultiHarp time tagger (fake vendor library)."""
        run(MultiHarpSim(PoissonClicks(rate, seed), seed=seed, generate=generate), fault)

    @app.command()
    def hydraharp400(seed: Seed = 1, rate: Rate = 10_000.0, generate: Generate = 0, fault: Fault = None) -> None:
        """PicoQuant HydraHarp 400 time tagger (fake vendor library)."""
        run(HydraHarpSim(PoissonClicks(rate, seed), seed=seed, generate=generate), fault)

    @app.command()
    def picoharp330(seed: Seed = 1, rate: Rate = 10_000.0, generate: Generate = 0, fault: Fault = None) -> None:
        """PicoQuant PicoHarp 330 time tagger (fake vendor library)."""
        run(PicoHarpSim(PoissonClicks(rate, seed), seed=seed, generate=generate), fault)

    @app.command()
    def tdc2(seed: Seed = 1, rate: Rate = 10_000.0, fault: Fault = None) -> None:
        """S-Fifteen TDC2 time tagger (a program like readevents7)."""
        run(Tdc2Sim(PoissonClicks(rate, seed), seed=seed), fault)

    @app.command()
    def swabian(seed: Seed = 1, rate: Rate = 10_000.0, fault: Fault = None) -> None:
        """Swabian Time Tagger (fake of the vendor's Python package)."""
        run(SwabianSim(PoissonClicks(rate, seed), seed=seed), fault)

    @app.command()
    def qutag(seed: Seed = 1, rate: Rate = 10_000.0, fault: Fault = None) -> None:
        """qutools quTAG time tagger (fake vendor library)."""
        run(QuTagSim(PoissonClicks(rate, seed), seed=seed), fault)

    @app.command()
    def id900(
        listen: Listen = None,
        service_port: Annotated[int, typer.Option(help="TCP port of the service; 0 chooses a free one.")] = 6060,
        stream_port: Annotated[int, typer.Option(help="First port of the streams; 0: the host chooses.")] = 4241,
        seed: Seed = 1,
        rate: Rate = 10_000.0,
        fault: Fault = None,
    ) -> None:
        """ID Quantique ID900 with its DataLinkTargetService (ZeroMQ)."""
        host, port = place(listen) or ("127.0.0.1", id900_protocol.CONTROL_PORT)
        source = PoissonClicks(rate, seed)
        ports = {"port": port, "service_port": service_port, "stream_port": stream_port}
        run(Id900Sim(source, host=host, seed=seed, **ports), fault)

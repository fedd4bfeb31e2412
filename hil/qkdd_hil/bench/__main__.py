"""`python -m qkdd_hil.bench`: serve a bench until SIGTERM or SIGINT. Prints one line of JSON with all addresses."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from qkdd.core import config as configuration
from qkdd.core.errors import QkddError
from qkdd.core.units import Fraction
from qkdd_hil.bench.config import BenchConfig
from qkdd_hil.bench.rig import Rig


async def serve(config: BenchConfig) -> None:
    """Start everything, say where, wait for a signal, stop everything."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with Rig(config) as rig:
        sys.stdout.write(json.dumps(rig.addresses) + "\n")
        sys.stdout.flush()
        await stop.wait()


def main(
    config: Annotated[Path | None, typer.Option(help="TOML file; see docs/rooms/hil.md.")] = None,
    defaults: Annotated[bool, typer.Option(help="The demonstration's bench, without a file.")] = False,
    seed: Annotated[int | None, typer.Option(help="Instead of the file's.")] = None,
    eve: Annotated[float | None, typer.Option(help="Instead of the file's.", min=0.0, max=1.0)] = None,
    control: Annotated[str | None, typer.Option(help="UNIX socket for settings and faults.")] = None,
) -> None:
    """Serve the virtual bench: photons, two taggers, two detector controllers, two polarization controllers."""
    if (config is None) == (not defaults):
        raise typer.BadParameter("give either --config FILE or --defaults")
    try:
        chosen = configuration.load(config, BenchConfig) if config is not None else BenchConfig()
    except QkddError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
    changes = {"seed": seed, "control": control, "eve": None if eve is None else Fraction(eve)}
    chosen = msgspec.structs.replace(chosen, **{k: v for k, v in changes.items() if v is not None})
    try:
        asyncio.run(serve(chosen))
    except OSError as error:
        typer.echo(f"the bench cannot listen: {error}", err=True)
        raise typer.Exit(1) from None


if __name__ == "__main__":
    typer.run(main)

"""`python -m qkdd_hil.demo`, started by `qkdd demo`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from qkdd_hil.demo.options import DEFAULT_QBER_MAX, Options
from qkdd_hil.demo.run import Demo, guarded


def main(
    seconds: Annotated[
        float | None, typer.Option(help="Keep going so long (from the daemons' start) and count.", min=1.0)
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Write the figures there (docs/demo-figures.schema.json).")] = None,
    eve: Annotated[
        float, typer.Option(help="Fraction of pairs that an intercept-resend eavesdropper takes.", min=0.0, max=1.0)
    ] = 0.0,
    qber_max: Annotated[float, typer.Option(help="Highest error rate that may be tolerated.")] = DEFAULT_QBER_MAX,
    hold: Annotated[
        bool, typer.Option("--hold", help="Keep all running; print addresses for a client of yours.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the virtual bench.", min=0)] = 1,
    directory: Annotated[Path | None, typer.Option("--dir", help="Run folder, kept; default: a temporary one.")] = None,
    live: Annotated[bool, typer.Option("--live/--no-live", help="Live picture on a terminal.")] = True,
) -> None:
    """Two nodes, two key management systems and the virtual bench; ends with the same key in two applications."""
    options = Options(seconds, json, eve, qber_max, hold, seed, directory, live)
    status, figures, problem = asyncio.run(guarded(Demo(options).run()))
    if figures is not None:
        typer.echo(
            f"blocks {figures.blocks_accepted} accepted, {figures.blocks_refused} refused"
            f"{f' ({figures.reason})' if figures.reason else ''}; {figures.secret_bits} secret bits,"
            f" {figures.secret_bits_per_s:.0f} bit/s; keys delivered {figures.keys_delivered}"
            + (f"; first key after {figures.seconds_to_first_key:.1f} s" if figures.seconds_to_first_key else "")
        )
    if problem:
        typer.echo(f"the demonstration failed: {problem}", err=True)
    raise typer.Exit(status)


if __name__ == "__main__":
    typer.run(main)

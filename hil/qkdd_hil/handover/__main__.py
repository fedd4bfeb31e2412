"""`python -m qkdd_hil.handover [--place NAME]... [--keys N] [--seconds S] [--json]`."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from qkdd.core import log
from qkdd.core.errors import QkddError
from qkdd.peer.pki_demo import demo_pki
from qkdd_hil.handover.places import NAMES, NotHere, place
from qkdd_hil.handover.run import Row, measure_kms, measure_sink


def measure(name: str, keys: int, seconds: float) -> Row:
    """One place. A place that is not installed, or fails, is a row that says so."""
    with tempfile.TemporaryDirectory(prefix="qkdd-handover-") as made:
        folder = Path(made)
        pki = demo_pki(folder / "pki")
        try:
            if name == "kms":
                return asyncio.run(measure_kms(folder, pki, keys, seconds))
            with place(name, folder / "place", pki) as config:
                return asyncio.run(measure_sink(name, config, folder, keys, seconds))
        except (NotHere, QkddError, RuntimeError) as error:
            return Row(place=name, missing=str(error))


def main(
    places: Annotated[list[str] | None, typer.Option("--place", help=", ".join(NAMES))] = None,
    keys: Annotated[int, typer.Option(help="Most keys of 256 bits in a block.", min=1, max=128)] = 32,
    seconds: Annotated[float, typer.Option(help="For the rate; twice as long for the latency.", min=0.1)] = 5.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """From an accepted block to the place where its keys can be used, at half of the place's own rate."""
    log.configure("error")
    rows = [measure(name, keys, seconds) for name in places or NAMES]
    if as_json:
        typer.echo(msgspec.json.encode(rows).decode())
        return
    typer.echo("keys of 256 bits; keys: in a block; latency from the accepted block to keys that can be used")
    typer.echo(
        f"{'place':14} {'own rate':>12} {'offered':>12} {'keys':>5} {'blocks':>7} {'p50':>9} {'p99':>9} {'worst':>9}"
    )
    for row in rows:
        if row.missing:
            typer.echo(f"{row.place:14} not measured: {row.missing}")
        else:
            typer.echo(
                f"{row.place:14} {row.rate:8.0f} k/s {row.offered:8.0f} k/s {row.keys:5} {row.blocks:7} "
                f"{1000 * row.p50:6.1f} ms {1000 * row.p99:6.1f} ms {1000 * row.worst:6.1f} ms"
            )


if __name__ == "__main__":
    typer.run(main)

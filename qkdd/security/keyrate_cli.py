"""`qkdd keyrate`: secret rate against distance, as text, JSON or a picture. Offline; touches no node."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from qkdd.core.errors import QkddError
from qkdd.security import keyrate, modes
from qkdd.security.channel import Channel
from qkdd.security.mismatch import mismatch_deltas
from qkdd.security.plot import draw
from qkdd.security.proofs import Receiver

EXIT_REFUSED = 1

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(
    epilog="Example: qkdd keyrate --mode bb84-2decoy/vl --clock 1e9 --eta 0.2 --dark 1e-7 --block 10 --block 60 --plot rate.png"
)
def rate(
    published: Annotated[
        list[str] | None,
        typer.Option("--set", help=f"A published parameter set: {', '.join(keyrate.PUBLISHED)}. Repeatable."),
    ] = None,
    mode: Annotated[str, typer.Option(help="The proof, for a link of your own.")] = modes.DEFAULT_DECOY_MODE,
    block: Annotated[list[float] | None, typer.Option(help="Seconds of one block; one curve each. Repeatable.")] = None,
    clock: Annotated[float, typer.Option(help="Pulses a second.")] = 1e9,
    eta: Annotated[float, typer.Option(help="Transmission of receiver and detector, without the fibre.")] = 0.1,
    dark: Annotated[float, typer.Option(help="Dark clicks per detector and gate.")] = 1e-7,
    misalignment: Annotated[float, typer.Option(help="Part of the photons on the wrong detector.")] = 0.01,
    afterpulses: Annotated[float, typer.Option(help="Afterpulses per click.")] = 0.0,
    dead_time: Annotated[float, typer.Option(help="Seconds without gates after a click.")] = 1e-7,
    f_ec: Annotated[float, typer.Option(help="Leak of error correction over its limit.")] = 1.16,
    mu3: Annotated[float, typer.Option(help="Weakest intensity of the modulator (modes with three).")] = 2e-4,
    efficiency_mismatch: Annotated[
        float, typer.Option(help="Relative half-range of the detectors' efficiencies.")
    ] = 0.0,
    dark_mismatch: Annotated[float, typer.Option(help="Relative half-range of the detectors' dark counts.")] = 0.0,
    swap: Annotated[bool, typer.Option(help="The receiver swaps bit values at random.")] = True,
    fibre_loss: Annotated[float, typer.Option(help="dB per km.")] = 0.2,
    furthest: Annotated[float, typer.Option(help="Longest fibre in km.")] = 200.0,
    step: Annotated[float, typer.Option(help="Step in km.")] = 10.0,
    eps_sec: Annotated[float, typer.Option(help="Secrecy parameter of one block.")] = 1e-12,
    eps_cor: Annotated[float, typer.Option(help="Correctness parameter of one block.")] = 1e-15,
    plot: Annotated[Path | None, typer.Option(help="Write a picture (png, svg, pdf).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Secret rate against distance of a decoy-state link, operating point optimised at each distance; or a paper's figure."""
    try:
        charts = _published(published or [])
        if not charts:
            receiver = Receiver()
            if efficiency_mismatch > 0.0 or dark_mismatch > 0.0:
                receiver = Receiver(*mismatch_deltas(efficiency_mismatch, dark_mismatch, dark, swap))
            link = Channel(eta, dark, misalignment, afterpulses, clock, dead_time, f_ec)
            charts = [
                keyrate.link_chart(
                    mode,
                    link,
                    block or [10.0, 60.0],
                    furthest_km=furthest,
                    step_km=step,
                    db_per_km=fibre_loss,
                    eps_sec=eps_sec,
                    eps_cor=eps_cor,
                    mu3=mu3,
                    receiver=receiver,
                )
            ]
        if plot is not None:
            draw(charts, plot)
    except (QkddError, OSError) as error:
        typer.echo(str(error), err=True)
        if isinstance(error, QkddError):
            typer.echo(f"  → {error.remedy}", err=True)
        raise typer.Exit(EXIT_REFUSED) from None
    if as_json:
        sys.stdout.write(msgspec.json.encode(charts).decode() + "\n")
    else:
        _print(charts)


def _published(names: Sequence[str]) -> list[keyrate.Chart]:
    for name in names:
        if name not in keyrate.PUBLISHED:
            raise typer.BadParameter(f"{name!r} is none of {', '.join(keyrate.PUBLISHED)}")
    return [keyrate.PUBLISHED[name]() for name in names]


def _print(charts: Sequence[keyrate.Chart]) -> None:
    for chart in charts:
        typer.echo(f"{chart.title} [{chart.mode}{': ' + chart.note if chart.note else ''}]")
        for curve in chart.curves:
            typer.echo(f"  {curve.label}")
            for x, value in curve.points:
                typer.echo(f"    {x:8g}  {value:.4g}")
            if not curve.points:
                typer.echo("    no key at any distance")
        typer.echo(f"  columns: {chart.x_label}, {chart.y_label}")

"""`python -m qkdd_hil.demo`, started by `qkdd demo`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from qkdd_hil.demo.figures import Figures
from qkdd_hil.demo.options import DEFAULT_QBER_MAX, Adversary, BenchName, Options, ProtocolName, SymbolsWay
from qkdd_hil.demo.run import Demo, guarded


def main(
    seconds: Annotated[
        float | None, typer.Option(help="Keep going so long (from the daemons' start) and count.", min=1.0)
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Write the figures there (docs/demo-figures.schema.json).")] = None,
    protocol: Annotated[ProtocolName, typer.Option(help="bbm92: entangled pairs. decoy_bb84: pulses.")] = "bbm92",
    bench: Annotated[
        BenchName, typer.Option(help="lab2: MultiHarp, ID120, EPC-400, DD-100 to TDC2, WebSQ, MPC320; bbm92 only.")
    ] = "lab1",
    pulse_rate: Annotated[float, typer.Option(help="Pulses a second, with decoy_bb84.", min=1e6, max=50e6)] = 10e6,
    symbols: Annotated[
        SymbolsWay,
        typer.Option(help="With decoy_bb84: all over the cable, or only those that the receiver announces."),
    ] = "stream",
    eve: Annotated[
        float,
        typer.Option(help="Fraction of pairs or pulses that an intercept-resend eavesdropper takes.", min=0.0, max=1.0),
    ] = 0.0,
    adversary: Annotated[
        Adversary,
        typer.Option(help="intercept: as --eve 1. pns: photon-number splitting, all single photons blocked."),
    ] = "none",
    qber_max: Annotated[float, typer.Option(help="Highest error rate that may be tolerated.")] = DEFAULT_QBER_MAX,
    hold: Annotated[
        bool, typer.Option("--hold", help="Keep all running; print addresses for a client of yours.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the virtual bench.", min=0)] = 1,
    directory: Annotated[Path | None, typer.Option("--dir", help="Run folder, kept; default: a temporary one.")] = None,
    live: Annotated[bool, typer.Option("--live/--no-live", help="Live picture on a terminal.")] = True,
) -> None:
    """Two nodes, two key management systems and the virtual bench; ends with the same key in two applications."""
    options = Options(
        seconds=seconds,
        json=json,
        eve=eve,
        qber_max=qber_max,
        hold=hold,
        seed=seed,
        directory=directory,
        live=live,
        bench=bench,
        protocol=protocol,
        adversary=adversary,
        pulse_rate=pulse_rate,
        symbols=symbols,
    )
    if (trouble := options.problem()) is not None:
        raise typer.BadParameter(trouble)
    status, figures, problem = asyncio.run(guarded(Demo(options).run()))
    if figures is not None:
        typer.echo(
            f"blocks {figures.blocks_accepted} accepted, {figures.blocks_refused} refused"
            f"{f' ({figures.reason}: {figures.reason_text})' if figures.reason else ''}; {figures.secret_bits} secret bits,"
            f" {figures.secret_bits_per_s:.0f} bit/s{_label(figures)}; keys delivered {figures.keys_delivered}"
            + _cable(figures)
            + (f"; first key after {figures.seconds_to_first_key:.1f} s" if figures.seconds_to_first_key else "")
        )
    if problem:
        typer.echo(f"the demonstration failed: {problem}", err=True)
    raise typer.Exit(status)


def _cable(figures: Figures) -> str:
    """What went over the cable between node and board, with symbols on demand."""
    cable = figures.decoy.cable if figures.decoy is not None else None
    if cable is None or not cable.asked:
        return ""
    bits = 8 * (cable.bytes_to_board + cable.bytes_from_board) / cable.asked
    margin = f", asked at least {cable.margin_s:.2f} s before they were written over" if cable.margin_s else ""
    return f"; {cable.asked} symbols asked on demand, {bits:.1f} bits on the cable for each, {cable.lost} lost{margin}"


def _label(figures: Figures) -> str:
    """What has to stand beside a length, and the rate that the closed form gives."""
    label = f" ({figures.label})" if figures.label else ""
    expected = figures.expected_secret_bits_per_s
    if not expected:
        return label
    return f"{label}, {figures.secret_bits_per_s / expected:.1%} of the {expected:.0f} that are expected"


if __name__ == "__main__":
    typer.run(main)

"""`python -m qkdd_hil.gigahertz generate DIR | measure [DIR] | cable [DIR] | board DIR`."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Annotated

import msgspec
import typer

from qkdd_hil.gigahertz import cable
from qkdd_hil.gigahertz.board import RecordedBoardSim
from qkdd_hil.gigahertz.measure import Measured, measure
from qkdd_hil.gigahertz.recording import Recording, Terms, generate

MOST = (1 << 32) - 1  # slots of a window that a board can tell
WINDOW = 1 << 29  # half a second at 1 GHz, 256 MB of a board's memory
MUST = 20e6  # clicks a second that one core has to keep up with
app = typer.Typer(no_args_is_help=True, help="A generated recording of a link at a gigahertz clock.")

Seconds = Annotated[float, typer.Option(help="Length of what is generated.", min=0.001, max=60.0)]
Seed = Annotated[int, typer.Option(help="Of optics, detectors and choices.")]
Rate = Annotated[float, typer.Option(help="Pulses a second.", min=1e8, max=1e10)]


@app.command("generate")
def generate_command(
    folder: Annotated[Path, typer.Argument(help="Where times.npy, detectors.npy, symbols.bin and terms.json go.")],
    seconds: Seconds = 1.0,
    seed: Seed = 1,
    rate: Rate = 1e9,
) -> None:
    """Write a recording. A second at 1 GHz: some 10 s of one core, 700 MB."""
    made = generate(Terms(seconds=seconds, seed=seed, pulse_hz=rate))
    made.save(folder)
    typer.echo(f"{len(made.times)} clicks, {made.clicks_per_s / 1e6:.2f} million a second, {made.terms.pulses} pulses")


@app.command("measure")
def measure_command(
    folder: Annotated[Path | None, typer.Argument(help="A recording; default: one is generated.")] = None,
    seconds: Seconds = 0.2,
    seed: Seed = 1,
    repeats: Annotated[int, typer.Option(min=1)] = 5,
    core: Annotated[int | None, typer.Option(help="Stay on this core; default: the first one allowed.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write the figures there.")] = None,
) -> None:
    """Time the host's work for a recording on one core: median of the repeats.

    Status 1 if an end makes less than 20 million clicks a second.
    """
    recording = Recording.load(folder) if folder is not None else generate(Terms(seconds=seconds, seed=seed))
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0)) if core is None else core})
    runs = [measure(recording) for _ in range(repeats)]
    figures = middle(runs)
    if json is not None:
        json.write_bytes(msgspec.json.format(msgspec.json.encode(figures)) + b"\n")
    typer.echo(report(figures))
    if min(figures.bob_clicks_per_s, figures.alice_clicks_per_s) < MUST:
        typer.echo(f"below {MUST / 1e6:.0f} million clicks a second", err=True)
        raise typer.Exit(1)


@app.command("board")
def board_command(
    folder: Annotated[Path, typer.Argument(help="A recording.")],
    window: Annotated[int, typer.Option(help="Slots that it keeps.", min=1024, max=MOST)] = WINDOW,
    port: Annotated[int, typer.Option(help="TCP port; 0: any free one.")] = 0,
) -> None:
    """A board that plays a recording in real time and answers for the slots that it is asked for."""

    async def serve() -> None:
        stopped = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stopped.set)
        simulator = RecordedBoardSim(folder, window, listen=("127.0.0.1", port), clock=time.monotonic)
        try:
            print((await simulator.start()).to_json(), flush=True)
            await stopped.wait()
        finally:
            await simulator.stop()

    asyncio.run(serve())


@app.command("cable")
def cable_command(
    folder: Annotated[Path | None, typer.Argument(help="A recording; default: one is generated.")] = None,
    seconds: Annotated[float, typer.Option(help="Of slots that are asked for.", min=0.1, max=600.0)] = 3.0,
    window: Annotated[int, typer.Option(help="Slots that the board keeps.", min=1024, max=MOST)] = WINDOW,
    share: Annotated[float, typer.Option(help="Part of the detections that is announced.", min=1e-4, max=1.0)] = 1.0,
    late: Annotated[float, typer.Option(help="Seconds that announcements take.", min=0.0, max=60.0)] = 0.0,
    json: Annotated[Path | None, typer.Option(help="Write the figures there.")] = None,
) -> None:
    """Symbols on demand, live: the node asks a board in another process through frames over TCP while slots go by.

    Status 1 when a symbol was asked for too late.
    """
    with tempfile.TemporaryDirectory() as scratch:
        recording = Recording.load(folder) if folder is not None else generate(Terms(seconds=0.2))
        if folder is None:
            recording.save(Path(scratch))
        figures = asyncio.run(
            cable.run(recording, folder or Path(scratch), window=window, seconds=seconds, share=share, late=late)
        )
    if json is not None:
        json.write_bytes(msgspec.json.format(msgspec.json.encode(figures)) + b"\n")
    typer.echo(cable.report(figures))
    if figures.lost:
        raise typer.Exit(1)


def middle(runs: list[Measured]) -> Measured:
    """Medians of the rates; everything else is the same in all runs."""
    rates = [name for name in Measured.__struct_fields__ if name.endswith("clicks_per_s")]
    return msgspec.structs.replace(runs[0], **{name: median(getattr(run, name) for run in runs) for name in rates})


def report(m: Measured) -> str:
    """For people."""
    return "\n".join(
        (
            f"link: {m.clicks_per_s_of_the_link / 1e6:.1f} million clicks/s; {m.clicks} clicks, {m.detections} detections,"
            f" {m.rounds} rounds, error rate {m.qber:.2%}",
            f"slots alone            {m.slots_clicks_per_s / 1e6:8.1f} million clicks per CPU second",
            f"slots and sifting, bob {m.bob_clicks_per_s / 1e6:8.1f}   (must: {MUST / 1e6:.0f})",
            f"sifting, alice         {m.alice_clicks_per_s / 1e6:8.1f}   (must: {MUST / 1e6:.0f})",
            f"both on one core       {m.both_clicks_per_s / 1e6:8.1f}",
            f"bits on the wire per detection: slots {m.wire_bits_slots:.4f} (entropy {m.bound_bits_slots:.4f}),"
            f" bases {m.wire_bits_bases:.4f} ({m.bound_bits_bases:.4f}),"
            f" answer {m.wire_bits_answer:.4f} ({m.bound_bits_answer:.4f});"
            f" all {m.wire_bits:.4f} ({m.bound_bits:.4f}, {m.wire_bits / m.bound_bits - 1:+.2%})",
        )
    )


if __name__ == "__main__":
    app()

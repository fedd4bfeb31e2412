"""`python -m qkdd_hil.campaign`: exit 0 when every key came exactly once to both ends; 1 otherwise, with the figures."""

from __future__ import annotations

import asyncio
import signal
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from qkdd_hil.campaign.run import Campaign, Report
from qkdd_hil.campaign.sites import CampaignFailed, Options
from qkdd_hil.postgres import NoServer


class Store(StrEnum):
    """Where the KMSs keep their keys."""

    postgresql = "postgresql"
    sqlite = "sqlite"


async def _run(campaign: Campaign) -> Report:
    """Ended by SIGTERM it stops every process that it started, as after Ctrl-C."""
    task = asyncio.ensure_future(campaign.run())
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await task


def main(
    keys: Annotated[int, typer.Option(help="Keys that masters are to be given.", min=1)] = 1_000_000,
    pairs: Annotated[int, typer.Option(help="Pairs of applications that draw at once.", min=1, max=1000)] = 64,
    replicas: Annotated[int, typer.Option(help="KMS processes of a site.", min=1, max=8)] = 2,
    batch: Annotated[int, typer.Option(help="Most keys in a request.", min=1, max=4096)] = 512,
    store: Annotated[
        Store, typer.Option(help="postgresql, or sqlite: the embedded store, one KMS process a site.")
    ] = Store.postgresql,
    seed: Annotated[int, typer.Option(help="Of victims, moments and sizes.", min=0)] = 1,
    json: Annotated[Path | None, typer.Option(help="Write the figures there.")] = None,
    directory: Annotated[
        Path | None, typer.Option("--dir", help="New run folder, kept; default: a temporary one.")
    ] = None,
    faults: Annotated[bool, typer.Option(help="Kill and cut at random.")] = True,
) -> None:
    """Draw keys through two sites while KMSs, databases and lines are killed and cut; account for every one."""
    if store is Store.sqlite:
        replicas = 1
    options = Options(
        keys=keys, pairs=pairs, replicas=replicas, batch=batch, store=store.value, seed=seed, directory=directory
    )
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    try:
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task("starting", total=keys)

            def progress(drawn: int, fetched: int, broken: int) -> None:
                bar.update(task, completed=min(drawn, keys), description=f"{fetched} fetched, {broken} faults")

            report = asyncio.run(_run(Campaign(options, progress, faults=faults)))
    except asyncio.CancelledError:
        raise typer.Exit(1) from None
    except (CampaignFailed, NoServer) as error:
        typer.echo(f"the campaign failed: {error}", err=True)
        raise typer.Exit(1) from None
    text = msgspec.json.format(msgspec.json.encode(report)).decode()
    typer.echo(text)
    typer.echo(report.verdict)
    if json is not None:
        json.write_text(text + "\n", encoding="utf-8")
    raise typer.Exit(0 if report.good else 1)


if __name__ == "__main__":
    typer.run(main)

"""`python -m qkdd_hil.crash`: exit 0 when no key differs, comes twice or is lost; 1 otherwise, with the figures."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from qkdd_hil.crash.campaign import Campaign, CampaignFailed


def main(
    rounds: Annotated[int, typer.Option(help="Crashes.", min=1)] = 100,
    seed: Annotated[int, typer.Option(help="Of victims and moments.", min=0)] = 1,
    json: Annotated[Path | None, typer.Option(help="Write the figures there.")] = None,
    directory: Annotated[Path | None, typer.Option("--dir", help="Run folder, kept; default: a temporary one.")] = None,
) -> None:
    """Kill -9 daemons and KMSs at random moments while applications draw keys; compare everything in the end."""
    try:
        report = asyncio.run(Campaign(rounds, seed, directory, typer.echo).run())
    except CampaignFailed as error:
        typer.echo(f"the campaign failed: {error}", err=True)
        raise typer.Exit(1) from None
    text = msgspec.json.format(msgspec.json.encode(report)).decode()
    typer.echo(text)
    if json is not None:
        json.write_text(text + "\n", encoding="utf-8")
    raise typer.Exit(0 if report.good else 1)


if __name__ == "__main__":
    typer.run(main)

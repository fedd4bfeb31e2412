"""`qkdctl zeroise` and `qkdctl rebootstrap`: the end of all key of a node, and the way back."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from qkdd.control.client import DEFAULT_SOCKET, ControlClient
from qkdd.control.kms_cli import JsonOption, ask, fail, zeroised
from qkdd.core.errors import QkddError
from qkdd.core.zeroise import clear

app = typer.Typer()


@app.command(epilog="Example: qkdctl zeroise && qkdctl kms zeroise")
def zeroise(
    context: typer.Context,
    confirm: Annotated[str | None, typer.Option(help="The node's id, instead of typing it.")] = None,
    as_json: JsonOption = False,
    socket: Annotated[str | None, typer.Option("--socket", help="The daemon's socket.")] = None,
) -> None:
    """Erase every key of the node for good; it ends and starts again only after a re-bootstrap.

    The KMS is a service of its own: `qkdctl kms zeroise`.
    """
    client = ControlClient(socket or context.obj or os.environ.get("QKDD_SOCKET") or DEFAULT_SOCKET)
    if confirm is None:
        try:
            name = client.get("/v1/status")["node"]
        except QkddError as error:
            fail(error, as_json)
        confirm = typer.prompt(f"This destroys all key of {name} for good. Type its id to confirm")
    ask(lambda: client.post("/v1/zeroise", {"confirm": confirm}), as_json, zeroised)


@app.command(epilog="Example: qkdctl rebootstrap /var/lib/qkdd")
def rebootstrap(
    directory: Annotated[
        Path, typer.Argument(help="State directory of the node or KMS.", exists=True, file_okay=False)
    ],
    confirm: Annotated[str | None, typer.Option(help="The directory's path, instead of typing it.")] = None,
) -> None:
    """Let a node or KMS that was zeroised start again, with new keys and certificates. The other end needs the same."""
    text = str(directory.absolute())
    if confirm is None:
        confirm = typer.prompt("New master key, new certificates, the old ones revoked? Type the directory's path")
    if confirm != text:
        typer.echo(f"{confirm!r} is not {text!r}; nothing was done", err=True)
        raise typer.Exit(1)
    try:
        clear(directory, [directory / name for name in ("keys.sqlite", "kms.db")])
    except QkddError as error:
        fail(error, as_json=False)
    typer.echo(f"{directory}: may start again")

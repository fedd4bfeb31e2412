"""`qkdctl firmware`: list, verify, stage, update, rollback; a progress bar while an image travels and is watched."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table

from qkdd.control.client import DEFAULT_SOCKET, ControlClient, Refused
from qkdd.control.errors import NoDaemon
from qkdd.core import console
from qkdd.core.errors import QkddError

PATIENT_S = 40_000.0  # an update watches the link for up to ten hours
EXIT_NO, EXIT_NO_DAEMON = 1, 3

app = typer.Typer(
    help="Firmware of the node's own boards: signed images, two slots, trial and rollback.", no_args_is_help=True
)
_console = console.output()
_complaints = console.complaints()

ImageArgument = Annotated[Path, typer.Argument(help="Signed image, readable for the daemon.")]
DevicesArgument = Annotated[list[str] | None, typer.Argument(help="Devices; none: all that the image fits.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the daemon's JSON instead of a table.")]
SocketOption = Annotated[str | None, typer.Option("--socket", help="The daemon's socket.")]


def _client(context: typer.Context, socket: str | None) -> ControlClient:
    return ControlClient(socket or context.obj or os.environ.get("QKDD_SOCKET") or DEFAULT_SOCKET)


def _fail(error: QkddError, as_json: bool) -> NoReturn:
    code = error.refusal_code if isinstance(error, Refused) else error.code
    if as_json:
        typer.echo(json.dumps({"code": code, "message": error.message, "remedy": error.remedy}))
    else:
        _complaints.print(str(error), style="red")
        if error.remedy:
            _complaints.print(f"  → {error.remedy}")
    raise typer.Exit(EXIT_NO_DAEMON if isinstance(error, NoDaemon) else EXIT_NO)


@app.command("list", epilog="Example: qkdctl firmware list")
def list_firmware(context: typer.Context, as_json: JsonOption = False, socket: SocketOption = None) -> None:
    """Slots, versions and counters of every board."""
    try:
        body = _client(context, socket).get("/v1/firmware")
    except QkddError as error:
        _fail(error, as_json)
    if as_json:
        typer.echo(json.dumps(body))
        return
    table = Table("device", "model", "runs", "slot A", "slot B", "counter", "on its way")
    for board in body:
        slots = [f"{s['version'] or '–'} {s['state']} ({s['counter']})" for s in board["slots"]]
        runs = f"{board['version']} in {board['running']}" + (" on trial" if board["trial"] else "")
        way = f"{board['received']}/{board['size']}" if 0 < board["received"] < board["size"] else ""
        table.add_row(board["device"], board["model"], runs, *slots, str(board["rollback_counter"]), way)
    _console.print(table)


@app.command(epilog="Example: qkdctl firmware verify board-2.1.0.qkfw")
def verify(
    context: typer.Context,
    image: ImageArgument,
    devices: DevicesArgument = None,
    as_json: JsonOption = False,
    socket: SocketOption = None,
) -> None:
    """Check an image's signature against the trusted keys, and which boards it fits."""
    body = _post(context, socket, "verify", image, devices, as_json, timeout=60.0)
    if as_json:
        typer.echo(json.dumps(body))
        return
    for fit in body:
        _console.print(
            f"{fit['device']}: {fit['model']} {fit['version']}, counter {fit['counter']}, signed by {fit['signer'][:16]}…"
        )


@app.command(epilog="Example: qkdctl firmware stage board-2.1.0.qkfw tx")
def stage(
    context: typer.Context,
    image: ImageArgument,
    devices: DevicesArgument = None,
    as_json: JsonOption = False,
    socket: SocketOption = None,
) -> None:
    """Bring an image into the free slots; nothing restarts. The link must be drained."""
    _with_progress(context, socket, "stage", image, devices, as_json)


@app.command(epilog="Example: qkdctl drain && qkdctl firmware update board-2.1.0.qkfw && qkdctl resume")
def update(
    context: typer.Context,
    image: ImageArgument,
    devices: DevicesArgument = None,
    as_json: JsonOption = False,
    socket: SocketOption = None,
) -> None:
    """Update boards, canary group first; watches the link and rolls back by itself. The link must be drained."""
    _with_progress(context, socket, "update", image, devices, as_json)


@app.command(epilog="Example: qkdctl firmware rollback tx")
def rollback(
    context: typer.Context,
    devices: Annotated[list[str], typer.Argument(help="Devices.")],
    as_json: JsonOption = False,
    socket: SocketOption = None,
) -> None:
    """Go back to the firmware in the other slot, if the anti-rollback counter allows it."""
    _say(_post(context, socket, "rollback", None, devices, as_json, timeout=120.0), as_json)


def _post(
    context: typer.Context,
    socket: str | None,
    verb: str,
    image: Path | None,
    devices: list[str] | None,
    as_json: bool,
    timeout: float,
) -> Any:
    order = {"image": str(image.resolve()) if image is not None else "", "devices": devices or []}
    try:
        return _client(context, socket).post(f"/v1/firmware/{verb}", order, timeout)
    except QkddError as error:
        _fail(error, as_json)


def _with_progress(
    context: typer.Context, socket: str | None, verb: str, image: Path, devices: list[str] | None, as_json: bool
) -> None:
    if as_json or not _complaints.is_terminal:
        _say(_post(context, socket, verb, image, devices, as_json, PATIENT_S), as_json)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:3.0f} %"))
    with Progress(*columns, console=_complaints, transient=True) as bars:
        watcher = threading.Thread(target=_follow, args=(_client(context, socket), bars), daemon=True)
        watcher.start()
        body = _post(context, socket, verb, image, devices, as_json, PATIENT_S)
    _say(body, as_json)


def _follow(client: ControlClient, bars: Progress) -> None:
    """Turn the daemon's events into bars, until the command ends."""
    tasks: dict[str, TaskID] = {}
    watch_s = 0.0
    try:
        for event in client.events():
            told: dict[str, Any] = dict(event.fields)
            if event.kind == "firmware.progress":
                name = str(told["device"])
                if name not in tasks:
                    tasks[name] = bars.add_task(name, total=float(told["size"]))
                bars.update(tasks[name], completed=float(told["done"]))
            elif event.kind == "firmware.watch":
                watch_s = max(watch_s, float(told["left_s"]))
                if "watch" not in tasks:
                    tasks["watch"] = bars.add_task("watching the link", total=watch_s)
                bars.update(tasks["watch"], total=watch_s, completed=watch_s - float(told["left_s"]))
    except QkddError:
        # the bars are an extra: whatever went wrong is told by the command itself
        return


def _say(body: dict[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(body))
        return
    _console.print("\n".join([body["message"], *(f"  {line}" for line in body["details"])]))

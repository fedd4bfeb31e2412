"""`qkdctl`: look at a running node and steer it.

Exit codes: 0 yes, 1 the daemon said no (or `status` is not healthy, or a drill did not recover), 2 wrong usage, 3 no daemon
answers, 4 a drill has no bench.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any, NoReturn

import msgspec
import typer
from rich.console import RenderableType

from qkdd import __version__
from qkdd.control import show
from qkdd.control.audit_cli import app as audit_app
from qkdd.control.blocks_cli import app as blocks_app
from qkdd.control.client import DEFAULT_SOCKET, ControlClient, Refused
from qkdd.control.diag_cli import app as diag_app
from qkdd.control.drill_cli import app as drill_app
from qkdd.control.errors import NoDaemon
from qkdd.control.firmware_cli import app as firmware_app
from qkdd.control.kms_cli import app as kms_app
from qkdd.control.link_cli import app as link_app
from qkdd.control.live_cli import app as live_app
from qkdd.control.zeroise_cli import app as zeroise_app
from qkdd.core import console
from qkdd.core.errors import QkddError

EXIT_NO, EXIT_NO_DAEMON = 1, 3

app = typer.Typer(
    name="qkdctl",
    help="Look at a running qkdd node and steer it.",
    epilog="Example: qkdctl --socket run/alice.sock status",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)
calibrate_app = typer.Typer(help="Calibrate optics.", no_args_is_help=True)
app.add_typer(calibrate_app, name="calibrate")
app.add_typer(firmware_app, name="firmware")
app.add_typer(link_app, name="link")
app.add_typer(audit_app, name="audit")
app.add_typer(kms_app, name="kms")
app.add_typer(blocks_app, name="blocks")
app.add_typer(diag_app)  # `diag`
app.add_typer(drill_app)  # `drill`
app.add_typer(live_app)  # `top`, `align`
app.add_typer(zeroise_app)  # `zeroise`, `rebootstrap`

_console = console.output()
_complaints = console.complaints()

SocketOption = Annotated[
    str | None,
    typer.Option(
        "--socket", help="The daemon's socket; also QKDD_SOCKET in the environment.", show_default=DEFAULT_SOCKET
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the daemon's JSON instead of a table.")]


class LogLevelName(StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"qkdctl {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    context: typer.Context,
    socket: SocketOption = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    context.obj = socket


def _client(context: typer.Context, socket: str | None) -> ControlClient:
    return ControlClient(socket or context.obj or os.environ.get("QKDD_SOCKET") or DEFAULT_SOCKET)


def _fail(error: QkddError, as_json: bool) -> NoReturn:
    """Say what happened and what to do, and leave with the right exit code."""
    code = error.refusal_code if isinstance(error, Refused) else error.code
    if as_json:
        typer.echo(json.dumps({"code": code, "message": error.message, "remedy": error.remedy}))
    else:
        _complaints.print(str(error), style="red")
        if error.remedy:
            _complaints.print(f"  → {error.remedy}")
    raise typer.Exit(EXIT_NO_DAEMON if isinstance(error, NoDaemon) else EXIT_NO)


def _show(ask: Callable[[], Any], render: Callable[[Any], RenderableType], as_json: bool) -> Any:
    try:
        body = ask()
    except QkddError as error:
        _fail(error, as_json)
    if as_json:
        typer.echo(json.dumps(body, ensure_ascii=False))
    else:
        _console.print(render(body))
    return body


def _done(body: dict[str, Any]) -> str:
    return "\n".join([body["message"], *(f"  {line}" for line in body["details"])])


@app.command(epilog="Example: qkdctl status --json | jq .link.qber")
def status(context: typer.Context, as_json: JsonOption = False, socket: SocketOption = None) -> None:
    """State of the node, its parts, the link and the stock. Exit code 1 when it is not healthy."""
    client = _client(context, socket)
    body = _show(lambda: client.get("/v1/status"), show.status, as_json)
    if not body["healthy"]:
        raise typer.Exit(EXIT_NO)


@app.command(epilog="Example: qkdctl devices tagger")
def devices(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="Show all fields of this device.")] = None,
    as_json: JsonOption = False,
    socket: SocketOption = None,
) -> None:
    """The devices, or every field of one."""
    client = _client(context, socket)
    if name is None:
        _show(lambda: client.get("/v1/devices"), show.devices, as_json)
    else:
        _show(lambda: client.get(f"/v1/devices/{name}/fields"), show.fields, as_json)


@app.command(epilog="Example: qkdctl keys")
def keys(context: typer.Context, as_json: JsonOption = False, socket: SocketOption = None) -> None:
    """Stock of key by state, masks left, security budget. Never key bytes."""
    client = _client(context, socket)
    _show(lambda: client.get("/v1/keys"), show.keys, as_json)


@app.command(epilog="Example: qkdctl errors")
def errors(context: typer.Context, as_json: JsonOption = False, socket: SocketOption = None) -> None:
    """Error codes since the start: how often, the last one in full, what to do."""
    client = _client(context, socket)
    _show(lambda: client.get("/v1/errors"), show.errors, as_json)


@app.command(epilog="Example: qkdctl watch --json | jq 'select(.kind==\"block.refused\")'")
def watch(
    context: typer.Context,
    since: Annotated[
        int | None, typer.Option(min=0, help="First show kept events after this number (0: all kept).")
    ] = None,
    as_json: JsonOption = False,
    socket: SocketOption = None,
) -> None:
    """Follow events until interrupted or the daemon stops."""
    client = _client(context, socket)
    try:
        for event in client.events(since):
            if as_json:
                typer.echo(msgspec.json.encode(event).decode())
            else:
                _console.print(show.event(msgspec.to_builtins(event)))
    except KeyboardInterrupt:
        raise typer.Exit(0) from None
    except QkddError as error:
        _fail(error, as_json)


@calibrate_app.command("polarization", epilog="Example: qkdctl calibrate polarization")
def calibrate_polarization(context: typer.Context, as_json: JsonOption = False, socket: SocketOption = None) -> None:
    """Turn the paddles to the lowest error rate; returns when done."""
    client = _client(context, socket)
    _show(lambda: client.post("/v1/calibrate/polarization"), show.calibration, as_json)


@app.command(epilog="Example: qkdctl drain && systemctl stop qkdd")
def drain(context: typer.Context, as_json: JsonOption = False, socket: SocketOption = None) -> None:
    """Finish the block in hand, then make no new ones."""
    client = _client(context, socket)
    _show(lambda: client.post("/v1/drain"), _done, as_json)


@app.command(epilog="Example: qkdctl resume")
def resume(context: typer.Context, as_json: JsonOption = False, socket: SocketOption = None) -> None:
    """Make blocks again after drain, or after an interlock was cleared."""
    client = _client(context, socket)
    _show(lambda: client.post("/v1/resume"), _done, as_json)


@app.command(epilog="Example: qkdctl reload")
def reload(context: typer.Context, as_json: JsonOption = False, socket: SocketOption = None) -> None:
    """Read configuration and certificates again; take over what may change while running."""
    client = _client(context, socket)
    _show(lambda: client.post("/v1/reload"), _done, as_json)


@app.command("log-level", epilog="Example: qkdctl log-level debug")
def log_level(
    context: typer.Context, level: LogLevelName, as_json: JsonOption = False, socket: SocketOption = None
) -> None:
    """Set the daemon's log level until its next start."""
    client = _client(context, socket)
    _show(lambda: client.post("/v1/log-level", {"level": level.value}), _done, as_json)


def main() -> None:
    """Entry point."""
    try:
        app()
    except BrokenPipeError:  # `qkdctl blocks | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)

"""`qkdctl kms`: the KMS of this machine, over its administration socket."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import RenderableType
from rich.table import Table

from qkdd.control.client import ControlClient, Refused
from qkdd.control.errors import NoDaemon
from qkdd.core import console
from qkdd.core.errors import QkddError

DEFAULT_KMS_SOCKET = "/run/qkdd-kms/kms.sock"
EXIT_NO, EXIT_NO_DAEMON = 1, 3
_POLL_S = 0.5

app = typer.Typer(
    help="The key management service of this machine.",
    epilog="Example: qkdctl kms --socket run/kms.sock pools",
    no_args_is_help=True,
)
_console = console.output()
_complaints = console.complaints()

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
SocketOption = Annotated[
    str | None,
    typer.Option("--socket", help="The KMS's socket; also QKDD_KMS_SOCKET.", show_default=DEFAULT_KMS_SOCKET),
]


@app.callback()
def _main(context: typer.Context, socket: SocketOption = None) -> None:
    context.obj = ControlClient(socket or os.environ.get("QKDD_KMS_SOCKET") or DEFAULT_KMS_SOCKET)


def fail(error: QkddError, as_json: bool) -> NoReturn:
    """Say what happened and what to do; exit code 3 when nobody answers, else 1."""
    code = error.refusal_code if isinstance(error, Refused) else error.code
    if as_json:
        typer.echo(json.dumps({"code": code, "message": error.message, "remedy": error.remedy}))
    else:
        _complaints.print(str(error), style="red", markup=False)
        if error.remedy:
            _complaints.print(f"  → {error.remedy}", markup=False)
    raise typer.Exit(EXIT_NO_DAEMON if isinstance(error, NoDaemon) else EXIT_NO)


def ask(question: Callable[[], Any], as_json: bool, render: Callable[[Any], RenderableType | str]) -> Any:
    """Print the answer, or what went wrong."""
    try:
        body = question()
    except QkddError as error:
        fail(error, as_json)
    if as_json:
        typer.echo(json.dumps(body, ensure_ascii=False))
    else:
        _console.print(render(body))
    return body


def _table(rows: list[dict[str, Any]]) -> RenderableType:
    table = Table(box=None, pad_edge=False)
    for name in rows[0] if rows else ["nothing"]:
        table.add_column(name.replace("_", " "))
    for row in rows:
        table.add_row(*(", ".join(map(str, v)) if isinstance(v, list) else str(v) for v in row.values()))
    return table


@app.command(epilog="Example: qkdctl kms status --json")
def status(context: typer.Context, as_json: JsonOption = False) -> None:
    """Store, pools, fallback, rotation."""

    def render(body: dict[str, Any]) -> RenderableType:
        return _table([{k: v for k, v in body.items() if k != "pools"} | {"pools": len(body["pools"])}])

    ask(lambda: context.obj.get("/v1/kms/status"), as_json, render)


@app.command(epilog="Example: qkdctl kms saes")
def saes(context: typer.Context, as_json: JsonOption = False) -> None:
    """The applications of this site."""
    ask(lambda: context.obj.get("/v1/kms/saes"), as_json, _table)


@app.command(epilog="Example: qkdctl kms pairs")
def pairs(context: typer.Context, as_json: JsonOption = False) -> None:
    """Who may share keys, of which classes and sources."""
    ask(lambda: context.obj.get("/v1/kms/pairs"), as_json, _table)


@app.command(epilog="Example: qkdctl kms pools")
def pools(context: typer.Context, as_json: JsonOption = False) -> None:
    """Key that can still be drawn, by the other site and by who draws it."""
    ask(lambda: context.obj.get("/v1/kms/pools"), as_json, _table)


@app.command(epilog="Example: qkdctl kms sources")
def sources(context: typer.Context, as_json: JsonOption = False) -> None:
    """Where key comes from: our nodes and other makers, what they claim, and how much of theirs there is."""
    ask(lambda: context.obj.get("/v1/kms/sources"), as_json, _table)


@app.command(epilog="Example: qkdctl kms streams")
def streams(context: typer.Context, as_json: JsonOption = False) -> None:
    """Key streams (ETSI GS QKD 004) and how far their ends are."""
    ask(lambda: context.obj.get("/v1/kms/streams"), as_json, _table)


@app.command(epilog="Example: qkdctl kms revoke --sae sae-bob --since 2026-11-01T00:00:00+00:00")
def revoke(
    context: typer.Context,
    key: Annotated[list[str] | None, typer.Option("--key", help="A key ID; may be repeated.")] = None,
    sae: Annotated[str | None, typer.Option(help="Keys of this application.")] = None,
    link: Annotated[str | None, typer.Option(help="Keys from this quantum link.")] = None,
    since: Annotated[
        datetime | None, typer.Option(help="Drawn at this time or later (local time or with offset).")
    ] = None,
    until: Annotated[datetime | None, typer.Option(help="Drawn at this time or earlier.")] = None,
    undrawn: Annotated[bool, typer.Option("--undrawn", help="Also key of --link that was not drawn yet.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Keys that fit every condition are given to nobody any more, here and at the other site."""
    order = {
        "keys": key or [],
        "sae": sae,
        "link": link,
        "since": since.timestamp() if since else None,
        "until": until.timestamp() if until else None,
        "undrawn": undrawn,
    }

    def render(body: dict[str, Any]) -> str:
        lines = [
            f"revoked {where}: {n['draws']} draws, {n['keys']} single keys, {n['undrawn']} bytes not drawn"
            for where, n in (("here", body["here"]), ("there", body["there"]))
        ]
        lines += [f"{name}: {'told' if ok else 'NOT TOLD, repeat the command'}" for name, ok in body["told"].items()]
        return "\n".join(lines)

    body = ask(lambda: context.obj.post("/v1/kms/revoke", order), as_json, render)
    if not all(body["told"].values()):
        raise typer.Exit(EXIT_NO)


@app.command("rotate-master-key", epilog="Example: qkdctl kms rotate-master-key")
def rotate(
    context: typer.Context,
    wait: Annotated[bool, typer.Option(help="Show progress until it is done.")] = True,
    as_json: JsonOption = False,
) -> None:
    """A new master key: every sealed record is sealed anew while the KMS serves."""
    client: ControlClient = context.obj
    try:
        body = client.post("/v1/kms/rotate-master-key")
        while wait and body["state"] == "running":
            if not as_json:
                _console.print(f"{body['done']} of {body['total']} records")
            time.sleep(_POLL_S)
            body = client.get("/v1/kms/rotation")
    except QkddError as error:
        fail(error, as_json)
    then = f"; now {body['then']}" if body["then"] else ""
    typer.echo(json.dumps(body) if as_json else f"{body['state']}: {body['done']} of {body['total']} records{then}")


@app.command(epilog="Example: qkdctl kms backup /var/backups/kms.db")
def backup(
    context: typer.Context,
    path: Annotated[Path, typer.Argument(help="New file on the KMS's machine.")],
    as_json: JsonOption = False,
) -> None:
    """Copy the store while the KMS serves; it opens with the master key only. `qkdd-kms restore` takes it back."""
    order = {"path": str(path.absolute())}
    ask(
        lambda: context.obj.post("/v1/kms/backup", order), as_json, lambda b: f"{b['path']}: {b['bytes']} bytes, sealed"
    )


@app.command(epilog="Example: qkdctl kms zeroise")
def zeroise(
    context: typer.Context,
    confirm: Annotated[str | None, typer.Option(help="The KMS's id, instead of typing it.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Erase every key of the KMS for good; it ends and starts again only after a re-bootstrap."""
    client: ControlClient = context.obj
    if confirm is None:
        try:
            name = client.get("/v1/kms/status")["kms"]
        except QkddError as error:
            fail(error, as_json)
        confirm = typer.prompt(f"This destroys all key of {name} for good. Type its id to confirm")
    ask(lambda: client.post("/v1/kms/zeroise", {"confirm": confirm}), as_json, zeroised)


def zeroised(body: dict[str, Any]) -> str:
    """The report of an erasure, for people."""
    lines = [
        f"zeroised: {body['erased']} files in {body['seconds']:.3f} s",
        *(f"NOT ERASED: {t}" for t in body["failed"]),
    ]
    return "\n".join(lines)

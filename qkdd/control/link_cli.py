"""`qkdctl link`: the quantum link, the proof behind its key, and what would make more of it."""

from __future__ import annotations

import json
import os
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from qkdd.control import show
from qkdd.control.client import DEFAULT_SOCKET, ControlClient, Refused
from qkdd.control.errors import NoDaemon
from qkdd.core import console
from qkdd.core.errors import QkddError

EXIT_NO, EXIT_NO_DAEMON = 1, 3

app = typer.Typer(
    help="The quantum link: error rate, visibility, clocks, rates, refusals.",
    epilog="Example: qkdctl link; qkdctl link security; qkdctl link advise",
    invoke_without_command=True,
)
_console = console.output()
_complaints = console.complaints()

JsonOption = Annotated[bool, typer.Option("--json", help="Print the daemon's JSON instead of a table.")]
SocketOption = Annotated[str | None, typer.Option("--socket", help="The daemon's socket.")]


def _client(context: typer.Context, socket: str | None) -> ControlClient:
    above = context.parent.obj if context.parent is not None else None
    return ControlClient(socket or context.obj or above or os.environ.get("QKDD_SOCKET") or DEFAULT_SOCKET)


def _fail(error: QkddError, as_json: bool) -> NoReturn:
    code = error.refusal_code if isinstance(error, Refused) else error.code
    if as_json:
        typer.echo(json.dumps({"code": code, "message": error.message, "remedy": error.remedy}))
    else:
        _complaints.print(str(error), style="red")
        if error.remedy:
            _complaints.print(f"  → {error.remedy}")
    raise typer.Exit(EXIT_NO_DAEMON if isinstance(error, NoDaemon) else EXIT_NO)


@app.callback()
def link(context: typer.Context, as_json: JsonOption = False, socket: SocketOption = None) -> None:
    """The quantum link: error rate, visibility, clocks, rates, refusals."""
    context.obj = socket or context.obj
    if context.invoked_subcommand is not None:
        return
    try:
        body = _client(context, socket).get("/v1/link")
    except QkddError as error:
        _fail(error, as_json)
    if as_json:
        typer.echo(json.dumps(body, ensure_ascii=False))
    else:
        _console.print(show.link(body))


@app.command(epilog="Example: qkdctl link security")
def security(context: typer.Context, as_json: JsonOption = False, socket: SocketOption = None) -> None:
    """The proof in use, what the operator must guarantee for it, and the security budget term by term."""
    try:
        body = _client(context, socket).get("/v1/link/security")
    except QkddError as error:
        _fail(error, as_json)
    if as_json:
        typer.echo(json.dumps(body, ensure_ascii=False))
    else:
        _console.print(security_table(body))


@app.command(epilog="Example: qkdctl link advise --longest-block 60 --json | jq .recommended")
def advise(
    context: typer.Context,
    longest_block: Annotated[
        int | None, typer.Option(min=1, max=86_400, help="Seconds that a block may take at the most.")
    ] = None,
    as_json: JsonOption = False,
    socket: SocketOption = None,
) -> None:
    """Intensities, probabilities and block size with the highest secret rate on the channel as it is."""
    try:
        path = "/v1/link/advise"
        client = _client(context, socket)
        body = client.get(path) if longest_block is None else client.get(path, longest_block_s=longest_block)
    except QkddError as error:
        _fail(error, as_json)
    if as_json:
        typer.echo(json.dumps(body, ensure_ascii=False))
    else:
        _console.print(advice_table(body))


def _grid(*columns: str) -> Table:
    return Table(*columns, box=None, header_style="dim", pad_edge=False)


def _label(body: dict[str, Any]) -> Text:
    return Text(body["label"], style="bold yellow") if body["label"] else Text("")


def security_table(body: dict[str, Any]) -> RenderableType:
    """For people: proof, assumptions in plain words, composition."""
    head = Text.assemble(
        (body["proof"], "bold"), f"  {body['title']}\n", f"{body['source']}\n",
        f"{body['status']}, {body['length']} length, {body['attacks']} attacks",
    )  # fmt: skip
    assumed = _grid("assumed; the operator must guarantee it", "configured")
    for entry in body["assumptions"]:
        numbers = "\n".join(f"{name} = {value}" for name, value in entry["numbers"].items())
        assumed.add_row(escape(entry["text"]), escape(numbers))
    terms = _grid("term", "epsilon", "")
    for term in body["terms"]:
        indent = "  of it: " if term["part_of"] else ""
        terms.add_row(indent + term["name"], f"{term['value']:.3g}", escape(term["text"]))
    terms.add_row("one block", f"{body['eps_block']:.3g}", "sum of the terms that are not part of another")
    parts: list[RenderableType] = [head, _label(body), assumed, Text(), terms, Text()]
    if body["epoch"] is not None:
        left = "–" if body["days_left"] is None else f"{body['days_left']:.1f} days"
        parts.append(
            Text(
                f"key epoch {body['epoch']}: {body['spent']:.3g} of {body['budget']:.3g} spent by {body['blocks_charged']} "
                f"blocks, refused ones included; {body['blocks_left']} blocks or {left} left",
                style="bold red" if body["alert"] else "",
            )
        )
    parts += [Text(f"caveat: {caveat}", style="yellow") for caveat in body["caveats"]]
    return Group(*parts)


def advice_table(body: dict[str, Any]) -> RenderableType:
    """For people: the channel, present and recommended settings side by side."""
    measured, now, best = body["measured"], body["present"], body["recommended"]
    channel = f"from {measured['blocks']} blocks: "
    if measured["transmission"] is not None:
        channel += (
            f"transmission {measured['transmission']:.4g}, background {measured['background_per_gate']:.2g} a gate, "
            f"optical error {show.percent(measured['optical_error'])}, "
            f"receiver in X {show.percent(measured['receiver_x_basis'])}, "
        )
    else:
        channel += f"sifted {show.rate(measured['sifted_bits_per_s'])}, "
    channel += (
        f"QBER {show.percent(measured['qber'])}, leak {measured['correction_efficiency']:.3g} of the Shannon limit"
    )
    table = _grid("", "now", "recommended")

    def row(name: str, text: Any) -> None:
        table.add_row(name, text(now), text(best))

    if now["mu"]:
        row("mean photon numbers", lambda v: ", ".join(f"{x:.4g}" for x in v["mu"]))
        row("probabilities", lambda v: ", ".join(f"{x:.3f}" for x in v["p"]))
        row("x_basis", lambda v: f"{v['x_basis']:.3f}")
        row("pulses a block", lambda v: f"{v['block_pulses']:,}")
    row("block", lambda v: show.duration(v["block_s"]))
    row("expected", lambda v: show.rate(v["secret_bits_per_s"]))
    seen = Text(f"measured over the last blocks: {show.rate(body['seen_bits_per_s'])}")
    ladder = _grid("block", "expected rate")
    for rung in body["ladder"]:
        ladder.add_row(show.duration(rung["block_s"]), show.rate(rung["secret_bits_per_s"]))
    notes = [Text(note, style="dim") for note in body["notes"]]
    return Group(
        Text.assemble((body["proof"], "bold"), "  "),
        _label(body),
        Text(channel),
        Text(),
        table,
        seen,
        Text(),
        ladder,
        *notes,
    )

"""`qkdctl blocks`: the last blocks, and their export as CSV or Parquet."""

from __future__ import annotations

import csv
import importlib
import io
import json
import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import msgspec
import typer

from qkdd.control import show
from qkdd.control.client import DEFAULT_SOCKET, ControlClient, Refused
from qkdd.control.errors import NoDaemon
from qkdd.control.views import BlockView
from qkdd.core import console
from qkdd.core.errors import QkddError

EXIT_NO, EXIT_NO_DAEMON = 1, 3
COLUMNS = tuple(field.encode_name for field in msgspec.structs.fields(BlockView))
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_WHOLE = {"number", "sifted_bits", "leak_bits", "secret_bits"}
_REAL = {"time", "acquisition_s", "qber", "tolerated_error", "f_sec"}

app = typer.Typer(
    help="The last blocks: accepted or why not, error rate, leak, secret bits.",
    epilog="Example: qkdctl blocks --limit 50; qkdctl blocks export blocks.csv",
    invoke_without_command=True,
)
_console = console.output()
_complaints = console.complaints()

SocketOption = Annotated[str | None, typer.Option("--socket", help="The daemon's socket.")]


class Format(StrEnum):
    CSV = "csv"
    PARQUET = "parquet"


def _client(context: typer.Context, socket: str | None) -> ControlClient:
    above = context.parent.obj if context.parent is not None else None
    return ControlClient(socket or context.obj or above or os.environ.get("QKDD_SOCKET") or DEFAULT_SOCKET)


def _fail(error: QkddError, *, as_json: bool = False) -> NoReturn:
    code = error.refusal_code if isinstance(error, Refused) else error.code
    if as_json:
        typer.echo(json.dumps({"code": code, "message": error.message, "remedy": error.remedy}))
    else:
        _complaints.print(str(error), style="red", markup=False)
        if error.remedy:
            _complaints.print(f"  → {error.remedy}", markup=False)
    raise typer.Exit(EXIT_NO_DAEMON if isinstance(error, NoDaemon) else EXIT_NO)


@app.callback()
def blocks(
    context: typer.Context,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many, newest first.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print the daemon's JSON instead of a table.")] = False,
    socket: SocketOption = None,
) -> None:
    """The last blocks: accepted or why not, error rate, leak, secret bits."""
    if context.invoked_subcommand is not None:
        context.obj = socket or context.obj
        return
    try:
        body = _client(context, socket).get("/v1/blocks", limit=limit)
    except QkddError as error:
        _fail(error, as_json=as_json)
    if as_json:
        typer.echo(json.dumps(body, ensure_ascii=False))
    else:
        _console.print(show.blocks(body))


def to_csv(rows: list[dict[str, Any]]) -> bytes:
    """RFC 4180, UTF-8, a head line; what is unknown is empty. A text that a spreadsheet would take for a formula is quoted."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    for row in rows:
        writer.writerow([_cell(row[name]) for name in COLUMNS])
    return buffer.getvalue().encode()


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def to_parquet(rows: list[dict[str, Any]]) -> bytes:
    """Raises ModuleNotFoundError without pyarrow."""
    arrow: Any = importlib.import_module("pyarrow")  # an optional extra of a hundred megabytes
    parquet: Any = importlib.import_module("pyarrow.parquet")
    kinds = dict.fromkeys(COLUMNS, arrow.string())
    kinds |= dict.fromkeys(_WHOLE, arrow.int64()) | dict.fromkeys(_REAL, arrow.float64()) | {"accepted": arrow.bool_()}
    schema = arrow.schema([(name, kinds[name]) for name in COLUMNS])
    sink = arrow.BufferOutputStream()
    parquet.write_table(arrow.Table.from_pylist([{n: row[n] for n in COLUMNS} for row in rows], schema=schema), sink)
    data: bytes = sink.getvalue().to_pybytes()
    return data


@app.command(epilog="Example: qkdctl blocks export blocks.parquet")
def export(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="Where to write; - for standard output.")],
    kind: Annotated[Format | None, typer.Option("--format", help="Default: by the name's ending, else csv.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many, the newest.")] = 1000,
    socket: SocketOption = None,
) -> None:
    """Write the history of blocks, oldest first, without any key material: what the daemon remembers since its start."""
    chosen = kind or (Format.PARQUET if file.suffix == ".parquet" else Format.CSV)
    try:
        rows = list(reversed(_client(context, socket).get("/v1/blocks", limit=limit)))
    except QkddError as error:
        _fail(error)
    try:
        data = to_csv(rows) if chosen is Format.CSV else to_parquet(rows)
    except ModuleNotFoundError:
        _complaints.print("Parquet needs pyarrow, which is not installed", style="red")
        _complaints.print("  → pip install 'qkdd[export]', or --format csv", markup=False)
        raise typer.Exit(EXIT_NO) from None
    if str(file) == "-":
        typer.get_binary_stream("stdout").write(data)
        return
    try:
        file.write_bytes(data)
    except OSError as error:
        _complaints.print(f"{file}: {error.strerror}", style="red", markup=False)
        raise typer.Exit(EXIT_NO) from None
    typer.echo(f"{file}: {len(rows)} blocks")

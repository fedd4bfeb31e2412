"""`qkdd drivers`: what is installed, what was checked, what is attached."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from qkdd.core import console

app = typer.Typer(help="Drivers of instruments.", invoke_without_command=True, pretty_exceptions_enable=False)
_console = console.output()

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


@app.callback(epilog="Example: qkdd drivers --fields --json")
def drivers(
    context: typer.Context,
    as_json: JsonOption = False,
    fields: Annotated[bool, typer.Option("--fields", help="Import each driver and list its fields.")] = False,
    details: Annotated[bool, typer.Option("--details", help="Why each tier, and all that was checked.")] = False,
) -> None:
    """The installed drivers: roles, models, transport, quality tier, what was checked and how."""
    if context.invoked_subcommand is not None:
        return
    from qkdd.device import registry

    records = registry.describe_all(fields=fields)
    if as_json:
        typer.echo(json.dumps(records, ensure_ascii=False, indent=2))
        return
    table = Table(
        "driver", "instrument", "roles", "transport", "tier", "checked", "problem", box=None, header_style="dim"
    )
    for record in records:
        table.add_row(
            record["name"],
            escape(", ".join(record["models"]) or record["title"]),
            ", ".join(record["roles"]),
            str(record["transport"]),
            str(record["tier"]),
            escape("; ".join([*record["checked"], *(f"judged by {judge}" for judge in record["judges"])])),
            escape(record["problem"]),
        )
    _console.print(table)
    for record in records if details else []:
        _details(record)
    for record in records if fields else []:
        _console.print(_field_table(record))


def _details(record: dict[str, Any]) -> None:
    _console.print(
        f"\n[bold]{record['name']}[/]: {escape(record['title'])}, {record['tier']}, of {record['distribution']}"
    )
    for title, key in (("checked", "checked"), ("judged by", "judges"), ("why not better", "reasons")):
        for line in record[key]:
            _console.print(f"  {title}: {escape(line)}")


def _field_table(record: dict[str, Any]) -> Table:
    table = Table("field", "unit", "range", "set", "meaning", box=None, header_style="dim", title=record["name"])
    for field in record.get("fields", []):
        span = "" if field["range"] is None else f"{field['range'][0]:g} … {field['range'][1]:g}"
        table.add_row(field["field"], field["unit"], span, "yes" if field["settable"] else "", escape(field["doc"]))
    return table


@app.command(epilog="Example: qkdd drivers probe --ask")
def probe(
    as_json: JsonOption = False,
    ask: Annotated[bool, typer.Option("--ask", help="Open each with its driver and ask who it is.")] = False,
    visa: Annotated[bool, typer.Option("--visa", help="Ask the VISA library too: network instruments; slow.")] = False,
    usbip: Annotated[str, typer.Option(help="HOST:PORT of a USB/IP server to look at as well.")] = "",
) -> None:
    """Instruments that are attached, with the table to paste into the configuration. Without --ask nothing is opened."""
    from qkdd.device import probe as probing

    attached = [*probing.serial_ports(), *probing.usb_devices()]
    if visa or usbip:
        known = {(a.ids, a.serial) for a in attached if a.ids}
        attached += [a for a in probing.visa_resources(usbip) if (a.ids, a.serial) not in known]
    found = probing.match(attached)
    if ask:
        found = [asyncio.run(probing.ask(one)) if one.driver else one for one in found]
    if as_json:
        rows = [
            {
                "where": f.attached.where,
                "usb_ids": f.attached.ids,
                "serial_number": f.attached.serial,
                "text": f.attached.text,
                "driver": f.driver,
                "table": f.table,
                "identity": f.identity,
                "problem": f.problem,
            }
            for f in found
        ]
        typer.echo(json.dumps(rows, ensure_ascii=False, indent=2))
        return
    for one in found:
        what = " ".join(part for part in (one.attached.text, one.attached.ids, one.attached.serial) if part)
        typer.echo(f"# {one.attached.where}{f' ({what})' if what else ''}")
        if one.identity or one.problem:
            typer.echo(f"# {one.identity or one.problem}")
        typer.echo(f"{one.table}\n" if one.driver else "# no driver claims it by its ids; `qkdd drivers` lists all\n")
    if not found:
        typer.echo("# nothing was found that a driver claims, and no serial port; network instruments: --visa")

"""`qkdctl drill`: a game day on the virtual bench. The bench is a package of its own, which need not be installed."""

from __future__ import annotations

import importlib.util
import json
import os
import sys

import typer

from qkdd.control.errors import NoBench
from qkdd.core import console

MODULE = "qkdd_hil.drills"
EXIT_NO_BENCH = 4
app = typer.Typer()
_complaints = console.complaints()


def _installed() -> bool:
    try:
        return importlib.util.find_spec(MODULE) is not None
    except ModuleNotFoundError:  # the package around it is missing
        return False


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": False},
    add_help_option=False,
    epilog="Example: qkdctl drill F3 --output reports",
)
def drill(context: typer.Context) -> None:
    """A game day on the virtual bench: break something, follow the runbook's own commands, report the times (`drill --list`)."""
    if not _installed():
        error = NoBench(f"the package {MODULE.partition('.')[0]} with {MODULE} is not installed")
        if "--json" in context.args:
            typer.echo(json.dumps({"code": error.code, "message": error.message, "remedy": error.remedy}))
        else:
            _complaints.print(str(error), style="red", markup=False)
            _complaints.print(f"  → {error.remedy}", markup=False)
        raise typer.Exit(EXIT_NO_BENCH)
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", MODULE, *context.args])  # noqa: S606 - our own interpreter and module

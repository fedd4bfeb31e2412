"""`qkdctl audit`: is the audit log as it was written? Reads the file; no daemon is needed."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress

from qkdd.core import console
from qkdd.core.audit_check import AuditReport, verify
from qkdd.core.audit_files import closed_segments
from qkdd.core.errors import QkddError
from qkdd.peer.audit_key import verifier

app = typer.Typer(help="Check audit logs.", no_args_is_help=True)


@app.callback()
def _main() -> None:
    """A group, so that more commands can join."""


@app.command("verify", epilog="Example: qkdctl audit verify /var/lib/qkdd/audit.log --trust pki/pq-ca/trust.pem")
def check(
    log: Annotated[Path, typer.Argument(help="The log file, of a node or a KMS.", exists=True, dir_okay=False)],
    trust: Annotated[
        Path | None,
        typer.Option("--trust", help="Trust file (PEM) that the signer's certificate must come from.", exists=True),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Find any line that was changed, removed or cut off, and any signature that is not good.

    The closed segments beside the log (audit-*.log) are checked with it, in their order; older ones may be in an archive.
    """
    try:
        report = _verified(log, trust)
    except QkddError as error:
        if as_json:
            typer.echo(json.dumps({"code": error.code, "message": error.message, "remedy": error.remedy}))
        else:
            console.complaints().print(str(error), style="red")
            console.complaints().print(f"  → {error.remedy}")
        raise typer.Exit(1) from None
    if as_json:
        typer.echo(json.dumps({"log": str(log), "good": True, "trusted": trust is not None, **asdict(report)}))
        return
    console.output().print(
        f"{log}: good; {report.lines} lines in {report.segments} {'file' if report.segments == 1 else 'files'}, "
        f"{report.signatures} signatures, {report.unsigned} lines since the last one"
    )
    if report.first > 1:
        console.output().print(f"it begins at line {report.first}: the segments before it are not here")
    if trust is None:
        console.output().print("the signer was not checked: name the trust file with --trust")


def _verified(log: Path, trust: Path | None) -> AuditReport:
    """With a bar, where somebody looks on: a gigabyte takes most of a minute."""
    size = sum(file.stat().st_size for file in (*closed_segments(log).values(), log))
    with Progress(console=console.complaints(), transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("checking", total=size)
        return verify(log, verifier(trust), progress=lambda read: progress.advance(task, read))

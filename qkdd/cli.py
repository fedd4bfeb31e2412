"""`qkdd`: run a node, check its configuration, show drivers and errors, start demonstration and benchmarks."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.markdown import Markdown
from rich.markup import escape

from qkdd import __version__
from qkdd.core import console
from qkdd.core.errors import QkddError

EXIT_REFUSED, EXIT_ABSENT = 1, 4

app = typer.Typer(
    name="qkdd",
    help="The edge-node daemon for quantum key distribution.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
_console = console.output()
_complaints = console.complaints()
_PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
FileArgument = Annotated[Path, typer.Argument(help="The node's TOML configuration.", metavar="FILE")]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"qkdd {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """The edge-node daemon for quantum key distribution."""


@app.command(epilog="Example: qkdd run /etc/qkdd/alice.toml")
def run(
    file: FileArgument,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "",
    human: Annotated[bool, typer.Option(help="Log lines for people instead of JSON.")] = False,
) -> None:
    """Run one node until SIGTERM. Refuses a wrong configuration before anything starts."""
    from qkdd.node.main import run_file

    raise typer.Exit(run_file(file, log_level=log_level or None, human=human))


@app.command("check-config", epilog="Example: qkdd check-config alice.toml")
def check_config(file: FileArgument, as_json: JsonOption = False) -> None:
    """Check a configuration and print every finding: file, line, key, remedy. Starts nothing."""
    from qkdd.core.config import ConfigRefused
    from qkdd.node.config import load_node

    try:
        config = load_node(file)
    except ConfigRefused as refusal:
        if as_json:
            findings = [
                {"file": str(file), "line": f.line, "key": f.key, "problem": f.problem, "remedy": f.remedy}
                for f in refusal.findings
            ]
            typer.echo(json.dumps({"accepted": False, "findings": findings}, ensure_ascii=False))
        else:
            for f in refusal.findings:
                _console.print(f"[bold]{escape(str(file))}:{f.line}[/]: [cyan]{escape(f.key)}[/]: {escape(f.problem)}")
                if f.remedy:
                    _console.print(f"    → {escape(f.remedy)}")
            _complaints.print(f"{len(refusal.findings)} finding(s); nothing would be started")
        raise typer.Exit(EXIT_REFUSED) from None
    if as_json:
        typer.echo(json.dumps({"accepted": True, "findings": []}))
    else:
        typer.echo(f"{file}: accepted (node {config.node.id}, link {config.link.name}, role {config.link.role})")


@app.command(context_settings=_PASS_ON, add_help_option=False)
def drivers(context: typer.Context) -> None:
    """The installed drivers: roles, models, quality tier, what was checked; `drivers probe`: what is attached."""
    from qkdd.device.drivers_cli import app as drivers_app  # only when used

    drivers_app(args=context.args, prog_name="qkdd drivers")


@app.command(epilog="Example: qkdd errors QKD-DEV-OFFLINE")
def errors(
    code: Annotated[str | None, typer.Argument(help="Explain this code only.")] = None, as_json: JsonOption = False
) -> None:
    """Every error code: what it means and what to do."""
    from qkdd.node.docs import all_errors
    from qkdd.node.error_pages import page as error_page

    known = all_errors()
    if code is not None:
        if code.upper() not in known:
            _complaints.print(f"there is no code {code}; `qkdd errors` lists all")
            raise typer.Exit(EXIT_REFUSED)
        known = {code.upper(): known[code.upper()]}
        if not as_json:
            _console.print(Markdown(error_page(code.upper(), known[code.upper()])))
            return
    rows = [
        {"code": name, "kind": kind.kind.value, "meaning": kind.meaning, "remedy": kind.default_remedy}
        for name, kind in known.items()
    ]
    if as_json:
        typer.echo(json.dumps(rows, ensure_ascii=False, indent=2))
        return
    for row in rows:
        _console.print(f"[bold]{row['code']}[/]  [dim]{row['kind']}[/]  {escape(row['meaning'])}")
        _console.print(f"    → {escape(row['remedy'])}")


@app.command(context_settings=_PASS_ON, add_help_option=False)
def demo(context: typer.Context) -> None:
    """Two nodes, two KMSs and the virtual bench on this machine; ends with the same key on both sides."""
    _become("qkdd_hil.demo", context.args)


@app.command(context_settings=_PASS_ON, add_help_option=False)
def bench(context: typer.Context) -> None:
    """Benchmarks of this machine: `kernels`, `cascade`, `pipeline`, the whole chain (qkdd_hil) or, without it, the kernels."""
    if context.args[:1] in (["cascade"], ["pipeline"]):
        _become(f"qkdd.bench.{context.args[0]}", context.args[1:])
    if context.args[:1] == ["kernels"]:
        _become("qkdd_native.bench", context.args[1:])
    if context.args[:1] == ["drivers"]:
        _become("qkdd_drivers.bench", context.args[1:])
    for module in ("qkdd_hil.benchmarks", "qkdd_native.bench"):
        if _installed(module):
            _become(module, context.args)
    _refuse_absent("no benchmarks are installed: neither qkdd_hil.benchmarks nor qkdd_native.bench is there")


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the package around it is missing
        return False


def _refuse_absent(message: str) -> None:
    from qkdd.node.errors import NoChild

    _complaints.print(str(NoChild(message)))
    _complaints.print(f"  → {NoChild.default_remedy}")
    raise typer.Exit(EXIT_ABSENT)


def _become(module: str, arguments: list[str]) -> None:
    """Replace this process by `python -m module`: signals, terminal and exit code are then the child's own."""
    if not _installed(module):
        _refuse_absent(f"the package {module.partition('.')[0]} with {module} is not installed")
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", module, *arguments])  # noqa: S606 - our own interpreter and module


@app.command(context_settings=_PASS_ON, add_help_option=False)
def record(context: typer.Context) -> None:
    """Record the tags of a configured time tagger into a file."""
    from qkdd.device.record_cli import app as record_app

    record_app(args=context.args or ["--help"], prog_name="qkdd record")


@app.command(context_settings=_PASS_ON, add_help_option=False)
def convert(context: typer.Context) -> None:
    """Convert a recording of time tags to another format: .qkdt, PTU, a1."""
    _become("qkdd_drivers.convert", context.args or ["--help"])


@app.command(context_settings=_PASS_ON, add_help_option=False)
def pki(context: typer.Context) -> None:
    """Certificates of nodes, KMSs and applications; master keys."""
    from qkdd.peer.pki_cli import app as pki_app  # only when used: it imports cryptography

    pki_app(args=context.args or ["--help"], prog_name="qkdd pki")


@app.command(context_settings=_PASS_ON, add_help_option=False)
def keyrate(context: typer.Context) -> None:
    """Secret rate of a decoy-state link against distance: numbers, JSON or a picture. Offline."""
    from qkdd.security.keyrate_cli import app as keyrate_app  # only when used: it imports the optimiser

    keyrate_app(args=context.args, prog_name="qkdd keyrate")


_COMPLETE = "_QKDD_COMPLETE"  # set by the shell's completion function
_COMPLETED_BY = {  # commands that hand their words on, and whose application completes them
    "drivers": "qkdd.device.drivers_cli",
    "record": "qkdd.device.record_cli",
    "pki": "qkdd.peer.pki_cli",
    "keyrate": "qkdd.security.keyrate_cli",
}


def _complete_child() -> None:
    """Let the application of `qkdd pki …` complete what stands behind its name; it ends the process."""
    words, place = os.environ.get("COMP_WORDS", "").split(), os.environ.get("COMP_CWORD", "")
    if _COMPLETE not in os.environ or len(words) < 2 or not place.isdigit() or int(place) < 2:
        return
    module = _COMPLETED_BY.get(words[1])
    if module is not None:
        os.environ.update(COMP_WORDS="\n".join(words[1:]), COMP_CWORD=str(int(place) - 1))
        importlib.import_module(module).app(prog_name=words[1], complete_var=_COMPLETE)


def main() -> None:
    """Entry point."""
    try:
        _complete_child()
        app()
    except QkddError as error:
        _complaints.print(str(error), style="red")
        if error.remedy:
            _complaints.print(f"  → {error.remedy}")
        sys.exit(EXIT_REFUSED)

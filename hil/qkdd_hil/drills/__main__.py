"""`python -m qkdd_hil.drills`, started by `qkdctl drill`."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.markup import escape
from rich.table import Table

from qkdd.core import console
from qkdd.core.errors import QkddError
from qkdd_hil.demo.options import Options
from qkdd_hil.drills import pages
from qkdd_hil.drills.alerts import ALERTS
from qkdd_hil.drills.causes import FAILURE_MODES
from qkdd_hil.drills.game import Game, check
from qkdd_hil.drills.pages import Page, PageProblem
from qkdd_hil.drills.report import Report, markdown, seconds, table
from qkdd_hil.drills.scene import Drill
from qkdd_hil.drills.timeline import svg
from qkdd_hil.rig import TooLate, running_rig

EXIT_NOT_RECOVERED, EXIT_NO_BENCH, EXIT_INTERRUPTED = 1, 4, 130
DRILLS = {drill.name: drill for drill in (*FAILURE_MODES, *ALERTS)}
BLOCK = "1 s"
ALL = "all"
NODE_TOML = '\n[node.counts]\nbright_above = "180 kHz"\n'

_console = console.output()
_complaints = console.complaints()


class Narrator:
    """Tells what happens, as it happens: lines for people, or one JSON document a line."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json

    def tell(self, drill: str, kind: str, time: float, words: str) -> None:
        if self._as_json:
            self.document({"drill": drill, "kind": kind, "time": time, "text": words})
        else:
            _console.print(f"{drill}  {time:7.1f} s  {kind:<9} {words}", markup=False, highlight=False, soft_wrap=True)

    def report(self, report: Report, file: Path) -> None:
        if self._as_json:
            self.document(
                {"drill": report.drill, "kind": "report", "file": str(file), "report": msgspec.to_builtins(report)}
            )
            return
        verdict = "recovered" if report.good else f"DID NOT RECOVER: {report.problem}"
        _console.print(
            f"{report.drill}: {verdict}; detected after {seconds(report.detected)}, recovered after "
            f"{seconds(report.recovered)}; report {file}",
            markup=False, highlight=False, soft_wrap=True,
        )  # fmt: skip

    @staticmethod
    def document(body: dict[str, Any]) -> None:
        typer.echo(msgspec.json.encode(body).decode())


def write(report: Report, folder: Path) -> Path:
    """NAME.md, NAME.json, NAME.svg; the Markdown's path."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{report.drill}.json").write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")
    (folder / f"{report.drill}.svg").write_text(svg(report), encoding="utf-8")
    file = folder / f"{report.drill}.md"
    file.write_text(markdown(report), encoding="utf-8")
    return file


def chosen(names: list[str], runbooks: Path | None) -> list[tuple[Drill, Page]]:
    """Drills and their pages. Raises typer.BadParameter for what there is not."""
    place = runbooks or pages.folder()
    if place is None:
        raise typer.BadParameter("this installation has no runbooks; name their folder with --runbooks")
    found = []
    for name in list(DRILLS) if names == [ALL] else names:
        drill = DRILLS.get(name)
        if drill is None:
            raise typer.BadParameter(f"there is no drill {name!r}; `qkdctl drill --list` shows all")
        try:
            page = pages.read(place / f"{drill.page}.md")
            check(drill, page)
        except (OSError, PageProblem) as error:
            raise typer.BadParameter(str(error)) from None
        found.append((drill, page))
    return found


def listed(as_json: bool) -> None:
    if as_json:
        body = [
            {"name": d.name, "page": d.page, "title": d.title, "cause": d.cause, "sign": d.sign.words}
            for d in DRILLS.values()
        ]
        typer.echo(msgspec.json.encode(body).decode())
        return
    shown = Table("drill", "what happens", "runbook", box=None, header_style="dim", pad_edge=False)
    for drill in DRILLS.values():
        shown.add_row(drill.name, escape(drill.cause), drill.page)
    _console.print(shown)


def play(drills: list[tuple[Drill, Page]], folder: Path, narrator: Narrator, seed: int) -> list[Report]:
    """All drills on one rig; ends after the first that did not recover. Raises what keeps a rig from starting."""
    reports = []
    names = ", ".join(drill.name for drill, _ in drills)
    narrator.tell(drills[0][0].name, "start", 0.0, f"bench, two KMSs, two nodes; then {names}")
    options = Options(block=BLOCK, live=False, seed=seed)
    with running_rig(options, relayed=True, node=NODE_TOML) as rig:
        for drill, page in drills:
            report = Game(rig, drill, page, lambda *event, name=drill.name: narrator.tell(name, *event)).run()
            reports.append(report)
            narrator.report(report, write(report, folder))
            if not report.good:
                rig.keep_logs = True
                narrator.tell(drill.name, "logs", 0.0, str(rig.layout.logs))
                break
    if len(drills) > 1:
        (folder / "README.md").write_text("# Drills\n\n" + table(reports), encoding="utf-8")
    return reports


def main(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME...", help="Drills, one after the other; or: all.")
    ] = None,
    list_them: Annotated[bool, typer.Option("--list", help="Show all drills and leave.")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder of the reports; default: ./drill-TIME.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON document a line: what happens, then each report.")
    ] = False,
    runbooks: Annotated[
        Path | None, typer.Option(help="Folder of the runbook pages; default: those of this installation.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the virtual bench.", min=0)] = 5,
) -> None:
    """A game day: break something on the virtual bench and follow the runbook's own commands until all is well.

    Writes NAME.md, NAME.json and NAME.svg (the timeline). No hardware and no node of this machine is touched.

    Exit codes: 0 recovered, 1 did not, 2 wrong usage, 4 the bench is missing or did not start, 130 interrupted.
    """
    if list_them:
        listed(as_json)
        return
    if not names:
        raise typer.BadParameter("name a drill, or see `qkdctl drill --list`")
    drills = chosen(names, runbooks)
    folder = output or Path(f"drill-{datetime.now(UTC):%Y%m%dT%H%M%SZ}")
    try:
        reports = play(drills, folder, Narrator(as_json), seed)
    except (TooLate, QkddError, OSError, ValueError) as error:
        _complaints.print(f"the bench did not start: {error}", markup=False, soft_wrap=True)
        raise typer.Exit(EXIT_NO_BENCH) from None
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_INTERRUPTED) from None
    raise typer.Exit(0 if all(report.good for report in reports) else EXIT_NOT_RECOVERED)


def run() -> None:
    """Entry point; called `qkdctl drill` in help and complaints."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(epilog="Example: qkdctl drill F3 --output reports")(main)
    app(prog_name="qkdctl drill")


if __name__ == "__main__":
    run()

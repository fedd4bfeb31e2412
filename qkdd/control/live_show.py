"""What `qkdctl top` and `qkdctl align` draw: functions from JSON bodies to rich renderables; no I/O."""

from __future__ import annotations

from typing import Any

from rich.align import Align
from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.panel import Panel
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from qkdd.control import show

_LEVELS = "▁▂▃▄▅▆▇█"
_DETECTORS = "HVDA"
_GLYPHS = {
    "0": ("███", "█ █", "█ █", "█ █", "███"),
    "1": (" █ ", "██ ", " █ ", " █ ", "███"),
    "2": ("███", "  █", "███", "█  ", "███"),
    "3": ("███", "  █", "███", "  █", "███"),
    "4": ("█ █", "█ █", "███", "  █", "  █"),
    "5": ("███", "█  ", "███", "  █", "███"),
    "6": ("███", "█  ", "███", "█ █", "███"),
    "7": ("███", "  █", "  █", "  █", "  █"),
    "8": ("███", "█ █", "███", "█ █", "███"),
    "9": ("███", "█ █", "███", "  █", "███"),
    ".": (" ", " ", " ", " ", "█"),
    "-": ("   ", "   ", "███", "   ", "   "),
    "%": ("█  █", "  █ ", " █  ", "█   ", "█  █"),
    "k": ("█  ", "█ █", "██ ", "█ █", "█ █"),
    "M": ("█ █", "███", "███", "█ █", "█ █"),
    " ": (" ", " ", " ", " ", " "),
}


def sparkline(values: list[float | None], width: int) -> str:
    """The newest `width` values as block characters, from zero to the largest; a gap where nothing is known."""
    shown = values[-width:]
    most = max((value for value in shown if value is not None), default=0.0)
    if most <= 0:
        return "".join(" " if value is None else _LEVELS[0] for value in shown)
    top = len(_LEVELS) - 1
    return "".join(" " if value is None else _LEVELS[max(0, round(top * value / most))] for value in shown)


def big(text: str, style: str = "bold") -> Text:
    """Digits five lines high."""
    rows = ["  ".join(_GLYPHS.get(letter, _GLYPHS["-"])[line] for letter in text) for line in range(5)]
    return Text("\n".join(rows), style=style, no_wrap=True)


def top(body: dict[str, Any], width: int, *, problem: str = "", keys: bool = True) -> RenderableType:
    """`qkdctl top`: one screen of the node. problem: why the figures are old."""
    status, link, label = body["status"], body["status"]["link"], body["status"]["link"]["label"]
    head = Text.assemble(
        (escape(status["node"]), "bold"), "  ", show.state(status["state"]), f"   up {show.duration(status['uptime_s'])}   ",
        f"{show.clock(body['time'])}   qkdd {status['version']}",
    )  # fmt: skip
    if problem:
        head.append(f"   NO NEWS: {problem}", style="bold red")
    room = max(10, min(60, width - 44))
    blocks = list(reversed(body["blocks"]))
    rates = [b["secret_bits"] / b["acquisition_s"] if b["acquisition_s"] else None for b in blocks]
    curves = Table.grid(padding=(0, 2))
    curves.add_row(
        "QBER", show.percent(link["qber"]), Text(sparkline([b["qber"] for b in blocks], room), style="cyan"),
        f"of {show.percent(link['tolerated_error'])}",
    )  # fmt: skip
    curves.add_row("secret", show.rate(link["secret_bits_per_s"]), Text(sparkline(rates, room), style="green"), label)
    curves.add_row("", "", Text("".join(" " if b["accepted"] else "✗" for b in blocks[-room:]), style="red"), "refused")
    line = Text.assemble(
        f"link {link['name']} ({link['role']}, {link['protocol']}) ", show.state(link["state"]),
        f"   sifted {show.rate(link['sifted_bits_per_s'])}   clicks {show.rate(link['clicks_per_s'], '/s')}",
        f"   blocks {link['blocks_accepted']} accepted, {link['blocks_refused']} refused",
    )  # fmt: skip
    spool = status["keys"]
    keys_line = (
        f"keys {spool['handed_over']} handed over   masks {spool['masks_alice_to_bob']}/{spool['masks_bob_to_alice']}   "
        f"security budget {show.percent(spool['epsilon_spent_ratio'])} spent   KMS {'up' if spool['kms_up'] else 'DOWN'}"
    )
    parts: list[RenderableType] = [head, Rule(style="dim"), *_alarms(body["alarms"]), line, curves, Text(keys_line)]
    if body["detectors"]:
        parts += [Text(), _detectors(body["detectors"])]
    parts += [Text(), _parts(status["parts"], body["devices"])]
    if keys:
        parts.insert(1, Text("q quits", style="dim"))  # at the top: a low screen loses its last lines
    return Group(*parts)


def _alarms(alarms: list[dict[str, Any]]) -> list[RenderableType]:
    if not alarms:
        return [Text("no alarms", style="green"), Text()]
    lines: list[RenderableType] = []
    for alarm in alarms:
        code = f" [{alarm['code']}]" if alarm["code"] else ""
        style = "bold red" if alarm["severity"] == "critical" else "yellow"
        mark = "CRITICAL" if alarm["severity"] == "critical" else "warning"
        lines.append(Text(f"{mark}: {alarm['title']}{code} {alarm['detail']}".rstrip(), style=style))
        if alarm["remedy"]:
            lines.append(Text(f"  → {alarm['remedy']}"))
    return [*lines, Text()]


def _detectors(detectors: list[dict[str, Any]]) -> RenderableType:
    most = max(1.0, *(d["counts_per_s"] for d in detectors))
    table = Table("detector", "counts", "lowest", "", box=None, header_style="dim", pad_edge=False)
    for d in detectors:
        bar = "█" * round(20 * d["counts_per_s"] / most)
        table.add_row(
            f"{d['device']} {d['number']}", show.rate(d["counts_per_s"], "/s"), show.rate(d["lowest_per_s"], "/s"),
            Text(bar, style="cyan"),
        )  # fmt: skip
    return table


def _parts(parts: list[dict[str, Any]], devices: list[dict[str, Any]]) -> RenderableType:
    models = {d["name"]: f"{d['vendor']} {d['model']}".strip() or d["driver"] for d in devices}
    table = Table("part", "state", "for", "model", "problem", box=None, header_style="dim", pad_edge=False)
    for part in parts:
        error = part["error"]
        problem = "" if error is None else escape(f"[{error['code']}] {error['message']}")
        name = show.state("stalled" if part["stalled"] else part["state"])
        table.add_row(part["name"], name, show.duration(part["since_s"]), escape(models.get(part["name"], "")), problem)
    return table


def align(body: dict[str, Any] | None, width: int, *, problem: str = "", keys: bool = True) -> RenderableType:
    """`qkdctl align`: large enough to read across the optical table."""
    if body is None:
        return Text("no stretch has been opened yet")
    held = "OPEN: clicks are exchanged in clear, no key is made" if body["open"] else "the link is not held open"
    left = "" if body["seconds_left"] is None else f"   lets go in {show.duration(body['seconds_left'])}"
    head = Text.assemble((held, "bold yellow" if body["open"] else "dim"), f"{left}   stretch {body['number']}")
    for trouble in filter(None, (body["problem"], problem)):
        head.append(f"   {trouble}", style="bold red")
    bad = body["qber"] is None or body["qber"] > 0.05
    figures = [
        Panel(big(_percent(body["qber"]), "bold red" if bad else "bold green"), title="error rate", expand=False),
        Panel(big(_percent(body["visibility_z"])), title="visibility Z", expand=False),
        Panel(big(_percent(body["visibility_x"])), title="visibility X", expand=False),
        Panel(big(_count(body["coincidences_per_s"])), title="coincidences/s", expand=False),
    ]
    parts: list[RenderableType] = [head, Columns(figures), _matrix(body), _channels(body)]
    if body["histogram"]:
        high = body["histogram_low_ns"] + len(body["histogram"]) * body["histogram_bin_ns"]
        bars = [float(count) for count in body["histogram"]]
        parts += [
            Text(f"alice's time minus bob's, {body['histogram_low_ns']:.2f} … {high:.2f} ns, highest {max(bars):.0f}"),
            *_histogram(bars, max(20, width - 2)),
        ]
    if keys:
        parts.insert(1, Text("q lets go and quits", style="dim"))
    return Align.left(Group(*parts))


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}%"


def _count(value: float | None) -> str:
    if value is None:
        return "-"
    for scale, prefix in ((1e6, "M"), (1e3, "k")):
        if value >= scale:
            return f"{value / scale:.1f}{prefix}"
    return f"{value:.0f}"


def _matrix(body: dict[str, Any]) -> RenderableType:
    table = Table("alice \\ bob", *_DETECTORS, header_style="dim", title="coincidences", title_justify="left")
    most = max(1, *(cell for row in body["matrix"] for cell in row))
    for name, row in zip(_DETECTORS, body["matrix"], strict=True):
        table.add_row(name, *(Text(f"{cell:>8}", style="bold cyan" if cell > most / 2 else "") for cell in row))
    return table


def _channels(body: dict[str, Any]) -> RenderableType:
    table = Table("channel", "alice singles", "alice delay", "bob singles", "bob delay", box=None, header_style="dim")

    def cell(values: list[float], index: int, text: Any) -> str:
        return text(values[index]) if index < len(values) else "–"

    for i, name in enumerate(_DETECTORS):
        table.add_row(
            name, cell(body["singles_alice"], i, lambda v: show.rate(v, "/s")),
            cell(body["delays_alice_ns"], i, lambda v: f"{1000 * v:+.0f} ps"),
            cell(body["singles_bob"], i, lambda v: show.rate(v, "/s")),
            cell(body["delays_bob_ns"], i, lambda v: f"{1000 * v:+.0f} ps"),
        )  # fmt: skip
    return table


def _histogram(bars: list[float], width: int) -> list[Text]:
    """Six lines high; as many bins to a column as the width asks for."""
    fold = -(-len(bars) // width)
    columns = [sum(bars[i : i + fold]) for i in range(0, len(bars), fold)]
    most = max(1.0, *columns)
    lines = []
    for line in range(5, -1, -1):
        letters = []
        for value in columns:
            eighths = round(8 * (6 * value / most - line))
            letters.append(" " if eighths <= 0 else _LEVELS[min(7, eighths - 1)])
        lines.append(Text("".join(letters), style="cyan", no_wrap=True))
    return lines

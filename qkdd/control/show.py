"""Tables and lines of `qkdctl`, for people. Functions from JSON bodies to rich renderables; no I/O."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

_STATE_STYLE = {
    "up": "green",
    "running": "green",
    "connecting": "yellow",
    "waiting": "red",
    "degraded": "yellow",
    "draining": "yellow",
    "drained": "yellow",
    "tripped": "bold red",
    "stopped": "dim",
}


def number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}g}"


def percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.2f} %"


def rate(value: float | None, unit: str = "bit/s") -> str:
    """1234567 → "1.23 Mbit/s"."""
    if value is None:
        return "–"
    for scale, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= scale:
            return f"{value / scale:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}"


def duration(seconds: float | None) -> str:
    """93784 → "1 d 2 h"; two units at the most."""
    if seconds is None:
        return "–"
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    rest = int(seconds)
    parts: list[str] = []
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        if rest >= size or (unit == "s" and not parts):
            parts.append(f"{rest // size} {unit}")
            rest %= size
    return " ".join(parts[:2])


def signed_time(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    for scale, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if abs(seconds) >= scale:
            return f"{seconds / scale:+.6g} {unit}"
    return f"{seconds * 1e9:+.4g} ns"


def clock(wall: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(wall))


def state(name: str) -> Text:
    return Text(name, style=_STATE_STYLE.get(name, ""))


def _pairs(rows: list[tuple[str, RenderableType]]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim")
    table.add_column()
    for name, value in rows:
        table.add_row(name, value)
    return table


def _table(*columns: str) -> Table:
    return Table(*columns, box=None, header_style="dim", pad_edge=False)


def _error(error: dict[str, Any] | None) -> str:
    return "" if error is None else escape(f"[{error['code']}] {error['message']}")


def status(body: dict[str, Any]) -> RenderableType:
    """`qkdctl status`: the node, its parts, one line each for link and keys."""
    link, keys = body["link"], body["keys"]
    head = _pairs([
        ("node", Text.assemble((body["node"], "bold"), f"   qkdd {body['version']}   up {duration(body['uptime_s'])}")),
        ("state", state(body["state"])),
        ("link", f"{escape(link['name'])} ({link['role']}) {link['state']}   QBER {percent(link['qber'])}   "
                 f"secret {rate(link['secret_bits_per_s'])}" + (f" ({link['label']})" if link["label"] else "")),
        ("blocks", f"{link['blocks_accepted']} accepted, {link['blocks_refused']} refused"),
        ("keys", f"{keys['handed_over']} handed over   authentication {keys['authentication']}   "
                 f"budget spent {percent(keys['epsilon_spent_ratio'])}"),
        ("memory", "locked, never swapped" if body["memory_locked"] else "NOT locked: may be swapped out"),
    ])  # fmt: skip
    parts = _table("part", "state", "for", "attempts", "last error")
    for part in body["parts"]:
        shown = state("stalled" if part["stalled"] else part["state"])
        parts.add_row(part["name"], shown, duration(part["since_s"]), str(part["attempts"]), _error(part["error"]))
    return Group(head, Text(), parts)


def devices(body: list[dict[str, Any]]) -> RenderableType:
    table = _table("device", "driver", "state", "model", "serial", "firmware", "roles", "last error")
    for d in body:
        model = f"{d['vendor']} {d['model']}".strip()
        table.add_row(
            d["name"], d["driver"], state(d["state"]), escape(model), escape(d["serial"]), escape(d["firmware"]),
            ", ".join(d["roles"]), _error(d["error"]),
        )  # fmt: skip
    return table


def fields(body: list[dict[str, Any]]) -> RenderableType:
    table = _table("field", "value", "unit", "limits", "set", "meaning")
    for f in body:
        limits = "" if f["low"] is None and f["high"] is None else f"{number(f['low'], 4)} … {number(f['high'], 4)}"
        value = f["value"]
        if isinstance(value, float):
            value = number(value, 6)
        elif isinstance(value, list):
            value = ", ".join(number(v, 6) if isinstance(v, float) else str(v) for v in value)
        mark = "yes" if f["settable"] else ""
        table.add_row(f["name"], escape(str(value)), f["unit"], limits, mark, escape(f["doc"]))
    return table


def link(body: dict[str, Any]) -> RenderableType:
    """`qkdctl link`: everything that is known about the quantum link."""
    rows: list[tuple[str, RenderableType]] = [
        ("link", Text.assemble((body["name"], "bold"), f"  {body['role']} ↔ {body['peer'] or '?'}")),
        ("state", state(body["state"])),
        ("protocol", f"{body['protocol']}, proof {body['proof']}" + (f" ({body['label']})" if body["label"] else "")),
        ("authentication", body["authentication"]),
        ("QBER", f"{percent(body['qber'])} (tolerated {percent(body['tolerated_error'])})"),
        ("visibility", f"Z {percent(body['visibility_z'])}   X {percent(body['visibility_x'])}"),
        *_pairs_of_photons(body),
        ("clock", f"offset {signed_time(body['offset_s'])}   drift {number(body['drift'], 3)}"),
        ("round trip", duration(body["round_trip_s"])),
        ("clicks", rate(body["clicks_per_s"], "/s")),
        *_pulses(body["pulses"]),
        ("sifted", rate(body["sifted_bits_per_s"])),
        ("secret", rate(body["secret_bits_per_s"]) + (f" ({body['label']})" if body["label"] else "")),
        ("blocks", f"{body['blocks_accepted']} accepted, {body['blocks_refused']} refused"),
    ]
    rows += [(f"  {r['code']}", str(r["count"])) for r in body["refusals"]]
    return _pairs(rows)


def _pairs_of_photons(body: dict[str, Any]) -> list[tuple[str, RenderableType]]:
    """Rows of a link of entangled pairs."""
    if body["pulses"] is not None:
        return []
    spread = "" if body["chsh_s_error"] is None else f" ± {number(body['chsh_s_error'], 2)}"
    return [
        ("CHSH S", f"{number(body['chsh_s_inferred'], 4)}{spread}  (inferred from two bases a side, no Bell test)"),
        ("coincidences", rate(body["coincidences_per_s"], "/s")),
    ]


def _pulses(pulses: dict[str, Any] | None) -> list[tuple[str, RenderableType]]:
    """Rows of a link that sends pulses; intensities in the order signal, decoys."""
    if pulses is None:
        return []
    receiver: list[tuple[str, RenderableType]] = []
    if pulses["slot_phase"] is not None:
        phase = f"phase {number(pulses['slot_phase'], 2)}, at most {number(pulses['slot_phase_worst'], 2)} of a slot"
        contrast = (
            f"contrast {number(pulses['slot_contrast'], 3)}, {percent(pulses['gated_ratio'])} of clicks out of gate"
        )
        receiver.append(("slots", f"{phase}, {contrast}"))
    return [
        ("detected", f"{percent(pulses['detected_ratio'])} of the pulses"),
        ("gains", "   ".join(number(gain, 3) for gain in pulses["gains"]) or "–"),
        ("errors", "   ".join(percent(error) for error in pulses["error_rates"]) or "–"),
        *receiver,
        ("sifting", f"{number(pulses['sifting_bits'], 3)} bits a detection"),
    ]


def blocks(body: list[dict[str, Any]]) -> RenderableType:
    table = _table(
        "block", "time", "result", "sifted", "QBER", "tolerated", "corrected by", "leak", "f", "secret", "rate"
    )
    # of the newest block of each method and of each refusal
    reasons = {b["method"] or b["code"] or "–": b["reason"] for b in reversed(body) if b["reason"]}
    if reasons:
        table.caption = "\n".join(f"{method}: {reason}" for method, reason in sorted(reasons.items()))
    for b in body:
        result = Text("accepted", style="green") if b["accepted"] else Text(b["code"] or "refused", style="red")
        speed = b["secret_bits"] / b["acquisition_s"] if b["acquisition_s"] else None
        leak = "–" if b["leak_bits"] is None else str(b["leak_bits"])
        f_sec = "–" if b["f_sec"] is None else f"{b['f_sec']:.2f}"
        table.add_row(
            str(b["number"]), clock(b["time"]), result, str(b["sifted_bits"]), percent(b["qber"]),
            percent(b["tolerated_error"]), b["method"] or "–", leak, f_sec, str(b["secret_bits"]), rate(speed),
        )  # fmt: skip
    labels = {b["label"] for b in body if b["label"]}
    return Group(table, *(Text(f"secret: {label}", style="yellow") for label in sorted(labels)))


def keys(body: dict[str, Any]) -> RenderableType:
    left = "–" if body["epoch_days_left"] is None else f"{body['epoch_days_left']:.1f} days"
    head = _pairs([
        ("handed over", f"{body['handed_over']} chunks, KMS {'up' if body['kms_up'] else 'DOWN'}"),
        ("authentication", body["authentication"]),
        ("masks left", f"{body['masks_alice_to_bob']} alice → bob   {body['masks_bob_to_alice']} bob → alice"),
        ("security budget", f"{percent(body['epsilon_spent_ratio'])} spent, {left} left in this epoch"),
    ])  # fmt: skip
    table = _table("state", "chunks", "bits")
    for row in body["spool"]:
        table.add_row(row["state"], str(row["chunks"]), str(row["bits"]))
    return Group(head, Text(), table)


def errors(body: list[dict[str, Any]]) -> RenderableType:
    if not body:
        return Text("no errors since the start", style="green")
    table = _table("code", "count", "last", "part", "message", "what to do")
    for e in body:
        message, remedy = escape(e["message"]), escape(e["remedy"])
        table.add_row(e["code"], str(e["count"]), clock(e["time"]), e["part"], message, remedy)
    return table


def calibration(body: dict[str, Any]) -> RenderableType:
    settings = ", ".join(number(v, 4) for v in body["settings"])
    return Text(
        f"QBER {percent(body['qber_before'])} → {percent(body['qber_after'])}   settings {settings} {body['unit']}   "
        f"{body['measurements']} measurements in {duration(body['seconds'])}"
    )


def event(body: dict[str, Any]) -> Text:
    """One line of `qkdctl watch`."""
    kind = body["kind"]
    bad = kind.endswith((".down", ".refused", ".failed", ".lost"))
    good = kind.endswith((".up", ".accepted", ".delivered", ".done"))
    details = "  ".join(f"{k}={_plain(v)}" for k, v in body["fields"].items() if v is not None)
    return Text.assemble(
        (clock(body["time"]), "dim"), "  ", (f"{kind:<22}", "red" if bad else "green" if good else ""), " ", details
    )


def _plain(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)

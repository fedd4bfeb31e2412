"""The timeline of a drill as an SVG, written by hand: no plotting library is needed, and any browser shows it."""

from __future__ import annotations

import math
from xml.sax import saxutils

from qkdd_hil.demo.layout import SIDES
from qkdd_hil.drills.report import Report, Sample, seconds

WIDTH, LEFT, RIGHT = 960, 110, 30
LANE, GAP = 26, 10
QBER_HEIGHT, QBER_TOP = 110, 0.10  # px; the highest error rate that is drawn
LIMIT = 0.05
BEFORE = -10.0  # s that are drawn before the injection, at most
GOOD, BAD, GONE, WAITING = "#2e9e5b", "#d1495b", "#7b7b86", "#e0a030"
_STEPS = {"look": "#5b7fc7", "heal": "#8a4fb0", "verify": "#2e9e5b"}
_TICKS = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600)
_STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#22252b}.t{font-weight:600;font-size:15px}.s{fill:#5c6270}"
    ".g{stroke:#d8dbe2}.m{stroke-width:1.5;stroke-dasharray:4 3}.bg{fill:#fff}.q{fill:none}"
)


def escape(text: str) -> str:
    """As XML text. XML 1.0 has no way to write most control characters: they become a replacement character."""
    return saxutils.escape("".join(c if c.isprintable() else "\ufffd" for c in text))


class _Axis:
    def __init__(self, first: float, last: float) -> None:
        self.first, self.last = first, max(last, first + 1.0)

    def x(self, time: float) -> float:
        share = (min(max(time, self.first), self.last) - self.first) / (self.last - self.first)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def ticks(self) -> list[float]:
        step = next((t for t in _TICKS if (self.last - self.first) / t <= 12), _TICKS[-1])
        first = math.ceil(self.first / step)
        return [step * k for k in range(first, math.floor(self.last / step) + 1)]


def svg(report: Report) -> str:
    """Lanes: health of both nodes, blocks, steps; below, the error rate; dashed lines where the drill's times are."""
    times = [s.time for s in report.samples] + [step.time + step.seconds for step in report.steps]
    axis = _Axis(max(BEFORE, min([0.0, *times])), max([report.recovered or 0.0, *times]))
    top, parts = 74.0, []
    rows: list[tuple[str, list[str]]] = []
    for side in SIDES:
        rows.append((side, _health(report, side, axis)))
    for side in SIDES:
        rows.append((f"blocks, {side}", _blocks(report, side, axis)))
    rows.append(("commands", _steps(report, axis)))
    lane = top
    for label, shapes in rows:
        parts.append(f'<text x="{LEFT - 10}" y="{lane + 17:.0f}" text-anchor="end">{label}</text>')
        parts.append(f'<g transform="translate(0 {lane:.0f})">{"".join(shapes)}</g>')
        lane += LANE + GAP
    bottom = lane + QBER_HEIGHT
    parts += _qber(report, axis, lane)
    for tick in axis.ticks():
        x = axis.x(tick)
        parts.append(f'<line class="g" x1="{x:.1f}" y1="{top - 6:.0f}" x2="{x:.1f}" y2="{bottom:.0f}"/>')
        parts.append(f'<text class="s" x="{x:.1f}" y="{bottom + 18:.0f}" text-anchor="middle">{tick:g} s</text>')
    parts += _marks(report, axis, top - 6, bottom)
    legend = _legend(bottom + 40)
    words = "recovered" if report.good else "did not recover"
    title = f"{report.drill}: {report.title} – {words}"
    described = f"detected after {seconds(report.detected)}, recovered after {seconds(report.recovered)}"
    height = bottom + 62
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" height="{height:.0f}" '
        f'role="img"><title>{escape(title)}; {escape(described)}</title><style>{_STYLE}</style>'
        f'<rect class="bg" width="100%" height="100%"/><text class="t" x="16" y="24">{escape(title)}</text>'
        f'<text class="s" x="16" y="42">{escape(_short(report.cause))}</text>{"".join(parts)}{legend}</svg>\n'
    )


def _short(text: str, limit: int = 130) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _rect(axis: _Axis, begin: float, end: float, colour: str, hint: str) -> str:
    x, right = axis.x(begin), axis.x(end)
    return (
        f'<rect x="{x:.1f}" y="2" width="{max(1.5, right - x):.1f}" height="{LANE - 4}" fill="{colour}">'
        f"<title>{escape(hint)}</title></rect>"
    )


def _colour(sample: Sample) -> str:
    if sample.state == "no daemon":
        return GONE
    if sample.state in ("drained", "draining"):
        return WAITING
    return GOOD if sample.healthy else BAD


def _health(report: Report, side: str, axis: _Axis) -> list[str]:
    """One rectangle for each stretch in which the node said the same."""
    samples = [sample for sample in report.samples if sample.side == side]
    shapes = []
    start = 0
    for k in range(1, len(samples) + 1):
        changed = k == len(samples) or (samples[k].state, samples[k].healthy) != (
            samples[start].state,
            samples[start].healthy,
        )
        if changed:
            end = samples[k].time if k < len(samples) else axis.last
            shapes.append(_rect(axis, samples[start].time, end, _colour(samples[start]), samples[start].state))
            start = k
    return shapes


def _blocks(report: Report, side: str, axis: _Axis) -> list[str]:
    shapes = []
    for block in report.blocks:
        if block.side == side:
            x, colour = axis.x(block.time), GOOD if block.accepted else BAD
            hint = f"block {block.number}: " + (f"{block.secret_bits} bits" if block.accepted else str(block.code))
            height = LANE - 4 if not block.accepted else LANE - 12
            shapes.append(
                f'<rect x="{x - 1.5:.1f}" y="{LANE - 2 - height}" width="3" height="{height}" fill="{colour}">'
                f"<title>{escape(hint)}</title></rect>"
            )
    return shapes


def _steps(report: Report, axis: _Axis) -> list[str]:
    return [
        _rect(axis, step.time, step.time + step.seconds, _STEPS[step.purpose], f"{step.purpose}: {step.text}")
        for step in report.steps
    ]


def _qber(report: Report, axis: _Axis, top: float) -> list[str]:
    def y(value: float) -> float:
        return top + QBER_HEIGHT * (1.0 - min(value, QBER_TOP) / QBER_TOP)

    parts = [
        f'<text x="{LEFT - 10}" y="{top + 12:.0f}" text-anchor="end">error rate</text>',
        f'<line x1="{LEFT}" y1="{y(LIMIT):.1f}" x2="{WIDTH - RIGHT}" y2="{y(LIMIT):.1f}" stroke="{BAD}" stroke-width="0.8"/>',
    ]
    parts += [
        f'<text class="s" x="{LEFT - 10}" y="{y(v) + 4:.1f}" text-anchor="end">{v:.0%}</text>' for v in (0.0, 0.05)
    ]
    for side, colour in zip(SIDES, ("#1f6fb2", "#b06f00"), strict=True):
        runs: list[list[str]] = [[]]
        for sample in report.samples:
            if sample.side == side:
                if sample.qber is None:
                    runs.append([])
                else:
                    runs[-1].append(f"{axis.x(sample.time):.1f},{y(sample.qber):.1f}")
        wide = 4.0 if side == SIDES[0] else 1.6  # both are nearly the same: one shows behind the other
        parts += [
            f'<polyline class="q" stroke="{colour}" stroke-width="{wide}" points="{" ".join(run)}"/>'
            for run in runs
            if len(run) > 1
        ]
    return parts


def _marks(report: Report, axis: _Axis, top: float, bottom: float) -> list[str]:
    marks = [("injected", 0.0, BAD), ("detected", report.detected, WAITING), ("healed", report.healed, "#8a4fb0")]
    marks.append(("recovered", report.recovered, GOOD))
    parts: list[str] = []
    used: list[float] = []
    for words, time, colour in marks:
        if time is None:
            continue
        x = axis.x(time)
        to_the_left = not time or x > WIDTH - RIGHT - 110
        label = f"{words} {time:.1f} s" if time else words
        raised = any(abs(x - other) < 110 for other in used)
        if time:
            used.append(x)
        parts.append(
            f'<line class="m" stroke="{colour}" x1="{x:.1f}" y1="{top - (14 if raised else 0):.0f}" x2="{x:.1f}" '
            f'y2="{bottom:.0f}"/>'
        )
        anchor, shift = ("end", -4) if to_the_left else ("start", 4)
        parts.append(
            f'<text x="{x + shift:.1f}" y="{top - (6 if raised else -2) - 2:.0f}" text-anchor="{anchor}" fill="{colour}" '
            f'style="fill:{colour}">{label}</text>'
        )
    return parts


def _legend(y: float) -> str:
    items = [
        (GOOD, "healthy, block accepted"), (BAD, "not healthy, block refused"), (WAITING, "drained"), (GONE, "no daemon"),
        ("#5b7fc7", "look"), ("#8a4fb0", "heal"), ("#1f6fb2", "error rate, alice"), ("#b06f00", "bob"),
    ]  # fmt: skip
    parts, x = [], 16.0
    for colour, words in items:
        parts.append(f'<rect x="{x:.0f}" y="{y - 9:.0f}" width="10" height="10" fill="{colour}"/>')
        parts.append(f'<text class="s" x="{x + 14:.0f}" y="{y:.0f}">{words}</text>')
        x += 30 + 6.6 * len(words)
    return "".join(parts)

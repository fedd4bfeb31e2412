"""The report of a drill: its structure, which is also the JSON (docs/drill-report.schema.json), and as Markdown."""

from __future__ import annotations

import platform
from typing import Any, Literal

import msgspec

OUTPUT_KEPT = 4000  # characters of a command's output
_SHOWN = 12  # lines of it in the Markdown


class Sample(msgspec.Struct, frozen=True):
    """One look at a node. time: s from the injection. state: as in `qkdctl status`, or "tripped", or "no daemon"."""

    time: float
    side: str
    state: str
    healthy: bool
    qber: float | None


class Block(msgspec.Struct, frozen=True):
    """A finished block. time: s from the injection, when it was first seen. code: of the refusal."""

    time: float
    side: str
    number: int
    accepted: bool
    code: str | None
    secret_bits: int


class Did(msgspec.Struct, frozen=True):
    """One step of the page as it was done. time: s from the injection. side: "" for what was done by hand.

    code: exit code; None for what was done by hand. output: cut after 4000 characters.
    """

    time: float
    seconds: float
    purpose: Literal["look", "heal", "verify"]
    side: str
    text: str
    code: int | None
    output: str


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Times in s. detected, healed, recovered: from the injection; None when it did not come.

    detected: the first time at which `sign` could be seen at the node `sign_at`. healed: the last healing command ended.
    recovered: the sign was gone, both nodes were healthy and had accepted two blocks that began after the healing, and the
    page's own verification ended with 0 (its commands are not counted in the time).
    """

    drill: str
    page: str
    title: str
    cause: str
    sign: str
    sign_at: str
    injected_at: str
    detected: float | None
    healed: float | None
    recovered: float | None
    good: bool
    problem: str
    qkdd: str
    machine: str
    steps: list[Did]
    samples: list[Sample]
    blocks: list[Block]


def machine() -> str:
    """System and processor architecture; names no host."""
    return f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"


def schema() -> dict[str, Any]:
    """JSON schema (draft 2020-12) of a report, self-contained."""
    (reference,), components = msgspec.json.schema_components([Report], ref_template="#/$defs/{name}")
    body = components.pop(reference["$ref"].rsplit("/", 1)[1])
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **body, "$defs": components}


def seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f} s"


def table(reports: list[Report]) -> str:
    """A Markdown table of several drills."""
    rows = [
        f"| [{r.drill}]({r.drill}.md) | {r.page} | {'yes' if r.good else 'NO'} | {seconds(r.detected)} | {seconds(r.healed)} "
        f"| {seconds(r.recovered)} |"
        for r in reports
    ]
    head = [
        "| drill | runbook | recovered | time to detect | healed after | time to recover |",
        "|---|---|---|---|---|---|",
    ]
    return "\n".join([*head, *rows]) + "\n"


def markdown(report: Report) -> str:
    """The report for people; expects the picture as NAME.svg beside it."""
    r = report
    refused = [block for block in r.blocks if not block.accepted and block.time > 0]
    lines = [
        f"# Drill {r.drill}: {r.title}",
        "",
        f"**{'Recovered' if r.good else 'Did not recover'}**"
        + (f": {r.problem}" if r.problem else f", {seconds(r.recovered)} after the cause was injected."),
        "",
        f"![timeline]({r.drill}.svg)",
        "",
        "| | |",
        "|---|---|",
        f"| cause | {r.cause} |",
        f"| runbook | {r.page} |",
        f"| could be known by | {r.sign} (at {r.sign_at}'s node) |",
        f"| injected at | {r.injected_at} |",
        f"| time to detect | {seconds(r.detected)} |",
        f"| last healing command ended after | {seconds(r.healed)} |",
        f"| time to recover | {seconds(r.recovered)} |",
        f"| blocks refused on the way | {len(refused)} of both nodes"
        + (f" ({', '.join(sorted({str(block.code) for block in refused}))})" if refused else "")
        + " |",
        f"| software | qkdd {r.qkdd}; {r.machine} |",
        "",
        "Times are seconds from the injection. Nobody had to wake up, read or think: a person adds that.",
        "",
        "## What was done",
        "",
        "| at | took | where | step | exit |",
        "|---|---|---|---|---|",
    ]
    for step in r.steps:
        where = step.side or "by hand"
        text = step.text.replace("|", "\\|")
        code = "" if step.code is None else str(step.code)
        lines.append(
            f"| {seconds(step.time)} | {seconds(step.seconds)} | {where} | {step.purpose}: `{text}` | {code} |"
        )
    lines += ["", "## What the commands said", ""]
    for step in r.steps:
        if step.output:
            shown = step.output.splitlines()
            more = [f"… {len(shown) - _SHOWN} more lines"] if len(shown) > _SHOWN else []
            lines += [f"`{step.text}` at {step.side}:", "", "```text", *shown[:_SHOWN], *more, "```", ""]
    return "\n".join(lines)

"""Runbooks: every page alert has one, and every command in them exists."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer
from qkdd_hil.drills.pages import Command, read

from qkdd.cli import app as qkdd_app
from qkdd.control.qkdctl import app as qkdctl_app
from qkdd.kms.cli import app as kms_app
from qkdd.psk.cli import app as psk_app

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs/runbooks").glob("*.md"))
PROGRAMS = {"qkdd": qkdd_app, "qkdctl": qkdctl_app, "qkdd-kms": kms_app, "qkd-psk": psk_app}


def unknown(words: list[str]) -> str:
    """What of a command line the program does not have; empty when all is there."""
    found: Any = typer.main.get_command(PROGRAMS[words[0]])
    context = typer.Context(found)
    for word in words[1:]:
        if not hasattr(found, "get_command") or word.startswith("-"):
            break
        inner = found.get_command(context, word)
        if inner is None:
            return f"{words[0]} has no command {word}"
        found = inner
    options = {option for parameter in found.params for option in parameter.opts}
    missing = [word for word in words if word.startswith("--") and word not in options]
    return f"{' '.join(words)}: no option {missing}" if missing else ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_exist(page: Path) -> None:
    inline = re.findall(r"(?<!`)`((?:qkdd|qkdctl|qkdd-kms|qkd-psk) [^`\n]*)`", page.read_text(encoding="utf-8"))
    commands = [part.split() for command in inline for part in command.split(" && ") if part.startswith("qkd")]
    blocks = [list(step.words) for step in read(page).steps if isinstance(step, Command)]
    problems = [unknown(words) for words in commands + blocks if words[0] in PROGRAMS]
    assert not [problem for problem in problems if problem]


def test_every_page_alert_has_a_runbook_and_no_other_has() -> None:
    rules = (ROOT / "monitoring/rules/qkdd.yml").read_text(encoding="utf-8")
    named = set(re.findall(r'runbook: "docs/runbooks/(\w+)\.md"', rules))
    assert named
    assert named == {page.stem for page in PAGES if page.stem.startswith("Qkdd")}
    assert {f"F{number}" for number in range(1, 8)} <= {page.stem.split("-")[0] for page in PAGES}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target

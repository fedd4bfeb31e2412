"""`qkdd`: help, version, drivers, errors, and children that are not installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from qkdd import __version__, cli


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(cli.app, list(arguments), env={"COLUMNS": "200"})
    return result.exit_code, result.stdout, result.stderr


def test_version_and_help() -> None:
    assert run("--version") == (0, f"qkdd {__version__}\n", "")
    text = run("--help")[1]
    for command in ("run", "check-config", "drivers", "errors", "demo", "bench", "pki"):
        assert command in text


def test_drivers_as_table_and_json() -> None:
    records = json.loads(run("drivers", "--fields", "--json")[1])
    names = {record["name"] for record in records}
    assert {"s15_tdc1", "single_quantum_websq", "thorlabs_mpc320"} <= names
    assert not [r["problem"] for r in records if r["problem"]]
    assert all(r["fields"] for r in records)
    assert "thorlabs_mpc320" in run("drivers")[1]


def test_errors() -> None:
    code, text, _ = run("errors", "qkd-dev-offline")
    assert code == 0
    assert "QKD-DEV-OFFLINE" in text
    assert "What to do" in text
    assert run("errors", "QKD-NO-SUCH")[0] == 1
    assert len(json.loads(run("errors", "--json")[1])) > 60


def test_pki_is_mounted() -> None:
    done = subprocess.run([sys.executable, "-m", "qkdd", "pki"], capture_output=True, text=True, check=True)
    assert "master-key" in done.stdout
    assert "qkdd pki" in done.stdout


@pytest.mark.parametrize("command", ["demo", "bench"])
def test_a_child_that_is_not_installed_is_said_clearly(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "_installed", lambda _module: False)
    code, _, text = run(command, "--seconds", "3")
    assert code == cli.EXIT_ABSENT
    assert "QKD-NODE-NOT-INSTALLED" in text


def test_arguments_and_exit_code_are_the_childs(monkeypatch: pytest.MonkeyPatch) -> None:
    became: list[list[str]] = []

    def execv(_path: str, arguments: list[str]) -> None:
        became.append(arguments)

    monkeypatch.setattr(cli, "_installed", lambda _module: True)
    monkeypatch.setattr("os.execv", execv)
    run("demo", "--eve", "0.3", "--json", "x.json", "--help")
    assert became == [[sys.executable, "-m", "qkdd_hil.demo", "--eve", "0.3", "--json", "x.json", "--help"]]


@pytest.mark.parametrize(
    ("words", "expected"),
    [("qkdd ch", ["check-config"]), ("qkdd pki mas", ["master-key"]), ("qkdd drivers pr", ["probe"])],
)
def test_completion_reaches_commands_that_hand_on(words: str, expected: list[str]) -> None:
    """As the shell's function asks: words and the place of the last one in the environment."""
    shell = {"_QKDD_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    command = [sys.executable, "-c", "import sys; sys.argv[0] = 'qkdd'; from qkdd.cli import main; main()"]
    done = subprocess.run(command, env={**os.environ, **shell}, capture_output=True, text=True, check=False)
    assert done.stdout.split() == expected, done.stderr

"""`qkdctl` against a fake daemon on a real socket: tables, JSON, exit codes."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from qkdd.control import show
from qkdd.control.config import ControlConfig
from qkdd.control.qkdctl import app
from qkdd.control.server import ControlServer
from qkdd.core.audit import AuditLog
from qkdd.core.clock import SystemClock

_spec = importlib.util.spec_from_file_location("fake_node", Path(__file__).with_name("fake_node.py"))
assert _spec is not None
assert _spec.loader is not None
fake_node = sys.modules.setdefault("fake_node", importlib.util.module_from_spec(_spec))
_spec.loader.exec_module(fake_node)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[tuple[Any, str]]:
    """A server on its own thread, because qkdctl blocks."""
    path = str(tmp_path / "c.sock")
    ready = threading.Event()
    box: list[Any] = []

    async def serve() -> None:
        clock = SystemClock()
        node = fake_node.FakeNode(clock)
        log = AuditLog(tmp_path / "audit.log", clock)
        server = ControlServer(ControlConfig(socket=path), node, log, clock)
        await server.start()
        stop = asyncio.Event()
        box.extend([node, asyncio.get_running_loop(), stop])
        ready.set()
        await stop.wait()
        await server.stop()
        log.close()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert ready.wait(10)
    yield box[0], path
    box[1].call_soon_threadsafe(box[2].set)
    thread.join(10)


def run(*arguments: str, **env: str) -> Any:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200", **env}, catch_exceptions=False)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["status"], ["alice", "1 d 2 h", "QBER 1.61 %", "8.8 kbit/s", "NOT locked", "tagger"]),
        (["devices"], ["s15_tdc1", "TDC1", "time tagger"]),
        (["devices", "tagger"], ["threshold", "0.2", "V", "Set the [input] threshold."]),
        (["link"], ["no Bell test", "2.74", "± 0.003", "QKD-BLK-QBER", "-250 ms"]),
        (["blocks"], ["accepted", "QKD-BLK-QBER", "8.8 kbit/s"]),
        (["keys"], ["7 chunks", "900 alice → bob", "57.0 days", "sealed"]),
        (["errors"], ["QKD-DEV-OFFLINE", "plug"]),
        (["calibrate", "polarization"], ["12.00 % → 1.60 %", "31 measurements", "1 min 15 s"]),
        (["drain"], ["drained", "block 7 was finished"]),
        (["reload"], ["reloaded"]),
        (["firmware", "list"], ["tx", "QKDD-TX1", "2.0.0 in A", "confirmed (1)"]),
        (["firmware", "verify", "image"], ["tx: QKDD-TX1 2.1.0, counter 2", "abab"]),
        (["firmware", "stage", "image", "tx"], ["staged on tx"]),
        (["firmware", "rollback", "tx"], ["rolled back: tx"]),
        (["log-level", "debug"], ["log level debug"]),
    ],
)
def test_tables(daemon: tuple[Any, str], command: list[str], words: list[str]) -> None:
    result = run("--socket", daemon[1], *command)
    assert result.exit_code == 0
    for word in words:
        assert word in result.stdout, result.stdout


@pytest.mark.parametrize("command", ["status", "devices", "link", "blocks", "keys", "errors", "drain"])
def test_json_is_what_the_daemon_said(daemon: tuple[Any, str], command: str) -> None:
    result = run(command, "--json", QKDD_SOCKET=daemon[1])
    assert result.exit_code == 0
    assert json.loads(result.stdout)


def test_exit_codes(daemon: tuple[Any, str], tmp_path: Path) -> None:
    node, path = daemon
    refused = run("resume", "--socket", path)
    assert refused.exit_code == 1
    assert "QKD-CTL-NOT-NOW" in refused.stderr
    assert "→" in refused.stderr
    assert json.loads(run("resume", "--json", "--socket", path).stdout)["code"] == "QKD-CTL-NOT-NOW"
    node.healthy = False
    unhealthy = run("status", "--socket", path)
    assert unhealthy.exit_code == 1
    assert "[QKD-DEV-OFFLINE] tagger on [tty]: gone" in unhealthy.stdout
    assert run("no-such-command").exit_code == 2
    assert run("blocks", "--limit", "0", "--socket", path).exit_code == 2
    nobody = run("status", "--socket", str(tmp_path / "none.sock"))
    assert nobody.exit_code == 3
    assert "QKD-CTL-NO-DAEMON" in nobody.stderr


def test_watch_prints_events_until_the_daemon_stops(daemon: tuple[Any, str]) -> None:
    node, path = daemon
    node.events.publish("block.refused", number=4, code="QKD-BLK-QBER", qber=0.0912345678)
    node.events.close()
    text = run("watch", "--since", "0", "--socket", path)
    assert text.exit_code == 0
    assert "block.refused" in text.stdout
    assert "number=4  code=QKD-BLK-QBER  qber=0.0912346" in text.stdout
    lines = run("watch", "--since", "0", "--json", "--socket", path).stdout.splitlines()
    assert json.loads(lines[0])["fields"]["number"] == 4


def test_link_security_and_advise(daemon: tuple[Any, str]) -> None:
    node, path = daemon
    shown = run("--socket", path, "link", "security")
    assert shown.exit_code == 0, shown.output
    for words in (
        "bbm92/tl2017",
        "closed to the adversary",
        "basis_imbalance_max = 0.05",
        "authentication",
        "one block",
    ):
        assert words in shown.stdout, words
    document = json.loads(run("--socket", path, "link", "security", "--json").stdout)
    summed = sum(term["value"] for term in document["terms"] if not term["part_of"])
    assert summed == pytest.approx(document["eps_block"], rel=1e-12)
    advice = run("--socket", path, "link", "advise", "--longest-block", "40")
    assert advice.exit_code == 0, advice.output
    assert "recommended" in advice.stdout
    assert node.asked[-1] == "advise 40"
    answer = json.loads(run("link", "advise", "--json", "--socket", path).stdout)
    assert answer["recommended"]["secret_bits_per_s"] > 0
    assert run("--socket", path, "link", "advise", "--longest-block", "0").exit_code == 2


def test_every_command_has_an_example() -> None:
    for command in ("status", "devices", "link", "blocks", "keys", "errors", "watch", "drain", "resume", "reload"):
        help_text = run(command, "--help").stdout
        assert f"Example: qkdctl {command}" in help_text
        assert "--json" in help_text
        assert "--socket" in help_text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"),
        (0.0004, "0.4 ms"),
        (0, "0 ms"),
        (59.9, "59 s"),
        (60, "1 min"),
        (3661, "1 h 1 min"),
        (93784, "1 d 2 h"),
    ],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert show.duration(seconds) == text


def test_firmware_update_says_why_not(daemon: tuple[Any, str]) -> None:
    node, path = daemon
    result = run("--socket", path, "firmware", "update", "image", "tx")
    assert result.exit_code == 1
    assert "QKD-CTL-NOT-NOW" in result.stderr
    assert node.firmware.asked == [("update", str(Path("image").resolve()), ["tx"])]

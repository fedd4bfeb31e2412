"""`qkdctl top` and `qkdctl align`: in a pseudo-terminal, in a pipe, without a daemon."""

from __future__ import annotations

import asyncio
import fcntl
import importlib.util
import json
import os
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.console import Console
from typer.testing import CliRunner

from qkdd.control import live_show
from qkdd.control.client import ControlClient
from qkdd.control.config import ControlConfig
from qkdd.control.live_cli import holding
from qkdd.control.qkdctl import app
from qkdd.control.server import ControlServer
from qkdd.core.audit import AuditLog
from qkdd.core.clock import SystemClock
from qkdd.testing.patience import PATIENCE_S

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
    assert ready.wait(30)
    yield box[0], path
    box[1].call_soon_threadsafe(box[2].set)
    thread.join(30)


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "160"}, catch_exceptions=False)


class Terminal:
    """qkdctl in a pseudo-terminal."""

    def __init__(self, *arguments: str) -> None:
        self.fd, end = os.openpty()
        script = "from qkdd.control.qkdctl import main; main()"
        self.process = subprocess.Popen(
            # a shell without job control starts its background jobs deaf to SIGINT, and their children with them
            ["env", "--default-signal=INT", sys.executable, "-c", script, *arguments],
            stdin=end,
            stdout=end,
            stderr=end,
            env={**{k: v for k, v in os.environ.items() if k not in ("LINES", "COLUMNS")}, "TERM": "xterm-256color"},
            start_new_session=True,
        )
        os.close(end)
        self.seen = ""
        self.resize(40, 140)

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def until(self, words: str, *, fresh: bool = False) -> None:
        if fresh:
            self.seen = ""
        end = time.monotonic() + PATIENCE_S
        while words not in self.seen:
            assert time.monotonic() < end, self.seen[-2000:]
            if select.select([self.fd], [], [], 0.2)[0]:
                self.seen += os.read(self.fd, 65536).decode(errors="replace")

    def key(self, letter: str) -> None:
        os.write(self.fd, letter.encode())

    def ended(self) -> int:
        end = time.monotonic() + PATIENCE_S
        while (code := self.process.poll()) is None:
            assert time.monotonic() < end
            if select.select([self.fd], [], [], 0.1)[0]:
                try:
                    self.seen += os.read(self.fd, 65536).decode(errors="replace")
                except OSError:
                    break  # the other end is closed
        os.close(self.fd)
        return self.process.wait(60) if code is None else code


@pytest.mark.slow
def test_top_in_a_terminal_follows_survives_a_resize_and_quits_by_key(daemon: tuple[Any, str]) -> None:
    node, path = daemon
    terminal = Terminal("--socket", path, "top")
    terminal.until("q quits")
    assert "\x1b[?1049h" in terminal.seen  # the alternate screen
    terminal.resize(12, 40)
    terminal.until("alice", fresh=True)
    terminal.resize(50, 160)
    node.healthy = False
    terminal.until("CRITICAL: tagger is down", fresh=True)
    terminal.key("x")
    terminal.key("q")
    assert terminal.ended() == 0
    assert "\x1b[?1049l" in terminal.seen


@pytest.mark.slow
def test_align_in_a_terminal_holds_the_link_and_lets_go_on_quitting(daemon: tuple[Any, str]) -> None:
    node, path = daemon
    terminal = Terminal("--socket", path, "align")
    terminal.until("q lets go")
    assert node.held
    terminal.key("q")
    assert terminal.ended() == 0
    assert node.asked == ["align 60", "align 0"]
    terminal = Terminal("--socket", path, "align")
    terminal.until("q lets go")
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.ended() == 0
    assert not node.held


@pytest.mark.slow
def test_a_terminal_that_is_closed_ends_the_view(daemon: tuple[Any, str]) -> None:
    """It must neither draw into nothing for ever nor hold the link open."""
    node, path = daemon
    terminal = Terminal("--socket", path, "align")
    terminal.until("q lets go")
    os.close(terminal.fd)
    assert terminal.process.wait(60) is not None
    end = time.monotonic() + PATIENCE_S
    while node.held and time.monotonic() < end:
        time.sleep(0.1)
    assert not node.held


def test_in_a_pipe_top_prints_one_picture(daemon: tuple[Any, str]) -> None:
    _node, path = daemon
    result = run("--socket", path, "top")
    assert result.exit_code == 0
    for words in ("alice", "no alarms", "QBER", "1.61 %", "8.8 kbit/s", "spd 0", "tagger", "7 handed over"):
        assert words in result.output, words
    assert "\x1b" not in result.output
    assert json.loads(run("--socket", path, "top", "--json").output)["status"]["node"] == "alice"


def test_in_a_pipe_align_opens_nothing_by_itself(daemon: tuple[Any, str]) -> None:
    node, path = daemon
    assert "no stretch" in run("--socket", path, "align").output
    assert node.asked == []
    assert run("--socket", path, "align", "--hold", "600").exit_code == 0
    assert node.asked == ["align 600"]
    shown = run("--socket", path, "align").output
    for words in ("no key is made", "9100", "+120 ps", "88 k/s", "error rate", "visibility X"):
        assert words in shown, words
    assert run("--socket", path, "align", "--off").exit_code == 0
    assert not node.held


def test_without_a_daemon_the_exit_code_says_so(tmp_path: Path) -> None:
    for command in ("top", "align"):
        assert run("--socket", str(tmp_path / "none.sock"), command).exit_code == 3


def test_the_lease_is_renewed_while_somebody_looks(daemon: tuple[Any, str]) -> None:
    node, path = daemon
    now = [0.0]
    with holding(ControlClient(path), lambda: now[0]) as ask:
        for now[0] in (1.0, 10.0, 19.0, 21.0, 30.0, 42.0):
            assert ask()["number"] == 7
    assert node.asked == ["align 60", "align 60", "align 60", "align 0"]


def test_sparkline() -> None:
    assert live_show.sparkline([0.0, None, 1.0, 8.0], 10) == "▁ ▂█"
    assert live_show.sparkline([1.0, 8.0], 1) == "█"
    assert live_show.sparkline([None, 0.0], 5) == " ▁"
    assert live_show.sparkline([], 5) == ""


@pytest.mark.parametrize("width", [20, 60, 200])
def test_every_width_can_be_drawn_and_a_label_belongs_to_the_rate(width: int) -> None:
    node = fake_node.FakeNode(SystemClock())
    plain = node.status()
    labelled = msgspec.structs.replace(plain, link=msgspec.structs.replace(plain.link, label="not a strict bound"))
    node.status = lambda: labelled
    body = msgspec.to_builtins(node.overview())
    console = Console(width=width, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(live_show.top(body, width))
    console.print(live_show.align(msgspec.to_builtins(fake_node.ALIGN), width))
    text = console.export_text()
    console.file.close()
    if width == 200:
        assert "not a strict bound" in text
        assert "3.4%" not in text  # drawn in large digits

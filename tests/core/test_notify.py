"""sd_notify: datagrams reach a path and an abstract socket; silence without a manager."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from qkdd.core.notify import sd_notify, watchdog_interval


@pytest.mark.parametrize("abstract", [False, True])
def test_the_datagram_arrives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool) -> None:
    name = f"qkdd-test-{os.getpid()}" if abstract else str(tmp_path / "n")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name if abstract else name)
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + name if abstract else name)
        assert sd_notify("READY=1", "STATUS=up")
        assert manager.recv(100) == b"READY=1\nSTATUS=up"


def test_no_manager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not sd_notify("READY=1")


@pytest.mark.parametrize(
    ("usec", "pid", "expected"),
    [(None, None, None), ("2000000", None, 1.0), ("2000000", "own", 1.0), ("2000000", "1", None), ("0", None, None)],
)
def test_watchdog_interval(
    monkeypatch: pytest.MonkeyPatch, usec: str | None, pid: str | None, expected: float | None
) -> None:
    for name, value in (("WATCHDOG_USEC", usec), ("WATCHDOG_PID", str(os.getpid()) if pid == "own" else pid)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    assert watchdog_interval() == expected

"""Log lines as journald gets them: native fields over a real datagram socket, parsed as the protocol says."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from qkdd.core import log


def parsed(datagram: bytes) -> dict[str, str]:
    """systemd.io/JOURNAL_NATIVE_PROTOCOL: KEY=value, or KEY, a length of 8 bytes and the value, each ended by a line feed."""
    fields = {}
    while datagram:
        line, _, rest = datagram.partition(b"\n")
        if b"=" in line:
            name, _, value = line.partition(b"=")
            datagram = rest
        else:
            name, length = line, int.from_bytes(rest[:8], "little")
            value, datagram = rest[8 : 8 + length], rest[8 + length + 1 :]
            assert rest[8 + length : 9 + length] == b"\n"
        fields[name.decode()] = value.decode(errors="replace")
    return fields


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A socket in journald's place, and a stderr that JOURNAL_STREAM names."""
    place = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver, open(tmp_path / "err", "w") as stream:
        receiver.bind(place)
        receiver.settimeout(5)
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        monkeypatch.setattr(log, "_JOURNAL_SOCKET", place)
        monkeypatch.setattr(sys, "stderr", stream)
        status = os.fstat(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        log.configure("info")
        yield receiver
        monkeypatch.delenv("JOURNAL_STREAM")
        log.configure("info")  # closes the way to the journal
        structlog.reset_defaults()
        stream.flush()
        assert (tmp_path / "err").read_text() == ""  # nothing is told twice


def test_fields_priority_and_identity(journal: socket.socket) -> None:
    log.get("link").warning(
        "block refused", link="a-b", block=7, code="QKD-BLK-QBER", error="two\nlines = so", key=b"123"
    )
    fields = parsed(journal.recv(1 << 20))
    assert fields["MESSAGE"] == "block refused"
    assert fields["PRIORITY"] == "4"
    assert fields["SYSLOG_IDENTIFIER"] == "qkdd"
    assert fields["QKD_CODE"] == "QKD-BLK-QBER"
    assert fields["QKD_BLOCK"] == "7"
    assert fields["QKD_ERROR"] == "two\nlines = so"
    assert fields["QKD_KEY"] == "<3 bytes>"
    assert fields["MESSAGE_ID"] == log.message_id("block refused", "link")
    log.get("link").info("block accepted", link="a-b")
    assert parsed(journal.recv(1 << 20))["MESSAGE_ID"] != fields["MESSAGE_ID"]


def test_the_identity_of_a_kind_never_changes() -> None:
    assert log.message_id("block accepted", "link") == "899d6659c2ae5e53b751adc263886048"
    assert len(log.message_id("", "")) == 32


def test_names_journald_would_drop_and_values_too_long_still_give_a_whole_entry(journal: socket.socket) -> None:
    log.get("link").info("long", **{"a b.c-d": 1, "text": "x" * 500_000, "e" * 90: 2})
    fields = parsed(journal.recv(1 << 20))
    assert fields["QKD_A_B_C_D"] == "1"
    assert 1000 < len(fields["QKD_TEXT"]) < 180_000
    assert all(len(name) <= 64 for name in fields)


def test_what_was_logged_last_is_remembered(journal: socket.socket) -> None:
    log.get("link").info("one more thing", link="a-b")
    assert '"event": "one more thing"' in log.recent()[-1]
    assert "a-b" in log.recent()[-1]

"""Ports for servers that are configured before they listen."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from qkdd.core import ports


def test_ports_differ_are_free_and_the_system_gives_them_to_nobody() -> None:
    found = ports.free_ports(40)
    assert len(set(found)) == 40
    given_out = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    for port in found:
        with socket.socket() as one:
            one.bind(("127.0.0.1", port))
    if given_out > 11_000:
        assert all(10_000 <= port < given_out for port in found)


def test_a_taken_port_is_not_given_out(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        monkeypatch.setattr(ports._CHANCE, "sample", lambda *_: [port], raising=True)
        assert ports.free_port() != port


@pytest.mark.parametrize("text", [None, "", "1024 65535\n", "nonsense"])
def test_where_the_system_gives_out_all_or_does_not_say(
    text: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "range"
    if text is not None:
        file.write_text(text)
    monkeypatch.setattr(ports, "_RANGE", file)
    assert len(set(ports.free_ports(5))) == 5

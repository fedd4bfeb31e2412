"""Ports of the loopback for servers that are configured before they listen: of development pairs, benches and tests."""

from __future__ import annotations

import random
import socket
from contextlib import ExitStack
from pathlib import Path

_FROM = 10_000  # below are the ports of well-known services
_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_CHANCE = random.SystemRandom()  # two processes that look at the same time look at different ports


def free_ports(count: int) -> list[int]:
    """TCP ports that were free on the loopback a moment ago, all different.

    They lie below the range from which the system gives out ports (Linux: ip_local_port_range), so that no outgoing connection
    and no server that listens on port 0 takes one before its server listens. Raises OSError when there are none.
    """
    with ExitStack() as held:
        found: list[int] = []
        candidates = (
            _CHANCE.sample(range(_FROM, end), end - _FROM) if (end := _first_given_out()) - _FROM > 1000 else []
        )
        for port in [*candidates, *[0] * count]:  # 0: as the system gives them out
            if len(found) == count:
                break
            one = held.enter_context(socket.socket())
            try:
                one.bind(("127.0.0.1", port))
            except OSError:
                continue
            found.append(one.getsockname()[1])
        if len(found) < count:
            raise OSError(f"{count} free ports are needed on the loopback, {len(found)} were found")
        return found


def free_port() -> int:
    """One of them."""
    return free_ports(1)[0]


def _first_given_out() -> int:
    try:
        return int(_RANGE.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return _FROM

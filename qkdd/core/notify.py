"""Talk to systemd's service manager: one datagram to NOTIFY_SOCKET (sd_notify(3)), no library needed."""

from __future__ import annotations

import os
import socket


def sd_notify(*fields: str) -> bool:
    """Send assignments such as "READY=1", "STATUS=…", "WATCHDOG=1", "STOPPING=1".

    Returns False when no service manager listens (NOTIFY_SOCKET is not set). Raises OSError when one is named but cannot
    be reached.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    if address.startswith("@"):  # an abstract socket
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        channel.sendto("\n".join(fields).encode(), address)
    return True


def watchdog_interval() -> float | None:
    """Seconds between "WATCHDOG=1" messages (half of what systemd allows), or None when no watchdog is set for us."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    if not microseconds.isdigit() or int(microseconds) == 0:
        return None
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(microseconds) / 2e6

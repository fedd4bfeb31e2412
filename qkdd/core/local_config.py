"""Settings of a local UNIX socket."""

from __future__ import annotations

import grp
from collections.abc import Iterator

from qkdd.core.config import Section

MAX_SOCKET_PATH = 107  # bytes in sockaddr_un.sun_path without the closing zero, unix(7)


class LocalSocket(Section, frozen=True):
    """A socket and who may use it. Without a group only root and the daemon's own user have a role."""

    socket: str
    admin_group: str = ""
    view_group: str = ""

    def check(self) -> Iterator[tuple[str, str, str]]:
        if len(self.socket.encode()) > MAX_SOCKET_PATH:
            yield "socket", f"the path has more than {MAX_SOCKET_PATH} bytes", "choose a shorter path"
        for key, name in (("admin_group", self.admin_group), ("view_group", self.view_group)):
            if name:
                try:
                    grp.getgrnam(name)
                except KeyError:
                    yield key, f"there is no group {name!r}", f"make it: groupadd --system {name}"

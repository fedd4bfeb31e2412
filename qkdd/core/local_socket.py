"""The listening UNIX socket: from systemd when it was socket-activated, else made by us.

A stale path (nobody answers) is replaced; one on which a daemon answers is refused.
"""

from __future__ import annotations

import grp
import os
import socket
import stat
from collections.abc import MutableMapping
from pathlib import Path

from qkdd.core.local_config import LocalSocket
from qkdd.core.local_errors import SocketFailed, SocketInUse

_FIRST_FD = 3  # SD_LISTEN_FDS_START, sd_listen_fds(3)
_BACKLOG = 64


def activated(environment: MutableMapping[str, str], name: str = "control") -> socket.socket | None:
    """The socket that the service manager passed (sd_listen_fds(3)), or None.

    With several descriptors the one called `name` is taken. The variables are removed so that no child inherits them.
    """
    pid, count = environment.get("LISTEN_PID", ""), environment.get("LISTEN_FDS", "")
    if not count.isdigit() or pid != str(os.getpid()):
        return None
    names = environment.get("LISTEN_FDNAMES", "").split(":")
    for variable in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        environment.pop(variable, None)
    index = names.index(name) if name in names else 0
    if index >= int(count):
        return None
    descriptor = _FIRST_FD + index
    try:
        listener = socket.socket(fileno=descriptor)
    except OSError as error:
        raise SocketFailed(f"descriptor {descriptor} from the service manager: {error.strerror}") from None
    if listener.family != socket.AF_UNIX or listener.type != socket.SOCK_STREAM:
        listener.detach()
        raise SocketFailed(
            f"descriptor {descriptor} from the service manager is no UNIX stream socket",
            remedy="The .socket unit needs ListenStream= with a path.",
        )
    os.set_inheritable(descriptor, False)
    listener.setblocking(False)
    return listener


def bind(config: LocalSocket) -> socket.socket:
    """Make and listen on the socket of `config`. Raises SocketInUse or SocketFailed.

    Mode 0660, group `view_group` (else `admin_group`, else the daemon's): only its members reach the socket at all, so
    admins must be in both groups. Roles are checked for each request besides.
    """
    path = Path(config.socket)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _clear_stale(path)
        previous = os.umask(0o117)  # the socket is born with mode 0660: no moment in which others reach it
        try:
            listener.bind(str(path))
        finally:
            os.umask(previous)
        group = config.view_group or config.admin_group
        if group and path.stat().st_gid != (wanted := grp.getgrnam(group).gr_gid):
            os.chown(path, -1, wanted)  # not where the folder gave it its group (setgid): a sandbox may forbid the call
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except SocketInUse:
        listener.close()
        raise
    except (OSError, KeyError) as error:
        listener.close()
        raise SocketFailed(f"local socket {path}: {getattr(error, 'strerror', None) or error}") from None
    return listener


def _clear_stale(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise SocketInUse(f"{path} exists and is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)  # nobody listens: left behind by a daemon that was killed
            return
        except OSError as error:  # a full backlog times out: somebody is there
            raise SocketInUse(f"a daemon holds {path} ({error})") from None
    raise SocketInUse(f"a daemon answers on {path}")

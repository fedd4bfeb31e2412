"""Who is at the other end of the control socket, and what that user may do.

The kernel says who connected (SO_PEERCRED, unix(7)): uid, primary gid, pid. Supplementary groups come from the name service by
uid, because SO_PEERCRED carries only the primary one. Deny by default.
"""

from __future__ import annotations

import grp
import os
import pwd
import socket
import struct
from dataclasses import dataclass
from enum import IntEnum

_UCRED = struct.Struct("iII")  # struct ucred: pid, uid, gid


class Role(IntEnum):
    """Ordered: a higher role may do what a lower one may."""

    NONE = 0
    VIEW = 1
    ADMIN = 2


@dataclass(frozen=True, slots=True)
class PeerUser:
    """The process at the other end, as the kernel saw it when it connected."""

    pid: int
    uid: int
    gid: int


def peer_of(connection: socket.socket) -> PeerUser:
    """Credentials of a connected UNIX socket's other end."""
    pid, uid, gid = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return PeerUser(pid, uid, gid)


def group_ids(user: PeerUser) -> set[int]:
    """Primary and supplementary groups. A uid that no name service knows has only the group it connected with."""
    try:
        name = pwd.getpwuid(user.uid).pw_name
    except KeyError:
        return {user.gid}
    return {user.gid, *os.getgrouplist(name, user.gid)}


def _group_id(name: str) -> int | None:
    if not name:
        return None
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return None  # the group was removed after the start: nobody is in it


@dataclass(frozen=True, slots=True)
class AccessPolicy:
    """Role by user and group. May ask the name service: call it in a thread."""

    admin_group: str = ""
    view_group: str = ""

    def role_of(self, user: PeerUser) -> Role:
        if user.uid in (0, os.geteuid()):
            return Role.ADMIN
        groups = group_ids(user)
        if _group_id(self.admin_group) in groups:
            return Role.ADMIN
        if _group_id(self.view_group) in groups:
            return Role.VIEW
        return Role.NONE

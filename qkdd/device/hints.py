"""What a person at the table wants to know when a line cannot be opened: looked up only after it failed."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from serial.tools import list_ports

_PROC = Path("/proc")
_BY_ID = Path("/dev/serial/by-id")
_LIBRARY_FOLDERS = ("/lib", "/usr/lib", "/usr/local/lib", "/opt")
_DEPTH = 3  # folders below each of them
_MOST = 4  # of what is listed


def ports_now(by_id: Path = _BY_ID) -> str:
    """Which serial ports are there, by the names that last."""
    try:
        names = sorted(str(path) for path in by_id.iterdir())
    except OSError:
        names = sorted(port.device for port in list_ports.comports())
    return f"there are now: {_some(names)}" if names else "no serial port is there now"


def holders(path: str, proc: Path = _PROC) -> str:
    """Processes that have `path` open, as far as this user may see them: `1234 (minicom)`; empty when none is seen."""
    wanted, found = os.path.realpath(path), []
    for fd in proc.glob("[0-9]*/fd/*"):
        try:
            if os.readlink(fd) == wanted and int(fd.parts[-3]) != os.getpid():
                found.append(f"{fd.parts[-3]} ({(fd.parents[1] / 'comm').read_text().strip()})")
        except OSError:
            continue  # it ended, or it is another user's
    return ", ".join(sorted(set(found)))


def who_may_open(path: str) -> str:
    """Owner, group and mode of `path`, and who we are."""
    try:
        about = os.stat(path)
    except OSError:
        return ""
    user = _name(pwd.getpwuid, os.geteuid())
    groups = sorted({_name(grp.getgrgid, number) for number in {*os.getgroups(), os.getegid()}})
    return (
        f"it belongs to {_name(pwd.getpwuid, about.st_uid)}:{_name(grp.getgrgid, about.st_gid)},"
        f" mode {stat.S_IMODE(about.st_mode):o}; this is user {user} in {', '.join(groups)}"
    )


def where_libraries_are(library: str) -> str:
    """Where `library` was looked for, and files of its name that lie elsewhere."""
    name = os.path.basename(library)
    more = [part for part in os.environ.get("LD_LIBRARY_PATH", "").split(":") if part]
    looked = (
        os.path.abspath(library) if "/" in library else f"{_some([*more, '/lib', '/usr/lib'])} and the linker's cache"
    )
    others = sorted({str(path) for path in _files(name, [*more, *_LIBRARY_FOLDERS])} - {os.path.abspath(library)})
    return f"looked for at {looked}" + (f"; there is {_some(others)}" if others else "")


def _files(name: str, folders: list[str]) -> Iterator[Path]:
    """Files that begin as `name` (so also with a version behind it), a few folders deep."""
    for folder in folders:
        for depth in range(_DEPTH):
            yield from (path for path in Path(folder).glob("/".join(["*"] * depth + [f"{name}*"])) if path.is_file())


def _name(look_up: Callable[[int], Sequence[object]], number: int) -> str:
    """Of a user or a group; the number when it has none."""
    try:
        return str(look_up(number)[0])
    except KeyError:
        return str(number)


def _some(names: list[str]) -> str:
    return ", ".join(names[:_MOST]) + (f" and {len(names) - _MOST} more" if len(names) > _MOST else "")

"""Runs in the virtual machine after boot: looks at real devices and the real service, tells the host over the second serial line.

A line to the host is JSON: {"check": name, "problem": ""}, or {"ask": what} that the host answers with a line; {"end": true}.
"""

from __future__ import annotations

import contextlib
import grp
import http.client
import json
import os
import pwd
import socket
import stat
import subprocess
import time
import tty
from collections.abc import Callable
from pathlib import Path
from typing import Any

TAGGER = Path("/dev/qkd/tagger")
PATIENCE = 300.0  # s; an emulated processor is some twenty times slower


class Control(http.client.HTTPConnection):
    """HTTP on the daemon's socket."""

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(PATIENCE)
        self.sock.connect("/run/qkdd/control.sock")


def ask(route: str) -> Any:
    connection = Control("qkdd")
    try:
        connection.request("GET", route)
        return json.loads(connection.getresponse().read())
    finally:
        connection.close()


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def until(condition: Callable[[], object], what: str) -> None:
    ends = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < ends, f"{what} did not happen; {state()}"
        time.sleep(0.2)


def state() -> str:
    said = subprocess.run(["journalctl", "--no-pager", "-n", "30"], capture_output=True, text=True, check=False).stdout
    return f"{sorted(map(str, Path('/dev').glob('qkd/**/*')))}, {tagger()}\n{said}"


def owned(path: Path) -> None:
    facts = path.stat()
    assert grp.getgrgid(facts.st_gid).gr_name == "qkd", grp.getgrgid(facts.st_gid).gr_name
    assert stat.S_IMODE(facts.st_mode) == 0o660, oct(facts.st_mode)


def opens(path: Path, user: str) -> bool:
    """Whether `user` may open the device for reading and writing."""
    entry = pwd.getpwnam(user)
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setgid(entry.pw_gid)
        os.setuid(entry.pw_uid)
        try:
            os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY))
        except PermissionError:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def tagger() -> dict[str, Any]:
    with contextlib.suppress(OSError):  # the daemon is not up yet
        return next((device for device in ask("/v1/devices") if device["name"] == "tagger"), {})
    return {}


# --- checks, in order ---------------------------------------------------------------------------------------------------------


def the_kernel_names_the_serial_device() -> None:
    until(TAGGER.exists, "the link of the site's own rule")
    assert TAGGER.resolve().name.startswith("ttyUSB")
    owned(TAGGER)
    assert any(path.resolve() == TAGGER.resolve() for path in Path("/dev/serial/by-id").iterdir())


def the_service_runs_and_opens_it_in_its_sandbox() -> None:
    until(lambda: subprocess.run(["systemctl", "is-active", "-q", "qkdd"], check=False).returncode == 0, "READY")
    until(lambda: tagger().get("state") == "up", "the tagger up")
    pid = run("systemctl", "show", "--value", "-p", "MainPID", "qkdd.service").strip()
    held = {os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()}
    assert str(TAGGER.resolve()) in held, held
    assert opens(TAGGER, "qkd")
    assert not opens(TAGGER, "nobody")


def no_swap_and_no_memory_to_swap() -> None:
    """What a container cannot show: the control group's limit, and mlockall."""
    (limit,) = Path("/sys/fs/cgroup").glob("**/qkdd.service/memory.swap.max")
    assert limit.read_text().strip() == "0"
    pid = run("systemctl", "show", "--value", "-p", "MainPID", "qkdd.service").strip()
    locked = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmLck"))
    assert int(locked.split()[1]) > 10_000, locked


def a_usb_instrument_gets_name_group_and_facts() -> None:
    """Our simulator of the Quantis, attached to this kernel by USB/IP; the rules and the hwdb are the package's."""
    server = subprocess.Popen(
        ["qkdd-sim", "quantis", "--listen", "127.0.0.1:3240"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert server.stdout is not None
    server.stdout.readline()
    run("modprobe", "vhci-hcd")
    run("usbip", "attach", "-r", "127.0.0.1", "-b", "1-1")
    until(usb_name, "the instrument's link")
    path = Path(usb_name())
    assert path.name == "idq_quantis-163041A410"
    owned(path)
    assert opens(path, "qkd")
    assert not opens(path, "nobody")
    facts = run("udevadm", "info", "--query=property", f"--name={path}")
    assert "ID_QKD_DRIVER=idq_quantis" in facts, facts
    assert "ID_QKD_ROLES=EntropySource" in facts
    unit = run("systemd-escape", "--path", "--suffix=device", str(path)).strip()
    until(lambda: subprocess.run(["systemctl", "is-active", "-q", unit], check=False).returncode == 0, unit)


def usb_name() -> str:
    return next((str(path) for path in Path("/dev/qkd/usb").glob("*")), "") if Path("/dev/qkd/usb").exists() else ""


def detached_its_name_goes() -> None:
    run("usbip", "detach", "-p", "00")
    until(lambda: not usb_name(), "the end of the link")


def a_pulled_cable_is_noticed(host: Callable[[str], None]) -> None:
    host("unplug")
    until(lambda: not TAGGER.exists(), "the end of the tagger's link")
    until(lambda: tagger().get("state") in ("waiting", "connecting"), "the tagger down")
    assert tagger()["error"]["code"].startswith("QKD-DEV-"), tagger()


def plugged_in_again_it_works_by_itself(host: Callable[[str], None]) -> None:
    host("plug")
    until(TAGGER.exists, "the tagger's link again")
    owned(TAGGER)
    until(lambda: tagger().get("state") == "up", "the tagger up again")


def main() -> None:
    line = os.open("/dev/ttyS1", os.O_RDWR | os.O_NOCTTY)
    tty.setraw(line)
    answers = os.fdopen(os.dup(line), "rb", buffering=0)

    def tell(**fields: object) -> None:
        os.write(line, json.dumps(fields).encode() + b"\n")

    def host(what: str) -> None:
        tell(ask=what)
        while answers.read(1) != b"\n":
            pass

    for check, arguments in (
        (the_kernel_names_the_serial_device, ()), (the_service_runs_and_opens_it_in_its_sandbox, ()),
        (no_swap_and_no_memory_to_swap, ()), (a_usb_instrument_gets_name_group_and_facts, ()), (detached_its_name_goes, ()),
        (a_pulled_cable_is_noticed, (host,)), (plugged_in_again_it_works_by_itself, (host,)),
    ):  # fmt: skip
        problem, began = "", time.monotonic()
        try:
            check(*arguments)  # type: ignore[operator]
        except Exception as error:  # told to the host, which fails the test
            problem = f"{type(error).__name__}: {error}"
        tell(check=check.__name__, problem=problem, seconds=round(time.monotonic() - began, 1))
    tell(end=True)


if __name__ == "__main__":
    main()

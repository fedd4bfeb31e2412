"""T2: the package in a virtual machine with a kernel of its own: udev, USB, serial devices, hot plugging, control groups.

`make machine-qemu`; QEMU emulates the processor, so it takes minutes. The virtual machine's USB-serial adapter (FTDI) leads to
our TDC1 simulator on the host; a second instrument of ours is attached to the guest's kernel by USB/IP.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.machine.machine import CACHE, ROOT, needs, sources
from tests.machine.test_package import MAKE_CREDENTIALS, NODE

from . import guest

pytestmark = [pytest.mark.slow, pytest.mark.vm]

PACKAGES = "systemd,systemd-sysv,dbus,udev,python3,libpam-systemd,procps,linux-image-amd64,usbip,kmod"
CHECKS = (
    guest.the_kernel_names_the_serial_device, guest.the_service_runs_and_opens_it_in_its_sandbox,
    guest.no_swap_and_no_memory_to_swap, guest.a_usb_instrument_gets_name_group_and_facts, guest.detached_its_name_goes,
    guest.a_pulled_cable_is_noticed, guest.plugged_in_again_it_works_by_itself,
)  # fmt: skip
# what a site writes for an instrument whose adapter has a maker's common ids (docs/drivers.md)
RULE = (
    'SUBSYSTEM=="tty", ATTRS{idVendor}=="0403", ATTRS{idProduct}=="6001",'
    ' GROUP="qkd", MODE="0660", TAG+="systemd", SYMLINK+="qkd/tagger"\n'
)
SLOW = "[Service]\nTimeoutStartSec=600\nWatchdogSec=300\n"
UNIT = """[Unit]
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/usr/bin/python3 /opt/guest.py
ExecStopPost=/bin/systemctl poweroff -ff
[Install]
WantedBy=default.target
"""
PREPARE = """
set -e
mount -t proc proc /proc
dpkg -i /opt/qkdd.deb
/usr/lib/qkdd/bin/python3 -I -c "$0"
chown root:qkd /etc/qkdd/tls/*; chmod 640 /etc/qkdd/tls/*; chmod 600 /etc/qkdd/master-key
chown qkd:qkd /etc/qkdd/tls/alice.key; chmod 600 /etc/qkdd/tls/alice.key
systemd-hwdb update
systemctl enable qkdd.service t2.service
systemctl mask serial-getty@ttyS0.service serial-getty@ttyS1.service
rm /opt/qkdd.deb
"""
DEVICE = {"driver": "usb-serial", "chardev": "c0", "id": "adapter", "bus": "x.0", "always-plugged": True}
LONGEST = 900.0  # s for the whole run


def _run(*command: object, **options: Any) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def _base() -> Path:
    """A Debian with a kernel, made once."""
    root = CACHE / "vm"
    if not list(root.glob("boot/vmlinuz-*")):
        shutil.rmtree(root, ignore_errors=True)
        CACHE.mkdir(parents=True, exist_ok=True)
        _run("mmdebstrap", "--quiet", "--variant=minbase", f"--include={PACKAGES}", "bookworm", root, *sources())
    return root


def _image(folder: Path) -> Path:
    """A disk with the package installed, a node configured, and the guest's part of this test."""
    root = folder / "root"
    _run("cp", "-a", _base(), root)
    build = ("--output", folder, "--version", "0.1.0", "--quick")
    _run(sys.executable, ROOT / "packaging/build_deb.py", *build)
    shutil.move(folder / "qkdd_0.1.0_amd64.deb", root / "opt/qkdd.deb")
    shutil.copy(guest.__file__, root / "opt/guest.py")
    (root / "etc/systemd/system/t2.service").write_text(UNIT)
    drop_in = root / "etc/systemd/system/qkdd.service.d"
    drop_in.mkdir(parents=True)
    (drop_in / "slow.conf").write_text(SLOW)
    (root / "etc/udev/rules.d/71-site.rules").write_text(RULE)
    (root / "etc/qkdd").mkdir()
    (root / "etc/qkdd/node.toml").write_text(NODE)
    path = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    _run("unshare", "--mount", "chroot", root, "/bin/sh", "-c", PREPARE, MAKE_CREDENTIALS, env=path)
    _run("mke2fs", "-q", "-t", "ext4", "-d", root, folder / "vm.img", "2400M")
    return folder / "vm.img"


class Qmp:
    """QEMU's control line."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        ends = time.monotonic() + 60
        while True:
            try:
                self._socket.connect(str(path))
                break
            except OSError:
                assert time.monotonic() < ends, "QEMU does not start"
                time.sleep(0.1)
        self._file = self._socket.makefile("rw")
        self._file.readline()
        self.command("qmp_capabilities")

    def command(self, name: str, **arguments: object) -> None:
        self._file.write(json.dumps({"execute": name, "arguments": arguments}) + "\n")
        self._file.flush()
        while "return" not in (answer := json.loads(self._file.readline())):
            assert "error" not in answer, answer

    def close(self) -> None:
        self._file.close()
        self._socket.close()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What the guest said of each check: "" when it held."""
    reason = needs() or ("" if shutil.which("qemu-system-x86_64") else "qemu-system-x86_64 is not installed")
    if reason:
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("vm")
    began = time.monotonic()
    image = _image(folder)
    (kernel,), (initrd,) = _base().glob("boot/vmlinuz-*"), _base().glob("boot/initrd.img-*")
    prepared = time.monotonic()
    with ExitStack() as stack:
        simulator = subprocess.Popen(
            [Path(sys.executable).parent / "qkdd-sim", "tdc1", "--listen", "127.0.0.1:0", "--rate", "200"],
            stdout=subprocess.PIPE,
        )
        stack.callback(simulator.wait)
        stack.callback(simulator.terminate)
        assert simulator.stdout is not None
        address = json.loads(simulator.stdout.readline())
        stack.callback(simulator.stdout.close)
        with socket.socket() as server:
            server.bind(("127.0.0.1", 0))
            server.listen(1)
            server.settimeout(LONGEST)
            command = [
                "qemu-system-x86_64", "-M", "q35", "-cpu", "max", "-accel", "tcg,thread=multi", "-smp", "2", "-m", "2048",
                "-kernel", kernel, "-initrd", initrd, "-drive", f"file={image},format=raw,if=virtio,cache=unsafe",
                "-append", "root=/dev/vda rw console=ttyS0 quiet systemd.show_status=0 mitigations=off net.ifnames=0",
                "-nic", "none", "-device", "qemu-xhci,id=x", "-chardev", f"socket,id=c0,{where(address)}",
                "-device", ",".join(f"{k}={'on' if v is True else v}" if k != "driver" else str(v) for k, v in DEVICE.items()),
                "-display", "none", "-serial", f"file:{folder / 'console'}",
                "-serial", f"tcp:127.0.0.1:{server.getsockname()[1]}", "-qmp", f"unix:{folder / 'q'},server=on,wait=off",
                "-no-reboot",
            ]  # fmt: skip
            machine = subprocess.Popen(
                [str(word) for word in command], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE
            )
            stack.callback(machine.wait)
            stack.callback(machine.kill)
            assert machine.stderr is not None
            stack.callback(machine.stderr.close)
            qmp = Qmp(folder / "q")
            stack.callback(qmp.close)
            line, _ = server.accept()
            stack.callback(line.close)
            line.settimeout(LONGEST)
            found = _conversation(line, qmp)
        print(f"\nT2: image {prepared - began:.0f} s, boot and {len(found)} checks {time.monotonic() - prepared:.0f} s")
        yield found


def where(address: dict[str, Any]) -> str:
    """QEMU's words for the address that the simulator printed."""
    port = address.get("tcp_ports", [address.get("tcp_port")])[0] or str(address["port"]).rpartition(":")[2]
    return f"host=127.0.0.1,port={port}"


def _conversation(line: socket.socket, qmp: Qmp) -> dict[str, str]:
    found: dict[str, str] = {}
    with line.makefile("rb") as told:
        for text in told:
            if not text.startswith(b"{"):
                continue
            said = json.loads(text)
            if "check" in said:
                print(f"T2 {said['check']}: {said['seconds']} s {said['problem'][:200]}", file=sys.stderr, flush=True)
                found[said["check"]] = said["problem"]
            elif said.get("ask") == "unplug":
                qmp.command("device_del", id="adapter")
                line.sendall(b"\n")
            elif said.get("ask") == "plug":
                qmp.command("device_add", **DEVICE)
                line.sendall(b"\n")
            elif said.get("end"):
                break
    return found


@pytest.mark.parametrize("check", [check.__name__ for check in CHECKS])
def test_in_the_machine(results: dict[str, str], check: str) -> None:
    assert check in results, f"the guest did not come so far: {sorted(results)}"
    assert results[check] == ""

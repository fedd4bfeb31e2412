"""What the virtual machines of this tier have in common: a disk with the package installed, and QEMU."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.machine.machine import CACHE, ROOT, sources
from tests.machine.test_package import MAKE_CREDENTIALS, NODE

from . import guest, tpm_guest

PACKAGES = (
    "systemd,systemd-sysv,dbus,udev,python3,libpam-systemd,procps,linux-image-amd64,usbip,kmod"
    ",libtss2-esys-3.0.2-0,libtss2-rc0,libtss2-mu0"  # what systemd-creds loads for a TPM
)
# what a site writes for an instrument whose adapter has a maker's common ids (docs/drivers.md)
RULE = (
    'SUBSYSTEM=="tty", ATTRS{idVendor}=="0403", ATTRS{idProduct}=="6001",'
    ' GROUP="qkd", MODE="0660", TAG+="systemd", SYMLINK+="qkd/tagger"\n'
)
SLOW = "[Service]\nTimeoutStartSec=600\nWatchdogSec=300\n"
UNIT = """[Unit]
After={after}
[Service]
Type=oneshot
ExecStart=/usr/bin/python3 /opt/{script}
ExecStopPost=/bin/systemctl poweroff -ff
[Install]
WantedBy=default.target
"""
TPM_TARGET = "[Unit]\nRequires=basic.target tpm.service\nAfter=basic.target\nAllowIsolate=yes\n"
KMS = """
pairs = []
[kms]
id = "kms-alice"
state_directory = "/var/lib/qkdd-kms"
master_key = "${CREDENTIALS_DIRECTORY}/master-key"
[admin]
socket = "/run/qkdd-kms/kms.sock"
view_group = "qkd-view"
admin_group = "qkd-admin"
[peers.kms-bob]
url = "https://127.0.0.1:8452"
links = ["a-b"]
[sources.tray]
directory = "/var/lib/qkdd-kms/in"
link = "a-b"
[saes.sae-alice]
[node_plane]
listen = "127.0.0.1:8441"
nodes = ["alice"]
FILES
[kms_plane]
listen = "127.0.0.1:8442"
FILES
[sae.post-quantum]
listen = "127.0.0.1:8443"
FILES
""".replace("FILES", "\n".join(f'{n} = "/etc/qkdd-kms/tls/{n}.pem"' for n in ("certificate", "key", "trust", "crl")))
KMS_CREDENTIALS = """
files = made.post_quantum["kms-alice"]
for name in ("certificate", "key", "trust", "crl"):
    shutil.copy(getattr(files, name), f"/etc/qkdd-kms/tls/{name}.pem")
shutil.copy(made.master_keys["kms-alice"], "/etc/qkdd-kms/master-key")
"""
PREPARE = """
set -e
mount -t proc proc /proc
dpkg -i /opt/qkdd.deb
/usr/lib/qkdd/bin/python3 -I -c "$0"
chown root:qkd /etc/qkdd/tls/*; chmod 640 /etc/qkdd/tls/*; chmod 600 /etc/qkdd/master-key
chown qkd:qkd /etc/qkdd/tls/alice.key; chmod 600 /etc/qkdd/tls/alice.key
chown qkd-kms /etc/qkdd-kms/tls/*; chmod 600 /etc/qkdd-kms/tls/* /etc/qkdd-kms/master-key
chown -R qkd-kms:qkd-kms /var/lib/qkdd-kms; chmod 700 /var/lib/qkdd-kms; chmod 600 /var/lib/qkdd-kms/in/*
systemd-hwdb update
systemctl enable qkdd.service t2.service
systemctl mask serial-getty@ttyS0.service serial-getty@ttyS1.service
rm /opt/qkdd.deb
"""
# over the Debian that was made once, which stays as it is: $1 lower, $2 upper, $3 disk; the rest is for PREPARE
ASSEMBLE = """
set -e
mkdir "$2/../work" "$2/../root"
mount -t overlay overlay -o "lowerdir=$1,upperdir=$2,workdir=$2/../work" "$2/../root"
chroot "$2/../root" /bin/sh -c "$4" "$5"
umount "$2/../root/proc"
mke2fs -q -t ext4 -d "$2/../root" "$3" 2400M
"""
LONGEST = 900.0  # s for a whole run


def run(*command: object, **options: Any) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return str(done.stdout)


def base() -> Path:
    """A Debian with a kernel, made once for a list of packages."""
    root, made = CACHE / "vm", CACHE / "vm.packages"
    if not made.exists() or made.read_text() != PACKAGES:
        made.unlink(missing_ok=True)
        shutil.rmtree(root, ignore_errors=True)
        CACHE.mkdir(parents=True, exist_ok=True)
        run("mmdebstrap", "--quiet", "--variant=minbase", f"--include={PACKAGES}", "bookworm", root, *sources())
        made.write_text(PACKAGES)
    return root


def image(folder: Path) -> Path:
    """A disk with the package installed, a node and a KMS configured, and the guests' parts of the tests."""
    below, root = base(), folder / "upper"
    units = root / "etc/systemd/system"
    for place in (units, root / "etc/udev/rules.d", root / "opt", root / "var/lib/qkdd-kms/in"):
        place.mkdir(parents=True)
    build = ("--output", folder, "--version", "0.1.0", "--quick")
    run(sys.executable, ROOT / "packaging/build_deb.py", *build)
    shutil.move(folder / "qkdd_0.1.0_amd64.deb", root / "opt/qkdd.deb")
    for script, unit, after in ((guest, "t2.service", "multi-user.target"), (tpm_guest, "tpm.service", "basic.target")):
        name = Path(str(script.__file__)).name
        shutil.copy(str(script.__file__), root / "opt" / name)
        (units / unit).write_text(UNIT.format(script=name, after=after))
    (units / "tpm.target").write_text(TPM_TARGET)
    for service in ("qkdd", "qkdd-kms"):
        (units / f"{service}.service.d").mkdir(parents=True)
        (units / f"{service}.service.d/slow.conf").write_text(SLOW)
        (root / "etc" / service).mkdir()
    (root / "etc/udev/rules.d/71-site.rules").write_text(RULE)
    (root / "etc/qkdd/node.toml").write_text(NODE)
    (root / "etc/qkdd-kms/kms.toml").write_text(KMS)
    key_file = {
        "format": "qkdd key file 1", "id": str(uuid.UUID(int=1, version=4)), "link": "a-b", "index": 0, "class": "its",
        "auth": "test", "proof": "none", "epsilon": None, "value": base64.b64encode(bytes(range(256))).decode(),
    }  # fmt: skip
    (root / f"var/lib/qkdd-kms/in/{key_file['id']}.json").write_text(json.dumps(key_file))
    path = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    program = MAKE_CREDENTIALS + KMS_CREDENTIALS
    disk = folder / "vm.img"
    run("unshare", "--mount", "/bin/sh", "-c", ASSEMBLE, "sh", below, root, disk, PREPARE, program, env=path)
    return disk


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


class Machine:
    """A running one: `line` is its second serial line, on which the guest speaks."""

    def __init__(self, line: socket.socket, qmp: Qmp) -> None:
        self.line, self.qmp = line, qmp

    def told(self) -> Iterator[dict[str, Any]]:
        """What the guest says, until it says that it ends; checks are shown at once."""
        with self.line.makefile("rb") as lines:
            for text in lines:
                if not text.startswith(b"{"):
                    continue
                said = json.loads(text)
                if said.get("end"):
                    return
                if "check" in said:
                    shown = f"T2 {said['check']}: {said['seconds']} s {said['problem'][:3000]}"
                    print(shown, file=sys.stderr, flush=True)
                yield said


@contextmanager
def booted(folder: Path, image: Path, append: str, *options: object, processors: int = 2) -> Iterator[Machine]:
    """A machine with this disk. folder: for its control socket and console; append: to the kernel's command line."""
    (kernel,), (initrd,) = base().glob("boot/vmlinuz-*"), base().glob("boot/initrd.img-*")
    command = [
        "qemu-system-x86_64", "-M", "q35", "-cpu", "max", "-accel", "tcg,thread=multi", "-smp", processors, "-m", "2048",
        "-kernel", kernel, "-initrd", initrd, "-drive", f"file={image},format=raw,if=virtio,cache=unsafe",
        "-append", f"root=/dev/vda rw console=ttyS0 quiet systemd.show_status=0 mitigations=off net.ifnames=0 {append}",
        "-nic", "none", *options, "-display", "none", "-serial", f"file:{folder / 'console'}", "-no-reboot",
        "-qmp", f"unix:{folder / 'q'},server=on,wait=off",
    ]  # fmt: skip
    with ExitStack() as stack, socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(1)
        server.settimeout(LONGEST)
        command += ["-serial", f"tcp:127.0.0.1:{server.getsockname()[1]}"]
        machine = subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
        stack.callback(machine.wait)
        stack.callback(machine.kill)
        assert machine.stderr is not None
        stack.callback(machine.stderr.close)
        qmp = Qmp(folder / "q")
        stack.callback(qmp.close)
        line, _ = server.accept()
        stack.callback(line.close)
        line.settimeout(LONGEST)
        yield Machine(line, qmp)

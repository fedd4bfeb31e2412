"""The units, as systemd itself reads them: `systemd-analyze verify` prints nothing, and the sandbox is tight."""

import inspect
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from qkdd.control.kms_cli import DEFAULT_KMS_SOCKET
from qkdd.core.local_socket import activated
from qkdd.node.daemon import DRAIN_ON_STOP_S

ROOT = Path(__file__).resolve().parents[2]
UNITS = ROOT / "systemd"
SERVICES = ("qkdd.service", "qkdd@.service", "qkdd-kms.service", "qkdd-kms@.service")
SECURITY_MAX = 15  # ten times the exposure that is allowed
needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


def settings(name: str) -> dict[str, list[str]]:
    """Every assignment of a unit, in order; a key may come several times."""
    found: dict[str, list[str]] = {}
    for line in (UNITS / name).read_text().splitlines():
        if "=" in line and not line.startswith(("#", "[")):
            key, value = line.split("=", 1)
            found.setdefault(key, []).append(value)
    return found


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The units with commands that exist here: a missing program is a finding of `verify` too."""
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    for unit in (*UNITS.glob("*.service"), *UNITS.glob("*.socket")):
        text = re.sub(r"/usr/bin/(qkdd(-kms)?|qkd-psk)(?= )", str(program), unit.read_text())
        (tmp_path / unit.name).write_text(text)
    return tmp_path


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, check=False)


def verify(folder: Path) -> str:
    names = ["qkdd.service", "qkdd.socket", "qkdd@a.service", "qkdd@a.socket", "qkdd-kms.service", "qkdd-kms@a.service"]
    names += ["qkd-psk@a.service"]
    done = analyze("verify", "--man=no", *(str(folder / name) for name in names))
    return done.stdout + done.stderr + (f"exit {done.returncode}" if done.returncode else "")


@needs_systemd
def test_verify_prints_nothing(installed: Path) -> None:
    assert not verify(installed)


@needs_systemd
def test_verify_would_print_a_wrong_key(installed: Path) -> None:
    unit = installed / "qkdd.service"
    unit.write_text(unit.read_text().replace("[Service]", "[Service]\nProtectSytem=strict"))
    assert "ProtectSytem" in verify(installed)


@needs_systemd
@pytest.mark.parametrize("name", [*SERVICES, "qkd-psk@.service"])
def test_exposure(name: str) -> None:
    most = 18 if name.startswith("qkd-psk") else SECURITY_MAX  # root with one capability: decision 0242
    done = analyze("security", "--offline=true", f"--threshold={most}", "--no-pager", str(UNITS / name))
    assert done.returncode == 0, done.stdout[-400:] + done.stderr


@needs_systemd
def test_example_of_sealed_credentials_is_read(installed: Path) -> None:
    folder = installed / "qkdd-kms.service.d"
    folder.mkdir()
    shutil.copy(UNITS / "encrypted-credentials.conf.example", folder / "encrypted.conf")
    assert not verify(installed)


@pytest.mark.parametrize("name", SERVICES)
def test_key_material_stays_in_memory(name: str) -> None:
    unit = settings(name)
    assert unit["MemorySwapMax"] == ["0"]
    assert unit["LimitMEMLOCK"] == ["infinity"]
    assert unit["LimitCORE"] == ["0"]
    assert unit["CapabilityBoundingSet"] == [""]
    assert unit["LoadCredential"][0].startswith("master-key:")


@pytest.mark.parametrize("name", ["qkdd.service", "qkdd@.service"])
def test_the_node_sees_who_asks_and_may_finish_its_block(name: str) -> None:
    unit = settings(name)
    assert unit["PrivateUsers"] == ["no"]
    (stop,) = unit["TimeoutStopSec"]
    assert int(stop.removesuffix("s")) >= max(45, 2 * DRAIN_ON_STOP_S)
    assert unit["Type"] == ["notify"]
    assert "WatchdogSec" in unit


def test_the_socket_has_the_name_that_the_daemon_looks_for() -> None:
    looked_for = inspect.signature(activated).parameters["name"].default
    for name in ("qkdd.socket", "qkdd@.socket"):
        assert settings(name)["FileDescriptorName"] == [looked_for]
        assert settings(name)["SocketMode"] == ["0660"]


def test_every_user_and_group_of_a_unit_is_made() -> None:
    made = {
        line.split()[1]
        for line in (UNITS / "sysusers.d/qkdd.conf").read_text().splitlines()
        if line[:2] in ("u ", "g ")
    }
    named = {"root"}
    for unit in (*UNITS.glob("*.service"), *UNITS.glob("*.socket")):
        for key in ("User", "Group", "SupplementaryGroups", "SocketGroup"):
            named.update(" ".join(settings(unit.name).get(key, [])).split())
    for line in (UNITS / "tmpfiles.d/qkdd.conf").read_text().splitlines():
        if line.startswith("d "):
            named.update(line.split()[3:5])
    assert named - {"root"} <= made


@pytest.mark.parametrize("name", SERVICES)
@pytest.mark.parametrize("status", ["4", "0", "exited"])
def test_zeroise_takes_the_key_files_that_the_sandbox_keeps_from_the_service(
    tmp_path: Path, name: str, status: str
) -> None:
    """The service can write to nothing in /etc; after exit code 4, and no other, root erases what it was given there."""
    [line, _] = settings(name)["ExecStopPost"]
    assert settings(name)["RestartPreventExitStatus"] == ["4"]
    script = line.removeprefix("+/bin/sh -c '").removesuffix("'").replace("$$", "$").replace("%i", "a")
    folder = "/etc/qkdd-kms" if "kms" in name else "/etc/qkdd"
    key = "a.master-key" if "@" in name else "master-key"
    (tmp_path / "tls").mkdir()
    files = [tmp_path / key, tmp_path / f"{key}.cred", tmp_path / "tls" / "node.key"]
    other = tmp_path / "tls" / "node.pem"
    for path in (*files, other):
        path.write_text("key")
    script = script.replace(folder, str(tmp_path))
    subprocess.run(["/bin/sh", "-c", script], env={"EXIT_STATUS": status, "PATH": "/usr/bin:/bin"}, check=True)
    assert [path.exists() for path in files] == [status != "4"] * 3
    assert other.exists()


@pytest.mark.parametrize("name", SERVICES)
def test_a_credential_that_does_not_open_has_a_code_and_a_remedy(name: str) -> None:
    """What systemd says (243/CREDENTIALS) names neither."""
    [_, line] = settings(name)["ExecStopPost"]
    script = line.removeprefix("/bin/sh -c '").removesuffix("'").replace("$$", "$")
    said = {}
    for status in ("243", "0", "4", "2"):
        done = subprocess.run(
            ["/bin/sh", "-c", script], env={"EXIT_STATUS": status}, capture_output=True, text=True, check=True
        )
        said[status] = done.stderr
    assert said.pop("243").startswith("<3>QKD-CFG-CREDENTIAL: ")
    assert set(said.values()) == {""}
    page = (ROOT / "docs/master-key.md").read_text()
    assert "## A credential that does not open" in page


@pytest.mark.parametrize("name", ["qkdd-kms.service", "qkdd-kms@.service"])
def test_the_kms_can_be_administered_and_change_its_master_key(name: str) -> None:
    unit = settings(name)
    assert unit["PrivateUsers"] == ["no"]  # it sees who asks
    assert unit["ReadWritePaths"] == ["-/run/qkdd-kms"]
    folders = [line.split() for line in (UNITS / "tmpfiles.d/qkdd.conf").read_text().splitlines()]
    assert ["d", "/run/qkdd-kms", "2750", "qkd-kms", "qkd-view", "-"] in folders  # the socket gets its folder's group
    assert Path(DEFAULT_KMS_SOCKET).parent == Path("/run/qkdd-kms")
    assert [one.split(":")[0] for one in unit["LoadCredential"]] == ["master-key", "master-key.next", "master-key.old"]
    assert unit["SetCredential"] == ["master-key.next:none", "master-key.old:none"]  # a missing file is no failure

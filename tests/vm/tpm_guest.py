"""Runs in the virtual machine that has a TPM, at each boot: seals the master key, starts the packaged KMS, tells the host.

The host says which boot it is on the kernel's command line: `t2.boot=seal`, `again` (after a power cut) or `other` (another TPM).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import struct
import subprocess
import time
import tty
from pathlib import Path

CONFIGURATION = Path("/etc/qkdd-kms")
COPY = Path("/root/copy.master-key")  # what an operator keeps elsewhere
SEALED = CONFIGURATION / "master-key.cred"
UNIT = "qkdd-kms.service"
DROP_IN = Path("/etc/systemd/system/qkdd-kms.service.d/encrypted.conf")
EXAMPLE = Path("/usr/share/doc/qkdd/examples/encrypted-credentials.conf.example")
PATIENCE = 200.0  # s


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = journal() if done.returncode and command[0] == "systemctl" else ""
    assert done.returncode == 0, f"{command}: {done.returncode} {done.stdout}{done.stderr}{said}"
    return done.stdout


def journal() -> str:
    return run("journalctl", "-b", "-u", UNIT, "--no-pager", "-n", "40")


def kms() -> dict[str, object]:
    found: dict[str, object] = json.loads(run("qkdd-kms", "status", str(CONFIGURATION / "kms.toml")))
    return found


def seal(name: str = "master-key", target: Path = SEALED) -> None:
    target.unlink(missing_ok=True)
    run("systemd-creds", "encrypt", "--with-key=tpm2", f"--name={name}", str(COPY), str(target))


def refused() -> None:
    """The service does not start, and the journal says why and what to do."""
    subprocess.run(["systemctl", "reset-failed", UNIT], capture_output=True, check=False)
    done = subprocess.run(["systemctl", "restart", UNIT], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    said = journal()
    assert "243/CREDENTIALS" in said, said
    assert "QKD-CFG-CREDENTIAL" in said, said
    assert "Remedy: docs/master-key.md" in said, said
    run("systemctl", "stop", UNIT)  # it would try again


# --- boot "seal" ----------------------------------------------------------------------------------------------------------


def the_kernel_has_the_tpm() -> None:
    assert Path("/dev/tpmrm0").exists(), run("dmesg")
    said = subprocess.run(["systemd-creds", "has-tpm2"], capture_output=True, text=True, check=False).stdout
    assert {"+driver", "+subsystem", "+system"} <= set(said.split()), said  # no firmware: QEMU loads the kernel itself


def the_packaged_service_starts_with_the_sealed_master_key() -> None:
    shutil.move(CONFIGURATION / "master-key", COPY)
    seal()
    assert bytes.fromhex(COPY.read_text()) not in SEALED.read_bytes()
    DROP_IN.parent.mkdir(exist_ok=True)
    shutil.copy(EXAMPLE, DROP_IN)
    run("systemctl", "daemon-reload")
    run("systemctl", "start", UNIT)  # Type=notify: it is ready
    assert not (CONFIGURATION / "master-key").exists()


def it_takes_key_in() -> None:
    """A file in its watched folder becomes a sealed record."""
    ends = time.monotonic() + PATIENCE
    while list(Path("/var/lib/qkdd-kms/in").glob("*.json")):
        assert time.monotonic() < ends, journal()
        time.sleep(0.2)
    assert kms()["chunks"] == {"waiting": 1}, kms()


# --- boot "again": the power was cut ----------------------------------------------------------------------------------------


def its_records_open_after_the_power_cut() -> None:
    run("systemctl", "start", UNIT)  # it opens its records before it is ready
    assert kms()["chunks"] == {"waiting": 1}


def the_master_key_is_changed_in_the_tpm() -> None:
    """The commands of docs/master-key.md, Change it."""
    old = CONFIGURATION / "master-key.old.cred"
    seal("master-key.old", old)
    COPY.unlink()
    run("qkdd", "pki", "master-key", str(COPY))
    seal()
    run("systemctl", "restart", UNIT)
    said = json.loads(run("qkdctl", "kms", "rotate-master-key", "--json"))
    assert (said["state"], said["done"], said["total"]) == ("done", 1, 1), said
    old.unlink()
    run("systemctl", "stop", UNIT)


def a_changed_pcr_is_refused() -> None:
    """TPM2_PCR_Extend of PCR 7, to which the credential is bound: somebody changed what the firmware measures."""
    digest = bytes(range(32))
    authorisation = struct.pack(">IHBH", 0x40000009, 0, 0, 0)  # TPM_RS_PW, no nonce, no attributes, empty password
    body = struct.pack(">I", 7) + struct.pack(">I", len(authorisation)) + authorisation
    body += struct.pack(">IH", 1, 0x000B) + digest  # one digest, TPM_ALG_SHA256
    command = struct.pack(">HII", 0x8002, 10 + len(body), 0x182) + body
    device = os.open("/dev/tpmrm0", os.O_RDWR)
    os.write(device, command)
    _, _, code = struct.unpack(">HII", os.read(device, 4096)[:10])
    os.close(device)
    assert code == 0, hex(code)
    refused()


# --- boot "other": the disk in a machine with another TPM --------------------------------------------------------------------


def another_tpm_is_refused() -> None:
    refused()


def a_copy_of_the_master_key_rescues_the_keys() -> None:
    seal()
    subprocess.run(["systemctl", "reset-failed", UNIT], capture_output=True, check=False)
    run("systemctl", "start", UNIT)
    assert kms()["chunks"] == {"waiting": 1}


BOOTS = {
    "seal": (the_kernel_has_the_tpm, the_packaged_service_starts_with_the_sealed_master_key, it_takes_key_in),
    "again": (its_records_open_after_the_power_cut, the_master_key_is_changed_in_the_tpm, a_changed_pcr_is_refused),
    "other": (another_tpm_is_refused, a_copy_of_the_master_key_rescues_the_keys),
}


def main() -> None:
    found = re.search(r"t2\.boot=(\w+)", Path("/proc/cmdline").read_text())
    assert found is not None
    line = os.open("/dev/ttyS1", os.O_RDWR | os.O_NOCTTY)
    tty.setraw(line)
    for check in BOOTS[found[1]]:
        problem, began = "", time.monotonic()
        try:
            check()
        except Exception as error:  # told to the host, which fails the test
            problem = f"{type(error).__name__}: {error}"
        told = {"check": check.__name__, "problem": problem, "seconds": round(time.monotonic() - began, 1)}
        os.write(line, json.dumps(told).encode() + b"\n")
    os.sync()  # what the operator wrote; the KMS's own writes are durable
    os.write(line, b'{"end": true}\n')
    with contextlib.suppress(OSError):
        os.close(line)


if __name__ == "__main__":
    main()

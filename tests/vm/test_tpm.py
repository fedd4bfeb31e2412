"""T2: the master key of the packaged KMS sealed in a TPM 2.0: systemd-creds, the kernel's driver, and swtpm as the chip.

One disk, three boots: sealed and started; after a power cut; in a machine with another TPM.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from . import tpm_guest
from .virtual import booted

pytestmark = [pytest.mark.slow, pytest.mark.vm]

CHIPS = {"seal": "own", "again": "own", "other": "other"}  # boot: whose TPM


@contextmanager
def tpm(folder: Path) -> Iterator[tuple[str, ...]]:
    """The chip whose memory is `folder`, as options of QEMU; it ends with the machine."""
    folder.mkdir(exist_ok=True)
    line = folder / "s"
    chip = subprocess.Popen(
        [
            "swtpm",
            "socket",
            "--tpm2",
            "--tpmstate",
            f"dir={folder}",
            "--ctrl",
            f"type=unixio,path={line}",
            "--terminate",
        ]
    )
    ends = time.monotonic() + 30
    while not line.exists():
        assert time.monotonic() < ends, "swtpm does not start"
        time.sleep(0.05)
    try:
        yield (
            "-chardev", f"socket,id=chip,path={line}", "-tpmdev", "emulator,id=tpm0,chardev=chip",
            "-device", "tpm-tis,tpmdev=tpm0",
        )  # fmt: skip
    finally:
        chip.terminate()
        chip.wait()


def play(folder: Path, image: Path) -> dict[str, str]:
    """What the guest said of each check in all boots: "" when it held."""
    found: dict[str, str] = {}
    for boot, whose in CHIPS.items():
        with (
            tpm(folder / whose) as chip,
            booted(folder, image, f"t2.boot={boot} systemd.unit=tpm.target", *chip, processors=1) as machine,
        ):
            found |= {said["check"]: said["problem"] for said in machine.told()}
    return found


@pytest.mark.parametrize("check", [check.__name__ for checks in tpm_guest.BOOTS.values() for check in checks])
def test_in_the_machine_with_a_tpm(runs: dict[str, dict[str, str]], check: str) -> None:
    assert check in runs["tpm"], f"the guest did not come so far: {sorted(runs['tpm'])}"
    assert runs["tpm"][check] == ""

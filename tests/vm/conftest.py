"""Both virtual machines run at once: each keeps about one core of the host busy."""

from __future__ import annotations

import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.machine.machine import needs

from . import test_kernel, test_tpm, virtual


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """What each machine's guest said of each check: "" when it held."""
    reason = needs()
    for program, package in (
        ("qemu-system-x86_64", "qemu-system-x86"),
        ("swtpm", "swtpm"),
        ("swtpm_setup", "swtpm-tools"),
    ):
        reason = reason or ("" if shutil.which(program) else f"{program} is not installed (Debian package {package})")
    if reason:
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("vm")
    began = time.monotonic()
    image = virtual.image(folder)
    prepared = time.monotonic()
    with ThreadPoolExecutor() as pool:
        going = {}
        for name, play in (("kernel", test_kernel.play), ("tpm", test_tpm.play)):
            own = folder / name
            own.mkdir()
            going[name] = pool.submit(play, own, Path(shutil.copy(image, own)))
        found = {name: run.result() for name, run in going.items()}
    image.unlink()
    checks = sum(map(len, found.values()))
    print(f"\nT2: image {prepared - began:.0f} s, boots and {checks} checks {time.monotonic() - prepared:.0f} s")
    return found

"""The wheel installs exactly the five import packages, outside the checkout, and they work there."""

import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {"qkdd", "qkdd_drivers", "qkdd_fwbridge", "qkdd_hil", "qkdd_native"}


def build(out: Path) -> Path:
    """The wheel, made in a folder of its own; the date that may stand in archives is that of no particular day."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    command += [
        "--disable-pip-version-check",
        f"--config-settings=build-dir={out}/build",
        f"--wheel-dir={out}",
        str(ROOT),
    ]
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "1700000000"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("wheel"))


@pytest.mark.slow
def test_two_builds_are_the_same_bytes(wheel: Path, tmp_path: Path) -> None:
    assert hashlib.sha256(build(tmp_path).read_bytes()).hexdigest() == hashlib.sha256(wheel.read_bytes()).hexdigest()


def test_exactly_five_names(wheel: Path) -> None:
    names = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {n for n in names if not n.endswith(".dist-info")} == PACKAGES


def test_abi3_and_typed(wheel: Path) -> None:
    assert "-cp311-abi3-" in wheel.name
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"{package}/py.typed" for package in PACKAGES} <= names


def test_every_driver_brings_its_facts(wheel: Path) -> None:
    names = {Path(name) for name in zipfile.ZipFile(wheel).namelist() if name.startswith("qkdd_drivers/")}
    folders = {name.parent for name in names if name.name == "driver.toml"}
    assert len(folders) >= 3
    for folder in folders:
        assert {folder / "driver.py", folder / "README.md"} <= names
        if folder.name == "replay":  # recordings have no other end
            continue
        assert {folder / "sim.py", folder.parent / "sim.py"} & names, f"{folder} has no simulator"


def test_installed_outside_the_checkout(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "site"
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--target",
        str(target),
        str(wheel),
    ]
    subprocess.run([*command, "--disable-pip-version-check"], check=True)
    code = (
        "import sys; sys.meta_path[:] = [f for f in sys.meta_path if 'ScikitBuild' not in type(f).__name__]\n"
        f"sys.path.insert(0, {str(target)!r})\n"
        "import qkdd, qkdd_drivers, qkdd_fwbridge, qkdd_hil, qkdd_native, qkdd.kernels as k\n"
        f"assert qkdd.__file__.startswith({str(target)!r}), qkdd.__file__\n"
        f"import qkdd_native._kernels as native; assert native.__file__.startswith({str(target)!r}), native.__file__\n"
        "assert k.crc32c(b'123456789') == 0xE3069283\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_top_level_folders_are_not_importable() -> None:
    for folder in ("systemd", "udev", "drivers", "firmware_bridge", "native", "hil", "tests"):
        assert not (ROOT / folder / "__init__.py").exists()

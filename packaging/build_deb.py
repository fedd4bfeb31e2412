"""Build the Debian package: `python packaging/build_deb.py [--output dist] [--version 0.1.0] [--arch arm64]`.

One self-contained .deb for Debian 12: our wheel and every dependency, from the hash-locked wheels of requirements.lock, in an
environment at /usr/lib/qkdd whose interpreter is Debian's own, programs, units, udev rules, users, man pages, shell completion.
Nothing is fetched or compiled on the node. Needs dpkg-deb and a Python 3.11 whose wheels fit Debian's own (manylinux); for the
other architecture gcc-aarch64-linux-gnu too.
"""

from __future__ import annotations

import argparse
import email.utils
import gzip
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from dataclasses import dataclass
from pathlib import Path

import manuals

ROOT = Path(__file__).resolve().parents[1]
HERE = ROOT / "packaging" / "debian"
PROGRAMS = {
    "qkdd": ("qkdd.cli", "main"),
    "qkdctl": ("qkdd.control.qkdctl", "main"),
    "qkdd-kms": ("qkdd.kms.cli", "main"),
    "qkd-psk": ("qkdd.psk.cli", "main"),
    "qkdd-sim": ("qkdd_drivers.sim_cli", "main"),
}
HOME = "usr/lib/qkdd"
SITE = f"{HOME}/lib/python3.11/site-packages"
# what `python -m venv` writes; our path on the node is known, so it can be written here (docs/decisions/0173)
ENVIRONMENT = "home = /usr/bin\ninclude-system-site-packages = false\nversion = 3.11\n"
LAUNCHER = f"""#!/{HOME}/bin/python3 -I
import sys
from {{module}} import {{function}}
sys.argv[0] = "{{name}}"
sys.exit({{function}}())
"""


def run(*command: str | Path, **environment: str) -> str:
    done = subprocess.run(
        [str(part) for part in command], check=False, capture_output=True, text=True, env={**os.environ, **environment}
    )
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


@dataclass(frozen=True, slots=True)
class Target:
    """An architecture: Debian's name, the platforms whose wheels its Debian 12 runs, what compiles and strips for it."""

    debian: str
    machine: str
    tools: str = ""  # prefix of the cross tools; empty: this machine's own

    @property
    def platforms(self) -> list[str]:
        tags = ("manylinux2014", *(f"manylinux_2_{minor}" for minor in (17, 24, 26, 27, 28, 31, 34, 35)))
        return [option for tag in tags for option in ("--platform", f"{tag}_{self.machine}")]


TARGETS = {"amd64": Target("amd64", "x86_64"), "arm64": Target("arm64", "aarch64", "aarch64-linux-gnu-")}


def vendored(site: Path, scratch: Path, target: Target) -> None:
    """Our wheel and the locked dependencies, unpacked."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    environment, settings = {}, [f"--config-settings=build-dir={scratch}/build"]
    foreign: list[str] = []
    if target.tools:
        environment["_PYTHON_HOST_PLATFORM"] = f"linux-{target.machine}"
        settings += [
            f"--config-settings=cmake.define.CMAKE_{name}={value}"
            for name, value in (
                ("SYSTEM_NAME", "Linux"), ("SYSTEM_PROCESSOR", target.machine), ("C_COMPILER", f"{target.tools}gcc"),
            )
        ]  # fmt: skip
        foreign = [*target.platforms, "--python-version", "3.11", "--implementation", "cp"]
        foreign += ["--abi", "cp311", "--abi", "abi3", "--abi", "none"]
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", *settings, "--wheel-dir", scratch, ROOT, **environment)
    locked = ["--only-binary", ":all:", "--require-hashes", "--requirement", ROOT / "requirements.lock"]
    run(*pip, "install", "--target", site, "--no-compile", "--no-deps", *foreign, *locked)
    (wheel,) = scratch.glob("qkdd-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    for extra in ("bin", "share"):
        shutil.rmtree(site / extra, ignore_errors=True)
    for folder in [*site.rglob("tests"), *site.rglob("__pycache__")]:
        if folder.is_dir() and folder.parent.name != "qkdd":
            shutil.rmtree(folder, ignore_errors=True)
    for record in site.glob("*.dist-info/direct_url.json"):
        record.unlink()  # names the folder in which it was built
    for library in (site / "qkdd_native").rglob("*.so"):  # stripping a wheel's repaired libraries would break them
        run(f"{target.tools}strip", "--strip-unneeded", library)


def made_at() -> int:
    """Unix seconds that the package bears: SOURCE_DATE_EPOCH, else of the last commit."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    return int(given or run("git", "-C", ROOT, "log", "-1", "--format=%ct"))


def documents(tree: Path, version: str, made: int) -> None:
    folder = tree / "usr/share/doc/qkdd"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copytree(ROOT / "docs", folder / "docs", ignore=shutil.ignore_patterns("decisions", "img"))
    shutil.copytree(ROOT / "monitoring", folder / "monitoring")
    shutil.copy(HERE / "copyright", folder / "copyright")
    when = email.utils.formatdate(made, localtime=False)
    text = (
        f"qkdd ({version}) stable; urgency=medium\n\n  * See docs/changelog.md.\n\n"
        f" -- qkdd founders <founders@qkdd.invalid>  {when}\n"
    )
    with gzip.GzipFile(folder / "changelog.gz", "wb", 9, mtime=0) as file:
        file.write(text.encode())


def integrate(tree: Path) -> None:
    """The environment's interpreter and programs, units, udev, users, folders, overrides."""
    units = tree / "usr/lib/systemd/system"
    units.mkdir(parents=True)
    for unit in (ROOT / "systemd").glob("*.s*"):
        shutil.copy(unit, units / unit.name)
    shutil.copytree(ROOT / "systemd/sysusers.d", tree / "usr/lib/sysusers.d")
    shutil.copytree(ROOT / "systemd/tmpfiles.d", tree / "usr/lib/tmpfiles.d")
    shutil.copytree(ROOT / "systemd/modules-load.d", tree / "usr/lib/modules-load.d")
    rules, hwdb = tree / "usr/lib/udev/rules.d", tree / "usr/lib/udev/hwdb.d"
    rules.mkdir(parents=True)
    hwdb.mkdir(parents=True)
    shutil.copy(ROOT / "udev/70-qkdd.rules", rules)
    shutil.copy(ROOT / "udev/70-qkdd.hwdb", hwdb)
    example = tree / "usr/share/doc/qkdd/examples"
    example.mkdir(parents=True)
    shutil.copy(ROOT / "systemd/encrypted-credentials.conf.example", example)
    overrides = tree / "usr/share/lintian/overrides"
    overrides.mkdir(parents=True)
    shutil.copy(HERE / "lintian-overrides", overrides / "qkdd")
    programs, shown = tree / HOME / "bin", tree / "usr/bin"
    programs.mkdir()
    shown.mkdir(parents=True)
    (tree / HOME / "pyvenv.cfg").write_text(ENVIRONMENT)
    for name in ("python", "python3"):
        (programs / name).symlink_to("../../../bin/python3")
    for name, (module, function) in PROGRAMS.items():
        path = programs / name
        path.write_text(LAUNCHER.format(name=name, module=module, function=function))
        path.chmod(0o755)
        (shown / name).symlink_to(f"../lib/qkdd/bin/{name}")


def control(tree: Path, version: str, target: Target) -> None:
    folder = tree / "DEBIAN"
    folder.mkdir()
    size = sum(path.stat().st_size for path in tree.rglob("*") if path.is_file() and not path.is_symlink()) // 1024
    text = (HERE / "control").read_text()
    for name, value in (("VERSION", version), ("SIZE", str(size)), ("ARCHITECTURE", target.debian)):
        text = text.replace(f"@{name}@", value)
    (folder / "control").write_text(text)
    for script in ("postinst", "prerm", "postrm"):
        shutil.copy(HERE / script, folder / script)
        (folder / script).chmod(0o755)


def build(output: Path, version: str, target: Target, compression: tuple[str, ...] = ("-Zxz",)) -> Path:
    """The finished package."""
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="qkdd-deb-") as name:
        scratch = Path(name)
        tree, site = scratch / "tree", scratch / "tree" / SITE
        site.mkdir(parents=True)
        vendored(site, scratch, target)
        # the programs' own help; those of another architecture do not run here, this environment's are of the same source
        manuals.write(tree, PROGRAMS, version, site if not target.tools else None)
        integrate(tree)
        made = made_at()
        documents(tree, version, made)
        for cache in [*tree.rglob("__pycache__")]:
            shutil.rmtree(cache)
        for path in [tree, *tree.rglob("*")]:
            if path.is_dir():
                path.chmod(0o755)
            elif not path.is_symlink() and path.parent != tree / HOME / "bin":
                path.chmod(0o644)
        control(tree, version, target)
        package = output / f"qkdd_{version}_{target.debian}.deb"
        # dpkg-deb sets no later time than this: the same source gives the same bytes
        run("dpkg-deb", "--root-owner-group", *compression, "--build", tree, package, SOURCE_DATE_EPOCH=str(made))
    return package


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "dist")
    parser.add_argument("--version", default=None, help="default: of pyproject.toml")
    parser.add_argument("--arch", choices=sorted(TARGETS), default="amd64")
    parser.add_argument("--quick", action="store_true", help="weak compression, for tests")
    wanted = parser.parse_args()
    target = TARGETS[wanted.arch]
    if target.tools and shutil.which(f"{target.tools}gcc") is None:
        raise SystemExit(f"{target.tools}gcc is not installed (Debian package gcc-aarch64-linux-gnu)")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    version = wanted.version or project["version"]
    path = build(wanted.output, version, target, ("-Zgzip", "-z1") if wanted.quick else ("-Zxz",))
    print(f"{path} {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()

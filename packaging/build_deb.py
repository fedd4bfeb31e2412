"""Build the Debian package: `python packaging/build_deb.py [--output dist] [--version 0.1.0]`.

One self-contained .deb for Debian 12 (amd64): our wheel and every dependency, from the hash-locked wheels of requirements.lock,
under /usr/lib/qkdd, launchers, units, udev rules, users, man pages, shell completion. Nothing is fetched or compiled on the node.
Needs dpkg-deb and a Python 3.11 whose wheels fit Debian's own (manylinux).
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
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HERE = ROOT / "packaging" / "debian"
PROGRAMS = {
    "qkdd": ("qkdd.cli", "main"),
    "qkdctl": ("qkdd.control.qkdctl", "main"),
    "qkdd-kms": ("qkdd.kms.cli", "main"),
    "qkdd-sim": ("qkdd_drivers.sim_cli", "main"),
}
LAUNCHER = """#!/usr/bin/python3 -I
import sys
sys.path.insert(0, "/usr/lib/qkdd")
from {module} import {function}
sys.argv[0] = "{name}"
sys.exit({function}())
"""


def run(*command: str | Path, **environment: str) -> str:
    done = subprocess.run(
        [str(part) for part in command], check=False, capture_output=True, text=True, env={**os.environ, **environment}
    )
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def vendored(site: Path, scratch: Path) -> None:
    """Our wheel and the locked dependencies, unpacked."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    run(*pip, "wheel", "--no-deps", "--wheel-dir", scratch, ROOT)
    lock = ROOT / "requirements.lock"
    run(*pip, "install", "--target", site, "--no-compile", "--only-binary", ":all:", "--require-hashes", "-r", lock)
    (wheel,) = scratch.glob("qkdd-*.whl")
    run(*pip, "install", "--target", site, "--no-compile", "--no-deps", wheel)
    for extra in ("bin", "share"):
        shutil.rmtree(site / extra, ignore_errors=True)
    for folder in [*site.rglob("tests"), *site.rglob("__pycache__")]:
        if folder.is_dir() and folder.parent.name != "qkdd":
            shutil.rmtree(folder, ignore_errors=True)
    for record in site.glob("*.dist-info/direct_url.json"):
        record.unlink()  # names the folder in which it was built
    for library in (site / "qkdd_native").rglob("*.so"):  # stripping a wheel's repaired libraries would break them
        run("strip", "--strip-unneeded", library)


def manual(tree: Path, site: Path, version: str) -> None:
    """Man pages from the programs' own help, and bash completion."""
    pages, completions = tree / "usr/share/man/man1", tree / "usr/share/bash-completion/completions"
    pages.mkdir(parents=True)
    completions.mkdir(parents=True)
    for name, (module, function) in PROGRAMS.items():
        code = (
            f"import sys; sys.path.insert(0, {str(site)!r}); sys.argv[0] = {name!r}; "
            f"from {module} import {function}; {function}()"
        )
        text = run(sys.executable, "-I", "-c", code, "--help", COLUMNS="90", NO_COLOR="1", TERM="dumb")
        plain = "".join(character for character in text if character not in "╭╮╰╯│─").replace("\\", "\\\\")
        body = "\n".join("\\&" + line.rstrip() for line in plain.splitlines())
        first = next((line.strip() for line in plain.splitlines() if line.strip() and "Usage" not in line), name)
        page = (
            f'.TH {name.upper()} 1 "" "qkdd {version}" "User Commands"\n.SH NAME\n{name} \\- {first}\n'
            f".SH DESCRIPTION\n.nf\n{body}\n.fi\n.SH SEE ALSO\n"
            "qkdd(1), qkdctl(1), qkdd-kms(1), qkdd-sim(1), /usr/share/doc/qkdd\n"
        )
        with gzip.GzipFile(pages / f"{name}.1.gz", "wb", 9, mtime=0) as file:
            file.write(page.encode())
        if name != "qkdd-sim":
            variable = f"_{name.upper().replace('-', '_')}_COMPLETE"
            (completions / name).write_text(run(sys.executable, "-I", "-c", code, **{variable: "source_bash"}))


def documents(tree: Path, version: str) -> None:
    folder = tree / "usr/share/doc/qkdd"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copytree(ROOT / "docs", folder / "docs", ignore=shutil.ignore_patterns("decisions", "img"))
    shutil.copytree(ROOT / "monitoring", folder / "monitoring")
    shutil.copy(HERE / "copyright", folder / "copyright")
    when = email.utils.formatdate(float(run("git", "-C", ROOT, "log", "-1", "--format=%ct") or 0), localtime=False)
    text = (
        f"qkdd ({version}) stable; urgency=medium\n\n  * See docs/changelog.md.\n\n"
        f" -- qkdd founders <founders@qkdd.invalid>  {when}\n"
    )
    with gzip.GzipFile(folder / "changelog.gz", "wb", 9, mtime=0) as file:
        file.write(text.encode())


def integrate(tree: Path) -> None:
    """Units, udev, users, folders, overrides."""
    units = tree / "usr/lib/systemd/system"
    units.mkdir(parents=True)
    for unit in (ROOT / "systemd").glob("*.s*"):
        shutil.copy(unit, units / unit.name)
    shutil.copytree(ROOT / "systemd/sysusers.d", tree / "usr/lib/sysusers.d")
    shutil.copytree(ROOT / "systemd/tmpfiles.d", tree / "usr/lib/tmpfiles.d")
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
    programs = tree / "usr/bin"
    programs.mkdir(parents=True)
    for name, (module, function) in PROGRAMS.items():
        path = programs / name
        path.write_text(LAUNCHER.format(name=name, module=module, function=function))
        path.chmod(0o755)


def control(tree: Path, version: str) -> None:
    folder = tree / "DEBIAN"
    folder.mkdir()
    size = sum(path.stat().st_size for path in tree.rglob("*") if path.is_file()) // 1024
    text = (HERE / "control").read_text().replace("@VERSION@", version).replace("@SIZE@", str(size))
    (folder / "control").write_text(text)
    for script in ("postinst", "prerm", "postrm"):
        shutil.copy(HERE / script, folder / script)
        (folder / script).chmod(0o755)


def build(output: Path, version: str, compression: tuple[str, ...] = ("-Zxz",)) -> Path:
    """The finished package."""
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="qkdd-deb-") as name:
        scratch = Path(name)
        tree, site = scratch / "tree", scratch / "tree/usr/lib/qkdd"
        site.mkdir(parents=True)
        vendored(site, scratch)
        manual(tree, site, version)
        integrate(tree)
        documents(tree, version)
        for cache in [*tree.rglob("__pycache__")]:
            shutil.rmtree(cache)
        for path in [tree, *tree.rglob("*")]:
            if path.is_dir():
                path.chmod(0o755)
            elif path.parent != tree / "usr/bin":
                path.chmod(0o644)
        control(tree, version)
        target = output / f"qkdd_{version}_amd64.deb"
        run("dpkg-deb", "--root-owner-group", *compression, "--build", tree, target)
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "dist")
    parser.add_argument("--version", default=None, help="default: of pyproject.toml")
    parser.add_argument("--quick", action="store_true", help="weak compression, for tests")
    wanted = parser.parse_args()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    path = build(wanted.output, wanted.version or project["version"], ("-Zgzip", "-z1") if wanted.quick else ("-Zxz",))
    print(f"{path} {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()

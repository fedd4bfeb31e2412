"""Look at the arm64 package as far as an amd64 machine can: `python packaging/check_arm64.py [PACKAGE]`.

Without PACKAGE one is built. Every shared object must be for AArch64, lintian must find no error, and under qemu-aarch64, with
Debian's own arm64 interpreter, the kernels must give a known answer and the daemon and the KMS must be importable. Needs
gcc-aarch64-linux-gnu, binutils-aarch64-linux-gnu, qemu-user, mmdebstrap, lintian, and root for mmdebstrap.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / "build" / "machine" / "arm64"  # what Debian's interpreter needs, unpacked and not configured
PACKAGES = "python3-minimal,python3,libpython3.11-stdlib,libc6,libgcc-s1,libstdc++6,zlib1g"
CODE = """
import sys, platform
sys.path.insert(0, sys.argv[1])
import qkdd.kernels as kernels
assert kernels.crc32c(b"123456789") == 0xE3069283
from qkdd.node.daemon import Daemon
from qkdd.kms.server import KmsServer
print(platform.machine(), "kernels:", kernels.variant(), "-", Daemon.__name__, KmsServer.__name__)
"""


def run(*command: object) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def interpreter() -> Path:
    if not (CACHE / "usr/bin/python3.11").exists():
        places = (*Path("/etc/apt/sources.list.d").glob("*.sources"), Path("/etc/apt/sources.list"))
        sources = [path for path in places if path.exists() and path.stat().st_size > 0]
        CACHE.parent.mkdir(parents=True, exist_ok=True)
        options = ("--quiet", "--variant=extract", "--architectures=arm64", f"--include={PACKAGES}")
        run("mmdebstrap", *options, "bookworm", CACHE, *sources)
    return CACHE / "usr/bin/python3.11"


def shared_objects(tree: Path) -> int:
    """How many; each is for AArch64."""
    found = 0
    for path in tree.rglob("*"):
        if path.is_symlink() or not path.is_file() or path.read_bytes()[:4] != b"\x7fELF":
            continue
        header = run("readelf", "-h", path)
        if "AArch64" not in header:
            raise SystemExit(f"{path.relative_to(tree)} is for another machine:\n{header}")
        found += 1
    if not found:
        raise SystemExit("there is no shared object in the package")
    return found


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="qkdd-arm64-") as name:
        folder = Path(name)
        package = Path(sys.argv[1]) if len(sys.argv) > 1 else None
        if package is None:
            run(sys.executable, ROOT / "packaging/build_deb.py", "--arch", "arm64", "--quick", "--output", folder)
            (package,) = folder.glob("*_arm64.deb")
        if (architecture := run("dpkg-deb", "-f", package, "Architecture").strip()) != "arm64":
            raise SystemExit(f"{package.name}: Architecture: {architecture}")
        run("dpkg-deb", "-x", package, folder / "tree")
        print(f"{package.name}: {shared_objects(folder / 'tree')} shared objects, all for AArch64")
        run("lintian", "--fail-on", "error", "--allow-root", package)
        print("lintian: no error")
        site = folder / "tree/usr/lib/qkdd/lib/python3.11/site-packages"
        print(run("qemu-aarch64", "-L", CACHE, interpreter(), "-I", "-c", CODE, site).strip())


if __name__ == "__main__":
    main()

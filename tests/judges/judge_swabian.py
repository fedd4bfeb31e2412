"""Our Time Tagger driver with the vendor's own package in this interpreter: every call that it makes exists, and an absent
instrument is told as one."""

import ast
import subprocess
import sys
import tempfile
from pathlib import Path

import bench
import Swabian.TimeTagger as vendor
from bench import check

ADAPTER = bench.ours("from qkdd_drivers.swabian import package; print(package.__file__)").strip()
OBJECTS = {
    "self._vendor": vendor,
    "self._vendor.Resolution": vendor.Resolution,
    "self._vendor.ChannelEdge": vendor.ChannelEdge,
    "self._tagger": vendor.TimeTagger,
    "self._stream": vendor.TimeTagStream,
    "data": vendor.TimeTagStreamBuffer,
}
used = {
    (ast.unparse(node.value), node.attr)
    for node in ast.walk(ast.parse(Path(ADAPTER).read_text(encoding="utf-8")))
    if isinstance(node, ast.Attribute) and ast.unparse(node.value) in OBJECTS
}
missing = [f"{owner}.{name}" for owner, name in sorted(used) if not hasattr(OBJECTS[owner], name)]
check(
    "every name that the adapter uses is in the vendor's package", len(used) > 15 and not missing, missing or len(used)
)
for name in ("TriggerLevel", "InputDelay", "Deadtime"):
    check(f"get and set {name}", hasattr(vendor.TimeTagger, "get" + name) and hasattr(vendor.TimeTagger, "set" + name))
for name in ("Standard", "HighResA", "HighResB", "HighResC"):
    check(f"resolution {name}", hasattr(vendor.Resolution, name))

with tempfile.TemporaryDirectory() as folder:
    config = Path(folder) / "node.toml"
    config.write_text(
        f'[devices.tagger]\ndriver = "swabian_timetagger"\npython = "{sys.executable}"\n', encoding="utf-8"
    )
    command = [bench.OURS / "qkdd", "record", str(config), str(Path(folder) / "run.qkdt"), "--seconds", "1"]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False, timeout=120)
    offline = done.returncode == 1 and "QKD-DEV-OFFLINE" in done.stderr and "No Time Tagger" in done.stderr
    check("an absent instrument is QKD-DEV-OFFLINE, in the vendor's words", offline, done.stderr.strip()[:200])

"""fpfind reads our a1 files in both orders and finds the coincidence peak of a run on the virtual bench."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import bench
import numpy as np
from bench import check, near
from fpfind.lib import parse_timestamps

WRITE = """
import json, sys
from pathlib import Path
import numpy as np
from qkdd.core.units import Seconds
from qkdd.device.recording import RecordingWriter
from qkdd.device.tags import TagBlock
from qkdd_hil.physics.line import QuantumLine
from qkdd_hil.physics.parameters import ClockParameters, FibreParameters, LineParameters, SideParameters
folder = Path(sys.argv[1])
alice = ClockParameters(offset=Seconds(0.0021), frequency_error_ppm=0.13)
bob = ClockParameters(offset=Seconds(-0.0017), frequency_error_ppm=-0.21)
line = QuantumLine(
    LineParameters(
        alice=SideParameters(fibre=FibreParameters(delay=Seconds(2.45e-6)), clock=alice),
        bob=SideParameters(fibre=FibreParameters(delay=Seconds(24.5e-6)), clock=bob),
    ),
    seed=11,
)
begin = 2 * 10**11
counts = {}
for name, source in (("alice", line.alice), ("bob", line.bob)):
    with RecordingWriter(folder / f"{name}.qkdt", {"resolution_ps": 2000, "inputs": 4}) as writer:
        for at in range(begin, begin + 4 * 10**12, 10**11):
            times, channels = source.clicks(at, at + 10**11)
            writer.write(TagBlock(times, channels, at + 10**11))
        counts[name] = writer.clicks
delay = (bob.offset + 24.5e-6) - (alice.offset + 2.45e-6)
print(json.dumps({"delay_s": delay, "error": (bob.frequency_error_ppm - alice.frequency_error_ppm) * 1e-6, **counts}))
"""
CONVERT = "import sys; from qkdd.cli import main; sys.argv = ['qkdd', 'convert', *sys.argv[1:]]; main()"

with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    truth = json.loads(bench.ours(WRITE, name))
    for side in ("alice", "bob"):
        for suffix in ("a1", "a1x"):
            bench.ours(CONVERT, str(folder / f"{side}.qkdt"), str(folder / f"{side}.{suffix}"))
    plain, patterns = parse_timestamps.read_a1(folder / "alice.a1")
    swapped, _ = parse_timestamps.read_a1(folder / "alice.a1x", legacy=True)
    check("number of clicks", len(plain) == truth["alice"], len(plain))
    check("both orders give the same times", bool(np.array_equal(plain, swapped)))
    check("times are in order", bool(np.all(np.diff(plain) >= 0)))
    check("four detectors click", sorted({int(p) for p in patterns}) == [1, 2, 4, 8])
    program = Path(sys.executable).with_name("fpfind")
    command = [program, "-pp", "-q", "24", "-r", "4", "-t", str(folder / "alice.a1"), "-T", str(folder / "bob.a1")]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=480)
    frequency, delay = (float(value) for value in done.stdout.split())
    expected = truth["delay_s"] + truth["error"] * float(plain[0]) * 1e-9
    check(
        "fpfind finds the delay", near(delay * 1e-9, expected, 200e-9), f"{delay:.0f} ns, set {expected * 1e9:.0f} ns"
    )
    check(
        "fpfind finds the frequency",
        near(frequency, truth["error"], 3e-8),
        f"{frequency:.2e}, set {truth['error']:.2e}",
    )

"""Large buffers come back without new pages."""

from __future__ import annotations

import subprocess
import sys

PROBE = """
import resource
from qkdd.core.memory import keep_large_buffers
kept = keep_large_buffers()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def use():
    block = bytearray(64 << 20)
    block[::4096] = bytes(len(block) // 4096)
use()
before = faults()
for _ in range(5):
    use()
print(kept, faults() - before)
"""


def test_freed_memory_is_used_again() -> None:
    """Five buffers of 64 MB are 82,000 pages when the system gives them anew."""
    shown = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True).stdout.split()
    assert shown[0] == "True"
    assert int(shown[1]) < 5000

"""The façade: worker threads, exported symbols, error tree."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from qkdd_native import _kernels
from qkdd_native.status import Status

from qkdd import kernels
from qkdd.core.errors import registered_errors

NATIVE = Path(__file__).parents[2] / "native"


def test_exported_functions_are_the_checked_in_list():
    exported = sorted(name for name in dir(_kernels.lib) if name.startswith("qkdd_"))
    assert exported == (NATIVE / "exported_symbols.txt").read_text().split()
    declared = re.findall(r"\b(qkdd_\w+)\(", (NATIVE / "include" / "qkdd_kernels.h").read_text())
    assert sorted(set(declared)) == exported


def test_nothing_else_leaves_the_shared_object():
    listing = subprocess.run(
        ["nm", "-D", "--defined-only", _kernels.__file__], capture_output=True, text=True, check=True
    ).stdout
    names = {line.split()[-1] for line in listing.splitlines()} - {"_init", "_fini", "_edata", "_end", "__bss_start"}
    assert names == {"PyInit__kernels"}


def test_selected_variant_is_in_use(variant):
    assert kernels.variant() == variant
    assert variant in kernels.available_variants()


def test_run_uses_another_thread_and_passes_errors_on():
    async def main() -> None:
        assert await kernels.run(kernels.crc32c, b"123456789") == 0xE3069283
        assert await kernels.run(threading.get_ident) != threading.get_ident()
        with pytest.raises(kernels.KernelTruncated):
            await kernels.run(kernels.decode_a1, b"123", swapped=True)

    asyncio.run(main())


@pytest.fixture
def lock_only_given_away():
    """The interpreter's lock changes hands when its holder gives it away, not because its time is up."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(60.0)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("lock_only_given_away")
def test_heavy_calls_release_the_interpreter_lock():
    """While a worker thread hashes, this thread goes on; with the lock held it stands still from the call to its return.

    On a busy machine this thread may get no processor meanwhile: then it is tried again.
    """
    data = bytes(8 << 20)

    def ticks_during_the_call() -> int:
        started, finished = threading.Event(), threading.Event()
        span: list[float] = []

        def work() -> None:
            started.set()
            span.append(time.perf_counter())
            kernels.crc32c(data)
            span.append(time.perf_counter())
            finished.set()

        ticks: list[float] = []
        worker = threading.Thread(target=work)
        worker.start()
        started.wait()
        while not finished.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0)
        worker.join()
        return sum(span[0] < tick < span[1] for tick in ticks)

    assert any(ticks_during_the_call() > 20 for _ in range(100))


def test_errors_have_codes_kinds_and_remedies():
    codes = {code for code in registered_errors() if code.startswith("QKD-KRN-")}
    assert codes == {
        f"QKD-KRN-{name}" for name in ("ARGUMENT", "TRUNCATED", "MALFORMED", "UNSORTED", "RANGE", "VARIANT")
    }


def test_docstrings_reach_the_facade():
    for name in kernels.__all__:
        item = getattr(kernels, name)
        if isinstance(item, int):
            continue  # a constant
        assert getattr(item, "meaning", None) or item.__doc__, name
    assert "n + m - 1" in (kernels.toeplitz.__doc__ or "")


def test_statuses_agree_with_the_header():
    header = (NATIVE / "include" / "qkdd_kernels.h").read_text()
    body = header[header.index("typedef enum {") : header.index("} qkdd_status;")]
    declared = {name: int(value) for name, value in re.findall(r"QKDD_(\w+) = (\d+)", body)}
    assert {s.name: s.value for s in Status} == declared


def test_arguments_are_not_written_to():
    bits = np.ones(100, np.uint8)
    bits.flags.writeable = False
    kernels.pack_bits(bits)
    kernels.toeplitz(bits, np.ones(149, np.uint8), 50)
    assert bits.all()

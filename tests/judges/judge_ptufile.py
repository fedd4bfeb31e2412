"""ptufile reads the PTU files that we write from a recording, and sees the same clicks."""

import tempfile
from pathlib import Path

import bench
import numpy as np
import ptufile
from bench import check, near

WRITE = """
import sys
from pathlib import Path
import numpy as np
from qkdd.device.recording import RecordingWriter
from qkdd.device.tags import TagBlock
folder = Path(sys.argv[1])
random = np.random.default_rng(7)
times = np.cumsum(random.integers(1, 8_000_000, 200_000)) * 5  # ps; the 25-bit counter wraps thousands of times
channels = random.integers(1, 5, len(times)).astype(np.uint8)  # no sync: ptufile gives it and input 1 the same number
with RecordingWriter(folder / "run.qkdt", {"resolution_ps": 5, "inputs": 5}) as writer:
    for at in range(0, len(times), 10_000):
        part = slice(at, at + 10_000)
        writer.write(TagBlock(times[part], channels[part], int(times[part][-1])))
np.savez(folder / "truth.npz", times=times, channels=channels)
"""

with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    bench.ours(WRITE, name)
    bench.ours(
        "import sys; from qkdd.cli import main; sys.argv = ['qkdd', 'convert', *sys.argv[1:]]; main()",
        str(folder / "run.qkdt"),
        str(folder / "run.ptu"),
    )
    truth = np.load(folder / "truth.npz")
    with ptufile.PtuFile(folder / "run.ptu") as file:
        check("it is a T2 measurement", not file.is_t3, file.measurement_mode.name)
        check("record type", file.record_type.name, file.record_type.name)
        check("resolution", near(file.global_resolution, 5e-12, 1e-18), file.global_resolution)
        check("serial number and type are there", "HW_SerialNo" in file.tags and "MultiHarp" in file.tags["HW_Type"])
        check("number of records", file.number_records == len(file.read_records()), file.number_records)
        decoded = file.decode_records()
        clicks = decoded[decoded["channel"] >= 0]
        check("number of clicks", len(clicks) == len(truth["times"]), len(clicks))
        check("every time", bool(np.array_equal(clicks["time"].astype(np.int64) * 5, truth["times"])))
        check("every channel", bool(np.array_equal(clicks["channel"] + 1, truth["channels"])))
        seconds = float(truth["times"][-1]) * 1e-12
        check("acquisition time", near(file.tags["MeasDesc_AcquisitionTime"] / 1e3, seconds, 0.001), seconds)

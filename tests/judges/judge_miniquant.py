"""miniquant (GPL) loads our fake HydraHarp library as if it were PicoQuant's; ptufile decodes the records that it reads."""

import ctypes
import os
import struct
import tempfile
import time
from pathlib import Path

import numpy as np
import ptufile
from bench import check, near, simulator

RATE = 40_000


def decoded(records: np.ndarray, folder: Path) -> np.ndarray:
    """What ptufile makes of T2 records of the HydraHarp (format 2), given the least header that it reads."""

    def tag(name: str, kind: int, value: bytes, index: int = -1) -> bytes:
        return name.encode().ljust(32, b"\0") + struct.pack("<iI", index, kind) + value

    whole, number = 0x10000008, 0x20000008
    header = b"PQTTTR\0\0" + b"1.0.00\0\0"
    for name, value in (
        ("Measurement_Mode", 2),
        ("HW_InpChannels", 4),
        ("TTResultFormat_TTTRRecType", 0x01010204),
        ("TTResult_NumberOfRecords", len(records)),
        ("TTResultFormat_BitsPerRecord", 32),
    ):
        header += tag(name, whole, struct.pack("<q", value))
    header += tag("MeasDesc_GlobalResolution", number, struct.pack("<d", 1e-12))
    path = folder / "read.ptu"
    path.write_bytes(header + tag("Header_End", 0xFFFF0008, bytes(8)) + records.astype("<u4").tobytes())
    with ptufile.PtuFile(path) as file:
        check(
            "ptufile takes them for T2 of a HydraHarp", file.record_type.name == "HydraHarp2T2", file.record_type.name
        )
        return file.decode_records()


with simulator("hydraharp400", "--rate", str(RATE)) as where, tempfile.TemporaryDirectory() as folder:
    os.environ["MINIQUANT_HHLIB"] = where["library"]
    from miniquant import harp

    library = harp.Monster()
    check("library version", library.libraryVersion == "3.1", library.libraryVersion)
    tagger = library.find("first")
    check("serial number", tagger.serial == tagger.serialNumber and len(tagger.serial) > 3, tagger.serial)
    check("model", "HydraHarp" in tagger.hardwareInfo["model"], tagger.hardwareInfo)
    check("base resolution of 1 ps", near(tagger.baseResolution[0], 1e-12, 1e-18), tagger.baseResolution)
    tagger.initialize(harp.MeasurementMode.T2, harp.ReferenceClock.Internal)
    check("four inputs", len(tagger.channels) == 4)
    tagger.syncDiv = 1
    tagger.syncCfd = (0.05, 0.01)
    tagger.syncChannelOffset = -2e-9
    for channel in tagger.channels:
        channel.cfd = (0.08, 0.01)
        channel.offset = 3e-9
        channel.enabled = True
    check("discriminators and offsets are taken", tagger.channels[3].cfd["level"] == 0.08)
    try:
        tagger.channels[1].cfd = (2.0, 0.0)
        refused = ""
    except harp.HarpError as error:
        refused = str(error)
    check("a level out of range is an error of the library", "INVALID_ARGUMENT" in refused, refused)
    tagger.clearOnAcquire = False  # histograms are not what our driver uses
    tagger.acquire(5.0)
    check("it measures", tagger.acquiring)
    check("no overrun", not tagger.flags.FIFOFULL, list(tagger.flags))
    pieces, begin = [], time.monotonic()
    room = harp.DeviceLimits.MaxFifoReadout
    while time.monotonic() - begin < 1.0:  # its own `fifo` builds its array with a ctypes number, which Python refuses
        read, found = (ctypes.c_uint32 * room)(), ctypes.c_int()
        tagger.hlib_request("HH_ReadFiFo", read, room, ctypes.byref(found))
        pieces.append(np.array(read[: found.value], np.uint32))
        time.sleep(0.02)
    rates = [channel.countRate for channel in tagger.channels]
    tagger.acqstop()
    check("it stops", not tagger.acquiring)
    events = decoded(np.concatenate(pieces), Path(folder))
    clicks = events[events["channel"] >= 0]
    seconds = float(clicks["time"][-1] - clicks["time"][0]) * 1e-12
    check("clicks come at their rate", near(len(clicks) / seconds, RATE, 0.1 * RATE), round(len(clicks) / seconds))
    check("in order", bool(np.all(np.diff(clicks["time"].astype(np.int64)) >= 0)))
    check("on several inputs", len(list(np.unique(clicks["channel"]))) >= 4, list(np.unique(clicks["channel"])))
    check("rates of the inputs", all(rate >= 0 for rate in rates), rates)
    tagger.hlib.HH_CloseDevice(tagger.devid)
    tagger.refcnt.counter = 2  # closed already

"""PTU files of T2 measurements: written so that other readers take them, and read piece by piece.

Layout (PicoQuant, "Unified TTTR file format"): magic `PQTTTR`, version, tags of 48 bytes (name 32, index i32, type u32, value 8;
strings and blobs follow their tag), `Header_End`, then 32-bit records (t2.py).
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from qkdd import kernels
from qkdd.device.tags import TagBlock, in_order
from qkdd_drivers.picoquant import t2
from qkdd_drivers.picoquant.models import MULTIHARP, Model

MAGIC = b"PQTTTR\0\0"
_VERSION = b"1.0.00\0\0"
_TAG = struct.Struct("<32siI8s")
_EMPTY, _BOOL, _INT, _FLOAT, _TIME = 0xFFFF0008, 0x00000008, 0x10000008, 0x20000008, 0x21000008
_BITSET, _COLOR = 0x11000008, 0x12000008
_WITH_BODY = {0x2001FFFF: "floats", 0x4001FFFF: "ansi", 0x4002FFFF: "wide", 0xFFFFFFFF: "blob"}
_LAYOUTS = {
    0x10203: "picoharp",
    0x10204: "hydraharp1",
    0x1010204: "hydraharp2",
    0x10205: "hydraharp2",
    0x10206: "hydraharp2",
    0x10207: "hydraharp2",
}
_T2_MODE = 2
_PIECE = 1 << 18  # records
_DAYS_1899 = datetime(1899, 12, 30, tzinfo=UTC)  # the epoch of the format's dates
_LONGEST_TEXT = 1 << 20


class PtuWriter:
    """Writes one file; the number of records is put into the header when it is closed. Raises OSError."""

    def __init__(
        self, path: Path, *, model: Model = MULTIHARP, resolution_ps: int | None = None, serial: str = ""
    ) -> None:
        self._resolution = resolution_ps or round(model.resolution_ps)
        self._encoder = t2.Encoder(self._resolution)
        self._records = 0
        self._until = 0
        self._at: dict[str, int] = {}
        self._file = path.open("wb")
        self._header(model, serial)

    def write(self, times: NDArray[np.int64], channels: NDArray[np.uint8], until: int) -> None:
        """Clicks at `times` ps (non-decreasing over all calls); channels: 0 the sync input, n the input labelled n."""
        records = self._encoder.encode(times, channels, until)
        self._file.write(records.astype("<u4").tobytes())
        self._records += len(records)
        self._until = max(self._until, until)

    def close(self) -> None:
        """Complete the header. Idempotent."""
        if self._file.closed:
            return
        with self._file:
            for name, value in (
                ("TTResult_NumberOfRecords", self._records),
                ("MeasDesc_AcquisitionTime", round(self._until / 1e9)),
                ("TTResult_StopAfter", round(self._until / 1e9)),
            ):
                self._file.seek(self._at[name])
                self._file.write(struct.pack("<q", value))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def _header(self, model: Model, serial: str) -> None:
        now = (datetime.now(UTC) - _DAYS_1899).total_seconds() / 86400
        self._file.write(MAGIC + _VERSION)
        self._text("File_GUID", f"{{{uuid.uuid4()}}}")
        self._text("CreatorSW_Name", "qkdd")
        self._text("CreatorSW_Version", "1")
        self._tag("File_CreatingTime", _TIME, struct.pack("<d", now))
        self._whole("Measurement_Mode", _T2_MODE)
        self._whole("Measurement_SubMode", 0)
        self._text("HW_Type", model.ptu_type)
        self._text("HW_SerialNo", serial or "0")
        self._text("HW_Version", "1.0")
        self._whole("HW_InpChannels", model.inputs)
        self._tag("HW_BaseResolution", _FLOAT, struct.pack("<d", self._resolution * 1e-12))
        self._whole("HWSync_Divider", 1)
        self._whole("TTResult_SyncRate", 0)
        self._whole("TTResult_StopAfter", 0)
        self._whole("TTResult_NumberOfRecords", 0)
        self._whole("TTResultFormat_TTTRRecType", model.record_type)
        self._whole("TTResultFormat_BitsPerRecord", 32)
        self._tag("MeasDesc_GlobalResolution", _FLOAT, struct.pack("<d", self._resolution * 1e-12))
        self._tag("MeasDesc_Resolution", _FLOAT, struct.pack("<d", self._resolution * 1e-12))
        self._whole("MeasDesc_AcquisitionTime", 0)
        self._tag("Header_End", _EMPTY, bytes(8))

    def _tag(self, name: str, kind: int, value: bytes) -> None:
        self._at[name] = self._file.tell() + 40
        self._file.write(_TAG.pack(name.encode(), -1, kind, value))

    def _whole(self, name: str, value: int) -> None:
        self._tag(name, _INT, struct.pack("<q", value))

    def _text(self, name: str, value: str) -> None:
        body = value.encode("ascii") + b"\0"
        body += bytes(-len(body) % 8)
        self._tag(name, 0x4001FFFF, struct.pack("<q", len(body)))
        self._file.write(body)


@dataclass(slots=True)
class PtuReader:
    """One opened file: header and blocks. Raises ValueError saying what is wrong with the file."""

    header: Mapping[str, Any]
    resolution_ps: int
    inputs: int
    layout: str
    file: BinaryIO

    @classmethod
    def open(cls, path: Path) -> PtuReader:
        """Read the header. Raises OSError, ValueError."""
        file = path.open("rb")
        try:
            header = read_header(file)
            if header.get("Measurement_Mode") != _T2_MODE:
                raise ValueError("not a T2 measurement (T3 has no times of single clicks)")
            kind = header.get("TTResultFormat_TTTRRecType")
            if kind not in _LAYOUTS:
                raise ValueError(f"record type {kind!r} is not known")
            resolution = float(header.get("MeasDesc_GlobalResolution") or header.get("HW_BaseResolution") or 0) * 1e12
            if resolution < 0.5 or abs(resolution - round(resolution)) > 1e-3:
                raise ValueError(f"a resolution of {resolution:g} ps is no whole number of ps")
            inputs = int(header.get("HW_InpChannels") or 4)
        except (ValueError, struct.error) as error:
            file.close()
            raise ValueError(f"{path}: {error}") from None
        return cls(header, round(resolution), inputs + 1, _LAYOUTS[kind], file)

    def blocks(self) -> Iterator[TagBlock]:
        """All clicks, piece by piece; times in ps since the measurement's start. Raises ValueError at a damaged record."""
        state = kernels.T2State(self.layout, self.resolution_ps)
        until = 0
        left = int(self.header.get("TTResult_NumberOfRecords") or 0) or None
        while data := self.file.read(4 * min(_PIECE, left if left is not None else _PIECE)):
            if len(data) % 4:
                raise ValueError("the file ends in the middle of a record")
            words = np.frombuffer(data, "<u4").astype(np.uint32)
            try:
                times, channels = kernels.decode_t2(words, state)
            except kernels.KernelError as error:
                raise ValueError(error.message) from None
            times, channels, late = in_order(times, channels)
            until = max(until, state.overflow * self.resolution_ps, int(times[-1]) if len(times) else 0)
            yield TagBlock(times, channels, until, reordered=late)
            if left is not None:
                left -= len(words)
                if not left:
                    return
        if left:
            raise ValueError(f"{left} records fewer than the header says")

    def close(self) -> None:
        self.file.close()


def read_header(file: BinaryIO) -> dict[str, Any]:
    """Tags by name (arrays: name → {index: value}); the file stands at the first record. Raises ValueError."""
    if file.read(8) != MAGIC:
        raise ValueError("no PTU file")
    file.read(8)
    found: dict[str, Any] = {}
    while True:
        raw = file.read(_TAG.size)
        if len(raw) < _TAG.size:
            raise ValueError("the header has no end")
        name_bytes, index, kind, value = _TAG.unpack(raw)
        name = name_bytes.rstrip(b"\0").decode("ascii", "replace")
        if name == "Header_End":
            return found
        content = _content(file, kind, value)
        if index < 0:
            found[name] = content
        else:
            found.setdefault(name, {})[index] = content


def _content(file: BinaryIO, kind: int, value: bytes) -> Any:
    if kind in _WITH_BODY:
        (size,) = struct.unpack("<q", value)
        if not 0 <= size <= _LONGEST_TEXT:
            raise ValueError(f"a header entry of {size} bytes")
        body = file.read(size)
        if len(body) < size:
            raise ValueError("the header has no end")
        match _WITH_BODY[kind]:
            case "ansi":
                return body.split(b"\0")[0].decode("latin-1")
            case "wide":
                return body.decode("utf-16-le", "replace").split("\0")[0]
            case _:
                return body
    match kind:
        case _ if kind == _EMPTY:
            return None
        case _ if kind == _BOOL:
            return value != bytes(8)
        case _ if kind in (_INT, _BITSET, _COLOR):
            return struct.unpack("<q", value)[0]
        case _ if kind in (_FLOAT, _TIME):
            return struct.unpack("<d", value)[0]
    raise ValueError(f"a header entry of unknown type 0x{kind:08x}")

"""What differs between PicoQuant's instruments: one table for driver, worker and simulator."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Model:
    """One instrument and its library.

    prefix: of the library's functions. layout: of T2 records, as `kernels.decode_t2` names it. read_max: records that one
    ReadFiFo may write (TTREADMAX). counted: ReadFiFo is told how many. cfd: constant-fraction discriminators (level in mV below
    zero and zero crossing) instead of edge triggers. dead_time: inputs can be made blind for longer. ptu_type, record_type:
    HW_Type and TTResultFormat_TTTRRecType of PTU files. resolution_ps, inputs: what the simulator shows; a real one is asked.
    """

    name: str
    family: str
    prefix: str
    layout: str
    read_max: int
    counted: bool
    cfd: bool
    dead_time: bool
    ptu_type: str
    record_type: int
    resolution_ps: float
    inputs: int
    library: str

    def options(self) -> dict[str, Any]:
        """For the worker."""
        return asdict(self)


MULTIHARP = Model(
    name="MultiHarp 150",
    family="MultiHarp",
    prefix="MH_",
    layout="hydraharp2",
    read_max=1_048_576,
    counted=False,
    cfd=False,
    dead_time=True,
    ptu_type="MultiHarp 150 4N",
    record_type=0x10207,
    resolution_ps=5.0,
    inputs=4,
    library="libmh150.so",
)
HYDRAHARP = Model(
    name="HydraHarp 400",
    family="HydraHarp",
    prefix="HH_",
    layout="hydraharp2",
    read_max=131_072,
    counted=True,
    cfd=True,
    dead_time=False,
    ptu_type="HydraHarp 400",
    record_type=0x1010204,
    resolution_ps=1.0,
    inputs=4,
    library="libhh400.so",
)
PICOHARP330 = Model(
    name="PicoHarp 330",
    family="PicoHarp 330",
    prefix="PH330_",
    layout="hydraharp2",
    read_max=131_072,
    counted=False,
    cfd=False,
    dead_time=False,
    ptu_type="PicoHarp 330",
    record_type=0x10207,
    resolution_ps=1.0,
    inputs=4,
    library="libph330.so",
)

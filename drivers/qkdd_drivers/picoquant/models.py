"""What differs between PicoQuant's instruments: one table for driver, worker and simulator."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Model:
    """One instrument and its library.

    prefix: of the library's functions. layout: of T2 records, as `kernels.decode_t2` names it. read_max: records that one
    ReadFiFo may write (TTREADMAX). counted: ReadFiFo is told how many. cfd: constant-fraction discriminators (level in mV below
    zero and zero crossing) instead of edge triggers; trigger_mode: has both, and is told to take edges. dead_time: inputs can be
    made blind for longer. references: numbers of the clock sources that Initialize takes. ptu_type, record_type:
    HW_Type and TTResultFormat_TTTRRecType of PTU files. resolution_ps, inputs: what the simulator shows; a real one is asked.
    """

    name: str
    family: str
    prefix: str
    layout: str
    read_max: int
    counted: bool
    cfd: bool
    trigger_mode: bool
    dead_time: bool
    references: dict[str, int]
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
    trigger_mode=False,
    dead_time=True,
    references={
        "internal": 0,
        "external": 1,
        "white-rabbit-master": 2,
        "white-rabbit-slave": 3,
        "white-rabbit-grandmaster": 4,
        "gps-pps": 5,
        "gps-pps-uart": 6,
    },
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
    trigger_mode=False,
    dead_time=False,
    references={"internal": 0, "external": 1},
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
    read_max=1_048_576,
    counted=False,
    cfd=False,
    trigger_mode=True,
    dead_time=True,
    references={"internal": 0, "external": 1, "external-100mhz": 2, "external-500mhz": 3},
    ptu_type="PicoHarp 330",
    record_type=0x10207,
    resolution_ps=1.0,
    inputs=4,
    library="libph330.so",
)

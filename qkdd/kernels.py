"""The kernels: bit packing, tag decoding, coincidences, universal hashing, Cascade. The only importer of qkdd_native.

All functions check shape, dtype and value range and raise a KernelError; none converts in silence. Bits are uint8 arrays of
0 and 1, times int64 picoseconds. Calls release the interpreter lock; `await run(func, ...)` puts a heavy one on a worker
thread. The variant is chosen at import from the processor's features; the environment variable QKDD_KERNELS=portable|avx2|
avx512|neon forces one. Full descriptions stand at the functions; formats, formulas and sources in docs/rooms/native.md.
"""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from qkdd_native import bits as _bits
from qkdd_native import cascade as _cascade
from qkdd_native import clock as _clock
from qkdd_native import hashing as _hashing
from qkdd_native import ldpc as _ldpc
from qkdd_native import slots as _slots
from qkdd_native import soft as _soft
from qkdd_native import tags as _tags
from qkdd_native import variants as _variants
from qkdd_native.status import Status, StatusError

from qkdd.core.errors import InternalError, QkddError

__all__ = [
    "CLOCK_LEVELS",
    "NO_BASIS",
    "CascadeBlock",
    "ClockFound",
    "ClockLevel",
    "KernelArgument",
    "KernelError",
    "KernelMalformed",
    "KernelOutOfRange",
    "KernelTruncated",
    "KernelUnsorted",
    "KernelVariant",
    "LdpcCode",
    "PolyHash",
    "SiftedPairs",
    "SlotAssigner",
    "SlotSettings",
    "T2State",
    "Tdc1State",
    "available_variants",
    "class_counts",
    "clock_histogram",
    "clock_search",
    "core_is_free",
    "crc32c",
    "decode_a1",
    "decode_soft",
    "decode_t2",
    "decode_tdc1",
    "delay_histogram",
    "expand_patterns",
    "gap_decode",
    "gap_encode",
    "gf2_128_multiply",
    "ldpc_codes",
    "ldpc_low_rate_codes",
    "match_coincidences",
    "pack_bits",
    "pack_key",
    "pack_subset",
    "poisson_surprise",
    "poly_hash",
    "random_subset",
    "run",
    "select_variant",
    "sift_coincidences",
    "split_subset",
    "symbol_decode",
    "symbol_encode",
    "toeplitz",
    "toeplitz_halves",
    "toeplitz_packed",
    "toeplitz_workspace",
    "transpose",
    "unpack_bits",
    "unpack_subset",
    "variant",
]

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C")


class KernelError(QkddError):
    """A kernel refused its input; nothing was computed."""


class KernelArgument(KernelError):
    code = "QKD-KRN-ARGUMENT"
    meaning = "A kernel was called with a shape, type or parameter outside its domain."
    default_remedy = "Report it with the log lines around it; a caller of the kernels has a defect."


class KernelTruncated(KernelError):
    code = "QKD-KRN-TRUNCATED"
    meaning = "Data end in the middle of a record."
    default_remedy = "Check the source: an interrupted transfer or file, or a peer of another version."


class KernelMalformed(KernelError):
    code = "QKD-KRN-MALFORMED"
    meaning = "Data are not of the format that they should have."
    default_remedy = "Check the source: a wrong device mode, a damaged file, or a peer of another version."


class KernelUnsorted(KernelError):
    code = "QKD-KRN-UNSORTED"
    meaning = "Time tags that must be in order are not, or lie outside ±2^61 ps."
    default_remedy = "Check the tagger's stream for slipped bytes or missed counter wraps."


class KernelOutOfRange(KernelError):
    code = "QKD-KRN-RANGE"
    meaning = "A value or position is outside its range."
    default_remedy = "Report it with the log lines around it; or a peer sent positions that do not exist."


class KernelVariant(KernelError):
    code = "QKD-KRN-VARIANT"
    meaning = "QKDD_KERNELS names a kernel variant that is unknown or that this processor cannot run."
    default_remedy = "Unset QKDD_KERNELS, or set it to portable, avx2, avx512 or neon as the processor allows."


_ERRORS: dict[Status, type[KernelError]] = {
    Status.BAD_ARGUMENT: KernelArgument,
    Status.TRUNCATED: KernelTruncated,
    Status.MALFORMED: KernelMalformed,
    Status.UNSORTED: KernelUnsorted,
    Status.OUT_OF_RANGE: KernelOutOfRange,
    Status.UNSUPPORTED: KernelVariant,
}


def _typed(error: StatusError) -> QkddError:
    kind = _ERRORS.get(error.status)
    return InternalError(error.message) if kind is None else kind(error.message)


def _raising(function: Callable[P, R]) -> Callable[P, R]:
    """`function` with the kernels' status turned into the error tree."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except StatusError as error:
            raise _typed(error) from None

    return wrapper


def _raising_methods(*names: str) -> Callable[[type[C]], type[C]]:
    """Class decorator: the same for inherited methods."""

    def decorate(cls: type[C]) -> type[C]:
        for name in names:
            setattr(cls, name, _raising(getattr(cls, name)))
        return cls

    return decorate


pack_bits = _raising(_bits.pack_bits)
pack_key = _raising(_bits.pack_key)
unpack_bits = _raising(_bits.unpack_bits)
transpose = _raising(_bits.transpose)
class_counts = _raising(_bits.class_counts)
random_subset = _raising(_bits.random_subset)
split_subset = _raising(_bits.split_subset)
pack_subset = _raising(_bits.pack_subset)
unpack_subset = _raising(_bits.unpack_subset)
crc32c = _raising(_bits.crc32c)

Tdc1State = _tags.Tdc1State
decode_tdc1 = _raising(_tags.decode_tdc1)
decode_a1 = _raising(_tags.decode_a1)
T2State = _tags.T2State
decode_t2 = _raising(_tags.decode_t2)
expand_patterns = _raising(_tags.expand_patterns)
match_coincidences = _raising(_tags.match_coincidences)
NO_BASIS = _tags.NO_BASIS
SiftedPairs = _tags.SiftedPairs
sift_coincidences = _raising(_tags.sift_coincidences)
delay_histogram = _raising(_tags.delay_histogram)
clock_histogram = _raising(_tags.clock_histogram)
CLOCK_LEVELS = _clock.CLOCK_LEVELS
ClockFound = _clock.ClockFound
ClockLevel = _clock.ClockLevel
clock_search = _raising(_clock.clock_search)
poisson_surprise = _clock.poisson_surprise
gap_encode = _raising(_tags.gap_encode)
gap_decode = _raising(_tags.gap_decode)

SlotSettings = _slots.SlotSettings
symbol_encode = _raising(_slots.symbol_encode)
symbol_decode = _raising(_slots.symbol_decode)

toeplitz = _raising(_hashing.toeplitz)
toeplitz_packed = _raising(_hashing.toeplitz_packed)
toeplitz_halves = _raising(_hashing.toeplitz_halves)
toeplitz_workspace = _raising(_hashing.toeplitz_workspace)
poly_hash = _raising(_hashing.poly_hash)
gf2_128_multiply = _raising(_hashing.gf2_128_multiply)


@_raising_methods("__init__", "update")
class PolyHash(_hashing.PolyHash):
    __doc__ = _hashing.PolyHash.__doc__
    __slots__ = ()


@_raising_methods("__init__", "__call__", "shift")
class SlotAssigner(_slots.SlotAssigner):
    __doc__ = _slots.SlotAssigner.__doc__
    __slots__ = ()


@_raising_methods("__init__", "step", "close", "end")
class CascadeBlock(_cascade.CascadeBlock):
    __doc__ = _cascade.CascadeBlock.__doc__
    __slots__ = ()


@_raising_methods("__init__", "adapted", "syndrome", "decode")
class LdpcCode(_ldpc.LdpcCode):
    __doc__ = _ldpc.LdpcCode.__doc__
    __slots__ = ()


@functools.cache
def ldpc_codes() -> tuple[LdpcCode, ...]:
    """The shipped codes in order of leak (0.05 to 0.56), each for frames up to 2^20 bits: `adapted` fits one to a frame. Raises
    KernelMalformed if their file is not whole."""
    return _raising(_ldpc.family)(LdpcCode)


@functools.cache
def ldpc_low_rate_codes() -> tuple[LdpcCode, ...]:
    """The shipped codes of rate 0.1, 0.05 and 0.02 for the binary-input AWGN channel, in order of leak. Raises
    KernelMalformed."""
    return _raising(_ldpc.low_rate_family)(LdpcCode)


decode_soft = _raising(_soft.decode_soft)

variant = _variants.variant
available_variants = _variants.available


def select_variant(name: str | None) -> None:
    """Use this variant from now on (None: the fastest). For tests and benchmarks; not while a kernel runs elsewhere."""
    try:
        _variants.select(name)
    except StatusError as error:
        raise KernelVariant(error.message) from None


def core_is_free() -> bool:
    """Whether a second core has nothing to do: the machine's load of the last minute leaves one idle beside us."""
    return len(os.sched_getaffinity(0)) - os.getloadavg()[0] >= 1.0


async def run(func: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call a heavy kernel on a worker thread. If the caller is cancelled the call runs to its end and its result is dropped."""
    return await asyncio.to_thread(func, *args, **kwargs)


select_variant(os.environ.get("QKDD_KERNELS") or None)

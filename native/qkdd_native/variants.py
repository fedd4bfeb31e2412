"""Which implementation of the kernels is in use."""

from __future__ import annotations

from qkdd_native._kernels import lib
from qkdd_native.status import Status, StatusError, check

NAMES = ("portable", "avx2", "avx512", "neon")


def variant() -> str:
    """Name of the variant in use: "portable", "avx2", "avx512" or "neon"."""
    return NAMES[lib.qkdd_variant_current()]


def available() -> tuple[str, ...]:
    """The variants that this processor can run, slowest first."""
    return tuple(name for number, name in enumerate(NAMES) if lib.qkdd_variant_available(number))


def select(name: str | None) -> None:
    """Use this variant from now on (None: the fastest); not while another thread is inside a kernel."""
    if name is not None and name not in NAMES:
        raise StatusError(Status.BAD_ARGUMENT, f"unknown kernel variant {name!r}; known: {', '.join(NAMES)}")
    number = lib.qkdd_variant_best() if name is None else NAMES.index(name)
    check(lib.qkdd_variant_select(number), f"kernel variant {name}")

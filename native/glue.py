"""Builds the cffi source from the one public header: everything between the two CDEF markers is the cdef."""

from pathlib import Path

import cffi

HEADER = Path(__file__).parent / "include" / "qkdd_kernels.h"

_text = HEADER.read_text(encoding="utf-8")
_cdef = _text.split("/* CDEF BEGIN */", 1)[1].split("/* CDEF END */", 1)[0]

ffibuilder = cffi.FFI()
ffibuilder.cdef(_cdef)
ffibuilder.set_source("qkdd_native._kernels", '#include "qkdd_kernels.h"\n', py_limited_api=True)

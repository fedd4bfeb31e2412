"""Quasi-cyclic LDPC codes for the binary symmetric channel: the shipped family, syndromes, and decoding of error patterns."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from qkdd_native._kernels import ffi, lib
from qkdd_native.arrays import Workspaces, pointer, size, vector
from qkdd_native.status import Status, StatusError, check

FAMILY = Path(__file__).parent / "codes" / "bsc.qc"
FAMILY_SHA256 = "c380624f8122aeaf4882973eef54186b5ad041adbc3486663b9674a55a59b262"
LOW_RATE = Path(__file__).parent / "codes" / "awgn.qc"
LOW_RATE_SHA256 = "6c3b4fc7b9e08c9200af2bfcf4006757e07e100898454a18affed1b6b1ca73df"
MAGIC = b"QKDDQC02"
LIFTING_MOST = 4096
TABLE = 64  # entries of a table, one a magnitude
GOLDEN = 0.6180339887498949  # multiples of it modulo 1 are spread evenly
KNOWN = 127  # value of a bit that cannot be wrong

_workspaces = Workspaces()


class LdpcCode:
    """One code: `rows` rows of circulants of `lifting` × `lifting` over `columns` columns, and `extra` rows for retries.

    A frame has `size` = columns · lifting bits. The syndrome of its first r rows has r · lifting bits; rows <= r <= rows + extra.
    `start`: magnitude of an unknown bit before decoding (the tables are made for it). Immutable, for any number of threads.
    """

    __slots__ = (
        "_columns_of",
        "_limits",
        "_shifts",
        "_starts",
        "_tables",
        "columns",
        "extra",
        "lifting",
        "rows",
        "start",
    )

    KNOWN = KNOWN

    def __init__(
        self,
        lifting: int,
        columns: int,
        rows: int,
        extra: int,
        start: int,
        limits: NDArray[np.uint32],
        tables: NDArray[np.uint8],
        starts: NDArray[np.uint32],
        columns_of: NDArray[np.uint32],
        shifts: NDArray[np.uint32],
    ) -> None:
        self.lifting, self.columns, self.rows, self.extra, self.start = lifting, columns, rows, extra, start
        self._limits = vector(limits, np.uint32, "limits")
        self._tables = vector(tables, np.uint8, "tables")
        self._starts = vector(starts, np.uint32, "starts")
        self._columns_of = vector(columns_of, np.uint32, "columns_of")
        self._shifts = vector(shifts, np.uint32, "shifts")
        edges = len(self._columns_of)
        whole = len(self._starts) == rows + extra + 1 and len(self._shifts) == edges and int(self._starts[-1]) == edges
        if not whole or len(self._tables) != TABLE * len(self._limits) or not 1 <= start <= KNOWN:
            raise StatusError(Status.BAD_ARGUMENT, "the parts of an LDPC code do not fit each other")
        self._workspace(rows + extra)  # refuses a code outside the kernel's domain

    @property
    def size(self) -> int:
        return self.columns * self.lifting

    @property
    def leak(self) -> float:
        """Syndrome bits over bits of a whole frame, without retries."""
        return self.rows / self.columns

    def lifting_for(self, bits: int) -> int:
        """The least lifting whose frames hold `bits` bits."""
        return 64 * -(-bits // (64 * self.columns))

    def adapted(self, bits: int, lifting: int | None = None) -> Self:
        """This code for a frame of `bits` bits with this lifting (the least that holds them); columns that stay empty are
        dropped.

        A shift s becomes s mod 64 + 64 · (⌊s / 64⌋ mod ⌊lifting / 64⌋), so cycles of four that are none modulo 64 stay none.
        Dropped (shortened) columns are those of `shortening_order`. Raises StatusError if bits lies outside 1 to 8192 · columns.
        """
        most = LIFTING_MOST * self.columns
        if not 1 <= bits <= most:
            raise StatusError(Status.BAD_ARGUMENT, f"a frame has 1 to {most} bits, not {bits}")
        lifting = self.lifting_for(bits) if lifting is None else lifting
        if lifting % 64 or not bits <= lifting * self.columns <= most:
            raise StatusError(Status.BAD_ARGUMENT, f"{bits} bits do not go with a lifting of {lifting}")
        order = self.shortening_order()
        kept = max(-(-bits // lifting), self.columns - order.size)
        keep = np.ones(self.columns, np.bool_)
        keep[order[: self.columns - kept]] = False
        edges = keep[self._columns_of]
        rows_of = self._rows_of()
        degrees = np.bincount(rows_of[edges], minlength=len(self._starts) - 1)
        base = self._shifts[edges]
        return type(self)(
            lifting,
            kept,
            self.rows,
            self.extra,
            self.start,
            self._limits,
            self._tables,
            np.append(0, np.cumsum(degrees)).astype(np.uint32),
            (np.cumsum(keep) - 1).astype(np.uint32)[self._columns_of[edges]],
            base % 64 + 64 * (base // 64 % np.uint32(lifting // 64)),
        )

    def shortening_order(self) -> NDArray[np.int64]:
        """Columns in the order in which they are dropped: those of degree three and more, spread evenly over the degrees.

        Columns of degree two stay: a code has about as many as it has rows, and shortening keeps the rows. So do columns
        without which a row would have fewer than two, and at least three fifths of all.
        """
        degrees = np.bincount(self._columns_of, minlength=self.columns)
        heavy = np.flatnonzero(degrees > 2)
        heavy = heavy[np.argsort(degrees[heavy], kind="stable")]
        spread = np.argsort(np.arange(len(heavy)) * GOLDEN % 1.0, kind="stable")
        rows_of = self._rows_of()
        left = np.bincount(rows_of)
        chosen: list[int] = []
        for column in heavy[spread]:
            rows = rows_of[self._columns_of == column]
            if len(chosen) < self.columns * 2 // 5 and (left[rows] > 2).all():
                left[rows] -= 1
                chosen.append(int(column))
        return np.array(chosen, np.int64)

    def punctured(self, count: int) -> NDArray[np.int64]:
        """`count` columns of circulants for private bits: of degree two, evenly spaced, no row with two of them, ascending.

        No check has two of their bits, so their part of the matrix has full rank: the syndrome of a frame whose bits there are
        uniform tells (rows - count) · lifting bits of the others, and each that is opened one more (untainted puncturing:
        Elkouss, Martinez-Mateo, Martin, ISIT 2012). Raises StatusError if there are not so many.
        """
        rows_of = self._rows_of()
        first = rows_of < self.rows
        rows_of, columns_of = rows_of[first], self._columns_of[first]
        pairs = np.flatnonzero(np.bincount(columns_of, minlength=self.columns) == 2)
        chosen: list[int] = []
        taken: set[int] = set()
        for place in range(count):
            start = (2 * place + 1) * len(pairs) // (2 * count)
            for column in np.roll(pairs, -start):
                rows = {int(row) for row in rows_of[columns_of == column]}
                if column not in chosen and not rows & taken:
                    chosen.append(int(column))
                    taken |= rows
                    break
            else:
                raise StatusError(Status.BAD_ARGUMENT, f"{self!r} has fewer than {count} columns to puncture")
        return np.array(sorted(chosen), np.int64)

    def entries(self) -> tuple[NDArray[np.uint32], NDArray[np.uint32], NDArray[np.int64]]:
        """Columns and shifts of all entries, row by row, and where the rows start (one more than there are rows)."""
        return self._columns_of, self._shifts, self._starts.astype(np.int64)

    def _rows_of(self) -> NDArray[np.int64]:
        """The row of each entry."""
        return np.searchsorted(self._starts, np.arange(len(self._columns_of)), side="right").astype(np.int64) - 1

    def _code(self, rows: int) -> object:
        return ffi.new(
            "qkdd_ldpc_code *",
            (
                self.lifting,
                self.columns,
                rows,
                pointer(self._starts),
                pointer(self._columns_of),
                pointer(self._shifts),
            ),
        )

    def _workspace(self, rows: int) -> int:
        words = ffi.new("size_t *")
        check(lib.qkdd_ldpc_workspace(self._code(rows), words), "LdpcCode")
        return int(words[0])

    def _rows(self, rows: int) -> int:
        if not self.rows <= rows <= self.rows + self.extra:
            raise StatusError(Status.BAD_ARGUMENT, f"rows must be {self.rows} to {self.rows + self.extra}, not {rows}")
        return int(rows)

    def syndrome(self, bits: NDArray[np.uint8], rows: int | None = None) -> NDArray[np.uint8]:
        """uint8[rows · lifting] of bits uint8[size]; `rows` None: without the rows for retries. Constant-time in the bits."""
        rows = self._rows(self.rows if rows is None else rows)
        bits = vector(bits, np.uint8, "bits")
        if len(bits) != self.size:
            raise StatusError(Status.BAD_ARGUMENT, f"a frame has {self.size} bits, not {len(bits)}")
        out = np.empty(rows * self.lifting, np.uint8)
        check(lib.qkdd_ldpc_syndrome(self._code(rows), pointer(bits), pointer(out)), "syndrome")
        return out

    def decode(
        self, syndrome: NDArray[np.uint8], prior: NDArray[np.int8], iterations: int
    ) -> tuple[NDArray[np.uint8] | None, int]:
        """The error pattern uint8[size] with this syndrome and the iterations that it took; None if none was found.

        syndrome: of the errors (alice's XOR bob's), of as many rows as it has bits for. prior: int8[size], `start` for a bit that
        may be wrong, KNOWN for one that is known. What is found has the right syndrome; only a hash tells whether it is right.
        """
        syndrome, prior = vector(syndrome, np.uint8, "syndrome"), vector(prior, np.int8, "prior")
        rows = self._rows(len(syndrome) // self.lifting)
        if len(syndrome) != rows * self.lifting or len(prior) != self.size:
            raise StatusError(Status.BAD_ARGUMENT, "syndrome or prior are not of this code's size")
        iterations = size(iterations, "iterations", 10_000)
        workspace = _workspaces.take(self._workspace(rows))
        errors, used = np.empty(self.size, np.uint8), ffi.new("uint32_t *")
        code = lib.qkdd_ldpc_decode(
            self._code(rows),
            pointer(syndrome),
            ffi.from_buffer("int8_t[]", prior),
            pointer(self._tables),
            pointer(self._limits),
            len(self._limits),
            iterations,
            pointer(workspace),
            len(workspace),
            pointer(errors),
            used,
        )
        _workspaces.keep(workspace)
        check(code, "decode")
        taken = int(used[0])
        return (errors, taken) if taken <= iterations else (None, iterations)

    def __repr__(self) -> str:
        return f"<LdpcCode {self.size} bits, leak {self.leak:.3f}>"


C = TypeVar("C", bound=LdpcCode)


def parse(data: bytes, kind: type[C]) -> tuple[C, ...]:
    """The codes of a family file (form: docs/rooms/ldpc.md) as `kind`, in order of leak. Raises StatusError on anything else."""
    if data[: len(MAGIC)] != MAGIC:
        raise StatusError(Status.MALFORMED, "this is no family of LDPC codes")
    at = len(MAGIC)

    def take(count: int, kind: str) -> NDArray[np.generic]:
        nonlocal at
        last = at + count * np.dtype(kind).itemsize
        if last > len(data):
            raise StatusError(Status.TRUNCATED, "the family of LDPC codes ends early")
        part = np.frombuffer(data, kind, count, at)
        at = last
        return part

    codes = []
    for _ in range(int(take(1, "<u4")[0])):
        columns, rows, extra, start, stages, edges = (int(value) for value in take(6, "<u4"))
        limits, tables = take(stages, "<u4").astype(np.uint32), take(TABLE * stages, "u1").astype(np.uint8)
        starts = np.append(0, np.cumsum(take(rows + extra, "u1"), dtype=np.int64)).astype(np.uint32)
        narrow = "u1" if columns <= 256 else "<u2"
        columns_of, shifts = take(edges, narrow).astype(np.uint32), take(edges, "<u2").astype(np.uint32)
        parts = (limits, tables, starts, columns_of, shifts)
        codes.append(kind(LIFTING_MOST, columns, rows, extra, start, *parts))
    if at != len(data):
        raise StatusError(Status.MALFORMED, "bytes are left over behind the family of LDPC codes")
    return tuple(sorted(codes, key=lambda code: code.leak))


def family(kind: type[C], path: Path = FAMILY, digest: str = FAMILY_SHA256) -> tuple[C, ...]:
    """The shipped codes in order of leak. Raises StatusError if the file is not the one that was shipped."""
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != digest:
        raise StatusError(Status.MALFORMED, f"{path.name} is not the file that belongs to this version")
    return parse(data, kind)


def low_rate_family(kind: type[C]) -> tuple[C, ...]:
    """The shipped codes of rate 0.1, 0.05 and 0.02 for the binary-input AWGN channel (CV-QKD), for `soft.decode_soft`."""
    return family(kind, LOW_RATE, LOW_RATE_SHA256)

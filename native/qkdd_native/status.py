"""The kernels' return codes as an exception; qkdd.kernels turns it into the error tree."""

from __future__ import annotations

from enum import IntEnum


class Status(IntEnum):
    """`qkdd_status` of the public header."""

    OK = 0
    BAD_ARGUMENT = 1
    TRUNCATED = 2
    MALFORMED = 3
    UNSORTED = 4
    OUT_OF_RANGE = 5
    NO_SPACE = 6
    UNSUPPORTED = 7


class StatusError(Exception):
    """A kernel refused its input."""

    def __init__(self, status: Status, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


def check(code: int, operation: str) -> None:
    """Raise StatusError unless `code` is OK."""
    if code != 0:
        status = Status(code)
        raise StatusError(status, f"{operation}: {_MEANING[status]}")


_MEANING = {
    Status.BAD_ARGUMENT: "a size or parameter is outside the kernel's domain",
    Status.TRUNCATED: "the input ends in the middle of a record",
    Status.MALFORMED: "the input is not of the stated format",
    Status.UNSORTED: "the times are not non-decreasing or not within ±2^61 ps",
    Status.OUT_OF_RANGE: "a value or position is outside its range",
    Status.NO_SPACE: "an output buffer or workspace is too small",
    Status.UNSUPPORTED: "this processor cannot run the variant",
}

"""Thorlabs OSW fibre-optic switches: text lines. Pure functions.

Source: fact sheet `devices.md` section 15 (PyPI pnpq). Commands end with LF, answers with CR LF. `S 1` is bar, `S 2` cross,
both without answer; `S?` tells 1 or 2, `T?` the type, `I?` board name and firmware.
"""

from __future__ import annotations

import re

from qkdd.device.transport import FrameError, Stranger

END_OUT, END_IN = b"\n", b"\r\n"
STATES = ("bar", "cross")
STATE, TYPE, BOARD = b"S?", b"T?", b"I?"


def set_state(position: int) -> bytes:
    """`position` 1 (bar) or 2 (cross)."""
    return b"S %d" % position


def state(text: str) -> int:
    """1 or 2. Raises FrameError."""
    if text not in ("1", "2"):
        raise FrameError(f"{text[:60]!r} is neither 1 nor 2")
    return int(text)


def known(text: str) -> int:
    """The answer to `S?` as proof of identity, for the board's name is not documented. Raises Stranger."""
    if text not in ("1", "2"):
        raise Stranger(f"answers {text[:60]!r} to S?, as no OSW switch does")
    return int(text)


def version(text: str) -> str:
    """The dotted number in the answer to `I?`; empty when there is none."""
    found = re.search(r"\d+(?:\.\d+)+", text)
    return found[0] if found else ""

"""Daemons that are not as they should be: `python -m qkdd_hil.rig.odd_node KIND run FILE`, else as `qkdd`.

`past`: of a release whose protocol this one no longer speaks.
`tampering`: changes a bit of what it sends, after it was counted for the seal, as a box that has broken into the TLS session
would; only while the file that QKDD_TAMPER names exists.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from qkdd.cli import main
from qkdd.peer import hello
from qkdd.peer.frames import HEADER
from qkdd.peer.session import Session

TAMPER = "QKDD_TAMPER"
_MESSAGE = b"distill.test-bits"  # packed bits: what is changed still decodes, and only the seal can tell
_HEAD = bytes([len(_MESSAGE)]) + _MESSAGE


def _past() -> None:
    hello.PROTOCOL_MIN = hello.PROTOCOL_MAX = hello.PROTOCOL_MIN - 1


def _tampering() -> None:
    flag = Path(os.environ[TAMPER])
    write = Session._write

    def changed(session: Session, *parts: bytes) -> None:
        frame = b"".join(parts)
        if flag.exists() and frame[HEADER.size :].startswith(_HEAD):
            frame = frame[:-2] + bytes([frame[-2] ^ 1]) + frame[-1:]  # the last byte has padding, which is looked at
        write(session, frame)

    setattr(Session, "_write", changed)  # noqa: B010 - what this module is for


KINDS = {"past": _past, "tampering": _tampering}

if __name__ == "__main__":
    KINDS[sys.argv.pop(1)]()
    main()

"""Checking an audit log: every line in its place, every signature good, nothing cut off the end."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from qkdd.core.audit import GENESIS, SIGNED, SIGNER, head_path, link, signed_text
from qkdd.core.errors import Kind, QkddError

# (certificates leaf first DER, message, signature) -> None; raises ValueError with the reason
Verifier = Callable[[list[bytes], bytes, bytes], None]


class AuditBroken(QkddError):
    code = "QKD-CORE-AUDIT"
    kind = Kind.PERMANENT
    meaning = "The audit log was changed: a line was altered, removed or cut off, or a signature is not good."
    default_remedy = "Keep the file as evidence, compare it with a copy elsewhere, and find out who had access."


@dataclass(frozen=True, slots=True)
class AuditReport:
    """lines: in the file. signatures: good ones. unsigned: lines behind the last of them, which only the chain protects."""

    lines: int
    signatures: int
    unsigned: int


def verify(path: Path, verifier: Verifier | None = None) -> AuditReport:
    """Check chain and signatures (without a verifier: the chain alone). Raises AuditBroken naming the first bad line."""

    def broken(number: int, reason: str) -> AuditBroken:
        return AuditBroken(f"audit log {path}: line {number}: {reason}", line=number)

    chain, number, signed, signatures = GENESIS, 0, 0, 0
    signer: list[bytes] = []
    chains = {0: GENESIS}
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                entry = json.loads(line)
                claimed = str(entry.pop("chain"))
                seq, event = int(entry["seq"]), entry["event"]
            except (ValueError, TypeError, KeyError, AttributeError):
                raise broken(number, "is not readable") from None
            before, chain = chain, link(chain, json.dumps(entry, sort_keys=True))
            as_written = json.dumps({**entry, "chain": claimed}, sort_keys=True).encode() + b"\n"
            if chain != claimed or seq != number or line != as_written:
                raise broken(number, "it was changed, or a line before it was removed")
            chains[number] = chain
            if event == SIGNER:
                signer = [_decoded(text, broken, number) for text in entry.get("certificates", [])]
            elif event == SIGNED:
                if verifier is not None:
                    value = _decoded(entry.get("value"), broken, number)
                    try:
                        verifier(signer, signed_text(number - 1, before), value)
                    except ValueError as error:
                        raise broken(number, str(error)) from None
                signed, signatures = number, signatures + 1
    head = head_path(path)
    if head.exists():
        try:
            last = json.loads(head.read_text(encoding="utf-8"))
            seq, claimed = int(last["seq"]), str(last["chain"])
        except (ValueError, TypeError, KeyError):
            raise broken(number, f"{head.name} is not readable") from None
        if chains.get(seq) != claimed:
            raise broken(number, f"the log ends here or goes on otherwise, but line {seq} was signed once")
    return AuditReport(number, signatures, number - signed)


def _decoded(text: object, broken: Callable[[int, str], AuditBroken], number: int) -> bytes:
    try:
        return base64.b64decode(str(text), validate=True)
    except binascii.Error:
        raise broken(number, "holds no base64") from None

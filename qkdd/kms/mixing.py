"""From an allocation's bytes of the quantum link and its post-quantum share to its keys."""

from __future__ import annotations

from qkdd.core.sealing import Sealer
from qkdd.core.secret import Secret
from qkdd.kms import exchange
from qkdd.kms.allocation import Allocation
from qkdd.kms.classes import KeyClass


def mix_place(allocation_id: bytes) -> str:
    """Where the sealed post-quantum secret of a draw stands."""
    return f"mix/{allocation_id.hex()}"


def transcript(drawing: str, recording: str, allocation: Allocation) -> bytes:
    """The hash of everything that the two sites said about a draw, equal on both."""
    if allocation.offer is None:
        raise AssertionError("a draw with a post-quantum share has an offer")
    said: list[object] = [
        allocation.key_class,
        allocation.id.hex(),
        allocation.master,
        list(allocation.slaves),
        allocation.key_bytes,
        allocation.amount,
        list(allocation.pieces),
    ]
    return exchange.transcript(drawing, recording, said, allocation.offer)


class Mixer:
    """The keys of one allocation from its bytes of the quantum link. drawing, recording: ids of the two KMSs."""

    def __init__(self, sealer: Sealer, drawing: str, recording: str, allocation: Allocation) -> None:
        self._allocation = allocation
        self._shared: Secret | None = None
        if (allocation.mix is None) != (allocation.key_class is KeyClass.ITS):
            raise AssertionError("a class with a post-quantum share and no share, or the other way round")
        if allocation.mix is not None:
            self._shared = sealer.open(allocation.mix, mix_place(allocation.id))
            self._salt = transcript(drawing, recording, allocation)

    def key(self, key_id: str, quantum: bytes) -> bytes:
        """quantum: this key's bytes of the link (empty for `pqc-only`)."""
        if self._shared is None:
            return quantum
        made = exchange.derive(
            quantum, self._allocation.key_bytes, self._shared, self._salt, self._allocation.key_class, key_id
        )
        return bytes(made.reveal())

"""Errors of the proofs and of the epsilon ledger."""

from __future__ import annotations

from qkdd.core.errors import Kind, QkddError


class ProofInputError(QkddError):
    """Numbers that cannot come from any run of the protocol, or that violate a condition of the theorem."""

    code = "QKD-SEC-INPUT"
    kind = Kind.KEY_MATERIAL
    meaning = "The numbers given to a security proof are inconsistent or outside its conditions; no length follows."
    default_remedy = "The message names the number; check counters and link configuration of both nodes."


class EpsilonSpent(QkddError):
    """The key epoch has no security budget left; only the operator's re-bootstrap opens a new one."""

    code = "QKD-SEC-EPSILON-SPENT"
    kind = Kind.INTERLOCK
    meaning = "The security budget (epsilon) of this key epoch is spent; no further block may be made in it."
    default_remedy = (
        "Re-bootstrap the link with fresh certificates or a new pre-shared key (new epoch); no restart needed."
    )

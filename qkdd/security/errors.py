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


class InconsistentCounts(ProofInputError):
    """Counts that no block can have: errors above detections, detections above pulses, fractions, negatives, NaN."""

    code = "QKD-SEC-COUNTS"
    meaning = "The counts of a block contradict each other or are no counts; no length follows."
    default_remedy = "The message names the counter; look for lost symbols, slot slip or a peer that announces wrongly."


class IntensityRefused(ProofInputError):
    """Intensities or probabilities that the decoy proof does not cover or that left their characterised interval."""

    code = "QKD-SEC-INTENSITY"
    meaning = "Intensities or their probabilities break a condition of the decoy proof; no length follows."
    default_remedy = "The message names the condition; correct the settings or characterise the transmitter again."


class PlotsAbsent(QkddError):
    """A picture was asked for where the drawing library is not installed."""

    code = "QKD-SEC-PLOTS"
    kind = Kind.PERMANENT
    meaning = "Pictures need matplotlib, which is not installed."
    default_remedy = "Install the extra: pip install 'qkdd[plots]'; or print the numbers with --json."

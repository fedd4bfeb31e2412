"""Why a block is refused. Both nodes discard it, count the code and show it.

`distil` raises these and never aborts the session itself: the link calls `session.abort(error)`, which brings both nodes to
the same place, whether only one or both of them refused.
"""

from __future__ import annotations

from qkdd.core.errors import Kind, QkddError


class BlockRefused(QkddError):
    """Inner node: the block is discarded and never retried. Rooms above may add subclasses with codes `QKD-BLK-…`."""

    kind = Kind.KEY_MATERIAL


class QberExceeded(BlockRefused):
    code = "QKD-BLK-QBER"
    meaning = "The error rate of the opened test bits is above the error rate that was agreed before the block."
    default_remedy = (
        "Check polarization and alignment (`qkdctl calibrate polarization`); an eavesdropper looks the same."
    )


class NoLength(BlockRefused):
    code = "QKD-BLK-NO-LENGTH"
    meaning = "The proof gives no secret bit at the agreed size, tolerated error and leak budget."
    default_remedy = "Lower the error rate or make blocks longer; at this tolerated error no key exists."


class BlockUnpaid(BlockRefused):
    code = "QKD-BLK-UNPAID"
    meaning = "The block would yield less key than the authentication of its own messages consumes."
    default_remedy = "Make blocks longer or lower the error rate until a block yields more than its tags cost."


class LeakExceeded(BlockRefused):
    code = "QKD-BLK-LEAK"
    meaning = "Error correction would have to disclose more than the leak budget that was agreed before the block."
    default_remedy = (
        "The error rate rose during the block; if it repeats, raise error_margin in the link's configuration."
    )


class AcceptanceMissed(BlockRefused):
    code = "QKD-BLK-ACCEPTANCE"
    meaning = (
        "A fixed-length block missed a threshold that was set before it: detections, single photons or phase error."
    )
    default_remedy = (
        "Compare the link with its characterisation (`qkdctl link advise`), then correct `expected` or accept_margin."
    )


class VerifyFailed(BlockRefused):
    code = "QKD-BLK-VERIFY"
    meaning = "The hashes of the corrected keys differ: error correction left an error behind."
    default_remedy = "One block in thousands is normal; more often means bursts of errors or a damaged channel."


class PlanMismatch(BlockRefused):
    code = "QKD-BLK-PLAN-MISMATCH"
    meaning = "The two nodes computed different plans for the same block."
    default_remedy = "Compare both nodes' versions and shared link configuration; restart the link if they are equal."


class BlockTooShort(BlockRefused):
    code = "QKD-BLK-TOO-SHORT"
    meaning = "The block has too few sifted bits for any proof."
    default_remedy = "Check count rates and the matching window, or make blocks longer."


class BlockMalformed(BlockRefused):
    code = "QKD-BLK-MALFORMED"
    meaning = (
        "A message of the peer does not fit the block: wrong size, position out of range, value that is no number."
    )
    default_remedy = "Compare both nodes' versions; if they are equal, suspect the classical channel."

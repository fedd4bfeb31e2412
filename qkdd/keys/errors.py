"""Errors of the spool, of the two-phase commit and of the hand-over."""

from __future__ import annotations

from qkdd.core.errors import Kind, QkddError
from qkdd.distill.errors import BlockRefused


class KeysError(QkddError):
    """Inner node: what goes wrong between an accepted block and its hand-over."""


class CommitRefused(BlockRefused):
    """The other node does not know of the refusal: abort the block with this error."""

    code = "QKD-BLK-COMMIT"
    meaning = "The two nodes do not describe the same block at the commit; it is discarded before it became key."
    default_remedy = (
        "One such block after a restart is harmless; if it repeats, compare versions and logs of both nodes."
    )
    mutual = False


class SpoolLimit(BlockRefused):
    code = "QKD-BLK-SPOOL-LIMIT"
    meaning = (
        "So much key waits for its hand-over that the configured limit of the spool is reached; the block is discarded."
    )
    default_remedy = "Bring the KMS back (see the hand-over errors) or raise `spool_limit` in [keys]."
    mutual = False


class CommitInDoubt(KeysError):
    """The session must be closed; `Committer.settle` on the next one decides."""

    code = "QKD-KEYS-IN-DOUBT"
    kind = Kind.TRANSIENT
    meaning = "The commit of a block was interrupted; whether it is key is decided with the other node on reconnect."
    default_remedy = "Nothing: it is settled by itself when the link is back."


class BlockInconsistent(KeysError):
    code = "QKD-KEYS-INCONSISTENT"
    kind = Kind.INTERLOCK
    meaning = (
        "This node finished a block that the other node does not know; the link makes no key until a person looked."
    )
    default_remedy = (
        "The other node lost its state (restored disk?). Check it, then re-bootstrap the authentication on both nodes; "
        "the KMS never gives out a chunk that only one side holds."
    )


class UnknownBlock(KeysError):
    code = "QKD-KEYS-UNKNOWN-BLOCK"
    kind = Kind.KEY_MATERIAL
    meaning = "A block is not in the state that the requested step needs; the step was not done."
    default_remedy = "Look at `qkdctl blocks`; report it if no one touched the spool."


class HandOverFailed(KeysError):
    """Nothing is known about what the KMS stored: the chunk stays offered and the same call is repeated."""

    code = "QKD-KEYS-HANDOVER"
    kind = Kind.TRANSIENT
    meaning = "The KMS cannot be reached or failed; the chunks stay in the spool and are offered again by themselves."
    default_remedy = "Check that qkdd-kms runs and that kms_url, kms_id and the certificates in [keys] are right."


class OfferedElsewhere(KeysError):
    code = "QKD-KEYS-ELSEWHERE"
    kind = Kind.PERMANENT
    meaning = "Chunks may be stored at another KMS or sink than the configured one; they wait, and go to no other."
    default_remedy = (
        "Configure the former KMS or sink again until `qkdctl blocks` shows nothing offered; new blocks go on."
    )


class HandOverRefused(KeysError):
    """The KMS answered 400 or 401, which proves that it stored nothing."""

    code = "QKD-KEYS-HANDOVER-REFUSED"
    kind = Kind.PERMANENT
    meaning = "The KMS refuses the chunks of this node; they stay in the spool and are offered again at long intervals."
    default_remedy = "The message has the KMS's own words; usually this node is not the one in the KMS's `nodes`."

"""Errors of the KMS. `status` is what an HTTP caller gets; messages quoted in ETSI GS QKD 014 are used word for word."""

from __future__ import annotations

import math
from typing import ClassVar

from qkdd.core.errors import Kind, QkddError


class KmsError(QkddError):
    """Inner node."""

    status: ClassVar[int] = 503
    retry_after: ClassVar[int | None] = None


class RequestRefused(KmsError):
    code = "QKD-KMS-REQUEST"
    meaning = "A request breaks a rule of the interface; nothing was changed."
    default_remedy = "The message and details say which rule; correct the client."
    status = 400


class NotEntitled(KmsError):
    code = "QKD-KMS-NOT-ENTITLED"
    meaning = "The certificate's identity is not in the allow-list, or not entitled to what it asked for."
    default_remedy = (
        "Check `saes`, `pairs`, `nodes` and `peers` in the KMS configuration against the certificate's name."
    )
    status = 401


class KeysNotFound(KmsError):
    code = "QKD-KMS-NOT-FOUND"
    meaning = "A key was asked for that is not here: unknown, delivered already, or expired."
    default_remedy = "Draw new keys; a key is given once to each entitled application."
    status = 400


class NotEnoughKey(KmsError):
    code = "QKD-KMS-NO-KEY"
    kind = Kind.TRANSIENT
    meaning = "The pool holds less key than the request needs."
    default_remedy = "Try again later, or ask for less; look at the link's key rate."
    retry_after = 5


class OriginShort(NotEnoughKey):
    code = "QKD-KMS-ORIGIN"
    kind = Kind.TRANSIENT
    meaning = (
        "The pool holds too little key of the sources, or of the claimed epsilon, that policy wants for this pair."
    )
    default_remedy = (
        "Wait for such key, ask for less at once, or change `sources` and `max_epsilon` of the pair on both sites."
    )


class PeerKmsDown(KmsError):
    code = "QKD-KMS-PEER"
    kind = Kind.TRANSIENT
    meaning = "The other site's KMS does not answer; no key is given out that it does not know of."
    default_remedy = "Check the line and the other KMS; requests succeed again by themselves."
    retry_after = 2


class PeerDisagrees(KmsError):
    code = "QKD-KMS-DISAGREE"
    kind = Kind.PERMANENT
    meaning = "The other site's KMS refuses this pair of applications; no key was given out and none was lost."
    default_remedy = "Compare `saes` and `pairs` in the configurations of both KMSs."
    retry_after = 30


class StoreMismatch(KmsError):
    code = "QKD-KMS-STORE-KIND"
    kind = Kind.PERMANENT
    meaning = "A store of synthetic key was opened for real use, or the other way round; nothing was started."
    default_remedy = "Give each its own `state_directory`; a store of `qkdd-kms dev-pair` is of no use elsewhere."


class StoreAway(KmsError):
    code = "QKD-KMS-STORE"
    kind = Kind.TRANSIENT
    meaning = (
        "The key store (PostgreSQL, or the file) did not answer within `store_deadline`; nothing was given out. What was under "
        "way there counts as an answer that was lost."
    )
    default_remedy = (
        "Look at the database server, at who holds its locks, and at the disk. The KMS tries by itself and serves again as soon "
        "as the store answers."
    )
    retry_after = 5


class TooBusy(KmsError):
    code = "QKD-KMS-BUSY"
    kind = Kind.TRANSIENT
    meaning = "An application has more requests under way than its limit."
    default_remedy = "Wait for answers before asking again, or raise `in_flight_per_sae`."
    retry_after = 1


class _Later(KmsError):
    """`seconds`: after which the same request would pass; None: it never would."""

    kind = Kind.TRANSIENT

    def __init__(self, message: str, seconds: float | None, **details: float) -> None:
        super().__init__(message, remedy=None, **details)
        self._seconds = seconds

    @property
    def retry_after(self) -> int | None:  # type: ignore[override]  # of this failure, not of its class
        return max(1, math.ceil(self._seconds)) if self._seconds is not None else None


class RateExceeded(_Later):
    code = "QKD-KMS-RATE"
    meaning = "An application asks more often than it may."
    default_remedy = (
        "Ask less often, for more keys at once, or raise `requests_per_s` in `limits` or of the application."
    )


class QuotaSpent(_Later):
    code = "QKD-KMS-QUOTA"
    meaning = "An application has drawn as much key in an hour as it may."
    default_remedy = (
        "Wait, or raise `key_bits_per_h` in `limits` or of the application; `qkdctl kms saes` shows what is left."
    )


class ChunkConflict(KmsError):
    code = "QKD-KMS-CHUNK"
    kind = Kind.KEY_MATERIAL
    meaning = "A chunk was pushed under an id that is known with another size, index or link; it was not stored."
    default_remedy = "The node or a store was restored from an old state; re-bootstrap the link."
    status = 400


class ChunkVoided(KmsError):
    code = "QKD-KMS-VOIDED"
    kind = Kind.KEY_MATERIAL
    meaning = "Key was brought under an id that whoever brought it has voided before; it was not stored."
    default_remedy = "Nothing: a voided key is gone for good. Bring new key under new ids."
    status = 400


class PoolFull(KmsError):
    code = "QKD-KMS-POOL-FULL"
    kind = Kind.TRANSIENT
    meaning = "The pool holds as much key as its limit allows; the node keeps its chunks and offers them again."
    default_remedy = "Nothing if applications draw slowly; otherwise raise `pool_bytes`."
    retry_after = 10


class ClassRefused(KmsError):
    code = "QKD-KMS-CLASS"
    meaning = "An application asked for a class of key that policy does not let this pair have; no key was given out."
    default_remedy = "Ask for a class that `classes` of the pair names, or change the pair on both sites."
    status = 400


class ExchangeRefused(KmsError):
    code = "QKD-KMS-EXCHANGE"
    kind = Kind.PERMANENT
    meaning = "The post-quantum exchange of the two KMSs does not fit; no key was given out and none was lost."
    default_remedy = "Give both sites the same `curve` in [hybrid], and the same program version."
    retry_after = 30

"""Messages of ETSI GS QKD 020 V1.1.1 (key hand-over between the key management systems of one site). Sans-I/O.

Names are lower case; extensions are objects; an acknowledgement names keys by id. Only 400 and 401 prove that nothing was
stored; after anything else the sender repeats the same call or voids it.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, Any

import msgspec

BASE = "/kmapi/v1/ext_keys"
VERSIONS = "/kmapi/versions"
MAX_KEYS = 1024  # in one message
# Extensions are named E<PEN>_…; 0 is the reserved private enterprise number.
CLAIM = "E0_qkdd_claim"  # optional: class, auth, proof and epsilon that the sender claims for the keys of a call

_SAE_ID = r"^[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]{1,64}$"
SaeId = Annotated[str, msgspec.Meta(pattern=_SAE_ID)]
_SAE_FORM = re.compile(_SAE_ID)


class AckStatus(StrEnum):
    RELAYED = "relayed"
    FAILED = "failed"
    VOIDED = "voided"
    FAILED_TO_VOID = "failed to void"
    NOT_PRESENT = "key not present"


class ExtKey(msgspec.Struct, frozen=True, omit_defaults=True):
    """One key. `value`: base64, standard alphabet."""

    key_id: str
    value: str
    extension: dict[str, msgspec.Raw] = {}


class ExtKeys(msgspec.Struct, frozen=True, omit_defaults=True):
    """Body of `POST ext_keys`. Without `ack_callback_url` the answer itself acknowledges (synchronous mode)."""

    keys: Annotated[list[ExtKey], msgspec.Meta(min_length=1, max_length=MAX_KEYS)]
    initiator_sae_id: SaeId
    target_sae_ids: Annotated[list[SaeId], msgspec.Meta(min_length=1, max_length=64)]
    ack_callback_url: str | None = None
    extension_mandatory: dict[str, Any] = {}
    extension_optional: dict[str, Any] = {}


class VoidKeys(msgspec.Struct, frozen=True, omit_defaults=True):
    """Body of `POST ext_keys/void`. No `key_ids`: all of them, and then `all_confirmation` has to be true."""

    key_ids: Annotated[list[str], msgspec.Meta(max_length=MAX_KEYS)]
    initiator_sae_id: SaeId
    target_sae_ids: Annotated[list[SaeId], msgspec.Meta(min_length=1, max_length=64)]
    ack_callback_url: str | None = None
    all_confirmation: bool = False
    extension_mandatory: dict[str, Any] = {}
    extension_optional: dict[str, Any] = {}


class AckedKey(msgspec.Struct, frozen=True):
    key_id: str


class Ack(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of some keys; an answer or a callback is an array of these."""

    key_id_container: list[AckedKey]
    ack_status: str
    initiator_sae_id: str = ""
    target_sae_ids: list[str] = []
    message: str | None = None


Acks = Annotated[list[Ack], msgspec.Meta(max_length=MAX_KEYS)]


def acks(statuses: dict[str, str], initiator: str, targets: list[str], messages: dict[str, str] | None = None) -> bytes:
    """The JSON array for key id → status; keys of one status and message share a container."""
    groups: dict[tuple[str, str | None], list[AckedKey]] = {}
    for key_id, status in statuses.items():
        groups.setdefault((status, (messages or {}).get(key_id)), []).append(AckedKey(key_id))
    return msgspec.json.encode(
        [Ack(keys, status, initiator, targets, message) for (status, message), keys in groups.items()]
    )


def read_acks(body: bytes) -> dict[str, str]:
    """Key id (lower case) → status. Raises ValueError for what is no array of acknowledgements, or says two things of one key."""
    try:
        found = msgspec.json.decode(body, type=Acks)
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from None
    statuses: dict[str, str] = {}
    for ack in found:
        for key in ack.key_id_container:
            name = key.key_id.lower()
            if statuses.setdefault(name, ack.ack_status) != ack.ack_status:
                raise ValueError(f"two statuses for key {name[:36]}")
    return statuses


def is_sae_id(text: str) -> bool:
    """1 to 64 characters that a URI may have."""
    return _SAE_FORM.fullmatch(text) is not None

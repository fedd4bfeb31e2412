"""Errors of `qkd-psk`."""

from __future__ import annotations

from qkdd.core.errors import Kind, QkddError


class PskError(QkddError):
    """Inner node: what goes wrong between a KMS and the program that uses its keys."""


class KmsAway(PskError):
    """No key from the KMS now; `retry_after` in seconds when it said one."""

    code = "QKD-PSK-KMS"
    kind = Kind.TRANSIENT
    meaning = "The KMS gives no key now; the key in use stays until `max_age`, then `on_old_key` decides."
    default_remedy = "Check that the KMS runs and has key for this pair, and that [kms] names its url and identity."

    def __init__(self, message: str, *, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class KmsRefused(PskError):
    code = "QKD-PSK-KMS-REFUSED"
    kind = Kind.PERMANENT
    meaning = "The KMS refuses this application (400, 401) or answers what ETSI GS QKD 014 does not know."
    default_remedy = "The message has the KMS's own words; check the certificate in [kms] and `partner`."


class PartnerAway(PskError):
    code = "QKD-PSK-PARTNER"
    kind = Kind.TRANSIENT
    meaning = "The agent at the other end cannot be reached, or the line to it broke; it is called again."
    default_remedy = (
        "Check that qkd-psk runs there and that `connect`, `identity` and certificates in [partner] are right."
    )


class PartnerRefused(PskError):
    code = "QKD-PSK-PARTNER-REFUSED"
    kind = Kind.TRANSIENT
    meaning = "The agent at the other end did not take the offered key; the key in use stays and another one is tried."
    default_remedy = "The message has its code; look at the log of the other end, most often its KMS is away."


class LineMalformed(PskError):
    code = "QKD-PSK-LINE"
    kind = Kind.TRANSIENT
    meaning = "What came over the line between the agents is no message that belongs there; the line was closed."
    default_remedy = "Run the same version of qkd-psk at both ends, and the same sub-command."


class KeysDiffer(PskError):
    code = "QKD-PSK-KEYS-DIFFER"
    kind = Kind.KEY_MATERIAL
    meaning = "The two KMSs gave different keys for one key ID; the key is thrown away and was never used."
    default_remedy = "The two sites of the KMS disagree: look at both of their logs before you trust further keys."


class TargetFailed(PskError):
    code = "QKD-PSK-TARGET"
    kind = Kind.TRANSIENT
    meaning = "WireGuard or strongSwan did not take a key, or does not run; the key is applied again by itself."
    default_remedy = (
        "Check that the interface (or charon) is there and that qkd-psk may control it (CAP_NET_ADMIN or root)."
    )


class StateBroken(PskError):
    code = "QKD-PSK-STATE"
    kind = Kind.PERMANENT
    meaning = "The agent's state file cannot be used; the agent does not start."
    default_remedy = "If the master key is the right one, remove the file: the ends agree on a new key at once."

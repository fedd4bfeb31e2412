"""`[keys]`: where accepted key waits, how much of it pays for authentication, and to which KMS it goes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from qkdd.core.config import Section
from qkdd.core.units import Seconds
from qkdd.keys.sinks.config import Etsi020Sink, ExecSink, FileSink, KmipSink, Pkcs11Sink, VaultSink


class KeysConfig(Section, frozen=True):
    """`certificate`, `key`, `trust`, `crl`, `groups` are paths and names as in `[peer]`, for the TLS to the KMS.

    With one of `etsi020`, `file`, `exec`, `vault`, `pkcs11`, `kmip` key goes there instead, and nothing of the KMS is needed.
    """

    kms_url: str = ""
    kms_id: str = ""
    certificate: str = ""
    key: str = ""
    trust: str = ""
    crl: str = ""
    etsi020: Etsi020Sink | None = None
    file: FileSink | None = None
    exec: ExecSink | None = None
    vault: VaultSink | None = None
    pkcs11: Pkcs11Sink | None = None
    kmip: KmipSink | None = None
    groups: tuple[str, ...] = ("SecP384r1MLKEM1024", "X25519MLKEM768")
    # Masks are kept for this many blocks; the first accepted block fills the reserve before an application gets a bit.
    auth_reserve_blocks: int = 16
    auth_tags_per_block: int = 4  # in each direction
    spool_limit: int = 1 << 30  # bytes of key that may wait for the KMS
    answer_deadline: Seconds = Seconds(10.0)
    chunks_per_call: int = 16

    @property
    def sinks(self) -> list[str]:
        """Which of the other sinks are configured; at most one in a checked configuration."""
        return [
            name for name in ("etsi020", "file", "exec", "vault", "pkcs11", "kmip") if getattr(self, name) is not None
        ]

    @property
    def target(self) -> str:
        """Where key goes, for logs and events and beside each chunk: the KMS's id or the kind of sink."""
        if self.etsi020 is not None:
            return f"etsi020 {self.etsi020.kms_id}"
        return self.sinks[0] if self.sinks else self.kms_id

    def secret_files(self) -> list[Path]:
        """Files with a key, token or PIN for the way to the KMS or sink."""
        vault = self.vault.token_file if self.vault is not None else ""
        pin = self.pkcs11.pin_file if self.pkcs11 is not None else ""
        kmip = self.kmip.key if self.kmip is not None else ""
        other = self.etsi020.key if self.etsi020 is not None else ""
        return [Path(text) for text in (self.key, vault, pin, kmip, other) if text]

    @property
    def mask_target(self) -> int:
        """Masks that a direction holds when the reserve is full."""
        return self.auth_reserve_blocks * self.auth_tags_per_block

    def check(self) -> Iterator[tuple[str, str, str]]:
        if len(self.sinks) > 1:
            yield self.sinks[1], f"key already goes to {self.sinks[0]}", "name one sink"
        if self.sinks and self.kms_url:
            yield "kms_url", f"key already goes to {self.sinks[0]}", "name a KMS or another sink, not both"
        needed = ("kms_id", "certificate", "key", "trust", "crl")
        for name in () if self.sinks else needed:
            if not getattr(self, name):
                yield name, "is missing", "add it; the example configuration shows its form"
        url = urlsplit(self.kms_url)
        if not self.sinks and (url.scheme != "https" or not url.hostname or url.path.rstrip("/") or url.query):
            yield "kms_url", f"{self.kms_url!r} is not of the form https://host:port", "give the KMS's node plane"
        if self.auth_reserve_blocks < 2:
            yield "auth_reserve_blocks", "a reserve below two blocks cannot survive one crash", "use 16"
        if self.auth_tags_per_block < 4:
            yield "auth_tags_per_block", "one block takes four tags in each direction", "use 4"
        if self.spool_limit < 1 << 20:
            yield "spool_limit", "below one MiB not even a few blocks can wait", "use 1073741824"
        if not 1 <= self.chunks_per_call <= 1024:
            yield "chunks_per_call", "must lie between 1 and 1024", "use 16"
        if self.answer_deadline <= 0:
            yield "answer_deadline", "must be positive", 'use "10 s"'

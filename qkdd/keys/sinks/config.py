"""`[keys.etsi020]`, `[keys.file]` and the other sinks: at most one of them; without any, key goes to a KMS."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal
from urllib.parse import urlsplit

from qkdd.core.config import Section
from qkdd.core.etsi020 import MAX_KEYS, is_sae_id
from qkdd.core.units import Seconds
from qkdd.peer.tls import Suite


def _key_size(bits: int) -> Iterator[tuple[str, str, str]]:
    if bits % 8 or not 64 <= bits <= 4096:
        yield "key_size", "must be a multiple of 8 between 64 and 4096 bits", "use 256"


class FileSink(Section, frozen=True, kw_only=True):
    """A file for each chunk (docs/rooms/keys.md, Format of key files). The folder should be on tmpfs or encrypted."""

    directory: str


class ExecSink(Section, frozen=True, kw_only=True):
    """A program for each chunk, with the same JSON on its standard input. Exit code 0: it is stored; 65: refused for good."""

    command: tuple[str, ...]
    deadline: Seconds = Seconds(30.0)

    def check(self) -> Iterator[tuple[str, str, str]]:
        if not self.command:
            yield "command", "is empty", 'write ["/usr/local/bin/store-key"]'


class VaultSink(Section, frozen=True, kw_only=True):
    """OpenBao or Vault. `trust`: CA file of the server; `token_file`: mode 0600.

    engine: "kv" (version 2, a secret for each key) or "transit" (a key of the server that never leaves it again).
    mount: where the engine is mounted; empty for the usual place, "secret" or "transit".
    """

    url: str
    trust: str
    token_file: str
    engine: Literal["kv", "transit"] = "kv"
    mount: str = ""
    prefix: str = "qkd"
    namespace: str | None = None
    key_size: int = 256
    deadline: Seconds = Seconds(10.0)

    @property
    def mounted(self) -> str:
        """Path of the engine."""
        return self.mount or {"kv": "secret", "transit": "transit"}[self.engine]

    def check(self) -> Iterator[tuple[str, str, str]]:
        url = urlsplit(self.url)
        if url.scheme != "https" or not url.hostname or url.path.rstrip("/"):
            yield "url", f"{self.url!r} is not of the form https://host:port", 'write "https://vault.example:8200"'
        if self.engine == "transit":
            if self.key_size not in (128, 256):
                yield "key_size", "keys are imported for AES-GCM", "use 128 or 256"
            if "/" in self.prefix:
                yield "prefix", "a name of a Transit key has no slash", 'write "qkd"'
        for name in ("mount", "prefix"):
            if getattr(self, name) and not all(
                part and part.replace("-", "").replace("_", "").isalnum() for part in getattr(self, name).split("/")
            ):
                yield name, "has other characters than letters, digits, - and _ between slashes", "leave it out"
        yield from _key_size(self.key_size)


class Etsi020Sink(Section, frozen=True, kw_only=True):
    """Another vendor's KMS over ETSI GS QKD 020. `kms_id`: the name in its certificate.

    initiator_sae_id, target_sae_ids: whose keys these are, as that KMS knows them. mode: "asynchronous" needs `callback_listen`
    (host:port here) and `callback_url` (the same place as that KMS reaches it). void_after: 0 repeats for ever.
    """

    url: str
    kms_id: str
    certificate: str
    key: str
    trust: str
    initiator_sae_id: str
    target_sae_ids: tuple[str, ...]
    crl: str | None = None
    suite: Suite = "post-quantum"
    groups: tuple[str, ...] = ()
    mode: Literal["asynchronous", "synchronous"] = "asynchronous"
    callback_listen: str = ""
    callback_url: str = ""
    key_size: int = 256
    keys_per_call: int = 256
    deadline: Seconds = Seconds(10.0)
    ack_deadline: Seconds = Seconds(60.0)
    void_after: Seconds = Seconds(0.0)

    def check(self) -> Iterator[tuple[str, str, str]]:
        wanted = ("url", "callback_url") if self.mode == "asynchronous" else ("url",)
        for name in wanted:
            url = urlsplit(getattr(self, name))
            if url.scheme != "https" or not url.hostname or (name == "url" and url.path.rstrip("/")):
                yield name, f"{getattr(self, name)!r} is not of the form https://host:port", "write https://host:port"
        if self.mode == "asynchronous":
            host, colon, port = self.callback_listen.rpartition(":")
            if not colon or not host or not port.isdigit() or int(port) > 65535:
                yield (
                    "callback_listen",
                    f"{self.callback_listen!r} is not of the form host:port",
                    'write "0.0.0.0:8445"',
                )
        elif self.callback_listen or self.callback_url:
            yield "callback_url", "in synchronous mode nobody calls back", "leave callback_url and callback_listen out"
        if self.suite == "post-quantum" and self.crl is None:
            yield "crl", "a post-quantum connection needs a revocation list", 'name it, or set suite = "classical"'
        for name in (self.initiator_sae_id, *self.target_sae_ids):
            if not is_sae_id(name):
                yield "initiator_sae_id", f"{name!r} is no SAE ID of 1 to 64 characters", "use letters, digits, - and ."
        if not self.target_sae_ids:
            yield "target_sae_ids", "names nobody", "name the SAE at the other site"
        if not 1 <= self.keys_per_call <= MAX_KEYS:
            yield "keys_per_call", f"must lie between 1 and {MAX_KEYS}", "use 256"
        for name in ("deadline", "ack_deadline"):
            if getattr(self, name) <= 0:
                yield name, "must be positive", 'use "10 s"'
        if self.void_after and self.void_after < 2 * (self.deadline + self.ack_deadline):
            yield "void_after", "is below two attempts", 'use "1 h", or "0 s" for never'
        yield from _key_size(self.key_size)


class Pkcs11Sink(Section, frozen=True, kw_only=True):
    """An HSM. `module`: its shared library; `pin_file`: mode 0600. Keys are generic secrets that never leave it again.

    deadline: a call of the library (up to 16 keys) that takes longer costs its process.
    """

    module: str
    token: str
    pin_file: str
    label: str = "qkd"
    key_size: int = 256
    deadline: Seconds = Seconds(30.0)

    def check(self) -> Iterator[tuple[str, str, str]]:
        if self.deadline <= 0:
            yield "deadline", "must be positive", 'use "30 s"'
        yield from _key_size(self.key_size)


class KmipSink(Section, frozen=True, kw_only=True):
    """A KMIP 1.2 server: Register of a symmetric key, found again by its name."""

    server: str
    certificate: str
    key: str
    trust: str
    prefix: str = "qkd"
    key_size: int = 256
    deadline: Seconds = Seconds(10.0)

    def check(self) -> Iterator[tuple[str, str, str]]:
        host, colon, port = self.server.rpartition(":")
        if not colon or not host or not port.isdigit():
            yield "server", f"{self.server!r} is not of the form host:port", 'write "kmip.example:5696"'
        if self.key_size not in (128, 192, 256):
            yield "key_size", "keys are registered for AES", "use 128, 192 or 256"

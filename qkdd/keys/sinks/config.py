"""`[keys.file]`, `[keys.exec]`, `[keys.vault]`, `[keys.pkcs11]`, `[keys.kmip]`: at most one; without any, key goes to a KMS."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

from qkdd.core.config import Section
from qkdd.core.units import Seconds


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
    """OpenBao or Vault, KV version 2. `trust`: CA file of the server; `token_file`: mode 0600."""

    url: str
    trust: str
    token_file: str
    mount: str = "secret"
    prefix: str = "qkd"
    namespace: str | None = None
    key_size: int = 256
    deadline: Seconds = Seconds(10.0)

    def check(self) -> Iterator[tuple[str, str, str]]:
        url = urlsplit(self.url)
        if url.scheme != "https" or not url.hostname or url.path.rstrip("/"):
            yield "url", f"{self.url!r} is not of the form https://host:port", 'write "https://vault.example:8200"'
        for name in ("mount", "prefix"):
            if not all(
                part and part.replace("-", "").replace("_", "").isalnum() for part in getattr(self, name).split("/")
            ):
                yield name, "has other characters than letters, digits, - and _ between slashes", "leave it out"
        yield from _key_size(self.key_size)


class Pkcs11Sink(Section, frozen=True, kw_only=True):
    """An HSM. `module`: its shared library; `pin_file`: mode 0600. Keys are generic secrets that never leave it again."""

    module: str
    token: str
    pin_file: str
    label: str = "qkd"
    key_size: int = 256

    def check(self) -> Iterator[tuple[str, str, str]]:
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

"""TLS towards a server of the site that is no node of ours (MQTT broker, syslog collector): 1.3, both sides with certificates."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Protocol, TypeVar

from qkdd.core.errors import CredentialError


class Credentials(Protocol):
    """The settings that such a section has: PEM files."""

    @property
    def certificate(self) -> str: ...

    @property
    def key(self) -> str: ...

    @property
    def trust(self) -> str: ...


C = TypeVar("C", bound=ssl.SSLContext)


def mutual_context(section: str, files: Credentials, kind: type[C]) -> C:
    """A client's context of class `kind`: TLS 1.3 with our certificate; the server's name and chain are checked.

    Raises CredentialError.
    """
    for path in (files.certificate, files.key, files.trust):
        if not Path(path).is_file():
            raise CredentialError(f"{section}: {path} is no file")
    if Path(files.key).stat().st_mode & 0o077:
        raise CredentialError(f"{section}: {files.key} can be read by others", remedy=f"chmod 600 {files.key}")
    try:
        context = kind(ssl.PROTOCOL_TLS_CLIENT)  # checks certificate and host name
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_verify_locations(files.trust)
        context.load_cert_chain(files.certificate, files.key)
    except (ssl.SSLError, OSError) as error:
        raise CredentialError(f"{section}: certificate, key or trust cannot be used: {error}") from None
    return context

"""The sink that a configuration names."""

from __future__ import annotations

from qkdd.core.clock import Clock
from qkdd.keys.config import KeysConfig
from qkdd.keys.sinks.contract import Sink
from qkdd.keys.sinks.etsi020 import Etsi020Target
from qkdd.keys.sinks.files import ExecTarget, FileTarget
from qkdd.keys.sinks.kmip import KmipTarget
from qkdd.keys.sinks.pkcs11 import Pkcs11Target
from qkdd.keys.sinks.transit import TransitTarget
from qkdd.keys.sinks.vault import VaultTarget


def make_sink(config: KeysConfig, clock: Clock) -> Sink | None:
    """None when key goes to a KMS. Raises CredentialError, ConfigError for what cannot be used."""
    if config.etsi020 is not None:
        return Etsi020Target(config.etsi020, clock)
    if config.file is not None:
        return FileTarget(config.file)
    if config.exec is not None:
        return ExecTarget(config.exec, clock)
    if config.vault is not None:
        return (TransitTarget if config.vault.engine == "transit" else VaultTarget)(config.vault, clock)
    if config.pkcs11 is not None:
        return Pkcs11Target(config.pkcs11, clock)
    if config.kmip is not None:
        return KmipTarget(config.kmip, clock)
    return None

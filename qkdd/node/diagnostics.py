"""What a node tells for support: configuration without secrets, its last log lines, metrics, a self-test. No key material.

Contents of key files are never read here: paths alone are told. A setting whose name speaks of a secret has its value removed,
and so have credentials inside an address.
"""

from __future__ import annotations

import asyncio
import platform
import re
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from qkdd import kernels
from qkdd.control.diagnostics_view import Check
from qkdd.core.audit_check import verify
from qkdd.core.errors import QkddError
from qkdd.node.config import NodeConfig

REMOVED = "(removed)"
_SECRET = re.compile(r"(pass(word|phrase|wd)?|secret|token|credential|api_?key|pin|psk|seed)$", re.IGNORECASE)
_HARMLESS = {"mount"}  # names of places, whatever they are called like
_IN_ADDRESS = re.compile(r"(?<=://)[^/@\s]+@")
_DISTRIBUTIONS = ("qkdd", "numpy", "scipy", "msgspec", "aiohttp", "cryptography", "pyOpenSSL", "SQLAlchemy", "pyserial")
_DISK_LOW = 0.05


def redacted(value: Any, name: str = "") -> Any:
    """The same plain data without what may be secret. name: of the setting that `value` belongs to."""
    if isinstance(value, dict):
        return {key: redacted(item, str(key)) for key, item in value.items()}
    if name not in _HARMLESS and _SECRET.search(name) and value not in (None, "", False, True):
        return REMOVED
    if isinstance(value, (list, tuple)):
        return [redacted(item, name) for item in value]
    if isinstance(value, str):
        return _IN_ADDRESS.sub(f"{REMOVED}@", value)
    return value


def plain_config(config: NodeConfig) -> Any:
    """The whole configuration as plain data, redacted; quantities as text."""
    return redacted(msgspec.to_builtins(config, enc_hook=str))


def versions() -> dict[str, str]:
    """Of everything that the daemon is made of."""
    found = {"python": sys.version.split()[0], "system": platform.platform(), "kernels": kernels.variant()}
    for name in _DISTRIBUTIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def _check(name: str, probe: Callable[[], str]) -> Check:
    try:
        return Check(name=name, ok=True, detail=probe())
    except QkddError as error:
        return Check(name=name, ok=False, detail=f"[{error.code}] {error.message}")
    except (OSError, ValueError) as error:
        return Check(name=name, ok=False, detail=f"{type(error).__name__}: {error}")


def _kernels() -> str:
    bits = np.arange(1000, dtype=np.uint8) % 7 % 2
    if not np.array_equal(kernels.unpack_bits(kernels.pack_bits(bits), len(bits)), bits):
        raise ValueError("packing and unpacking bits does not give them back")
    return f"variant {kernels.variant()} packs and unpacks"


def _disk(folder: Path, free: float) -> str:
    if free < _DISK_LOW:
        raise ValueError(f"{folder}: only {free:.1%} is free")
    return f"{folder}: {free:.0%} is free"


def _private(path: Path) -> str:
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        raise ValueError(f"{path} has mode {mode:04o}: others may read it")
    return f"{path} has mode {mode:04o}"


async def self_test(config: NodeConfig, free: float, *, memory_locked: bool) -> list[Check]:
    """Without touching a device or the link. free: share of the state directory's file system."""
    state = Path(config.node.state_directory)

    def audit() -> str:
        report = verify(state / "audit.log", alone=True)  # closed segments may be gigabytes
        return f"{report.lines} lines, {report.signatures} signatures"

    def run() -> list[Check]:
        return [
            _check("kernels", _kernels),
            _check("audit log", audit),
            _check("disk", lambda: _disk(state, free)),
            _check("master key", lambda: _private(Path(config.node.master_key))),
            _check("private key of the peer certificate", lambda: _private(Path(config.peer.key))),
            _check("private key towards the KMS", lambda: _private(Path(config.keys.key))),
            Check(name="memory", ok=memory_locked, detail="locked" if memory_locked else "may be swapped out"),
        ]

    return await asyncio.to_thread(run)

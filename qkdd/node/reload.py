"""What may change while the node runs, and what may not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from qkdd.core.config import ConfigRefused
from qkdd.node.config import NodeConfig, load_node
from qkdd.node.errors import ReloadRefused

# dotted keys (or whole sections) whose change is taken over without restart
LIVE = (
    "node.log_level",
    "calibration",
    "peer.certificate",
    "peer.key",
    "peer.trust",
    "peer.crl",
    "keys.certificate",
    "keys.key",
    "keys.trust",
    "keys.crl",
)


def changes(old: Any, new: Any, prefix: str = "") -> Iterator[str]:
    """Dotted keys that differ between two configurations of one type."""
    for field in msgspec.structs.fields(old):
        before, after = getattr(old, field.name), getattr(new, field.name)
        key = f"{prefix}{field.encode_name}"
        if isinstance(before, msgspec.Struct) and type(before) is type(after):
            yield from changes(before, after, f"{key}.")
        elif before != after:
            yield key


def read_changes(source: Path, running: NodeConfig) -> tuple[NodeConfig, list[str]]:
    """The new configuration and the keys that changed, all of which may change. Raises ReloadRefused; nothing happened."""
    try:
        new = load_node(source)
    except ConfigRefused as refusal:
        raise ReloadRefused(refusal.message) from None
    changed = list(changes(running, new))
    fixed = [key for key in changed if not any(key == live or key.startswith(f"{live}.") for live in LIVE)]
    if fixed:
        raise ReloadRefused(f"{source}: {', '.join(fixed)} cannot change while the node runs", keys=", ".join(fixed))
    return new, changed

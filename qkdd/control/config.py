"""The section [control]."""

from __future__ import annotations

from qkdd.core.local_config import LocalSocket


class ControlConfig(LocalSocket, frozen=True):
    """The node's control socket."""

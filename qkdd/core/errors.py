"""The error tree: every failure has a stable code, a kind and a remedy.

A room declares its own errors as subclasses in its `errors.py`; the code is the promise to operators (it stands in logs,
metrics, `qkdctl` and docs/errors.md) and never changes its meaning. Messages name device, bus and operation, or file, key
and line; they never contain key material.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Any, ClassVar

_CODE = re.compile(r"^QKD-[A-Z0-9]+(-[A-Z0-9]+)+$")
_registry: dict[str, type[QkddError]] = {}


class Kind(StrEnum):
    """What the caller may do about an error."""

    TRANSIENT = "transient"  # the supervisor tries again
    PERMANENT = "permanent"  # a person must change something
    INTERLOCK = "interlock"  # the run stops, hardware goes to its safe state
    KEY_MATERIAL = "key_material"  # the block is discarded and never retried


class QkddError(Exception):
    """Base of all errors that qkdd raises on purpose.

    A concrete class sets `code`, `kind`, `meaning` (one sentence for the operator) and `remedy` (what to do).
    `details` are plain values for logs and JSON; they must not be secret.
    """

    code: ClassVar[str] = ""
    kind: ClassVar[Kind] = Kind.PERMANENT
    meaning: ClassVar[str] = ""
    default_remedy: ClassVar[str] = ""

    def __init__(self, message: str, *, remedy: str | None = None, **details: str | float | bool | None) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy if remedy is not None else self.default_remedy
        self.details = details

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        code = cls.__dict__.get("code")
        if not code:  # an inner node of the tree, not raised itself
            return
        if not _CODE.match(code):
            raise TypeError(f"{cls.__name__}: {code!r} is not of the form QKD-ROOM-NAME")
        if not cls.meaning or not cls.default_remedy:
            raise TypeError(f"{cls.__name__}: an error needs a meaning and a default_remedy")
        other = _registry.get(code)
        if other is not None and other.__qualname__ != cls.__qualname__:
            raise TypeError(f"{code} is already the code of {other.__module__}.{other.__qualname__}")
        _registry[code] = cls

    def __str__(self) -> str:
        return f"[{self.code}] {self.message}" if self.code else self.message

    def to_dict(self) -> dict[str, Any]:
        """Plain form for JSON, logs and the control socket."""
        return {
            "code": self.code,
            "kind": self.kind.value,
            "message": self.message,
            "remedy": self.remedy,
            "details": dict(self.details),
        }


def registered_errors() -> dict[str, type[QkddError]]:
    """All error classes that were imported so far, by code."""
    return dict(sorted(_registry.items()))


class ConfigError(QkddError):
    """Refused before anything starts; names file, line or key."""

    code = "QKD-CFG-INVALID"
    meaning = "The configuration is refused; nothing was started."
    default_remedy = "Correct the named key; `qkdd check-config FILE` shows every finding at once."


class CredentialError(ConfigError):
    code = "QKD-CFG-CREDENTIAL"
    meaning = "A file with a key, certificate or passphrase cannot be read or is open to others."
    default_remedy = (
        "Check that the path exists, that its owner is the service's user and that its mode is 0600 or stricter."
    )


class InternalError(QkddError):
    code = "QKD-CORE-INTERNAL"
    meaning = "A defect of qkdd: a state that should be impossible was reached. It failed closed."
    default_remedy = "Report it with the log lines around it; the node is safe to restart."


class StorageFull(QkddError):
    code = "QKD-CORE-DISK-FULL"
    kind = Kind.TRANSIENT
    meaning = "A durable write failed because the disk or quota is full; nothing that was acknowledged is lost."
    default_remedy = "Free space on the state directory's file system; the node goes on by itself."


class StorageFailed(QkddError):
    code = "QKD-CORE-STORAGE"
    kind = Kind.TRANSIENT
    meaning = "A durable read or write failed."
    default_remedy = "Check the disk's health and the permissions of the state directory."


class StorageSilent(StorageFailed):
    code = "QKD-CORE-STORAGE-SILENT"
    kind = Kind.TRANSIENT
    meaning = (
        "A store did not answer within its deadline: the database server, another process's lock or the disk hangs."
    )
    default_remedy = (
        "Look at the database server (running, not stopped, not out of memory), at who holds its locks, and at the disk; "
        "it goes on by itself."
    )


class SealError(QkddError):
    code = "QKD-CORE-SEAL"
    kind = Kind.KEY_MATERIAL
    meaning = "A sealed record does not open: wrong master key, or the record was changed."
    default_remedy = (
        "Check that the configured master key is the one the store was made with; restore the store from backup."
    )

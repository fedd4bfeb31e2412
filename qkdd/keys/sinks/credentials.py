"""Tokens and PINs in files of their own."""

from __future__ import annotations

import stat
from pathlib import Path

from qkdd.core.errors import CredentialError


def read_word(path: Path) -> str:
    """The first line. Raises CredentialError when others may read the file or it is empty."""
    try:
        mode, text = path.stat().st_mode, path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CredentialError(f"{path}: cannot be read ({error})") from None
    if stat.S_IMODE(mode) & 0o077:
        raise CredentialError(f"{path}: mode {stat.S_IMODE(mode):04o} lets others read it", remedy=f"chmod 600 {path}")
    word = text.partition("\n")[0].strip()
    if not word:
        raise CredentialError(f"{path}: is empty")
    return word
